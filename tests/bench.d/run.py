# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark: `run.py DIRECTORY RESULTS`, within MINUTES (60); QUICK=1: within five, the smallest size only."""
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

import cost
import measure
import methods
import scale
from guest import GIB, HEAD, MIB, TESTS, Bed, Failure, Guest, run

QUICK = bool(os.environ.get("QUICK"))
MINUTES = float(os.environ.get("MINUTES") or (5 if QUICK else 60))
# From when the first guest writes: on a busy machine that alone may take minutes. The rest is for plots and for beds that end.
BUDGET_S = MINUTES * 60 - (30 if QUICK else 90)
LIVEDISK = Path(os.environ["LIVEDISK_BENCH_COMMAND"])
SMALLEST = GIB // 4
# Rounds of all rows, (cache, bytes), the most wanted first. What there is no time for is left out, and said so.
ROUNDS = {
    "ext4": [("none", SMALLEST)] if QUICK else [
        ("none", SMALLEST), ("none", GIB), ("none", 4 * GIB), ("none", SMALLEST), ("writeback", SMALLEST), ("none", 16 * GIB),
        ("none", SMALLEST), ("none", GIB), ("writeback", GIB), ("none", SMALLEST), ("none", SMALLEST), ("none", GIB), ("none", 4 * GIB),
        ("writeback", GIB), ("none", SMALLEST), ("none", SMALLEST)],
    "xfs": [("none", SMALLEST)] if QUICK else [
        ("none", SMALLEST), ("none", 4 * GIB), ("none", GIB), ("writeback", GIB), ("none", SMALLEST), ("none", GIB), ("none", SMALLEST),
        ("none", 16 * GIB), ("writeback", SMALLEST), ("none", 4 * GIB)],
}
# A disk that is moved: the guest's file system, and after it a piece of random data again and again.
MOVED_HEAD, PIECE = 512 * MIB, 256 * MIB
# The share of the disk that changes before an increment.
CHANGED = 0.01
# How much longer a round takes for each SMALLEST more that is copied, as a share of the first round.
GROWTH = 0.135
BEGAN = time.monotonic()
# Up to which share of the time each part may go on.
SHARES = {"ext4": 0.5, "xfs": 0.71, "migrations": 0.79, "scale": 1.0}


def start_clock():
    global BEGAN
    BEGAN = time.monotonic()


def left(part):
    return BUDGET_S * SHARES[part] - (time.monotonic() - BEGAN)


def say(text):
    print(f"{time.monotonic() - BEGAN:6.0f} s  {text}", file=sys.stderr, flush=True)


class Results:
    """Written out after each figure, so that a run that was stopped has what it measured."""

    def __init__(self, path):
        self.path, self.all = Path(path), {"machine": machine(), "snapshots": [], "offline": [], "increments": [], "migrations": [],
                                              "scale": [], "not_run": []}

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
        "minutes": MINUTES,
        "processor": model[0] if model else platform.machine(),
        "processors": os.cpu_count(),
        "memory_mib": memory // 1024,
        "emulation": "software (TCG)",
        "kernel": platform.release().split("-")[0],
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


class Snapshots:
    """All tools in turn, on one file system."""

    def __init__(self, results, fs, bed, rows):
        self.results, self.fs, self.bed = results, fs, bed
        self.guest, self.out = Guest(bed, 1), bed.dir / "out"
        self.unable = {}
        for name in rows:
            if methods.SNAPSHOTS[name][2] and (reason := methods.SNAPSHOTS[name][2]()):
                self.leave_out(name, reason, "all", 0)
        self.rows = [name for name in rows if name not in self.unable]
        self.took = {}

    def leave_out(self, name, reason, cache, size):
        self.unable[name] = reason
        self.results.add("not_run", fs=self.fs, cache=cache, size=size, row=name, reason=reason.replace(sys.argv[1], "DIRECTORY"))

    def round(self, cache, size, number, warm_up=False, course=False):
        """How long it took."""
        began = time.monotonic()
        for name in self.rows:
            if name in self.unable or (name == "limited" and (cache, size) != ("none", SMALLEST if QUICK else GIB)):
                continue
            expected = self.took.get(name, 10) * (1 + GROWTH * (size / SMALLEST - 1))
            # One is begun only if it can be ended.
            if left(self.fs) < expected:
                self.results.add("not_run", fs=self.fs, cache=cache, size=size, row=name, reason=f"no time left in round {number}")
                continue
            self.one(name, cache, size, number, warm_up, course)
        return time.monotonic() - began

    def one(self, name, cache, size, number, warm_up, course):
        _, how, _, restore = methods.SNAPSHOTS[name]
        at = time.monotonic()
        try:
            figure = measure.snapshot(self.guest, self.out, LIVEDISK, how, restore, name != "noise", course)
        # Whatever a tool that is not ours does, the others are measured.
        except Exception as failure:
            say(f"{name}: {type(failure).__name__}: {failure}")
            put_right(self.bed, self.guest, self.out)
            return self.leave_out(name, f"{type(failure).__name__}: {failure}", cache, size)
        if size == SMALLEST:
            self.took[name] = time.monotonic() - at
        say(f"{self.fs} {cache} {size / GIB:g} GiB round {number} {name}: window {figure['window_ms']} ms, stall {figure['stall_ms']}, "
            f"worst other {figure['worst_other_ms']}, total {figure['total_s']} s")
        self.results.add("snapshots", fs=self.fs, cache=cache, size=size, row=name, warm_up=warm_up, **figure)

    def unrelated(self):
        """What "noise" copies: nothing of the guest's."""
        copy = self.bed.dir / "unrelated"
        copy.unlink(missing_ok=True)
        if "noise" in self.rows:
            run(["qemu-img", "convert", "-U", "-f", self.guest.format, "-O", "qcow2", self.guest.image, copy])
            run(["sync", copy])


def put_right(bed, guest, out):
    """After a tool that failed: the guest runs, thawed, on its own image and nothing else."""
    for words in (["domfsthaw", guest.name], ["domjobabort", guest.name], ["blockjob", guest.name, "vda", "--abort"]):
        subprocess.run(["virsh", "-q", "-c", bed.direct, *words], capture_output=True, timeout=60)
    run([LIVEDISK, "-c", bed.direct, "recover", guest.name])
    if str(guest.image) not in bed.virsh("domblklist", guest.name):
        say(f"{guest.name} is not as it was; starting it again")
        guest.become(guest.size, guest.cache)
    measure.remove(out)


def affordable(wanted, first_s, budget_s):
    """How often each (cache, size) of `wanted`, whose order is that of importance; `first_s`: a round of the smallest."""
    rounds, left_s = {}, budget_s
    for cache, size in wanted:
        costs = first_s * (1 + GROWTH * (size / SMALLEST - 1))
        # Off and on, and the copy beside the guest.
        costs += 0 if (cache, size) in rounds else 15 + size / (100 * MIB)
        if costs <= left_s:
            rounds[cache, size] = rounds.get((cache, size), 0) + 1
            left_s -= costs
    return rounds


def on_a_file_system(results, fs, directory, disk, rows):
    wanted = ROUNDS[fs]
    with Bed(directory, [f"name=bench,disks={disk}:1G,data=256M"]) as bed:
        if fs == "ext4":
            start_clock()
        tools, began = Snapshots(results, fs, bed, rows), left(fs)
        guest = tools.guest
        guest.become(SMALLEST, "none")
        tools.unrelated()
        first = tools.round("none", SMALLEST, 0, warm_up=not QUICK, course=QUICK)
        rounds = {("none", SMALLEST): 0} if QUICK else affordable(wanted, first, left(fs))
        more = ", ".join(f"{number} of {size / GIB:g} GiB {cache}" for (cache, size), number in rounds.items() if number)
        say(f"{fs}: a round of {SMALLEST / GIB:g} GiB takes {first:.0f} s of {began:.0f} s; still to come: {more or 'none'}")
        for cache, size in sorted(set(wanted) - set(rounds), key=lambda one: one[1]):
            results.add("not_run", fs=fs, cache=cache, size=size, row="all", reason=f"no time for it in {MINUTES:g} minutes")
        for size in sorted({size for _, size in rounds}):
            room = os.statvfs(bed.dir)
            if room.f_bavail * room.f_frsize < 4 * size + 2 * GIB:
                results.add("not_run", fs=fs, cache="all", size=size, row="all", reason="no room for it")
                continue
            for cache in [cache for cache in ("none", "writeback") if rounds.get((cache, size))]:
                guest.become(size, cache)
                tools.unrelated()
                for number in range(1, rounds[cache, size] + 1):
                    tools.round(cache, size, number, course=number == 1)
            if left(fs) > size / (100 * MIB) + 5:
                offline(results, fs, guest, tools.out, size)
        if fs == "ext4":
            guest.become(guest.size, "none")
            increments(results, guest, tools.out)
            results.all["cost"] = cost.of(bed, guest, LIVEDISK)
            results.write()


def increments(results, guest, out):
    """What changed since a full copy, at the biggest size there was time for."""
    for number in range(1 if QUICK else 3):
        for row, (full, then, why_not, restore) in methods.INCREMENTS.items():
            reason = why_not and why_not()
            try:
                if reason:
                    raise Failure(reason)
                figure = measure.increment(guest, out, LIVEDISK, (full, then), restore, CHANGED)
            # Whatever a tool that is not ours does, the others are measured.
            except Exception as failure:
                reason = f"{type(failure).__name__}: {failure}".replace(sys.argv[1], "DIRECTORY")
                say(f"increment by {row}: {reason}")
                results.add("not_run", fs="increment", cache="none", size=guest.size, row=row, reason=reason)
                continue
            say(f"increment of {figure['changed'] / MIB:g} MiB by {row}: window {figure['window_ms']} ms, total {figure['total_s']} s")
            results.add("increments", fs="ext4", cache="none", size=guest.size, row=row, **figure)


def offline(results, fs, guest, out, size):
    guest.off()
    tool, began = methods.Tool(guest, out, LIVEDISK), time.monotonic()
    methods.offline(tool)
    total = time.monotonic() - began
    results.add("offline", fs=fs, size=size, total_s=round(total, 3), client_cpu_s=round(tool.cpu, 3),
                written=tool.written)
    out.unlink()
    guest.on()


def must_be_whole(bed, guest, piece, size):
    """What was moved from one image to the next is all there still: what the guest wrote, and what it never touches."""
    guest.off()
    for at in range(MOVED_HEAD, size, max(piece.stat().st_size, (size - MOVED_HEAD) // 4 // PIECE * PIECE)):
        run(["cmp", "-n", PIECE, "-i", f"0:{at}", piece, guest.image])
    head = bed.dir / "head"
    run(["cp", "--reflink=always", guest.image, head])
    os.truncate(head, MOVED_HEAD)
    run([bed.values["RECORDS"], head, "--format", "raw"])
    head.unlink()


def migrations(results, directory, sizes, rounds):
    """Raw disks full of data on a file system that shares blocks."""
    names = {size: f"m{size // MIB}" for size in sizes}
    specification = "disks=raw:512M,data=128M,agent=no"
    with Bed(directory, [f"name={name},{specification}" for name in names.values()]) as bed:
        guests = {size: Guest(bed, number) for number, size in enumerate(sizes, 1)}
        piece = bed.dir / "piece"
        with open(piece, "wb") as file:
            for _ in range(PIECE // MIB):
                file.write(os.urandom(MIB))
        for size, guest in guests.items():
            bed.virsh("blockresize", guest.name, "vda", f"{size // 1024}")
            words = [word for at in range(MOVED_HEAD, size, PIECE) for word in ("-c", f"reflink {piece} 0 {at} {PIECE}")]
            run(["xfs_io", *words, guest.image])
            bed.control(guest.name, "writer", "rate", 5)
        for number in range(rounds + 1):
            for size, guest in guests.items():
                for row, (_, how) in methods.MIGRATIONS.items():
                    if left("migrations") < 8:
                        results.add("not_run", fs="xfs", size=size, row=row, reason=f"no time left in round {number}")
                        continue
                    out = guest.image.with_name(f"{guest.name}-{number}-{row.replace(' ', '')}.raw")
                    tool = methods.Tool(guest, out, LIVEDISK)
                    figure, _ = measure.observed(guest, lambda: how(tool))
                    guest.image = out
                    if str(out) not in bed.virsh("domblklist", guest.name):
                        raise Failure(f"{guest.name} is not on {out}")
                    say(f"migration {size / GIB:g} GiB round {number} {row}: {figure['total_s']} s")
                    results.add("migrations", fs="xfs", size=size, row=row, warm_up=number == 0,
                                client_cpu_s=round(tool.cpu, 3), load=os.getloadavg()[0], **figure)
        for size, guest in guests.items():
            must_be_whole(bed, guest, piece, size)


def main():
    directory, path = Path(sys.argv[1]), sys.argv[2]
    results = Results(path)
    rows = list(methods.SNAPSHOTS)
    xfs = directory / "x"
    shared = ["external", "clone", "mirror"] if QUICK else ["nova", "blockcopy", "external", "mirror", "clone", "backup"]
    moved = [GIB, 4 * GIB] if QUICK else [GIB, 4 * GIB, 16 * GIB]
    many = [1, 10] if QUICK else [1, 10, 50, 100]
    parts = [
        ("ext4", lambda: on_a_file_system(results, "ext4", directory / "b", "qcow2-backed", rows)),
        ("xfs", lambda: on_a_file_system(results, "xfs", xfs / "b", "qcow2", shared)),
        ("migrations", lambda: migrations(results, xfs / "m", moved, 1 if QUICK else 5)),
        ("scale", lambda: scale.measure(results, directory / "s", LIVEDISK, many, 1000, lambda: left("scale"), say)),
    ]
    failed = False
    for name, part in parts:
        try:
            part()
        except Exception as failure:
            traceback.print_exc()
            results.add("not_run", fs=name, cache="all", size=0, row="all", reason=f"{type(failure).__name__}: {failure}")
            failed = True
    results.write()
    if failed:
        sys.exit("a part of the benchmark failed; the results have the others")


main()
