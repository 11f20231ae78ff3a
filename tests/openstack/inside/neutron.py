# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Nova asks Neutron about servers without networks: there are no ports, groups and networks. neutron.py PORT"""

import http.server
import json
import sys

VERSIONS = {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": "http://127.0.0.1:9696/v2.0/"}]}]}


class Empty(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0].rstrip("/")
        kind = path.rpartition("/")[2].removesuffix(".json").replace("-", "_")
        body = json.dumps(VERSIONS if path in ("", "/v2.0") else {kind: []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Empty).serve_forever()
