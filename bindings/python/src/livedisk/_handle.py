# SPDX-License-Identifier: LGPL-2.1-or-later
"""C objects that threads share: who closes one waits for those who use it. Forks, and the end of the interpreter."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import weakref
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

from ._errors import InvalidArgumentError
from ._native import threading

_lock = threading.RLock()
_alive: list[weakref.ref[Handle]] = []
_before_exit: list[Callable[[], None]] = []
_after_fork: list[Callable[[], None]] = []


class Handle:
    """A C object with the function that frees it."""

    def __init__(self, what: str, pointer: Any, free: Callable[[Any], None], rank: int) -> None:
        self.what = what
        # At the interpreter's end the lower ranks are closed first.
        self.rank = rank
        self._pointer = pointer
        self._free = free
        self._process = os.getpid()
        # Re-entrant: a signal's handler may come between.
        self._changed = threading.Condition(threading.RLock())
        self._users: dict[int, int] = {}
        self._closed = False
        self._freed = False
        with _lock:
            _alive[:] = [other for other in _alive if other() is not None]
            _alive.append(weakref.ref(self))

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed or self._process != os.getpid()

    @contextmanager
    def use(self) -> Iterator[Any]:
        """The C object; it is not freed meanwhile."""
        if self._process != os.getpid():
            raise InvalidArgumentError(
                f"the {self.what} was made in process {self._process}, and this is {os.getpid()}, forked from it: "
                "open a connection of this process's own"
            )
        me = threading.get_ident()
        with self._changed:
            if self._closed:
                raise InvalidArgumentError(f"the {self.what} is closed")
            self._users[me] = self._users.get(me, 0) + 1
        try:
            yield self._pointer
        finally:
            with self._changed:
                self._users[me] -= 1
                if not self._users[me]:
                    del self._users[me]
                    self._changed.notify_all()
            self._free_if_unused()

    def close(self, wait: bool = True) -> bool:
        """Refuses calls from now on, and frees the object when the last that is under way is over; False if that was
        asked for before. What this very thread is in the midst of is not waited for."""
        if self._process != os.getpid():
            # The object is the parent's, with threads that are not here.
            self._closed = True
            return False
        with self._changed:
            first, self._closed = not self._closed, True
        self._free_if_unused()
        me = threading.get_ident()
        with self._changed:
            while wait and not self._freed and me not in self._users:
                self._changed.wait()
        return first

    def _free_if_unused(self) -> None:
        with self._changed:
            if not self._closed or self._users or self._pointer is None:
                return
            pointer, self._pointer = self._pointer, None
        try:
            self._free(pointer)
        finally:
            with self._changed:
                self._freed = True
                self._changed.notify_all()

    def forget(self, source: object) -> None:
        """From the __del__ of the object that owned this: warns, and closes."""
        if self.closed or sys.is_finalizing():
            return
        self._warn(source)
        # The garbage collector may come by on a thread that the operation itself waits for.
        try:
            threading.Thread(target=self.close, name="livedisk-close", daemon=True).start()
        except RuntimeError:
            # The interpreter is about to end; what runs goes on without it.
            pass

    def _warn(self, source: Optional[object]) -> None:
        warnings.warn(f"livedisk: the {self.what} was not closed", ResourceWarning, stacklevel=3, source=source)


def before_exit(call: Callable[[], None]) -> None:
    """Has `call` made at the end, after all handles are closed."""
    _before_exit.append(call)


def after_fork(call: Callable[[], None]) -> None:
    """Has `call` made in a forked child."""
    _after_fork.append(call)


# Nothing of the library may call into an interpreter that has ended.
@atexit.register
def _close_all() -> None:
    with _lock:
        found = [handle for handle in (weak() for weak in _alive) if handle is not None]
    for handle in sorted(found, key=lambda handle: handle.rank):
        if not handle.closed:
            handle._warn(None)
            handle.close()
    # What was started meanwhile.
    with _lock:
        found = [handle for handle in (weak() for weak in _alive) if handle is not None]
    for handle in found:
        handle.close()
    for call in _before_exit:
        call()


def _forked() -> None:
    global _lock
    _lock = threading.RLock()
    _alive.clear()
    for call in _after_fork:
        call()


os.register_at_fork(after_in_child=_forked)
