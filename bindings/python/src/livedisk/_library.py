# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds liblivedisk, and says what is wrong with it."""

from __future__ import annotations

import os
from typing import Any

from ._ffi import ffi

# The major version, as the library's soname has it.
SONAME = "liblivedisk.so.0"
OLDEST = (0, 1, 0)

# What is newer than OLDEST came with this release, as did this function.
SECOND_RELEASE = "0.2.0"
MARK_OF_SECOND_RELEASE = "livedisk_phase_name"

# What cffi raises for a function that the cdef, or the library, does not have.
MISSING = (AttributeError, ffi.error)


def _load() -> tuple[Any, str]:
    name = os.environ.get("LIVEDISK_LIBRARY") or SONAME
    try:
        lib = ffi.dlopen(name)
    except OSError as error:
        raise ImportError(
            f"livedisk: the library {name} cannot be loaded: {error}. Install it (Debian package liblivedisk0, or "
            "make install and ldconfig), or name its file in the environment variable LIVEDISK_LIBRARY"
        ) from None
    try:
        version = ffi.string(lib.livedisk_version()).decode("utf-8")
        found = tuple(int(part) for part in version.split("-")[0].split("."))
    except (*MISSING, ValueError):
        raise ImportError(f"livedisk: {name} is no liblivedisk; see LIVEDISK_LIBRARY in the environment") from None
    if found < OLDEST or found[0] != OLDEST[0]:
        wanted = ".".join(str(part) for part in OLDEST)
        raise ImportError(
            f"livedisk: {name} is version {version}, and this package needs {wanted} or later, below "
            f"{OLDEST[0] + 1}.0.0: upgrade the library"
        )
    return lib, version


lib, VERSION = _load()


def has(function: str) -> bool:
    """Whether the library has the function."""
    try:
        getattr(lib, function)
    except MISSING:
        return False
    return True


def version() -> str:
    """The version of the C library that is loaded.

    Returns:
        "major.minor.patch". The package's own version is ``livedisk.__version__``.
    """
    return VERSION
