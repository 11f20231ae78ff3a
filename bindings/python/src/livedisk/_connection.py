# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection to libvirt, and the calls that start operations."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar

from . import _options
from ._clone import CloneCallback, CloneFunction
from ._errors import InvalidArgumentError, UnsupportedError, check, must_have
from ._ffi import ffi
from ._handle import Handle
from ._library import lib
from ._log import update_log_level
from ._operation import Operation
from ._options import Backing, Disks, Memory
from ._types import Checkpoint, OperationInfo, Path, Recovery
from ._values import CloneLike, MethodLike, OpenFlag, QuiesceLike, RecoverFlag

Self = TypeVar("Self", bound="Connection")
T = TypeVar("T")

# The process that runs libvirt's event loop for livedisk.
_event_loop_of: Optional[int] = None


class Connection:
    """A connection to libvirt, made by :func:`open` or :func:`open_from`. Several threads may use it at once.

    As a context manager, it is closed at the end of the block. Calls block on libvirt; with asyncio, use
    ``asyncio.to_thread``. A connection that is dropped without :meth:`close` raises a :class:`ResourceWarning`.
    """

    def __init__(self, call: Callable[[Any, Any], int]) -> None:
        update_log_level()
        made = ffi.new("struct livedisk_connection **")
        check(lambda failure: call(made, failure))
        self._handle = Handle("connection", made[0], lib.livedisk_close, rank=0)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self._handle.closed

    def start_live_snapshot(
        self,
        domain: str,
        disks: Disks,
        *,
        method: MethodLike = "auto",
        quiesce: QuiesceLike = "prefer",
        format: Optional[str] = None,
        shallow: bool = False,
        auto_finish: bool = False,
        dry_run: bool = False,
        verify: bool = False,
        write_blocking: bool = False,
        compress: bool = False,
        full_if_needed: bool = False,
        reuse_existing: bool = False,
        allow_plaintext: bool = False,
        freeze_limit: float = 10.0,
        bandwidth: int = 0,
        checkpoint: Optional[str] = None,
        since: Optional[str] = None,
        backing: Optional[Backing] = None,
        scratch: Optional[Path] = None,
        clone: CloneLike = "auto",
        clone_callback: Optional[CloneCallback] = None,
    ) -> Operation:
        """Starts a live snapshot of a running guest. The guest's disks are copied to standalone images of one point in
        time, and its file systems are frozen only while that point is fixed. Returns as soon as the operation runs.

        Args:
            domain: name or UUID of a running domain.
            disks: a mapping of disk targets to destinations, such as ``{"vda": "/backup/a.qcow2"}``, or a sequence of
                :class:`SnapshotDisk`. A destination is the absolute path of a file that does not exist yet, the path
                of a block device, or an nbd:// or nbd+unix:// URI.
            method: a :class:`Method`, or its name.
            quiesce: a :class:`Quiesce`, or its name.
            format: "qcow2" or "raw", for disks that name none. None: the disk's own for a file, raw for a block device
                or an NBD export.
            shallow: keep the backing file instead of making a standalone image. MIRROR and CLONE to qcow2 only.
            auto_finish: finish as soon as the operation is ready, without waiting for ``finish``.
            dry_run: check everything, log the plan (INFO) and change nothing; the operation is done at once.
            verify: check the images when complete, and compare their content if the guest wrote nothing meanwhile.
            write_blocking: let the guest's writes wait for the mirror, so that it always converges.
            compress: compress the qcow2 images (zstd). Needs liblivedisk 0.2.
            full_if_needed: copy a disk whole if ``since`` cannot be used for it; the report counts such disks. Needs
                liblivedisk 0.2.
            reuse_existing: the destinations already hold images of the format and of exactly the disks' virtual size;
                they are overwritten, and never removed.
            allow_plaintext: an encrypted disk may be written to a plain destination.
            freeze_limit: seconds that the guest may be frozen, more than 0. When they have passed, the guest is thawed
                and the operation fails with FreezeError.
            bandwidth: bytes per second; 0: no limit.
            checkpoint: BACKUP: create this checkpoint at the point in time.
            since: BACKUP: copy only what changed since this checkpoint.
            backing: the backing file of an increment, or a mapping of targets to backing files. Needs liblivedisk 0.2.
            scratch: BACKUP: directory of the scratch files; None: beside each disk's image. Needs liblivedisk 0.2.
            clone: CLONE: how to clone; a :class:`Clone`, or its name.
            clone_callback: with ``clone="callback"``: a function of two paths, the unchanging source and a destination
                that does not exist yet. It is called once for each disk, on a thread of the library. An exception in it
                makes the operation fail, and is the ``__cause__`` of what ``finish`` raises.

        Returns:
            the operation: finish or cancel it, and close it.

        Raises:
            InvalidArgumentError: correct the call.
            NoConnectionError, NoDomainError, NoDiskError: check the names.
            DomainStateError: start or resume the domain.
            BusyError: wait for what is in the way, or end it.
            UnsupportedError: ask for another method, format or disk, or for a newer library.
            AgentError: ``quiesce="require"``, and no agent answers: start it in the guest.
            FreezeError: a guard is required, and none can run.
            DestinationError, PermissionError: name another destination, or fix this one.
            LibvirtError, IOError, InternalError: see the message.
        """
        memory = Memory()
        function = None if clone_callback is None else CloneFunction(clone_callback)
        return self._start(
            domain,
            function,
            lambda: _options.snapshot(
                memory,
                disks,
                function,
                method=method,
                quiesce=quiesce,
                format=format,
                shallow=shallow,
                auto_finish=auto_finish,
                dry_run=dry_run,
                verify=verify,
                write_blocking=write_blocking,
                compress=compress,
                full_if_needed=full_if_needed,
                reuse_existing=reuse_existing,
                allow_plaintext=allow_plaintext,
                freeze_limit=freeze_limit,
                bandwidth=bandwidth,
                checkpoint=checkpoint,
                since=since,
                backing=backing,
                scratch=scratch,
                clone=clone,
            ),
            lib.livedisk_start_live_snapshot,
        )

    def migrate_disk(
        self,
        domain: str,
        target: str,
        destination: Path,
        *,
        format: Optional[str] = None,
        method: MethodLike = "auto",
        clone: CloneLike = "auto",
        auto_finish: bool = False,
        dry_run: bool = False,
        verify: bool = False,
        delete_source: bool = False,
        write_blocking: bool = False,
        allow_plaintext: bool = False,
        bandwidth: int = 0,
        clone_callback: Optional[CloneCallback] = None,
    ) -> Operation:
        """Moves a disk of a running guest to other storage without downtime. Returns as soon as the operation runs.
        Until ``finish`` everything can be rolled back. After the pivot the migration cannot be undone.

        Args:
            domain: name or UUID of a running domain.
            target: the disk target, such as "vda".
            destination: where the disk moves: a path, or an nbd:// or nbd+unix:// URI.
            format: "qcow2" or "raw"; None: the disk's own.
            method: a :class:`Method`, or its name. Not BACKUP, not REBASE.
            clone: a :class:`Clone`, or its name.
            auto_finish: finish as soon as the operation is ready, without waiting for ``finish``.
            dry_run: check everything, log the plan (INFO) and change nothing; the operation is done at once.
            verify: compare base and clone before the pivot. With CLONE only.
            delete_source: remove the source when the disk has moved.
            write_blocking: the guest's writes may wait for the mirror, so that it always converges.
            allow_plaintext: an encrypted disk becomes a plain one.
            bandwidth: bytes per second; 0: no limit.
            clone_callback: as for :meth:`start_live_snapshot`.

        Returns:
            the operation: finish or cancel it, and close it.

        Raises:
            BusyError: also if the domain has snapshots, or if the destination is not qcow2 and a checkpoint's bitmap
                would be lost (delete them first).
            Error: as for :meth:`start_live_snapshot`, for the same reasons.
        """
        memory = Memory()
        function = None if clone_callback is None else CloneFunction(clone_callback)
        return self._start(
            domain,
            function,
            lambda: _options.migrate(
                memory,
                target,
                destination,
                function,
                format=format,
                method=method,
                clone=clone,
                auto_finish=auto_finish,
                dry_run=dry_run,
                verify=verify,
                delete_source=delete_source,
                write_blocking=write_blocking,
                allow_plaintext=allow_plaintext,
                bandwidth=bandwidth,
            ),
            lib.livedisk_migrate_disk,
        )

    def _start(
        self, domain: str, function: Optional[CloneFunction], fill: Callable[[], Any], start: Callable[..., int]
    ) -> Operation:
        made = None
        try:
            options = fill()
            made = self._operation(
                domain,
                function,
                lambda connection, name, out, failure: start(
                    connection, name, options, ffi.sizeof(options[0]), out, failure
                ),
            )
            return made
        finally:
            if made is None and function is not None:
                function.release()

    def attach(self, domain: str, target: str) -> Operation:
        """Resumes an operation of a running domain after the process that ran it has ended, or after
        :meth:`Operation.close`. Progress and finish work as if nothing had happened.

        Args:
            domain: name or UUID of a domain.
            target: a disk target of the operation.

        Returns:
            the operation: finish or cancel it, and close it.

        Raises:
            InvalidArgumentError: correct the call.
            NoDomainError: check the name.
            NoOperationError: the disk has none.
            BusyError: another process runs it; the message says which.
            DomainStateError: the domain is off: :meth:`recover` cleans up.
            NoConnectionError, LibvirtError, InternalError: see the message.
        """
        memory = Memory()
        disk = memory.text(target, "target")
        return self._operation(
            domain,
            None,
            lambda connection, name, out, failure: lib.livedisk_attach(connection, name, disk, out, failure),
        )

    def _operation(self, domain: str, function: Optional[CloneFunction], call: Callable[..., int]) -> Operation:
        memory = Memory()
        name = memory.text(domain, "domain")
        made = ffi.new("struct livedisk_operation **")
        update_log_level()
        with self._handle.use() as connection:
            check(lambda failure: call(connection, name, made, failure))
            return Operation(made[0], domain, function)

    def recover(self, domain: Optional[str] = None, *, dry_run: bool = False) -> Recovery:
        """Cleans up operations whose process has ended, on a domain that is running or not. It thaws frozen guests,
        completes operations that are past their point of no return, and rolls back the rest. Operations whose process is
        alive, and jobs that livedisk did not start, are left alone, so it is safe at any time, any number of times.

        Args:
            domain: name or UUID; None: all domains.
            dry_run: only count what would be done. Needs liblivedisk 0.2.

        Returns:
            what was found and done. An operation that could not be cleaned up is counted, and raises no error.

        Raises:
            InvalidArgumentError: correct the call.
            NoDomainError: check the name.
            UnsupportedError: a dry run, and the library is older than 0.2.
            NoConnectionError, LibvirtError, InternalError: see the message.
        """
        memory = Memory()
        name = memory.optional(domain, "domain")
        found = ffi.new("struct livedisk_recovery *")
        size = ffi.sizeof(found[0])
        update_log_level()
        if dry_run:
            must_have("livedisk_recover_flags", "recover(dry_run=True)")
        with self._handle.use() as connection:
            if dry_run:
                flags = int(RecoverFlag.DRY_RUN)
                check(lambda failure: lib.livedisk_recover_flags(connection, name, flags, found, size, failure))
            else:
                check(lambda failure: lib.livedisk_recover(connection, name, found, size, failure))
        return Recovery._of(found)

    def operations(self, domain: Optional[str] = None) -> list[OperationInfo]:
        """Lists the operations that run, in whichever process, and those that a process left when it ended.

        Args:
            domain: name or UUID; None: all domains.

        Returns:
            the operations.

        Raises:
            UnsupportedError: the library is older than 0.2.
            NoDomainError, NoConnectionError, LibvirtError, InternalError: see the message.
        """
        must_have("livedisk_list_operations", "operations")
        memory = Memory()
        name = memory.optional(domain, "domain")
        return self._list(lib.livedisk_list_operations, name, "struct livedisk_operation_info", OperationInfo._of)

    def checkpoints(self, domain: str) -> list[Checkpoint]:
        """Lists the checkpoints of a domain.

        Args:
            domain: name or UUID.

        Returns:
            the checkpoints, oldest first.

        Raises:
            UnsupportedError: the library is older than 0.2.
            NoDomainError, NoConnectionError, LibvirtError, InternalError: see the message.
        """
        must_have("livedisk_list_checkpoints", "checkpoints")
        memory = Memory()
        name = memory.text(domain, "domain")
        return self._list(lib.livedisk_list_checkpoints, name, "struct livedisk_checkpoint", Checkpoint._of)

    def _list(self, call: Any, name: Any, kind: str, read: Callable[[Any], T]) -> list[T]:
        found: list[T] = []
        failures: list[BaseException] = []

        # An older library fills less of the struct.
        def each(item: Any, size: int, data: Any) -> int:
            try:
                whole = ffi.new(f"{kind} *")
                ffi.memmove(whole, item, min(size, ffi.sizeof(kind)))
                found.append(read(whole))
                return 0
            except BaseException as error:
                failures.append(error)
                return 1

        callback = ffi.callback(ffi.typeof(call).args[2], each, error=1)
        with self._handle.use() as connection:
            try:
                check(lambda failure: call(connection, name, callback, ffi.NULL, failure))
            finally:
                if failures:
                    raise failures[0]
        return found

    def delete_checkpoint(self, domain: str, name: str) -> None:
        """Deletes a checkpoint. Its child then records what changed since its parent; without a child, that is lost.

        Args:
            domain: name or UUID.
            name: the checkpoint's name.

        Raises:
            NoCheckpointError: there is none of that name.
            UnsupportedError: the library is older than 0.2.
            NoDomainError, BusyError, NoConnectionError, LibvirtError, InternalError: see the message.
        """
        must_have("livedisk_delete_checkpoint", "delete_checkpoint")
        memory = Memory()
        domain_name, checkpoint = memory.text(domain, "domain"), memory.text(name, "name")
        with self._handle.use() as connection:
            check(lambda failure: lib.livedisk_delete_checkpoint(connection, domain_name, checkpoint, failure))

    def freeze(self, domain: str, limit: float = 10.0) -> int:
        """Freezes a guest's file systems while something else takes a snapshot, such as a volume service. The freeze
        ends with :meth:`thaw`, when this process dies, or when the limit has passed, whichever comes first.

        Args:
            domain: name or UUID of a running domain.
            limit: seconds, more than 0.

        Returns:
            how many file systems are frozen.

        Raises:
            BusyError: the guest is frozen already, or an operation runs.
            AgentError: no guest agent answers.
            FreezeError: the guest could not be frozen.
            UnsupportedError: the library is older than 0.2.
            NoDomainError, DomainStateError, NoConnectionError, LibvirtError, InternalError: see the message.
        """
        must_have("livedisk_freeze", "freeze")
        limit_ms = _options.milliseconds(limit, "limit")
        return self._count(
            domain,
            lambda connection, name, count, failure: lib.livedisk_freeze(connection, name, limit_ms, count, failure),
        )

    def thaw(self, domain: str) -> int:
        """Thaws a guest that :meth:`freeze` has frozen, in this process or another.

        Args:
            domain: name or UUID.

        Returns:
            how many file systems were thawed.

        Raises:
            FreezeError: the guest was thawed too early, so a snapshot taken meanwhile is not consistent; or the thaw
                failed: try again.
            NoOperationError: livedisk has not frozen the guest, or it was thawed or recovered before.
            UnsupportedError: the library is older than 0.2.
            NoDomainError, NoConnectionError, LibvirtError, InternalError: see the message.
        """
        must_have("livedisk_thaw", "thaw")
        return self._count(
            domain, lambda connection, name, count, failure: lib.livedisk_thaw(connection, name, count, failure)
        )

    def _count(self, domain: str, call: Callable[[Any, Any, Any, Any], int]) -> int:
        memory = Memory()
        name = memory.text(domain, "domain")
        count = ffi.new("uint32_t *")
        update_log_level()
        with self._handle.use() as connection:
            check(lambda failure: call(connection, name, count, failure))
        return int(count[0])

    def close(self) -> None:
        """Closes the connection, after the calls that are in progress. Operations that were started on it continue.
        Closing again does nothing."""
        self._handle.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            handle.forget(self)


def open(uri: Optional[str] = None, event_loop: bool = True) -> Connection:
    """Connects to libvirt.

    The first open installs a libvirt error function (virSetErrorFunc), which is process-wide. It acts as libvirt's own,
    except that it is silent about errors that livedisk handles.

    Args:
        uri: libvirt URI; None: libvirt's own default.
        event_loop: run libvirt's default event loop in a thread of livedisk, for as long as the process lives. Pass
            False if the program uses libvirt's event loop itself; livedisk then polls libvirt at an adaptive interval,
            and QEMU's reason for a failed copy may be missing.

    Returns:
        the connection: close it, or use it as a context manager.

    Raises:
        NoConnectionError: libvirt's reason is in the message: check the URI and the daemon.
        InvalidArgumentError: correct the call.
        UnsupportedError: this process was forked from one that runs the event loop, or while an operation was running
            there: libvirt could hang.
    """
    global _event_loop_of
    memory = Memory()
    text = memory.optional(uri, "uri")
    if event_loop:
        if _event_loop_of not in (None, os.getpid()):
            raise UnsupportedError(
                f"libvirt's event loop runs in process {_event_loop_of}, from which this one was forked, and cannot be "
                "started again here: pass event_loop=False, or start this process anew (multiprocessing's 'spawn')"
            )
        _event_loop_of = os.getpid()
    flags = int(OpenFlag.RUN_EVENT_LOOP) if event_loop else 0
    return Connection(lambda out, failure: lib.livedisk_open(text, flags, out, failure))


def open_from(connection: Any) -> Connection:
    """Connects over an existing libvirt connection with write access. The caller runs libvirt's event loop, which was
    registered before that connection was opened.

    Args:
        connection: a ``libvirt.virConnect``, or an object with its ``c_pointer()``. livedisk takes one reference, and
            releases it in :meth:`Connection.close` or with the last operation that uses it, whichever comes later.

    Returns:
        the connection: close it, or use it as a context manager.

    Raises:
        InvalidArgumentError: it is not a libvirt connection.
        NoConnectionError: libvirt refuses the pointer.
        UnsupportedError: as for :func:`open`.
    """
    try:
        pointer = ffi.cast("void *", connection.c_pointer())
    except (AttributeError, TypeError):
        raise InvalidArgumentError(f"connection is {connection!r}; pass a libvirt.virConnect") from None
    return Connection(
        lambda out, failure: lib.livedisk_open_from(pointer, int(OpenFlag.USE_EVENTS), out, failure)
    )
