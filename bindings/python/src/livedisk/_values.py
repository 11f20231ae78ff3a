# SPDX-License-Identifier: LGPL-2.1-or-later
"""The numbers of livedisk.h as enumerations, which the tests compare with the header."""

from __future__ import annotations

import enum
from typing import Optional, TypeVar, Union

E = TypeVar("E", bound="_Value")


class _Value(enum.IntEnum):
    """Takes its names in lower case too; a number of a newer library becomes a member without a name of its own."""

    @classmethod
    def _missing_(cls: type[E], value: object) -> Optional[E]:
        if isinstance(value, str):
            return cls.__members__.get(value.upper())
        if isinstance(value, int) and not isinstance(value, bool):
            unknown = int.__new__(cls, value)
            unknown._name_ = f"UNKNOWN_{value}".replace("-", "_")
            unknown._value_ = value
            return unknown
        return None

    def __str__(self) -> str:
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class Method(_Value):
    """How a snapshot is taken or a disk moved.

    Members:
        AUTO: the cheapest method that cannot hurt the guest; the report says which one it was.
        BACKUP: virDomainBackupBegin: content as of the start. A destination that fails or hangs never
            reaches the guest. Not for migrations.
        MIRROR: virDomainBlockCopy: content as of the finish. A destination that fails or hangs never reaches the guest.
        REBASE: like MIRROR, by virDomainBlockRebase, for old hosts. Destinations are files and block devices. A
            persistent domain is undefined for a moment, and defined again as it was. The disk's backing chain is copied
            into the image after the point in time. Not for migrations.
        CLONE: external snapshot, clone of the base outside QEMU, active commit: content as of the start. A destination
            that fails or hangs never reaches the guest. For a migration: the five-step procedure.
    """

    AUTO = 0
    BACKUP = 1
    MIRROR = 2
    REBASE = 3
    CLONE = 4


class Quiesce(_Value):
    """Whether the guest's file systems are frozen for the point in time.

    Members:
        PREFER: freeze if a guest agent answers; else the images are crash-consistent, and the report says so.
        REQUIRE: freeze, or fail before anything is started.
        NONE: do not freeze.
    """

    PREFER = 0
    REQUIRE = 1
    NONE = 2


class Clone(_Value):
    """How ``Method.CLONE`` clones.

    Members:
        AUTO: the cheapest way that works.
        REFLINK: share blocks (FICLONE), or fail.
        COPY: copy, keeping holes.
        VOLUME: libvirt storage volumes, cloned by the daemon. For migrations.
        CALLBACK: the caller's own function.
    """

    AUTO = 0
    REFLINK = 1
    COPY = 2
    VOLUME = 3
    CALLBACK = 4


class Phase(_Value):
    """Where an operation is. It never goes back; the last three are final.

    Members:
        PREPARING: destinations are being created.
        COPYING: content is being copied.
        READY: everything is copied; ``finish`` will not take long.
        FINISHING: the point in time is being fixed and the result checked, or the operation is being rolled back.
        DONE: the images are complete.
        CANCELLED: cancelled and rolled back.
        FAILED: failed and rolled back; ``finish`` reports why.
    """

    PREPARING = 0
    COPYING = 1
    READY = 2
    FINISHING = 3
    DONE = 4
    CANCELLED = 5
    FAILED = 6

    @property
    def is_final(self) -> bool:
        """Whether the operation is over."""
        return self in (Phase.DONE, Phase.CANCELLED, Phase.FAILED)


class Consistency(_Value):
    """What images can be relied on for.

    Members:
        CRASH: as after a power failure: file systems replay their journals.
        FILESYSTEM: frozen by the guest agent across the whole point in time, and still frozen when thawed.
    """

    CRASH = 0
    FILESYSTEM = 1


class LogLevel(_Value):
    """The library's log levels."""

    ERROR = 0
    WARN = 1
    INFO = 2
    DEBUG = 3
    TRACE = 4


class ErrorCode(_Value):
    """The kinds of failure, one ``livedisk.Error`` subclass each, which say what to do."""

    INVALID_ARGUMENT = -1
    NO_CONNECTION = -2
    NO_DOMAIN = -3
    NO_DISK = -4
    DOMAIN_STATE = -5
    BUSY = -6
    UNSUPPORTED = -7
    AGENT = -8
    FREEZE = -9
    DESTINATION = -10
    NO_SPACE = -11
    PERMISSION = -12
    JOB_FAILED = -13
    CANCELLED = -14
    TIMEOUT = -15
    NO_OPERATION = -16
    VERIFY = -17
    LIBVIRT = -18
    IO = -19
    INTERNAL = -20
    CHECKPOINT = -21
    NO_CHECKPOINT = -22


class OpenFlag(enum.IntFlag):
    """Who runs libvirt's event loop."""

    RUN_EVENT_LOOP = 1
    USE_EVENTS = 2


class SnapshotFlag(enum.IntFlag):
    """The flags of a snapshot."""

    SHALLOW = 1
    AUTO_FINISH = 2
    DRY_RUN = 4
    VERIFY = 8
    WRITE_BLOCKING = 16
    COMPRESS = 32
    FULL_IF_NEEDED = 64


class DiskFlag(enum.IntFlag):
    """The flags of a snapshot's disk."""

    REUSE_EXISTING = 1
    ALLOW_PLAINTEXT = 2


class MigrateFlag(enum.IntFlag):
    """The flags of a migration."""

    AUTO_FINISH = 1
    DRY_RUN = 2
    VERIFY = 4
    DELETE_SOURCE = 8
    WRITE_BLOCKING = 16
    ALLOW_PLAINTEXT = 32


class RecoverFlag(enum.IntFlag):
    """The flags of a recovery."""

    DRY_RUN = 1


class Warnings(enum.IntFlag):
    """What a finished operation warns of.

    Attributes:
        UNIDENTIFIED_IMAGE: livedisk read an image by its name and could not confirm that QEMU has that same file open,
            because neither QEMU's open files nor its locks could be inspected. If another file had taken the name, that
            file was copied. The log names the image.
        LABEL_LOST: the old image had a ``<seclabel>`` of its own, which the new one lacks.
        ZEROES_UNDETECTED: QEMU no longer detects zeroes in the guest's writes to a disk until the domain's next start.
        SOURCE_KEPT: the source was to be removed and was kept: it is not a file, or its name now leads to another file.
    """

    UNIDENTIFIED_IMAGE = 1
    LABEL_LOST = 2
    ZEROES_UNDETECTED = 4
    SOURCE_KEPT = 8


MethodLike = Union[Method, str, int]
QuiesceLike = Union[Quiesce, str, int]
CloneLike = Union[Clone, str, int]
