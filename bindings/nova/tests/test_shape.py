# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the driver is, besides what it does."""

import subprocess
import sys
from pathlib import Path

from nova.virt import livedisk as plugin
from nova.virt.libvirt.driver import LibvirtDriver


def test_it_is_novas_driver_but_for_five_methods(driver):
    assert type(driver) is plugin.LiveDiskDriver and isinstance(driver, LibvirtDriver)
    changed = {name for name in vars(plugin.LiveDiskDriver) if hasattr(LibvirtDriver, name) and not name.startswith("__")}
    assert changed == {"init_host", "quiesce", "unquiesce", "_live_snapshot", "_swap_volume"}


def test_its_options_are_documented():
    generator = Path(sys.executable).with_name("oslo-config-generator")
    found = subprocess.run([generator, "--namespace", "nova.virt.livedisk"], check=True, stdout=subprocess.PIPE, text=True)
    for line in "[livedisk]", "#method = auto", "#freeze_limit = 10.0", "#quiesce_limit = 60.0", "#bandwidth = 0":
        assert line in found.stdout.splitlines(), found.stdout
