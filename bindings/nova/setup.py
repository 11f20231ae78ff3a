# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything is in pyproject.toml; Debian's packages are built by this."""

from setuptools import setup

setup()
