# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the library itself costs: polls, threads, memory and descriptors of an operation (benches/cost.rs), start-up, size."""
import json
import os
import time

from guest import TESTS, run


def seconds(words, uri, times=9):
    took = []
    for _ in range(times):
        began = time.monotonic()
        run(words, env={**os.environ, "LIBVIRT_DEFAULT_URI": uri, "XDG_CACHE_HOME": "/tmp"})
        took.append(time.monotonic() - began)
    return sorted(took)[times // 2]


def of(bed, guest, livedisk):
    program = os.environ["LIVEDISK_BENCH_COST"]
    found = json.loads(run([program, bed.direct, guest.name, bed.dir / "out"]))
    return {
        **found,
        "start_up_ms": round(seconds([livedisk, "status"], bed.direct) * 1e3, 1),
        "virsh_start_up_ms": round(seconds(["virsh", "-q", "list"], bed.direct) * 1e3, 1),
        "command_bytes": livedisk.stat().st_size,
        "library_bytes": (livedisk.parent / "liblivedisk.so").stat().st_size,
        "guard_bytes": next((path.stat().st_size for path in [livedisk.parent / "livedisk-guard"] if path.exists()), None),
    }


__all__ = ["TESTS", "of"]
