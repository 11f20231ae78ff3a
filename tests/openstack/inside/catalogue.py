# SPDX-License-Identifier: LGPL-2.1-or-later
"""The services' endpoints. nova-compute remembers a catalogue without placement, so this comes before it."""

import cloud

c = cloud.connect()
for kind, name, url in (
    ("image", "glance", "http://127.0.0.1:9292"),
    ("placement", "placement", "http://127.0.0.1:8778"),
    ("network", "neutron", "http://127.0.0.1:9696"),
    ("compute", "nova", "http://127.0.0.1:8774/v2.1"),
):
    service = c.identity.create_service(name=name, type=kind)
    for interface in ("public", "internal", "admin"):
        c.identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id="RegionOne")
# [service_user] of nova.conf sends tokens that need it.
c.identity.assign_project_role_to_user(
    c.identity.find_project("admin"), c.identity.find_user("admin"), c.identity.find_role("service")
)
