# SPDX-License-Identifier: LGPL-2.1-or-later
# cffi makes the module of cdef.h when the package is built.
from typing import Any

ffi: Any
