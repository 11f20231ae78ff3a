# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest of the test bed, reached through the relay: what it does with its disk, what it feels, and what an image of it holds."""
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import relay

TESTS = Path(__file__).resolve().parent.parent
MIB, GIB = 1 << 20, 1 << 30
# The file system's part of the disk; what lies after it is FILL, whose content never changes.
HEAD, FILL = GIB, 0x5A
PACE_MS = 5
# What is changed at a time before an increment.
PIECE = 256 << 10
# The guest's clock is the host's but for 1 to 3 ms (tests/README.md).
CLOCK_NS = 3_000_000


class Failure(Exception):
    pass


def run(words, **more):
    """What it prints. None of them may hang for ever."""
    words, more = [str(word) for word in words], {"timeout": 900, **more}
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)[:200]}: exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


class Bed:
    """`specification` is that of `tests/bed up --guest`."""

    def __init__(self, directory, specifications):
        self.dir, self.relay = Path(directory), None
        words = [word for specification in specifications for word in ("--guest", specification)]
        lines = run([TESTS / "bed", "up", "--dir", self.dir, *words]).splitlines()
        self.values = dict(line.removeprefix("LIVEDISK_TEST_").split("=", 1) for line in lines)
        self.direct = self.values["URI"]
        self.calls = self.dir / "calls"
        self.calls.touch()
        socket = self.dir / "relay"
        self.uri = f"qemu+unix:///system?socket={socket}"
        self.relay = subprocess.Popen([sys.executable, relay.__file__, socket, self.direct.split("=", 1)[1], self.calls])
        # What times everybody must not wait for a processor.
        os.setpriority(os.PRIO_PROCESS, self.relay.pid, -10)
        while not socket.exists():
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.relay:
            self.relay.kill()
            self.relay.wait()
        run([TESTS / "bed", "down", "--dir", self.dir])

    def virsh(self, *words):
        return run(["virsh", "-q", "-c", self.direct, *words], env={**os.environ, "XDG_CACHE_HOME": str(self.dir)})

    def control(self, *words):
        return run([TESTS / "bed", "ctl", "--dir", self.dir, *words])

    def calls_since(self, offset):
        """(kind, ns, client, (program, procedure), serial, status) each."""
        with open(self.calls) as file:
            file.seek(offset)
            for line in file:
                kind, *numbers = line.split()
                ns, client, program, procedure, serial, status = map(int, numbers)
                yield kind, ns, client, (program, procedure), serial, status


class Guest:
    def __init__(self, bed, number, target="VDA"):
        self.bed, self.name = bed, bed.values[f"DOMAIN_{number}"]
        self.image = Path(bed.values[f"IMAGE_{number}_{target}"])
        self.format = self.image.suffix[1:]
        self.log = Path(bed.values[f"WRITER_{number}"])
        self.pidfile = Path(bed.values[f"PIDFILE_{number}"])
        self.uuid = bed.virsh("domuuid", self.name).strip()
        self.definition = bed.virsh("dumpxml", "--inactive", "--security-info", self.name)
        self.size, self.cache = 0, None

    def off(self):
        self.bed.virsh("destroy", self.name)

    def on(self):
        written = self.log.stat().st_size
        self.bed.virsh("start", self.name)
        deadline = time.monotonic() + 120
        while self.log.stat().st_size == written or not self.answers():
            if time.monotonic() > deadline:
                raise Failure(f"{self.name} does not write, or its agent does not answer")
            time.sleep(0.2)
        self.bed.control(self.name, "clock")
        self.bed.control(self.name, "writer", "rate", PACE_MS)

    def answers(self):
        try:
            self.bed.virsh("qemu-agent-command", "--timeout", "5", self.name, '{"execute":"guest-ping"}')
            return True
        except Failure:
            return False

    def become(self, size, cache):
        """Off and on again with so many bytes after the file system, and that cache mode."""
        self.off()
        definition = self.definition.replace("<driver name='qemu'", f"<driver name='qemu' cache='{cache}'", 1)
        path = self.bed.dir / "definition.xml"
        path.write_text(definition)
        self.bed.virsh("define", path)
        self.cache = cache
        if size > self.size:
            run(["qemu-img", "resize", "-q", "-f", self.format, self.image, HEAD + size])
            step = 256 * MIB
            writes = [f"write -q -P {FILL} {HEAD + at} {min(step, size - at)}" for at in range(self.size, size, step)]
            run(["qemu-io", "-f", self.format, "-t", "writeback", *(word for write in writes for word in ("-c", write)), self.image])
            self.size = size
        run(["sync", self.image])
        self.on()

    def change(self, share):
        """So much of what lies after the file system is written anew, in pieces far apart; how many bytes."""
        number = max(1, int(self.size * share) // PIECE)
        device = "/machine/peripheral/virtio-disk0/virtio-backend"
        for at in range(number):
            offset = HEAD + self.size // number * at // PIECE * PIECE
            self.bed.virsh("qemu-monitor-command", self.name, "--hmp", f'qemu-io -d {device} "write -q -P {FILL} {offset} {PIECE}"')
        return number * PIECE

    def forget_checkpoints(self):
        for name in reversed(self.bed.virsh("checkpoint-list", self.name, "--name", "--topological").split()):
            self.bed.virsh("checkpoint-delete", self.name, name)

    def writes_since(self, offset):
        """(began_ns, ended_ns) of each write that the guest reports."""
        writes = []
        with open(self.log) as file:
            file.seek(offset)
            for line in file:
                words = line.split()
                if len(words) == 4 and line.endswith("\n"):
                    ended = int(words[2])
                    writes.append((ended - int(words[3]) * 1000, ended))
        return writes

    def written_by_qemu(self):
        text = Path(f"/proc/{self.pidfile.read_text().strip()}/io").read_text()
        return int(text.split("write_bytes: ")[1].split()[0])

    def check(self, image, format):
        """The records are whole, the file system is sound, and what never changes is there."""
        head = self.bed.dir / "head"
        options = f"driver=raw,size={HEAD},file.driver={format},file.file.driver=file,file.file.filename={image}"
        run(["qemu-img", "convert", "--image-opts", options, "-O", "raw", head])
        try:
            found = json.loads(run([self.bed.values["RECORDS"], head, "--format", "raw", "--json"]))
        finally:
            head.unlink()
        pieces = [HEAD + at for at in range(0, self.size, MIB)]
        if len(pieces) > 256:
            pieces = [pieces[0], pieces[-1], *random.sample(pieces, 254)]
        words = [word for at in pieces for word in ("-c", f"read -q -P {FILL} {at} {MIB}")]
        said = run(["qemu-io", "-r", "-f", format, *words, image])
        if "erification failed" in said:
            raise Failure(f"{image} does not hold what the guest's disk holds: {said[:200]}")
        return {"clean": found["fs_clean"], "last": found["last"]}
