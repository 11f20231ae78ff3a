# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stands between libvirt's clients and its daemon, and notes each call: all tools are timed by the same clock.

`relay.py LISTEN DAEMON LOG`: relays the unix socket LISTEN to the unix socket DAEMON. LOG receives a line for each message:
"call|reply|event realtime_ns client program procedure serial status".
"""
import os
import socket
import struct
import sys
import threading
import time

HEADER = struct.Struct(">IIIIIII")  # length, program, version, procedure, type, serial, status
KINDS = {0: "call", 1: "reply", 2: "event", 4: "call", 5: "reply"}
REMOTE, QEMU = 0x20008086, 0x20008087
# libvirt's src/remote/remote_protocol.x and qemu_protocol.x.
NAMES = {
    (REMOTE, 1): "open", (REMOTE, 2): "close", (REMOTE, 10): "destroy", (REMOTE, 11): "define", (REMOTE, 14): "dumpxml",
    (REMOTE, 22): "lookup by id", (REMOTE, 23): "lookup", (REMOTE, 24): "lookup by UUID", (REMOTE, 28): "resume",
    (REMOTE, 34): "suspend", (REMOTE, 60): "feature", (REMOTE, 66): "auth list", (REMOTE, 150): "is active",
    (REMOTE, 151): "is persistent", (REMOTE, 163): "job info", (REMOTE, 164): "abort job", (REMOTE, 185): "snapshot",
    (REMOTE, 194): "block info", (REMOTE, 212): "state", (REMOTE, 231): "undefine", (REMOTE, 237): "block job abort",
    (REMOTE, 238): "block job info", (REMOTE, 239): "block job speed", (REMOTE, 253): "get io tune",
    (REMOTE, 264): "set metadata", (REMOTE, 265): "get metadata", (REMOTE, 273): "list", (REMOTE, 290): "block commit",
    (REMOTE, 298): "job statistics", (REMOTE, 316): "watch events", (REMOTE, 317): "unwatch events", (REMOTE, 335): "freeze",
    (REMOTE, 336): "thaw", (REMOTE, 157): "library version", (REMOTE, 421): "backup begin", (REMOTE, 422): "backup XML",
    (REMOTE, 344): "all statistics", (REMOTE, 345): "block copy", (REMOTE, 350): "define",
    (QEMU, 1): "monitor command", (QEMU, 3): "agent command", (QEMU, 4): "watch monitor", (QEMU, 5): "unwatch monitor",
}
FREEZE, THAW = (REMOTE, 335), (REMOTE, 336)


def name(program, procedure):
    return NAMES.get((program, procedure), f"{'qemu ' if program == QEMU else ''}procedure {procedure}")


class Messages:
    """Finds the headers in a stream that comes in pieces."""

    def __init__(self, client, log):
        self.client, self.log, self.rest = client, log, b""

    def feed(self, piece, now):
        self.rest += piece
        while len(self.rest) >= HEADER.size:
            length, program, _, procedure, kind, serial, status = HEADER.unpack_from(self.rest)
            if len(self.rest) < length:
                return
            self.rest = self.rest[length:]
            if kind in KINDS and program in (REMOTE, QEMU):
                self.log.write(f"{KINDS[kind]} {now} {self.client} {program} {procedure} {serial} {status}\n")


def pump(source, sink, messages):
    try:
        while True:
            piece, descriptors, _, _ = socket.recv_fds(source, 1 << 16, 16)
            if not piece:
                break
            # Passed on first: what notes it is not to be waited for.
            now = time.time_ns()
            sent = socket.send_fds(sink, [piece], descriptors) if descriptors else 0
            sink.sendall(piece[sent:])
            for descriptor in descriptors:
                os.close(descriptor)
            messages.feed(piece, now)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main():
    listen, daemon, log = sys.argv[1:]
    server = socket.socket(socket.AF_UNIX)
    server.bind(listen)
    os.chmod(listen, 0o777)
    server.listen(64)
    with open(log, "a", buffering=1) as log:
        number = 0
        while True:
            client, _ = server.accept()
            number += 1
            behind = socket.socket(socket.AF_UNIX)
            behind.connect(daemon)
            for source, sink in ((client, behind), (behind, client)):
                threading.Thread(target=pump, args=(source, sink, Messages(number, log)), daemon=True).start()


if __name__ == "__main__":
    main()
