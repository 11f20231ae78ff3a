# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many guests of one host at once through one process (benches/scale.rs), beside libvirt's floor (floor.py); `recover` after that
process was killed; and a thousand domains."""
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guest import MIB, Bed, Failure, run

HERE = Path(__file__).resolve().parent
# What starts operations, and what libvirt's floor is called from.
THREADS = 8
# With an operating system, an agent and a writer: they have a freeze window.
REAL = 4
SIZE, DATA = 64 * MIB, 8 * MIB
CHECKED = 10
METHODS = ["mirror", "clone", "backup"]
DOMAIN = ("<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
          "<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>"
          "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/><target dev='vda' bus='virtio'/></disk>"
          "<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>")


class Host:
    def __init__(self, bed, livedisk):
        self.bed, self.livedisk = bed, livedisk
        self.real = [value for key, value in sorted(bed.values.items()) if key.startswith("DOMAIN_")]
        self.bare, self.pattern = [], bed.dir / "pattern"
        with open(self.pattern, "wb") as file:
            file.write(os.urandom(DATA))
            file.truncate(SIZE)

    def image(self, name):
        return self.bed.dir / f"{name}.qcow2"

    def grow(self, number):
        """So many guests without an operating system."""
        new = [f"bare{at}" for at in range(len(self.bare), number)]

        def begin(name):
            run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.pattern, self.image(name)])
            definition = self.bed.dir / f"{name}.xml"
            definition.write_text(DOMAIN.format(name=name, image=self.image(name)))
            self.bed.virsh("define", definition)
            self.bed.virsh("start", name)
            definition.unlink()

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(begin, new))
        self.bare += new

    def guests(self, number):
        real = self.real[:number]
        return real + self.bare[:number - len(real)]

    def copy(self, name):
        return self.bed.dir / f"{name}.copy"

    def check_and_remove(self, names):
        """Those without an operating system write nothing."""
        still = [name for name in names if name in self.bare]
        for name in random.sample(still, min(CHECKED, len(still))):
            run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", self.pattern, self.copy(name)])
        for name in names:
            self.copy(name).unlink()

    def ours(self, method, names):
        words = [os.environ["LIVEDISK_BENCH_SCALE"], self.bed.direct, method, self.bed.dir, THREADS, *names]
        found = json.loads(run(words))
        self.check_and_remove(names)
        return found

    def floor(self, method, names):
        found = json.loads(run([sys.executable, HERE / "floor.py", self.bed.direct, method, self.bed.dir, THREADS, *names]))
        self.check_and_remove(names)
        return found["wall_s"]

    def killed(self, names):
        """One process in the middle of so many mirrors is killed; what `recover` takes."""
        words = [os.environ["LIVEDISK_BENCH_SCALE"], self.bed.direct, "hold", self.bed.dir, THREADS, *names]
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        said = process.stdout.readline()
        process.kill()
        process.wait()
        if said != "held\n":
            raise Failure("the mirrors that were to be killed did not begin")
        began = time.monotonic()
        found = json.loads(run([self.livedisk, "-c", self.bed.direct, "recover", "--json"]))
        took = time.monotonic() - began
        if found["taken_back"] + found["completed"] != len(names):
            raise Failure(f"recover found {found}")
        for name in names:
            self.copy(name).unlink(missing_ok=True)
        return took

    def define(self, number):
        """So many more, which are off."""
        script = self.bed.dir / "define"
        with open(script, "w") as file:
            for at in range(number):
                path = self.bed.dir / f"off{at}.xml"
                path.write_text(DOMAIN.format(name=f"off{at}", image=self.image(f"off{at}")))
                file.write(f"define {path}\n")
        with open(script) as file:
            subprocess.run(["virsh", "-q", "-c", self.bed.direct], stdin=file, stdout=subprocess.DEVNULL, check=True,
                           env={**os.environ, "XDG_CACHE_HOME": str(self.bed.dir)})

    def seconds(self, *words):
        began = time.monotonic()
        run(words, env={**os.environ, "LIBVIRT_DEFAULT_URI": self.bed.direct, "XDG_CACHE_HOME": str(self.bed.dir)})
        return round(time.monotonic() - began, 3)


def measure(results, directory, livedisk, numbers, domains, left, say):
    with Bed(directory, [f"name=real{at},disks=qcow2:64M,data=8M" for at in range(1, REAL + 1)]) as bed:
        host = Host(bed, livedisk)
        # A guest and method, where the last number of guests was measured.
        took = 0.0
        for number in numbers:
            if left() < 15 + 0.6 * number + len(METHODS) * took * number:
                results.add("not_run", fs="ext4", cache="scale", size=0, row=f"{number} guests", reason="no time left")
                continue
            host.grow(max(0, number - REAL))
            took = 0.0
            for method in METHODS:
                # The real guest alone is asked as often as there are real guests beside others.
                for _ in range(REAL if number == 1 else 1):
                    names = host.guests(number)
                    floor, ours = host.floor(method, names), host.ours(method, names)
                    took = max(took, (floor + ours["wall_s"]) / number)
                    say(f"{number} guests, {method}: {ours['wall_s']:.2f} s, libvirt's floor {floor:.2f} s, windows {ours['window_ms']} ms")
                    results.add("scale", fs="ext4", guests=number, row=method, floor_s=floor, load=os.getloadavg()[0], **ours)
        most = len(host.real) + len(host.bare)
        recovered = host.killed(host.guests(most))
        say(f"recover of {most} killed operations: {recovered:.2f} s")
        host.define(domains)
        found = {
            "domains": domains + most, "recover_killed": most, "recover_killed_s": round(recovered, 3),
            "status_s": host.seconds(livedisk, "status"),
            "recover_s": host.seconds(livedisk, "recover"),
            "list_s": host.seconds("virsh", "-q", "list", "--all"),
        }
        say(f"{found['domains']} domains: status {found['status_s']} s, recover {found['recover_s']} s, virsh list {found['list_s']} s")
        results.all["domains"] = found
        results.write()
