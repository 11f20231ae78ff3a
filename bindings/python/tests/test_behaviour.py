# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table that every binding runs; see its own words in tests/behaviour/cases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import bed
import pytest

import livedisk
from livedisk import ErrorCode, Phase

CASES = Path(__file__).parents[3] / "tests" / "behaviour" / "cases"
LINES = [line for line in CASES.read_text().splitlines() if line and not line.startswith("#")]
GUESTS = {"1": bed.WITH_AGENT, "2": bed.WITHOUT_AGENT, "none": None}
FLAGS = {
    "snapshot": {"shallow", "auto_finish", "dry_run", "verify", "write_blocking", "compress", "full_if_needed"},
    "migrate": {"auto_finish", "dry_run", "verify", "delete_source", "write_blocking", "allow_plaintext"},
}
NOTHING = livedisk.Recovery(0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def connection() -> Iterator[livedisk.Connection]:
    with livedisk.open(bed.uri()) as opened:
        yield opened


@pytest.fixture(scope="module")
def directory() -> Path:
    # It is not empty at the end, and so stays: a guest's disk is where the last case has moved it.
    made = bed.path("behaviour")
    made.mkdir()
    return made


def copy(source: str, destination: str) -> None:
    shutil.copyfile(source, destination)


def fail(source: str, destination: str) -> None:
    raise RuntimeError("told to fail")


class Case:
    def __init__(self, connection: livedisk.Connection, directory: Path, calls: str, guest: str) -> None:
        self.connection, self.directory = connection, directory
        self.dropped, plus, self.call = calls.rpartition("+")
        self.guest = GUESTS[guest]
        self.domain = "nobody-has-this-name" if self.guest is None else self.guest.domain
        self.disks: list[livedisk.SnapshotDisk] = []
        # Of both calls, of a snapshot, and of the one that the case is about.
        self.both: dict[str, Any] = {}
        self.snapshot: dict[str, Any] = {}
        self.flags: dict[str, Any] = {}
        self.end, self.uri, self.busy, self.before = "finish", "", False, ""
        self.report: livedisk.Report | None = None
        self.recovery = NOTHING
        self.made: tuple[Path, os.stat_result] | None = None

    def path(self, name: str) -> str:
        return "relative" if name == "REL" else str(self.directory / name)

    def option(self, word: str) -> None:
        name, _, value = word.partition("=")
        if name == "uri":
            self.uri = value
        elif name == "disk":
            target, destination, format, flag = (value.split(":") + [""] * 3)[:4]
            disk = livedisk.SnapshotDisk(target, self.path(destination) if destination else "", format or None)
            self.disks.append(replace(disk, **{flag: True}) if flag else disk)  # type: ignore[arg-type]
        elif name in ("method", "clone"):
            self.both[name] = value
        elif name == "bandwidth":
            self.both[name] = int(value)
        elif name == "quiesce":
            self.snapshot[name] = value
        elif name in ("checkpoint", "since"):
            self.snapshot[name] = value
        elif name == "backing":
            self.disks[0] = replace(self.disks[0], backing=self.path(value))
        elif name == "before":
            self.before = value
        elif name == "freeze_limit_ms":
            self.snapshot["freeze_limit"] = int(value) / 1000
        elif name == "flags":
            for flag in value.split(","):
                assert flag in FLAGS[self.dropped or self.call], f"unknown flag {flag}"
                self.flags[flag] = True
        elif name == "callback":
            self.both["clone_callback"] = {"copy": copy, "fail": fail}[value]
        elif name == "make":
            self.make(*value.split(":"))
        elif name == "busy":
            self.busy = True
        elif name == "end":
            self.end = value
        else:
            pytest.fail(f"unknown option {word}")

    def make(self, kind: str, name: str) -> None:
        path = self.directory / name
        if kind == "text":
            path.write_text("mine\n")
        elif kind == "directory":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/no/such/file")
        elif kind == "raw32M":
            path.touch()
            os.truncate(path, 32 << 20)
        else:
            pytest.fail(f"unknown kind {kind}")
        self.made = path, path.lstat()

    def start(self, call: str) -> livedisk.Operation:
        if call == "snapshot":
            return self.connection.start_live_snapshot(
                self.domain, self.disks, **self.both, **self.snapshot, **self.flags
            )
        if call == "migrate":
            disk = self.disks[0]
            return self.connection.migrate_disk(
                self.domain, disk.target, disk.destination, format=disk.format, **self.both, **self.flags
            )
        assert call == "attach"
        return self.connection.attach(self.domain, self.disks[0].target)

    def recover(self) -> livedisk.Recovery:
        found = self.connection.recover(self.domain)
        assert self.connection.recover(self.domain) == NOTHING
        return found

    def run(self) -> None:
        """Makes the calls; the first failure is raised."""
        with ExitStack() as stack:
            if self.busy:
                other = self.connection.start_live_snapshot(
                    self.domain, {"vda": self.path("busy")}, bandwidth=bed.SLOW
                )
                stack.callback(other.close)
                stack.callback(other.cancel)
                reach(other, Phase.COPYING)
            if self.before:
                name, _, image = self.before.partition(":")
                first = {self.disks[0].target: self.path(image)}
                with self.connection.start_live_snapshot(self.domain, first, checkpoint=name) as operation:
                    operation.finish(60)
            if self.dropped:
                with self.start(self.dropped) as operation:
                    assert reach(operation, Phase.COPYING) is Phase.COPYING
            if self.call == "open":
                livedisk.open(self.uri, event_loop=False).close()
            elif self.call == "recover":
                self.recovery = self.recover()
            elif self.dropped and self.call != "attach":
                try:
                    self.start(self.call).close()
                finally:
                    assert self.recover().taken_back == 1
            else:
                operation = self.start(self.call)
                stack.callback(operation.close)
                self.finish(operation)

    def finish(self, operation: livedisk.Operation) -> None:
        if self.end == "timeout":
            try:
                operation.finish(0)
            finally:
                operation.cancel()
        elif self.end == "poll":
            assert reach(operation, Phase.DONE) is Phase.DONE
        elif self.end == "cancel":
            for progress in operation:
                pass
            assert progress.phase is Phase.READY
            operation.cancel()
            assert operation.poll(0).phase is Phase.CANCELLED
        else:
            assert self.end in ("finish", "late")
        self.report = operation.finish(60)
        assert operation.finish(0) == self.report
        if self.end == "late":
            operation.cancel()

    def expect(self, word: str) -> None:
        name, _, value = word.partition("=")
        if name in ("image", "gone", "there"):
            file, _, format = value.partition(":")
            path = Path(self.path(file))
            assert os.path.lexists(path) == (name != "gone"), word
            if name == "image":
                assert self.report is not None
                bed.check_image(path, format, self.report.consistency is livedisk.Consistency.FILESYSTEM)
                path.unlink()
        elif self.call == "recover":
            assert getattr(self.recovery, name) == int(value), word
            self.recovery = replace(self.recovery, **{name: 0})
        elif name == "frozen":
            assert self.report is not None
            assert (self.report.freeze_ns > 0) == (self.report.filesystems_frozen > 0) == (value == "yes")
        elif name == "forget":
            self.connection.delete_checkpoint(self.domain, value)
        else:
            assert self.report is not None
            is_now = {
                "method": str(self.report.method),
                "consistency": str(self.report.consistency),
                "disks": str(self.report.disk_count),
                "full": str(self.report.full_disks),
            }[name]
            assert is_now == value, word


def reach(operation: livedisk.Operation, phase: Phase) -> Phase:
    """Waits until it is there, beyond, or over."""
    while True:
        progress = operation.poll(60)
        if progress.phase >= phase or progress.phase.is_final:
            return progress.phase


@pytest.mark.parametrize("line", LINES, ids=[line.split()[0] for line in LINES])
def test_behaviour(line: str, connection: livedisk.Connection, directory: Path) -> None:
    asked, _, expected = line.partition(" -> ")
    _, calls, guest, *options = asked.split()
    outcome, *words = expected.split()
    case = Case(connection, directory, calls, guest)
    for option in options:
        case.option(option)
    if outcome == "ok":
        case.run()
    else:
        assert outcome == "fails"
        with pytest.raises(livedisk.Error) as raised:
            case.run()
        code = ErrorCode[words.pop(0)]
        assert raised.value.code is code and type(raised.value).CODE is code
        if case.both.get("clone_callback") is fail:
            assert str(raised.value.__cause__) == "told to fail"
        if case.made is not None:
            path, before = case.made
            now = path.lstat()
            assert (now.st_ino, now.st_mode, now.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    for word in words:
        case.expect(word)
    # What was expected is zero now.
    assert case.recovery == NOTHING
    if case.guest is not None:
        case.guest.check_clean()


def test_the_table_is_whole() -> None:
    assert len(LINES) > 40
    assert {field.name for field in fields(livedisk.Recovery)} == {"domains", "thawed", "completed", "taken_back", "failed"}
