# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nova's libvirt driver with livedisk's snapshots. In nova.conf: ``compute_driver = livedisk.LiveDiskDriver``."""

from nova.virt.livedisk.driver import LiveDiskDriver

__all__ = ["LiveDiskDriver"]
