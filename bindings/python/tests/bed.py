# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests know of the test bed that they run on: bindings/python/test starts it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from pathlib import Path

# Slow enough that a copy of vda takes far longer than any test waits.
SLOW = 1 << 20

_numbers = itertools.count()


def value(name: str) -> str:
    """LIVEDISK_TEST_name."""
    found = os.environ.get(f"LIVEDISK_TEST_{name}")
    assert found is not None, f"LIVEDISK_TEST_{name} is not set: run bindings/python/test, which starts the test bed"
    return found


def uri() -> str:
    return value("URI")


def path(name: str) -> Path:
    """A name in the bed's directory that is not in use yet."""
    return Path(value("DIR")) / f"python-{os.getpid()}-{next(_numbers)}-{name}"


def virsh(*arguments: str) -> str:
    return subprocess.run(
        ["virsh", "-q", "-c", uri(), *arguments],
        env={**os.environ, "XDG_CACHE_HOME": os.path.join(value("DIR"), "c")},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


class Guest:
    """A guest of the bed, by its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def domain(self) -> str:
        return value(f"DOMAIN_{self.number}")

    def last_record(self, disk: str = "vda") -> int:
        """The number of the last record that the guest's writer was acknowledged to have on the disk."""
        last = 0
        with open(value(f"WRITER_{self.number}"), encoding="utf-8") as log:
            for line in log:
                # sequence disk realtime_ns latency_us; the last line may not be whole yet.
                words = line.split()
                if len(words) == 4 and words[1] == disk:
                    last = max(last, int(words[0]))
        assert last > 0, f"the writer of {self.domain} has acknowledged no record on {disk}"
        return last

    def check_clean(self) -> None:
        """Nothing of an operation is left on the guest, and it writes."""
        for state in [], ["--inactive"]:
            xml = virsh("dumpxml", self.domain, *state)
            for rest in "urn:livedisk:operation:", "<mirror":
                assert rest not in xml, f"{rest} is left in the definition of {self.domain}"
        before, deadline = self.last_record(), time.monotonic() + 10
        while self.last_record() == before:
            assert time.monotonic() < deadline, f"{self.domain} has not written for 10 s"
            time.sleep(0.1)


# vda (qcow2 with a backing file) and vdb (raw); vda (qcow2), without an agent; vda (qcow2).
WITH_AGENT, WITHOUT_AGENT, THIRD = Guest(1), Guest(2), Guest(3)


def check_image(image: Path, format: str, clean: bool, at_least: int = 1) -> None:
    """The records in an image: none torn, missing or out of order, and at least those acknowledged."""
    output = subprocess.run(
        [value("RECORDS"), str(image), "--format", format, "--json"], check=True, stdout=subprocess.PIPE
    ).stdout
    found = json.loads(output)
    assert found["last"] >= at_least, f"{image} ends with record {found['last']}; {at_least} was acknowledged before"
    assert found["fs_clean"] or not clean, f"the file system in {image} is not clean, though the guest was frozen"
