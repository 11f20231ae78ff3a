# SPDX-License-Identifier: LGPL-2.1-or-later
"""Swaps of volumes and quiescing around the volume service's snapshots."""

import os
import shutil
import subprocess
import time
from xml.etree import ElementTree

import bed
import compute
import pytest
from nova import exception
from nova.virt.libvirt import config as xml

from conftest import lifecycle
from test_snapshot import quiesce_failures

AGENT = {"hw_qemu_guest_agent": "yes"}


def volume(path, kind="block"):
    """The disk that Nova makes of a volume."""
    disk = xml.LibvirtConfigGuestDisk()
    disk.source_type, disk.source_path = kind, path
    disk.driver_name, disk.driver_format = "qemu", "raw"
    disk.target_dev, disk.target_bus = "vda", "virtio"
    return disk


def sources(server):
    return [ElementTree.fromstring(text).find("devices/disk/source").attrib for text in server.definitions()]


def device(name):
    found = os.environ.get(f"LIVEDISK_TEST_{name}")
    if not found:
        pytest.skip("an ordinary user has no block devices")
    return found


def swap(driver, server, disk, resize_to=0):
    """Through the driver's method, whose caller connects and disconnects volumes; 26 passes the firmware too."""
    guest = driver._host.get_guest(server.instance())
    own = ["uefi"] if "hw_firmware_type" in type(driver).__mro__[1]._swap_volume.__code__.co_varnames else []
    driver._swap_volume(guest, "vda", disk, resize_to, *own)


@pytest.mark.parametrize("size, resize_to", [("SMALLER", 0), ("LARGER", 1)])
def test_a_volume_of_another_size(driver, movable, size, resize_to):
    """QEMU copies to neither; Nova's own driver finds out when the domain is undefined."""
    other, before = device(size), movable.definitions()
    with pytest.raises(exception.VolumeRebaseFailed, match="must be equal"), lifecycle() as seen:
        swap(driver, movable, volume(other), resize_to)
    assert "Undefined" not in seen[0], seen
    assert movable.definitions() == before
    movable.guest.check_clean()


def test_swap_volume(driver, movable):
    """The server writes on, on the new volume, which both definitions name; it was defined all the time."""
    path, acknowledged = device("VOLUME"), movable.guest.last_record()
    with lifecycle() as seen:
        swap(driver, movable, volume(path))
    assert "Undefined" not in seen[0], seen
    assert [found["dev"] for found in sources(movable)] == [path, path]
    movable.guest.check_clean()
    bed.virsh("suspend", movable.domain)
    subprocess.run(["sync", path], check=True)
    copy = bed.path("volume.raw")
    shutil.copyfile(path, copy)
    bed.check_image(copy, "raw", clean=False, at_least=acknowledged)
    bed.virsh("resume", movable.domain)


def test_swap_to_a_file(driver, movable):
    """As on NFS: Nova's own way."""
    path = bed.path("volume.raw")
    with path.open("wb") as file:
        file.truncate(64 << 20)
    swap(driver, movable, volume(str(path), "file"))
    assert [found["file"] for found in sources(movable)] == [str(path)] * 2
    movable.guest.check_clean()


@pytest.fixture
def frozen(driver, with_agent):
    """A server that is frozen, until the test ends."""
    server = with_agent.instance(**AGENT)
    driver.quiesce(compute.CONTEXT, server, server.image_meta)
    yield server
    try:
        driver.unquiesce(compute.CONTEXT, server, server.image_meta)
    except exception.NovaException:
        pass
    with_agent.guest.check_clean()


def writes(guest, seconds):
    """Whether the guest acknowledges a record within so many seconds."""
    last, deadline = guest.last_record(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if guest.last_record() != last:
            return True
        time.sleep(0.05)
    return False


def test_quiesce_and_unquiesce(driver, frozen, with_agent):
    # What it was writing when it was frozen is acknowledged still.
    writes(with_agent.guest, 1)
    assert not writes(with_agent.guest, 2)
    with pytest.raises(exception.NovaException, match="freeze"):
        driver.quiesce(compute.CONTEXT, frozen, frozen.image_meta)
    driver.unquiesce(compute.CONTEXT, frozen, frozen.image_meta)
    assert writes(with_agent.guest, 20)


def test_a_quiesce_that_is_forgotten_ends(driver, options, with_agent):
    options(quiesce_limit=1.5)
    server = with_agent.instance(**AGENT)
    driver.quiesce(compute.CONTEXT, server, server.image_meta)
    assert writes(with_agent.guest, 30)
    time.sleep(2)
    with pytest.raises(quiesce_failures()):
        driver.unquiesce(compute.CONTEXT, server, server.image_meta)
    with_agent.guest.check_clean()


def test_what_novas_own_driver_froze_is_thawed(driver, with_agent):
    server = with_agent.instance(**AGENT)
    super(type(driver), driver).quiesce(compute.CONTEXT, server, server.image_meta)
    driver.unquiesce(compute.CONTEXT, server, server.image_meta)
    assert writes(with_agent.guest, 20)


def test_no_agent(driver, without_agent):
    server = without_agent.instance(**AGENT)
    with pytest.raises(quiesce_failures()):
        driver.quiesce(compute.CONTEXT, server, server.image_meta)
    server = without_agent.instance()
    with pytest.raises(exception.QemuGuestAgentNotEnabled):
        driver.quiesce(compute.CONTEXT, server, server.image_meta)
