# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library's log lines, brought to `logging`. They come on the library's own threads, which must not wait for
anybody's handlers; so they go through a queue to a thread that does nothing else."""

from __future__ import annotations

import logging
import os
from typing import Any, Optional

from ._errors import check
from ._ffi import ffi
from ._handle import after_fork, before_exit
from ._library import lib
from ._native import queue, threading
from ._values import LogLevel

#: What the library's TRACE is to ``logging``.
TRACE = 5

LEVELS = {
    LogLevel.ERROR: logging.ERROR,
    LogLevel.WARN: logging.WARNING,
    LogLevel.INFO: logging.INFO,
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.TRACE: TRACE,
}

logger = logging.getLogger("livedisk")

_Line = Optional[tuple[int, bytes]]
_lines: queue.SimpleQueue[_Line] = queue.SimpleQueue()
_lock = threading.RLock()
_thread: Optional[threading.Thread] = None
# Else whoever calls write_log writes the lines.
_has_thread = True
_level: Optional[LogLevel] = None
_process = os.getpid()


def _log_line(level: int, message: Any, data: Any) -> None:
    del data
    _lines.put((level, ffi.string(message)))


_callback: Any = ffi.callback("livedisk_log_callback", _log_line)


def _write(line: tuple[int, bytes]) -> None:
    level = LEVELS.get(LogLevel(line[0]), TRACE)
    logger.log(level, "%s", line[1].decode("utf-8", "replace"))


def _write_all(lines: queue.SimpleQueue[_Line]) -> None:
    while True:
        line = lines.get()
        if line is None:
            return
        _write(line)


def write_log() -> None:
    """Writes the lines that have arrived so far to the logger, on this thread. After the first call, no other thread writes
    them. It is for programs whose loggers must not be called from another thread, such as programs with greenlets: call it
    before opening a connection, and again whenever an operation has news.
    """
    global _has_thread
    with _lock:
        _has_thread = False
        _stop_thread()
    while True:
        try:
            line = _lines.get_nowait()
        except queue.Empty:
            return
        if line is not None:
            _write(line)


def _stop_thread() -> None:
    global _thread
    if _thread is not None:
        _lines.put(None)
        _thread.join(5)
        _thread = None


def update_log_level() -> None:
    """Sets the library's log level to that of the logger "livedisk".

    This happens whenever a connection is opened or an operation starts. Call it if the logger's level changes while an
    operation runs. Lines reach the logger in order, on a separate thread, a moment later. At DEBUG the library waits for
    Python's global interpreter lock with each line, which makes a freeze longer.

    Raises:
        InternalError: the process has another logger of the Rust crate ``log``.
    """
    global _level, _thread
    with _lock:
        wanted = next((level for level in reversed(LEVELS) if logger.isEnabledFor(LEVELS[level])), None)
        if wanted == _level:
            return
        if wanted is not None and _thread is None and _has_thread:
            _thread = threading.Thread(target=_write_all, args=(_lines,), name="livedisk-log", daemon=True)
            _thread.start()
        if wanted is None:
            check(lambda failure: lib.livedisk_set_log(ffi.NULL, 0, ffi.NULL, failure))
        else:
            check(lambda failure: lib.livedisk_set_log(_callback, int(wanted), ffi.NULL, failure))
        _level = wanted


def _end() -> None:
    if _process != os.getpid() or _level is None:
        return
    check(lambda failure: lib.livedisk_set_log(ffi.NULL, 0, ffi.NULL, failure))
    _stop_thread()


def _forked() -> None:
    global _lines, _lock, _thread, _level, _process
    _lines, _lock, _thread, _level, _process = queue.SimpleQueue(), threading.RLock(), None, None, os.getpid()


before_exit(_end)
after_fork(_forked)
