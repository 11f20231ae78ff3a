# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything is in pyproject.toml but what cffi needs: the module that it makes of cdef.h, in pure Python."""

from setuptools import setup

setup(cffi_modules=["build_ffi.py:ffi"])
