# SPDX-License-Identifier: LGPL-2.1-or-later
"""An operation, to be watched, finished, cancelled or closed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from types import TracebackType
from typing import Any, AsyncIterator, Callable, Generator, Iterator, Optional, TypeVar

from ._clone import CloneFunction
from ._errors import Error, JobFailedError, NoOperationError, TimeoutError, check, must_have
from ._ffi import ffi
from ._handle import Handle
from ._library import has, lib
from ._log import logger
from ._native import threading
from ._options import Deadline
from ._types import Progress, Report
from ._values import Phase

Self = TypeVar("Self", bound="Operation")


class _Waiter:
    """A coroutine that waits for news. Its descriptor is one of its own, because loops remember descriptors that the
    operation may close under them."""

    def __init__(self, descriptor: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.dup(descriptor)
        self.news = asyncio.Event()
        self._loop.add_reader(self._descriptor, self.news.set)

    def tell(self) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self.news.set)
        except RuntimeError:
            # The loop is closed, and so nothing waits.
            pass

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)


class Operation:
    """An operation on a running guest, made by a :class:`Connection`. It runs by itself; this handle watches and
    controls it, from any thread.

    As a context manager it is *cancelled* if the block ends with an exception; otherwise only the handle is closed, so
    call :meth:`finish` within the block. ``async with`` does the same, and needs no thread with liblivedisk 0.2.

    ``await operation`` finishes it without a thread. ``for`` and ``async for`` yield its :class:`Progress`, the current
    one first, until ``Phase.READY`` or the end.

    A handle that is dropped without :meth:`close` raises a :class:`ResourceWarning`.
    """

    def __init__(self, pointer: Any, domain: str, function: Optional[CloneFunction]) -> None:
        def free(pointer: Any) -> None:
            lib.livedisk_operation_free(pointer)
            if function is not None:
                function.release()

        self._domain = domain
        self._function = function
        self._lock = threading.RLock()
        self._progress: Optional[Progress] = None
        # Counts what looks have found.
        self._version = 0
        self._polled = 0
        self._waiters: set[_Waiter] = set()
        self._handle = Handle(f"operation on domain '{domain}'", pointer, free, rank=1)

    @property
    def domain(self) -> str:
        """The domain, as it was named to the call that made the operation."""
        return self._domain

    @property
    def closed(self) -> bool:
        """Whether the handle is closed."""
        return self._handle.closed

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<livedisk.Operation on domain '{self._domain}', {state}>"

    def fileno(self) -> int:
        """A descriptor that is readable whenever ``poll(0)`` would return something new, for select, GLib or greenlets.

        Do not read, write or close it; it lives as long as the handle is open.

        Returns:
            the descriptor.

        Raises:
            InvalidArgumentError: the handle is closed.
        """
        with self._handle.use() as operation:
            descriptor: int = lib.livedisk_operation_fd(operation)
            return descriptor

    def poll(self, timeout: Optional[float] = None) -> Progress:
        """Waits until the phase changes or there is progress that no poll has returned yet. Makes no libvirt call.

        Args:
            timeout: seconds to wait at most; 0: not at all; None: for ever.

        Returns:
            the latest progress, also if the time passed without news.

        Raises:
            InvalidArgumentError: the timeout is negative, or the handle is closed, meanwhile too.
            InternalError: close the handle.
        """
        deadline = Deadline(timeout)
        with self._lock:
            seen = self._polled
        self._polled, progress = self._await_news(seen, deadline)
        return progress

    def _look(self, slice_ms: int) -> tuple[int, Progress]:
        found = ffi.new("struct livedisk_progress *")
        with self._handle.use() as operation:
            check(lambda failure: lib.livedisk_poll(operation, slice_ms, found, ffi.sizeof(found[0]), failure))
        progress = Progress._of(found)
        with self._lock:
            before = self._progress
            if before is None or before.phase.is_final or progress.elapsed_ns < before.elapsed_ns:
                # Another thread has seen a later one.
                is_new = before is None
            else:
                # Time alone is no news.
                is_new = dataclasses.replace(progress, elapsed_ns=before.elapsed_ns) != before
            if is_new:
                self._version += 1
            if before is None or not before.phase.is_final and progress.elapsed_ns >= before.elapsed_ns:
                self._progress = progress
            version, progress = self._version, self._progress or progress
        if is_new:
            self._tell()
        return version, progress

    def _tell(self) -> None:
        with self._lock:
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter.tell()

    def _await_news(self, seen: int, deadline: Deadline) -> tuple[int, Progress]:
        while True:
            version, progress = self._look(deadline.slice_ms())
            if version != seen or progress.phase.is_final or deadline.is_over:
                return version, progress

    def finish(self, timeout: Optional[float] = None) -> Report:
        """Waits for ``Phase.READY`` if necessary, completes the operation, and reports. Once done, it returns the same
        report again. Ctrl-C, and :meth:`cancel` or :meth:`close` on another thread, end the wait.

        Args:
            timeout: seconds to wait at most; 0: not at all, the operation completes by itself; None: for ever.

        Returns:
            what was done.

        Raises:
            TimeoutError: the operation continues to its end; call again, or cancel.
            CancelledError: it was cancelled and rolled back.
            JobFailedError: QEMU's job failed, or the clone_callback: then ``__cause__`` is its exception.
            DomainStateError, FreezeError, DestinationError, NoSpaceError, PermissionError, VerifyError,
            NoConnectionError, LibvirtError, IOError, InternalError: it failed, and everything was rolled back; see the
                message, then start again.
            InvalidArgumentError: the timeout is negative, or the handle is closed, meanwhile too; or this is the
                operation's own clone_callback.
        """
        self._must_not_wait("finish")
        deadline = Deadline(timeout)
        while True:
            try:
                return self._complete(deadline.slice_ms())
            except TimeoutError:
                if deadline.is_over:
                    raise

    def _complete(self, slice_ms: int) -> Report:
        found = ffi.new("struct livedisk_report *")
        try:
            with self._handle.use() as operation:
                check(lambda failure: lib.livedisk_finish(operation, slice_ms, found, ffi.sizeof(found[0]), failure))
        except JobFailedError as error:
            if self._function is not None and self._function.failure is not None:
                raise error from self._function.failure
            raise
        return Report._of(found)

    def cancel(self) -> None:
        """Rolls the operation back and waits until that is done: jobs are ended, the guest is thawed, disk chain and
        definition are as before, and the files that the operation made are removed. Nothing else is touched. It ends a
        :meth:`finish` that waits. An operation that was cancelled or failed is rolled back already.

        Raises:
            NoOperationError: it was complete: its images are yours to remove. A migration after its pivot is completed.
            InvalidArgumentError: the handle is closed, or this is the operation's own clone_callback.
            Error: what could not be rolled back; the message says what is left and where.
        """
        self._must_not_wait("cancel")
        with self._handle.use() as operation:
            check(lambda failure: lib.livedisk_cancel(operation, failure))

    def request_cancel(self) -> None:
        """Requests what :meth:`cancel` does, and returns at once; :meth:`poll` shows when it is over.

        Raises:
            UnsupportedError: the library is older than 0.2.
            InvalidArgumentError: the handle is closed.
            NoOperationError: the operation was complete.
        """
        must_have("livedisk_request_cancel", "request_cancel")
        with self._handle.use() as operation:
            check(lambda failure: lib.livedisk_request_cancel(operation, failure))

    def close(self) -> None:
        """Frees the handle. The operation is neither completed nor rolled back: QEMU's jobs continue, and the domain
        stays busy until :meth:`Connection.attach` or :meth:`Connection.recover`. So finish or cancel first. In the freeze
        window the call returns after the thaw, and it waits for a clone_callback that runs. Calls that wait on other
        threads raise InvalidArgumentError. Closing again does nothing.

        Raises:
            InvalidArgumentError: this is the operation's own clone_callback.
        """
        self._must_not_wait("close")
        self._handle.close(wait=False)
        self._tell()
        self._handle.close()

    def _must_not_wait(self, what: str) -> None:
        if self._function is not None:
            self._function.must_not_wait(what)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            if error is not None and not self.closed:
                self._cancel_on(error, self.cancel)
        finally:
            self.close()

    def _cancel_on(self, error: BaseException, cancel: Callable[[], None]) -> None:
        try:
            cancel()
        except NoOperationError:
            # It was complete before the exception came.
            pass
        except Error as failure:
            # The caller's exception says more than this one.
            logger.error("domain '%s': not rolled back after %r: %s", self._domain, error, failure)

    def __del__(self) -> None:
        # Not there where the constructor failed.
        handle = getattr(self, "_handle", None)
        if handle is not None:
            handle.forget(self)

    def __iter__(self) -> Iterator[Progress]:
        seen, progress = self._look(0)
        yield progress
        while progress.phase is not Phase.READY and not progress.phase.is_final:
            seen, progress = self._await_news(seen, Deadline(None))
            yield progress

    # asyncio: the loop waits for the descriptor, and so no thread does.

    async def _news(self, seen: int) -> tuple[int, Progress]:
        waiter = _Waiter(self.fileno())
        with self._lock:
            self._waiters.add(waiter)
        try:
            while True:
                waiter.news.clear()
                # Only now, so that what another thread looks at from here on is announced.
                version, progress = self._look(0)
                if version != seen or progress.phase.is_final:
                    return version, progress
                await waiter.news.wait()
        finally:
            with self._lock:
                self._waiters.discard(waiter)
            waiter.close()

    async def _reach(self, *phases: Phase) -> None:
        seen, progress = self._look(0)
        while progress.phase not in phases and not progress.phase.is_final:
            seen, progress = await self._news(seen)

    async def _finish(self) -> Report:
        # Asked to finish only now: a task that is cancelled leaves the operation as it is until it is ready.
        await self._reach(Phase.READY, Phase.FINISHING)
        try:
            return self._complete(0)
        except TimeoutError:
            await self._reach()
            return self._complete(0)

    def __await__(self) -> Generator[Any, None, Report]:
        """:meth:`finish` for asyncio, without a thread. Cancelling the task only stops the wait; ``async with`` also
        cancels the operation."""
        return self._finish().__await__()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        seen, progress = self._look(0)
        yield progress
        while progress.phase is not Phase.READY and not progress.phase.is_final:
            seen, progress = await self._news(seen)
            yield progress

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            if error is not None and not self.closed:
                if has("livedisk_request_cancel"):
                    self._cancel_on(error, self.request_cancel)
                    await self._reach()
                    # It is over, so this does not wait; it says what is left.
                    self._cancel_on(error, self.cancel)
                else:
                    await loop.run_in_executor(None, self._cancel_on, error, self.cancel)
        finally:
            if self._progress is not None and self._progress.phase.is_final:
                self.close()
            else:
                # It may be in the freeze window.
                await loop.run_in_executor(None, self.close)
