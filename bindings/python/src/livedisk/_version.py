# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package's own version; that of the library is livedisk.version()."""

VERSION = "0.2.0"
