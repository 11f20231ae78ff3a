# SPDX-License-Identifier: LGPL-2.1-or-later
"""LibvirtDriver.snapshot, as nova-compute calls it, on real guests."""

import logging
import os
import stat
import subprocess
import time
from pathlib import Path

import bed
import compute
import pytest
from nova import exception

from conftest import lifecycle

QUIESCED = {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"}
STATES = ["image_pending_upload", "image_uploading", "image_pending_upload", "image_uploading"]

pytestmark = pytest.mark.usefixtures("untouched")


def quiesce_failures():
    """What the release raises where a server cannot be frozen."""
    return getattr(exception, "InstanceQuiesceFailed", exception.InternalError)


def uploaded(driver, format):
    """The image as it was uploaded: what Nova says it is, and a copy that the records can be read of."""
    path = driver._image_api.uploaded
    assert driver._image_api.metadata["disk_format"] == format
    found = subprocess.run(["qemu-img", "info", "-f", format, "--output=json", path], check=True, stdout=subprocess.PIPE)
    assert b"backing-filename" not in found.stdout
    if format in ("qcow2", "raw"):
        return path, format
    raw = path.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", format, "-O", "raw", path, raw], check=True)
    return raw, "raw"


def test_a_consistent_image_of_a_writing_server(driver, with_agent):
    acknowledged = with_agent.guest.last_record()
    assert compute.snapshot(driver, with_agent.instance(**QUIESCED)) == STATES
    bed.check_image(*uploaded(driver, "qcow2"), clean=True, at_least=acknowledged)


def test_what_is_uploaded_belongs_to_nova(driver, with_agent, monkeypatch):
    seen = []

    def update(context, image_id, metadata, data=None, purge_props=False):
        seen.append((os.fstat(data.fileno()), Path(os.path.dirname(data.name)).iterdir()))
        seen[-1] = (seen[-1][0], [path.name for path in seen[-1][1]])

    monkeypatch.setattr(driver._image_api, "update", update)
    compute.snapshot(driver, with_agent.instance(**QUIESCED))
    [(status, names)] = seen
    assert status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & 0o600 == 0o600
    # The image was written once, into its place.
    assert len(names) == 1


@pytest.mark.parametrize("format", ["raw", "vmdk", "vdi"])
def test_formats(driver, options, with_agent, format):
    options("libvirt", snapshot_image_format=format)
    acknowledged = with_agent.guest.last_record()
    compute.snapshot(driver, with_agent.instance(**QUIESCED))
    bed.check_image(*uploaded(driver, format), clean=True, at_least=acknowledged)


@pytest.mark.parametrize("method", ["mirror", "clone", "rebase"])
def test_methods(driver, options, with_agent, caplog, method):
    options("livedisk", method=method)
    acknowledged = with_agent.guest.last_record()
    with caplog.at_level(logging.INFO):
        compute.snapshot(driver, with_agent.instance(**QUIESCED))
    assert f"livedisk: snapshot by {method}, filesystem-consistent" in caplog.text
    bed.check_image(*uploaded(driver, "qcow2"), clean=True, at_least=acknowledged)


def test_compression_is_novas(driver, options, with_agent):
    options("libvirt", snapshot_compression=True)
    compute.snapshot(driver, with_agent.instance(**QUIESCED))
    path, format = uploaded(driver, "qcow2")
    bed.check_image(path, format, clean=True)
    found = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], check=True, stdout=subprocess.PIPE, text=True)
    assert " compressed" in found.stdout and ", 0.00% compressed" not in found.stdout, found.stdout


def test_without_an_agent_the_image_is_crash_consistent(driver, without_agent):
    acknowledged = without_agent.guest.last_record()
    # Nova knows of none; and Nova expects one that is not there.
    for properties in {}, {"hw_qemu_guest_agent": "yes"}:
        compute.snapshot(driver, without_agent.instance(**properties))
        bed.check_image(*uploaded(driver, "qcow2"), clean=False, at_least=acknowledged)


def test_a_required_quiesce_is_required(driver, without_agent):
    with pytest.raises(quiesce_failures(), match="agent"):
        compute.snapshot(driver, without_agent.instance(**QUIESCED))
    with pytest.raises(exception.QemuGuestAgentNotEnabled):
        compute.snapshot(driver, without_agent.instance(os_require_quiesce="yes"))


def test_a_paused_server(driver, without_agent):
    acknowledged = without_agent.guest.last_record()
    bed.virsh("suspend", without_agent.domain)
    try:
        compute.snapshot(driver, without_agent.instance())
        assert bed.virsh("domstate", without_agent.domain).strip() == "paused"
    finally:
        bed.virsh("resume", without_agent.domain)
    bed.check_image(*uploaded(driver, "qcow2"), clean=False, at_least=acknowledged)


def test_a_full_disk(driver, with_agent):
    directory = compute.CONF.libvirt.snapshots_directory
    if os.geteuid() != 0:
        pytest.skip("an ordinary user mounts no small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M,mode=755", "livedisk-nova-test", directory], check=True)
    try:
        with pytest.raises(exception.NovaException, match="livedisk: "):
            compute.snapshot(driver, with_agent.instance(**QUIESCED))
        assert os.listdir(directory) == []
    finally:
        subprocess.run(["umount", directory], check=True)


def test_a_server_that_is_gone(driver, with_agent):
    gone = compute.instance("11111111-2222-4333-8444-555555555555", **QUIESCED)
    with pytest.raises(exception.InstanceNotRunning):
        compute.snapshot(driver, gone)


def test_a_server_that_is_deleted_meanwhile(driver, options, movable):
    """The guest is another, which is started anew."""
    options(bandwidth=1)
    with waiting(driver, movable.instance(**QUIESCED)) as snapshot:
        bed.virsh("destroy", movable.domain)
        with pytest.raises((exception.InstanceNotRunning, exception.InstanceNotFound)):
            snapshot.result()
    start(movable)


def test_a_vtpm_is_kept(driver, movable):
    """libvirt removes a TPM with its domain's definition, and the next start makes another one."""
    [log] = Path(bed.value("DIR")).glob("d.*/tpmlog/libvirt/qemu/third-swtpm.log") if os.geteuid() == 0 else [None]
    if log is None:
        pytest.skip("an ordinary user's test bed has no TPM")

    def made():
        return log.read_text().count("Starting vTPM manufacturing")

    before = made()
    with lifecycle() as seen:
        compute.snapshot(driver, movable.instance(**QUIESCED))
    assert "Undefined" not in seen[0], seen
    bed.virsh("destroy", movable.domain)
    start(movable)
    assert made() == before == 1


def start(server):
    bed.virsh("start", server.domain)
    last, deadline = server.guest.last_record(), time.monotonic() + 120
    while server.guest.last_record() <= last:
        assert time.monotonic() < deadline, "the guest does not start again"
        time.sleep(0.5)
    server.guest.check_clean()


def test_a_disk_that_has_a_job(driver, with_agent):
    """Nova's own driver ends any job that it finds; this one is somebody's."""
    path = bed.path("mine.qcow2")
    bed.virsh("blockcopy", with_agent.domain, "vda", str(path), "--transient-job", "--bandwidth", "1")
    try:
        with pytest.raises(exception.NovaException, match="livedisk: "):
            compute.snapshot(driver, with_agent.instance(**QUIESCED))
        assert "Block Copy" in bed.virsh("blockjob", with_agent.domain, "vda")
    finally:
        bed.virsh("blockjob", with_agent.domain, "vda", "--abort")
        path.unlink()


def test_no_thread_waits(driver, options, with_agent, without_agent):
    """Two snapshots wait while other work goes on; in eventlet the only thread of tpool is free for it."""
    options(bandwidth=1)
    with waiting(driver, with_agent.instance(**QUIESCED)) as one, waiting(driver, without_agent.instance()) as other:
        if compute.MODE == "eventlet":
            from eventlet import tpool

            tpool.set_num_threads(1)
            for number in range(20):
                assert tpool.execute(lambda: number) == number
        options(bandwidth=0)
        assert not one.done() and not other.done()
        for server in with_agent, without_agent:
            bed.virsh("blockjob", server.domain, "vda", "--bandwidth", "0")
        assert one.result() == other.result() == STATES


class waiting:
    """A snapshot in a green or a native thread, as nova-compute has them, that copies for as long as it is wanted."""

    def __init__(self, driver, server):
        import futurist

        kind = futurist.GreenThreadPoolExecutor if compute.MODE == "eventlet" else futurist.ThreadPoolExecutor
        self.pool = kind(max_workers=1)
        self.future = self.pool.submit(compute.snapshot, driver, server)
        self.uuid = server.uuid

    def __enter__(self):
        deadline = time.monotonic() + 30
        while "Block Copy" not in bed.virsh("blockjob", self.uuid, "vda") and not self.future.done():
            assert time.monotonic() < deadline, "the snapshot does not copy"
            time.sleep(0.05)
        return self.future

    def __exit__(self, *failure):
        self.pool.shutdown()
