# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark: `run.py DIRECTORY RESULTS`, within LIVEDISK_BENCH_SECONDS; QUICK=1 for the smallest size only."""
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import cost
import measure
import methods
from guest import GIB, HEAD, MIB, TESTS, Bed, Failure, Guest, run

QUICK = bool(os.environ.get("QUICK"))
BUDGET_S = float(os.environ.get("LIVEDISK_BENCH_SECONDS", 265 if QUICK else 3300))
LIVEDISK = Path(os.environ["LIVEDISK_BENCH_COMMAND"])
# (bytes, rounds after a warm-up of one). What there is no time for is left out, and said so, so the most wanted comes first.
SIZES = [(GIB // 4, 2)] if QUICK else [(GIB // 4, 7), (GIB, 3), (4 * GIB, 2), (16 * GIB, 1)]
BEGAN = time.monotonic()
# Up to which share of the time each part may go on.
SHARES = {"ext4": 0.65, "xfs": 0.85, "migrations": 1.0}


def left(part):
    return BUDGET_S * SHARES[part] - (time.monotonic() - BEGAN)


def say(text):
    print(f"{time.monotonic() - BEGAN:6.0f} s  {text}", file=sys.stderr, flush=True)


class Results:
    """Written out after each figure, so that a run that was stopped has what it measured."""

    def __init__(self, path):
        self.path, self.all = Path(path), {"machine": machine(), "snapshots": [], "offline": [], "migrations": [], "not_run": []}

    def add(self, part, **figure):
        self.all[part].append(figure)
        self.write()

    def write(self):
        self.all["load_after"] = os.getloadavg()
        self.all["seconds"] = round(time.monotonic() - BEGAN)
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.all, indent=None, separators=(",", ":")).replace('},{"fs"', '},\n{"fs"') + "\n")


def output(*words):
    try:
        return run(words).strip().splitlines()[0]
    except (Failure, OSError, IndexError):
        return None


def machine():
    model = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "quick": QUICK,
        "processor": model[0] if model else platform.machine(),
        "processors": os.cpu_count(),
        "memory_mib": memory // 1024,
        "emulation": "software (TCG)",
        "kernel": platform.release(),
        "load_before": os.getloadavg(),
        "versions": {
            "livedisk": output(LIVEDISK, "--version"),
            "commit": output("git", "-C", TESTS, "rev-parse", "HEAD"),
            "libvirt": output("libvirtd", "--version"),
            "qemu": output("qemu-system-x86_64", "--version"),
            "nova": output(sys.executable, "-c", "from importlib.metadata import version; print(version('nova'))"),
            "virtnbdbackup": output("virtnbdbackup", "--version"),
        },
    }


def snapshots(results, fs, bed, guest, out, rows, cache, size, rounds):
    key = {"fs": fs, "cache": cache, "size": size}
    took = {}
    unable = {name: reason for name in rows if methods.SNAPSHOTS[name][2] and (reason := methods.SNAPSHOTS[name][2]())}
    for round in range(0 if size <= GIB else 1, rounds + 1):
        for name in rows:
            _, how, _, restore = methods.SNAPSHOTS[name]
            # A round is begun only if it can be ended.
            if name in unable:
                continue
            if left(fs) < took.get(name, size / (60 * MIB)) * 1.3 + 3:
                unable[name] = f"no time left in round {round}"
                continue
            at = time.monotonic()
            try:
                figure = measure.snapshot(guest, out, LIVEDISK, how, restore, name != "noise", round == 1)
            except Failure as failure:
                unable[name] = str(failure)
                say(f"{name}: {failure}")
                put_right(bed, guest, out)
                continue
            took[name] = time.monotonic() - at
            say(f"{fs} {cache} {size / GIB:g} GiB round {round} {name}: window {figure['window_ms']} ms, stall {figure['stall_ms']}, "
                f"worst other {figure['worst_other_ms']}, total {figure['total_s']} s")
            results.add("snapshots", **key, row=name, warm_up=round == 0, **figure)
    for name, reason in unable.items():
        results.add("not_run", **key, row=name, reason=reason)


def put_right(bed, guest, out):
    """After a tool that failed: the guest runs, thawed, on its own image and nothing else."""
    for words in (["domfsthaw", guest.name], ["domjobabort", guest.name], ["blockjob", guest.name, "vda", "--abort"]):
        subprocess.run(["virsh", "-q", "-c", bed.direct, *words], capture_output=True, timeout=60)
    run([LIVEDISK, "-c", bed.direct, "recover", guest.name])
    now = bed.virsh("domblklist", guest.name) + bed.virsh("dominfo", guest.name)
    if str(guest.image) not in now or "Persistent:     yes" not in now:
        raise Failure(f"{guest.name} is not as it was: {now}")
    measure.remove(out)


def on_a_file_system(results, fs, directory, disk, sizes, rows, caches):
    with Bed(directory, [f"name=bench,disks={disk}:1G,data=256M"]) as bed:
        guest, out = Guest(bed, 1), bed.dir / "out"
        for size, rounds in sizes:
            need, room = 4 * size + 2 * GIB, os.statvfs(bed.dir)
            if room.f_bavail * room.f_frsize < need or left(fs) < size / (60 * MIB) * 4 + 10:
                results.add("not_run", fs=fs, cache="all", size=size, row="all", reason="no time or no room left")
                continue
            for cache in caches if size <= GIB else caches[:1]:
                guest.become(size, cache)
                wanted = [row for row in rows if row != "limited" or (size == GIB and cache == "none")]
                if "noise" in wanted:
                    run(["qemu-img", "convert", "-U", "-f", guest.format, "-O", "qcow2", guest.image, bed.dir / "unrelated"])
                    run(["sync", bed.dir / "unrelated"])
                snapshots(results, fs, bed, guest, out, wanted, cache, size, rounds if cache == caches[0] else min(rounds, 2))
                (bed.dir / "unrelated").unlink(missing_ok=True)
            if left(fs) > size / (100 * MIB) + 5:
                offline(results, fs, guest, out, size)
        if fs == "ext4" and left("xfs") > 20:
            guest.become(guest.size, "none")
            results.all["cost"] = cost.of(bed, guest, LIVEDISK)
            results.write()


def offline(results, fs, guest, out, size):
    guest.off()
    tool, began = methods.Tool(guest, out, LIVEDISK), time.monotonic()
    methods.offline(tool)
    total = time.monotonic() - began
    results.add("offline", fs=fs, size=size, total_s=round(total, 3), client_cpu_s=round(tool.cpu, 3),
                written=tool.written)
    out.unlink()
    guest.on()


def migrations(results, directory, sizes, rounds):
    """Raw disks full of data on a file system that shares blocks."""
    names = {size: f"m{size // MIB}" for size in sizes}
    specification = "disks=raw:512M,data=128M,agent=no"
    with Bed(directory, [f"name={name},{specification}" for name in names.values()]) as bed:
        guests = {size: Guest(bed, number) for number, size in enumerate(sizes, 1)}
        piece = bed.dir / "piece"
        with open(piece, "wb") as file:
            for _ in range(256):
                file.write(os.urandom(MIB))
        for size, guest in guests.items():
            bed.virsh("blockresize", guest.name, "vda", f"{size // 1024}")
            words = [word for at in range(512 * MIB, size, 256 * MIB) for word in ("-c", f"reflink {piece} 0 {at} {256 * MIB}")]
            run(["xfs_io", *words, guest.image])
            bed.control(guest.name, "writer", "rate", 5)
        for round in range(rounds + 1):
            for size, guest in guests.items():
                for row, (_, how) in methods.MIGRATIONS.items():
                    if left("migrations") < 8:
                        results.add("not_run", fs="xfs", size=size, row=row, reason=f"no time left in round {round}")
                        continue
                    out = guest.image.with_name(f"{guest.name}-{round}-{row.replace(' ', '')}.raw")
                    tool = methods.Tool(guest, out, LIVEDISK)
                    figure, _ = measure.observed(guest, lambda: how(tool))
                    guest.image = out
                    if str(out) not in bed.virsh("domblklist", guest.name):
                        raise Failure(f"{guest.name} is not on {out}")
                    say(f"migration {size / GIB:g} GiB round {round} {row}: {figure['total_s']} s")
                    results.add("migrations", fs="xfs", size=size, row=row, warm_up=round == 0,
                                client_cpu_s=round(tool.cpu, 3), load=os.getloadavg()[0], **figure)


def main():
    directory, path = Path(sys.argv[1]), sys.argv[2]
    results = Results(path)
    rows = list(methods.SNAPSHOTS)
    caches = ["none"] if QUICK else ["none", "writeback"]
    on_a_file_system(results, "ext4", directory / "b", "qcow2-backed", SIZES, rows, caches)
    xfs = directory / "x"
    shared = ["external", "clone", "mirror"] if QUICK else [row for row in rows if row != "limited"]
    sizes = [(size, 1 if QUICK else min(rounds, 3)) for size, rounds in SIZES]
    on_a_file_system(results, "xfs", xfs / "b", "qcow2", sizes, shared, caches)
    migrations(results, xfs / "m", [GIB, 4 * GIB] if QUICK else [GIB, 4 * GIB, 16 * GIB], 1 if QUICK else 5)
    results.write()


main()
