# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clone functions in Python, which the library calls on a thread of its own."""

from __future__ import annotations

import itertools
from typing import Any, Callable, Optional

from ._errors import InvalidArgumentError
from ._ffi import ffi
from ._native import threading

#: Clones the quiet image ``source`` to ``destination``; an exception makes the operation fail.
CloneCallback = Callable[[str, str], object]

_numbers = itertools.count(1)
# By the number that C passes back, so that a late call finds nothing instead of something freed.
_known: dict[int, CloneFunction] = {}
_inside = threading.local()


class CloneFunction:
    """A caller's function, from the start call until the operation's handle is freed."""

    def __init__(self, call: CloneCallback) -> None:
        if not callable(call):
            raise InvalidArgumentError(f"clone_callback is {call!r}; pass a function of two paths")
        self._call = call
        self._number = next(_numbers)
        self.failure: Optional[BaseException] = None
        _known[self._number] = self

    @property
    def data(self) -> Any:
        """What C is to pass back."""
        return ffi.cast("void *", self._number)

    def release(self) -> None:
        """C does not call it any more."""
        _known.pop(self._number, None)

    def __call__(self, source: Any, destination: Any) -> int:
        _inside.function = self
        try:
            self._call(ffi.string(source).decode("utf-8"), ffi.string(destination).decode("utf-8"))
            return 0
        except BaseException as error:
            self.failure = error
            return 1
        finally:
            _inside.function = None

    def must_not_wait(self, what: str) -> None:
        """Raises where this thread is the one that the operation waits for."""
        if getattr(_inside, "function", None) is self:
            raise InvalidArgumentError(
                f"{what} was called from within the operation's own clone_callback, for which it would wait: call it "
                "from elsewhere"
            )


def _called(source: Any, destination: Any, data: Any) -> int:
    function = _known.get(int(ffi.cast("uintptr_t", data)))
    return 1 if function is None else function(source, destination)


#: The one function that C calls.
trampoline: Any = ffi.callback("livedisk_clone_callback", _called, error=1)
