# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arguments and results, with the names of the C fields. Times are in nanoseconds, sizes in bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Optional, Union

from ._ffi import ffi
from ._values import Consistency, Method, Phase, Warnings

Path = Union[str, "os.PathLike[str]"]

# UINT64_MAX.
_NOT_KNOWN = 2**64 - 1


def _text(pointer: Any) -> str:
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode("utf-8", "replace")


def _optional(pointer: Any) -> Optional[str]:
    return None if pointer == ffi.NULL else _text(pointer)


@dataclass(frozen=True)
class SnapshotDisk:
    """One disk of a snapshot.

    Attributes:
        target: the disk target, such as "vda".
        destination: absolute path of a file that does not exist yet, path of a block device, or an nbd:// or
            nbd+unix:// URI.
        format: "qcow2" or "raw". None: the disk's own for a file, raw for a block device or an NBD export.
        reuse_existing: the destination already holds an image of the format and of exactly the disk's virtual size; it
            is overwritten, and never removed.
        allow_plaintext: an encrypted disk may be written to a plain destination.
        backing: the backing file of an increment (``since``). Needs liblivedisk 0.2.
    """

    target: str
    destination: Path
    format: Optional[str] = None
    reuse_existing: bool = False
    allow_plaintext: bool = False
    backing: Optional[Path] = None


@dataclass(frozen=True)
class Progress:
    """The progress of an operation.

    Attributes:
        phase: it never goes back.
        step: steps completed.
        step_count: steps in total.
        bytes_done: bytes copied, over all disks.
        bytes_total: bytes to copy, as far as known now; grows while the guest writes.
        bytes_per_second: current transfer rate.
        elapsed_ns: nanoseconds since the start.
        guest_write_limit: bytes per second to which the guest's writes to the disk are throttled, because its job cannot
            keep up; 0: not throttled.
    """

    phase: Phase
    step: int
    step_count: int
    bytes_done: int
    bytes_total: int
    bytes_per_second: int
    elapsed_ns: int
    guest_write_limit: int

    @classmethod
    def _of(cls, found: Any) -> Progress:
        return cls(
            phase=Phase(found.phase),
            step=found.step,
            step_count=found.step_count,
            bytes_done=found.bytes_done,
            bytes_total=found.bytes_total,
            bytes_per_second=found.bytes_per_second,
            elapsed_ns=found.elapsed_ns,
            guest_write_limit=found.guest_write_limit,
        )


@dataclass(frozen=True)
class Report:
    """What a finished operation did.

    Attributes:
        method: the method used.
        consistency: what the images can be relied on for.
        filesystems_frozen: how many file systems were frozen.
        disk_count: how many disks were copied.
        point_in_time_ns: the moment whose content the images have, in nanoseconds of CLOCK_REALTIME; 0 for a dry run.
        freeze_ns: nanoseconds from sending the freeze request to the answer to the thaw; 0: not frozen.
        pause_ns: nanoseconds for which the vCPUs were paused, to give several mirrors one point in time; 0: not paused.
        bytes_copied: bytes copied, over all disks.
        elapsed_ns: nanoseconds from start to end.
        full_disks: disks copied whole although ``since`` was given.
        warnings: the warnings that apply.
    """

    method: Method
    consistency: Consistency
    filesystems_frozen: int
    disk_count: int
    point_in_time_ns: int
    freeze_ns: int
    pause_ns: int
    bytes_copied: int
    elapsed_ns: int
    full_disks: int = 0
    warnings: Warnings = Warnings(0)

    @classmethod
    def _of(cls, found: Any) -> Report:
        return cls(
            method=Method(found.method),
            consistency=Consistency(found.consistency),
            filesystems_frozen=found.filesystems_frozen,
            disk_count=found.disk_count,
            point_in_time_ns=found.point_in_time_ns,
            freeze_ns=found.freeze_ns,
            pause_ns=found.pause_ns,
            bytes_copied=found.bytes_copied,
            elapsed_ns=found.elapsed_ns,
            full_disks=getattr(found, "full_disks", 0),
            warnings=Warnings(found.warnings),
        )


@dataclass(frozen=True)
class Recovery:
    """What a recovery found and did. Operations whose process is alive are not counted.

    Attributes:
        domains: domains on which something was left to clean up.
        thawed: guests thawed.
        completed: operations completed, because they had passed their point of no return.
        taken_back: operations rolled back.
        failed: operations that could not be cleaned up, and can be recovered again; the log says why.
    """

    domains: int
    thawed: int
    completed: int
    taken_back: int
    failed: int

    @classmethod
    def _of(cls, found: Any) -> Recovery:
        return cls(
            domains=found.domains,
            thawed=found.thawed,
            completed=found.completed,
            taken_back=found.taken_back,
            failed=found.failed,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a domain. What changed since then can be copied alone.

    Attributes:
        name: the name.
        parent: the checkpoint before it; None for the oldest.
        created_ns: when, in nanoseconds of CLOCK_REALTIME; libvirt keeps whole seconds.
        changed_bytes: bytes that have changed since then, in whole clusters; None if that is not known, because it is not
            usable, the domain is off, or a backup, migration or save is running.
        usable: whether what has changed since then is known for certain on all of its disks.
        disk_count: how many disks of the domain it covers.
        why_not: why it is not usable, else None.
    """

    name: str
    parent: Optional[str]
    created_ns: int
    changed_bytes: Optional[int]
    usable: bool
    disk_count: int
    why_not: Optional[str]

    @classmethod
    def _of(cls, found: Any) -> Checkpoint:
        return cls(
            name=_text(found.name),
            parent=_optional(found.parent),
            created_ns=found.created_ns,
            changed_bytes=None if found.changed_bytes == _NOT_KNOWN else found.changed_bytes,
            usable=bool(found.usable),
            disk_count=found.disk_count,
            why_not=_optional(found.why_not),
        )


@dataclass(frozen=True)
class OperationInfo:
    """An operation that runs, or whose process has ended.

    Attributes:
        domain: the domain's name.
        id: the operation's unique id.
        owner_host: the name of the host on which its process runs, or ran.
        owner_process: the number of that process.
        is_migration: whether it is a migration; otherwise it is a snapshot, or a freeze, which has no disks.
        method: the method.
        orphaned: whether its process has ended or released it; call ``attach`` or ``recover``.
        disk_count: how many disks it has.
        targets: the disk target of each.
        destinations: where the content of each goes.
        started_ns: when it was started, in nanoseconds of CLOCK_REALTIME.
        bytes_done: bytes copied by the block jobs that run.
        bytes_total: bytes that those jobs have to copy, as far as known now.
    """

    domain: str
    id: str
    owner_host: str
    owner_process: str
    is_migration: bool
    method: Method
    orphaned: bool
    disk_count: int
    targets: tuple[str, ...]
    destinations: tuple[str, ...]
    started_ns: int
    bytes_done: int
    bytes_total: int

    @classmethod
    def _of(cls, found: Any) -> OperationInfo:
        count = found.disk_count
        return cls(
            domain=_text(found.domain),
            id=_text(found.id),
            owner_host=_text(found.owner_host),
            owner_process=_text(found.owner_process),
            is_migration=bool(found.is_migration),
            method=Method(found.method),
            orphaned=bool(found.orphaned),
            disk_count=count,
            targets=tuple(_text(found.targets[i]) for i in range(count)),
            destinations=tuple(_text(found.destinations[i]) for i in range(count)),
            started_ns=found.started_ns,
            bytes_done=found.bytes_done,
            bytes_total=found.bytes_total,
        )
