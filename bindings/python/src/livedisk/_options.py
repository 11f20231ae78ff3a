# SPDX-License-Identifier: LGPL-2.1-or-later
"""Python's arguments as C's. Whatever is wrong in them is said before a C call is made."""

from __future__ import annotations

import math
import operator
import os
import time
from typing import Any, Iterable, Mapping, Optional, Sequence, TypeVar, Union

from ._clone import CloneFunction, trampoline
from ._errors import InvalidArgumentError, must_know
from ._ffi import ffi
from ._types import Path, SnapshotDisk
from ._values import Clone, CloneLike, DiskFlag, MigrateFlag, Method, MethodLike, Quiesce, QuiesceLike, SnapshotFlag

E = TypeVar("E", Method, Quiesce, Clone)
Disks = Union[Mapping[str, Path], Sequence[SnapshotDisk]]
Backing = Union[Path, Mapping[str, Path]]
MAX_U32 = 2**32 - 1
MAX_U64 = 2**64 - 1
# How long a C call waits at most before Python looks for signals.
SLICE_MS = 200


class Deadline:
    """The end of a wait, cut in slices."""

    def __init__(self, timeout: Optional[float]) -> None:
        if timeout is not None:
            timeout = float(timeout)
            if not timeout >= 0:
                raise InvalidArgumentError(f"timeout is {timeout}; pass seconds from 0 up, or None to wait for ever")
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end

    def slice_ms(self) -> int:
        """Milliseconds to wait at once."""
        if self._end is None:
            return SLICE_MS
        left = self._end - time.monotonic()
        return max(0, min(SLICE_MS, math.ceil(left * 1000) if left < SLICE_MS else SLICE_MS))


class Memory:
    """Keeps what C structs point to."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def text(self, value: object, what: str) -> Any:
        """A C string."""
        if not isinstance(value, str):
            raise InvalidArgumentError(f"{what} is {value!r}; pass a str")
        try:
            encoded = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{what} is {value!r}, which is not UTF-8: {error.reason}") from None
        if b"\0" in encoded:
            raise InvalidArgumentError(f"{what} is {value!r}; it must not contain a zero byte")
        made = ffi.new("char[]", encoded)
        self._kept.append(made)
        return made

    def path(self, value: Path, what: str) -> Any:
        """A C string with a path or URI."""
        if isinstance(value, (str, os.PathLike)):
            return self.text(os.fspath(value), what)
        raise InvalidArgumentError(f"{what} is {value!r}; pass a str or os.PathLike")

    def optional(self, value: Optional[str], what: str) -> Any:
        """A C string, or NULL."""
        return ffi.NULL if value is None else self.text(value, what)

    def array(self, kind: str, count: int) -> Any:
        """Zeroed structs."""
        made = ffi.new(f"{kind}[]", count)
        self._kept.append(made)
        return made


def value(kind: type[E], given: Any, what: str) -> int:
    """The number of an enumeration's member, given as that, its name or its number. C judges the numbers."""
    try:
        found = int(kind(given))
    except (ValueError, TypeError):
        names = ", ".join(member.name.lower() for member in kind)
        raise InvalidArgumentError(f"{what} is {given!r}; pass one of {names}") from None
    return _within(found, -(2**31), 2**31 - 1, what)


def number(given: object, most: int, what: str) -> int:
    """A whole number from 0 to `most`."""
    try:
        found = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgumentError(f"{what} is {given!r}; pass a whole number") from None
    return _within(found, 0, most, what)


def _within(found: int, least: int, most: int, what: str) -> int:
    if not least <= found <= most:
        raise InvalidArgumentError(f"{what} is {found}; pass {least} to {most}")
    return found


def milliseconds(seconds: float, what: str) -> int:
    """Seconds, of which there must be some, as milliseconds."""
    if not 0 < float(seconds) <= MAX_U32 / 1000:
        raise InvalidArgumentError(f"{what} is {seconds!r}; pass seconds, more than 0 and at most {MAX_U32 // 1000}")
    return math.ceil(float(seconds) * 1000)


def _flags(kind: Any, **wanted: object) -> int:
    return sum(int(kind[name.upper()]) for name, is_wanted in wanted.items() if is_wanted)


def _listed(disks: Disks) -> list[SnapshotDisk]:
    if isinstance(disks, Mapping):
        return [SnapshotDisk(target, destination) for target, destination in disks.items()]
    found: list[Any] = list(disks) if isinstance(disks, Iterable) and not isinstance(disks, str) else [disks]
    for disk in found:
        if not isinstance(disk, SnapshotDisk):
            raise InvalidArgumentError(
                f"disks has {disk!r}; pass a mapping of targets to destinations, or a sequence of SnapshotDisk"
            )
    return found


def _backing(disk: SnapshotDisk, backing: Optional[Backing], count: int) -> Optional[Path]:
    if disk.backing is not None or backing is None:
        return disk.backing
    if isinstance(backing, Mapping):
        return backing.get(disk.target)
    if count != 1:
        raise InvalidArgumentError("backing is one path for several disks; pass a mapping of targets to paths")
    return backing


def snapshot(
    memory: Memory,
    disks: Disks,
    function: Optional[CloneFunction],
    *,
    method: MethodLike,
    quiesce: QuiesceLike,
    format: Optional[str],
    shallow: bool,
    auto_finish: bool,
    dry_run: bool,
    verify: bool,
    write_blocking: bool,
    compress: bool,
    full_if_needed: bool,
    reuse_existing: bool,
    allow_plaintext: bool,
    freeze_limit: float,
    bandwidth: int,
    checkpoint: Optional[str],
    since: Optional[str],
    backing: Optional[Backing],
    scratch: Optional[Path],
    clone: CloneLike,
) -> Any:
    """struct livedisk_snapshot_options."""
    listed = _listed(disks)
    array = memory.array("struct livedisk_snapshot_disk", len(listed))
    for i, disk in enumerate(listed):
        what = f"disks[{i}]"
        array[i].target = memory.text(disk.target, f"{what}.target")
        array[i].destination = memory.path(disk.destination, f"{what}.destination")
        array[i].format = memory.optional(format if disk.format is None else disk.format, f"{what}.format")
        array[i].flags = _flags(
            DiskFlag,
            reuse_existing=reuse_existing or disk.reuse_existing,
            allow_plaintext=allow_plaintext or disk.allow_plaintext,
        )
        rests_on = _backing(disk, backing, len(listed))
        if rests_on is not None:
            must_know("backing")
            array[i].backing = memory.path(rests_on, f"{what}.backing")
    options = memory.array("struct livedisk_snapshot_options", 1)
    options[0].disks = array if listed else ffi.NULL
    options[0].disk_count = len(listed)
    options[0].method = value(Method, method, "method")
    options[0].quiesce = value(Quiesce, quiesce, "quiesce")
    for name, is_wanted in {"compress": compress, "full_if_needed": full_if_needed}.items():
        if is_wanted:
            must_know(name)
    options[0].flags = _flags(
        SnapshotFlag,
        shallow=shallow,
        auto_finish=auto_finish,
        dry_run=dry_run,
        verify=verify,
        write_blocking=write_blocking,
        compress=compress,
        full_if_needed=full_if_needed,
    )
    options[0].freeze_limit_ms = milliseconds(freeze_limit, "freeze_limit")
    options[0].bandwidth = number(bandwidth, MAX_U64, "bandwidth")
    options[0].checkpoint = memory.optional(checkpoint, "checkpoint")
    options[0].since = memory.optional(since, "since")
    options[0].clone = value(Clone, clone, "clone")
    if function is not None:
        options[0].clone_callback = trampoline
        options[0].clone_data = function.data
    if scratch is not None:
        must_know("scratch")
        options[0].scratch = memory.path(scratch, "scratch")
    return options


def migrate(
    memory: Memory,
    target: str,
    destination: Path,
    function: Optional[CloneFunction],
    *,
    format: Optional[str],
    method: MethodLike,
    clone: CloneLike,
    auto_finish: bool,
    dry_run: bool,
    verify: bool,
    delete_source: bool,
    write_blocking: bool,
    allow_plaintext: bool,
    bandwidth: int,
) -> Any:
    """struct livedisk_migrate_options."""
    options = memory.array("struct livedisk_migrate_options", 1)
    options[0].target = memory.text(target, "target")
    options[0].destination = memory.path(destination, "destination")
    options[0].format = memory.optional(format, "format")
    options[0].method = value(Method, method, "method")
    options[0].clone = value(Clone, clone, "clone")
    options[0].flags = _flags(
        MigrateFlag,
        auto_finish=auto_finish,
        dry_run=dry_run,
        verify=verify,
        delete_source=delete_source,
        write_blocking=write_blocking,
        allow_plaintext=allow_plaintext,
    )
    options[0].bandwidth = number(bandwidth, MAX_U64, "bandwidth")
    if function is not None:
        options[0].clone_callback = trampoline
        options[0].clone_data = function.data
    return options
