# SPDX-License-Identifier: LGPL-2.1-or-later
"""One run of one tool beside a guest, and what it did: its time, the guest's, and the calls it made of libvirt."""
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import relay
from guest import CLOCK_NS
from methods import Tool

# The last write that was held up is reported when it is through.
SETTLE_S = 0.3
NOTED_S = 3
BUCKET_MS = 40


def window_of(calls):
    """Freeze request sent to thaw answered, both at the relay; how long freeze, what lies between, and thaw took; and what was
    called in between."""
    began, frozen, thaws = None, None, {}
    for kind, ns, client, call, serial, status in calls:
        if kind == "call" and call == relay.FREEZE and began is None:
            began = ns
        if kind == "reply" and call == relay.FREEZE and frozen is None:
            frozen = ns
        if call == relay.THAW:
            if kind == "call":
                thaws[client, serial] = ns
            elif status == 0 and (client, serial) in thaws and began and frozen:
                inside = [relay.name(*call) for kind, at, _, call, *_ in calls if kind == "call" and began <= at <= ns]
                sent = thaws[client, serial]
                return (began, ns), [round((to - at) / 1e6, 2) for at, to in ((began, frozen), (frozen, sent), (sent, ns))], inside
    return None, None, []


def window_when_noted(bed, offset):
    """On a busy machine the relay may note its last lines late."""
    deadline = time.monotonic() + NOTED_S
    while True:
        made = list(bed.calls_since(offset))
        window = window_of(made)
        froze = any(call == relay.FREEZE for _, _, _, call, *_ in made)
        if window[0] or not froze or time.monotonic() > deadline:
            return made, *window
        time.sleep(0.1)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0


def felt(writes, began, ended, window):
    """What the guest felt between two moments of CLOCK_REALTIME; milliseconds."""
    within = [write for write in writes if write[1] >= began and write[0] <= ended]
    took = [(to - at) / 1e6 for at, to in within]
    frozen, others = [], []
    for (at, to), ms in zip(within, took):
        held = window and to >= window[0] - CLOCK_NS and at <= window[1] + CLOCK_NS
        (frozen if held else others).append(ms)
    return {
        "stall_ms": round(max(frozen, default=0), 2),
        "worst_other_ms": round(max(others, default=0), 2),
        "p999_ms": round(percentile(took, 0.999), 2),
        "median_ms": round(percentile(took, 0.5), 3),
        "writes": len(within),
        "writes_per_s": round(len(within) * 1e9 / max(ended - began, 1), 1),
    }


def course(writes, began, ended):
    """[ms since the beginning, longest latency in ms] of each stretch of BUCKET_MS."""
    worst = {}
    for at, to in writes:
        if to >= began - 1e9 and at <= ended + 1e9:
            bucket = int((at - began) / 1e6) // BUCKET_MS * BUCKET_MS
            worst[bucket] = max(worst.get(bucket, 0), round((to - at) / 1e6, 1))
    return sorted(worst.items())


def observed(guest, work):
    """What happens while `work` runs."""
    log, calls, qemu = guest.log.stat().st_size, guest.bed.calls.stat().st_size, guest.written_by_qemu()
    clock, began = time.monotonic(), time.time_ns()
    work()
    ended, total = time.time_ns(), time.monotonic() - clock
    time.sleep(SETTLE_S)
    made, window, parts, inside = window_when_noted(guest.bed, calls)
    trips = Counter(relay.name(*call) for kind, at, _, call, *_ in made if kind == "call")
    writes = guest.writes_since(log)
    result = {
        "total_s": round(total, 3),
        "window_ms": round((window[1] - window[0]) / 1e6, 2) if window else None,
        # Freeze, what lies between, thaw.
        "window_parts_ms": parts,
        **felt(writes, began, ended, window),
        "round_trips": sum(trips.values()),
        "calls": dict(trips.most_common()),
        "inside": inside,
        "written_qemu": guest.written_by_qemu() - qemu,
    }
    return result, (writes, began, ended, window)


def bare_pair(guest, livedisk):
    tool = Tool(guest, "", livedisk)
    result, _ = observed(guest, lambda: tool.virsh(f"domfsfreeze {guest.name}", f"domfsthaw {guest.name}"))
    return {key: result[key] for key in ("window_ms", "stall_ms")}


def quiet(guest, seconds=1.0):
    result, _ = observed(guest, lambda: time.sleep(seconds))
    return {key: result[key] for key in ("worst_other_ms", "p999_ms", "median_ms", "writes_per_s")}


def remove(out):
    for path in (Path(out), Path(f"{out}.d"), Path(f"{out}.r"), Path(f"{out}.log"), Path(f"{out}.full")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


def occupied(out):
    made = Path(f"{out}.d") if Path(f"{out}.d").exists() else Path(out)
    files = [made] if made.is_file() else [path for path in made.iterdir() if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files)


def snapshot(guest, out, livedisk, how, restore=None, holds=True, with_course=False):
    """A quiet second and a bare pair first, then the tool; then what it made is checked and removed."""
    remove(out)
    guest.bed.control(guest.name, "clock")
    before, pair = quiet(guest), bare_pair(guest, livedisk)
    tool = Tool(guest, out, livedisk)
    result, (writes, began, ended, window) = observed(guest, lambda: how(tool))
    result |= {
        "load": os.getloadavg()[0],
        "bare": pair,
        "quiet": before,
        "client_cpu_s": round(tool.cpu, 3),
        "written": tool.written + result.pop("written_qemu"),
        "image_bytes": occupied(out),
    }
    if with_course:
        result["course"] = course(writes, began, ended)
        result["course_window_ms"] = [round((at - began) / 1e6, 1) for at in window] if window else None
    if holds:
        if restore:
            restore(tool)
        result["image"] = guest.check(out, "qcow2")
    remove(out)
    return result


def increment(guest, out, livedisk, how, restore, share):
    """A full copy, so much of the disk changed, and then what changed; the image is checked, and nothing is left."""
    full, then = how
    remove(out)
    try:
        full(Tool(guest, out, livedisk))
        before, changed = occupied(out) if Path(f"{out}.d").exists() else 0, guest.change(share)
        guest.bed.control(guest.name, "clock")
        pair, tool = bare_pair(guest, livedisk), Tool(guest, out, livedisk)
        result, _ = observed(guest, lambda: then(tool))
        result |= {
            "load": os.getloadavg()[0],
            "bare": pair,
            "changed": changed,
            "client_cpu_s": round(tool.cpu, 3),
            "written": tool.written + result.pop("written_qemu"),
            "image_bytes": occupied(out) - before,
        }
        if restore:
            restore(tool)
        result["image"] = guest.check(out, "qcow2")
        return result
    finally:
        guest.forget_checkpoints()
        remove(out)
