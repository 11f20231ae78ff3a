# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live snapshots and disk migration of running libvirt/QEMU guests, with the C library liblivedisk.

    import livedisk

    with livedisk.open("qemu:///system") as connection:
        with connection.start_live_snapshot("guest", {"vda": "/backup/guest.qcow2"}) as operation:
            report = operation.finish()
    print(f"frozen for {report.freeze_ns / 1e6:.1f} ms")

The loader finds the library as liblivedisk.so.0; the environment variable LIVEDISK_LIBRARY names another file. If the
library is missing or too old, the import fails and says so. A feature that an older library lacks raises
UnsupportedError.

Arguments are in seconds, as usual in Python. Results are in nanoseconds and have names that end in _ns.

Threads: any call from any thread. asyncio: ``await operation``. Forks: handles belong to the process that made them.
Logs: the logger "livedisk" gets the library's lines, in order, from a thread of the package.

When the interpreter exits, open operations are closed as by ``Operation.close``, after any clone_callback that runs.
"""

from ._clone import CloneCallback
from ._connection import Connection, open, open_from
from ._errors import (
    AgentError,
    BusyError,
    CancelledError,
    CheckpointError,
    DestinationError,
    DomainStateError,
    Error,
    FreezeError,
    InternalError,
    InvalidArgumentError,
    IOError,
    JobFailedError,
    LibvirtError,
    NoCheckpointError,
    NoConnectionError,
    NoDiskError,
    NoDomainError,
    NoOperationError,
    NoSpaceError,
    PermissionError,
    TimeoutError,
    UnsupportedError,
    VerifyError,
)
from ._library import version
from ._log import TRACE, update_log_level, write_log
from ._operation import Operation
from ._types import Checkpoint, OperationInfo, Progress, Recovery, Report, SnapshotDisk
from ._values import Clone, Consistency, ErrorCode, Method, Phase, Quiesce, Warnings
from ._version import VERSION as __version__

__all__ = [
    "TRACE",
    "AgentError",
    "BusyError",
    "CancelledError",
    "Checkpoint",
    "CheckpointError",
    "Clone",
    "CloneCallback",
    "Connection",
    "Consistency",
    "DestinationError",
    "DomainStateError",
    "Error",
    "ErrorCode",
    "FreezeError",
    "IOError",
    "InternalError",
    "InvalidArgumentError",
    "JobFailedError",
    "LibvirtError",
    "Method",
    "NoCheckpointError",
    "NoConnectionError",
    "NoDiskError",
    "NoDomainError",
    "NoOperationError",
    "NoSpaceError",
    "Operation",
    "OperationInfo",
    "PermissionError",
    "Phase",
    "Progress",
    "Quiesce",
    "Recovery",
    "Report",
    "SnapshotDisk",
    "TimeoutError",
    "UnsupportedError",
    "VerifyError",
    "Warnings",
    "__version__",
    "open",
    "open_from",
    "update_log_level",
    "version",
    "write_log",
]
