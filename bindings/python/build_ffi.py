# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes livedisk._ffi of src/livedisk/cdef.h. ABI mode: no compiler, and so one wheel for every machine."""

from pathlib import Path

from cffi import FFI

# What is in cdef.h is livedisk.h; the tests compare the two with a compiler.
ffi = FFI()
ffi.cdef((Path(__file__).parent / "src" / "livedisk" / "cdef.h").read_text(encoding="utf-8"))
ffi.set_source("livedisk._ffi", None)

if __name__ == "__main__":
    import sys

    ffi.emit_python_code(sys.argv[1])
