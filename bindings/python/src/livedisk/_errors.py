# SPDX-License-Identifier: LGPL-2.1-or-later
"""Failures: one class for each LIVEDISK_ERR_*."""

from __future__ import annotations

import builtins
from typing import Any, Callable, ClassVar

from ._ffi import ffi
from ._library import MARK_OF_SECOND_RELEASE, SECOND_RELEASE, VERSION, has, lib
from ._values import ErrorCode


class Error(Exception):
    """Anything that livedisk reports. Each code has a subclass; a code that only a newer library knows has none.

    The text is one line: what failed, on which domain, disk or path, why, and what to do.

    Attributes:
        code: which kind of failure it is.
        libvirt_code: the virErrorNumber that caused it; 0 if libvirt did not fail.
    """

    #: The code of the subclass.
    CODE: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    code: ErrorCode
    libvirt_code: int

    def __init__(self, message: str, code: ErrorCode | None = None, libvirt_code: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.CODE if code is None else code
        self.libvirt_code = libvirt_code

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.code, self.libvirt_code)


class InvalidArgumentError(Error, ValueError):
    """An argument is wrong in itself, or the handle is closed. Correct the call."""

    CODE = ErrorCode.INVALID_ARGUMENT


class NoConnectionError(Error):
    """libvirt cannot be reached. Check the URI and the daemon, then open again."""

    CODE = ErrorCode.NO_CONNECTION


class NoDomainError(Error):
    """There is no such domain on this connection. Check the name or UUID."""

    CODE = ErrorCode.NO_DOMAIN


class NoDiskError(Error):
    """The domain has no such disk, or the disk has no medium. Check the disk target."""

    CODE = ErrorCode.NO_DISK


class DomainStateError(Error):
    """The domain is not running, is paused, or was shut off under the operation. Start or resume it and try again."""

    CODE = ErrorCode.DOMAIN_STATE


class BusyError(Error):
    """A block job, backup, freeze or operation is in the way. Wait for it or end it, then try again."""

    CODE = ErrorCode.BUSY


class UnsupportedError(Error):
    """This libvirt, QEMU, disk, format or version of livedisk cannot do it. Ask for something else."""

    CODE = ErrorCode.UNSUPPORTED


class AgentError(Error):
    """Quiescing is required and no guest agent answers. Start the agent in the guest, or ask for less."""

    CODE = ErrorCode.AGENT


class FreezeError(Error):
    """Freeze or thaw failed, or the freeze limit was passed. Everything was rolled back. Try again, perhaps with a
    higher limit."""

    CODE = ErrorCode.FREEZE


class DestinationError(Error):
    """The destination exists, has the wrong size or format, or cannot be reached. Name another one, or correct it."""

    CODE = ErrorCode.DESTINATION


class NoSpaceError(Error):
    """The destination's file system is full. Make room, or name another destination."""

    CODE = ErrorCode.NO_SPACE


class PermissionError(Error, builtins.PermissionError):
    """livedisk or QEMU may not read or write a path. Correct its owner, mode or security label."""

    CODE = ErrorCode.PERMISSION


class JobFailedError(Error):
    """A block job failed in QEMU, or the caller's clone function raised (``__cause__`` is what). Everything was rolled
    back."""

    CODE = ErrorCode.JOB_FAILED


class CancelledError(Error):
    """The operation was cancelled and rolled back."""

    CODE = ErrorCode.CANCELLED


class TimeoutError(Error, builtins.TimeoutError):
    """The wait ended and the operation continues. Wait again, or cancel."""

    CODE = ErrorCode.TIMEOUT


class NoOperationError(Error):
    """There is no such operation, or it is over. Nothing is left to do."""

    CODE = ErrorCode.NO_OPERATION


class VerifyError(Error):
    """The copy failed its check, or differs from the source. It was removed."""

    CODE = ErrorCode.VERIFY


class LibvirtError(Error):
    """Any other libvirt error; ``libvirt_code`` is its number."""

    CODE = ErrorCode.LIBVIRT


class IOError(Error, OSError):
    """A file could not be read or written."""

    CODE = ErrorCode.IO


class InternalError(Error):
    """A bug in livedisk. Please report it."""

    CODE = ErrorCode.INTERNAL


class CheckpointError(Error):
    """A checkpoint's bitmap is missing or inconsistent. Take a full backup."""

    CODE = ErrorCode.CHECKPOINT


class NoCheckpointError(Error):
    """The domain has no checkpoint of that name. Check the name."""

    CODE = ErrorCode.NO_CHECKPOINT


CLASSES: dict[int, type[Error]] = {kind.CODE: kind for kind in Error.__subclasses__()}


def check(call: Callable[[Any], int]) -> None:
    """Makes a C call with room for its error, and raises that."""
    failure = ffi.new("struct livedisk_error **")
    code: int = call(failure)
    if code == 0:
        return
    try:
        message = ffi.string(lib.livedisk_error_message(failure[0])).decode("utf-8", "replace")
        libvirt_code: int = lib.livedisk_error_libvirt_code(failure[0])
    finally:
        lib.livedisk_error_free(failure[0])
    raise CLASSES.get(code, Error)(message, ErrorCode(code), libvirt_code)


def must_have(function: str, what: str) -> None:
    """Raises UnsupportedError where the library lacks the function, which the second release brought."""
    if not has(function):
        raise UnsupportedError(
            f"{what} needs liblivedisk {SECOND_RELEASE} or later, and the one that is loaded is {VERSION}: upgrade the "
            "library, or do without"
        )


def must_know(what: str) -> None:
    """Raises UnsupportedError where the library is older than the second release, which brought the option."""
    must_have(MARK_OF_SECOND_RELEASE, what)
