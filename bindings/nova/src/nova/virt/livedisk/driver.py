# SPDX-License-Identifier: LGPL-2.1-or-later
"""LiveDiskDriver."""

import contextlib
import os

import nova.conf
from nova import exception
from nova.compute import power_state
from nova.privsep import path as privileged
from nova.virt.libvirt import driver
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging
from oslo_utils import fileutils
from oslo_utils import units

import livedisk
from nova.virt.livedisk import failures
from nova.virt.livedisk import options
from nova.virt.livedisk import waiting

CONF = nova.conf.CONF
options.register(CONF)
LOG = logging.getLogger(__name__)

# The formats that livedisk writes itself, by Nova's names of them.
FORMATS = {"qcow2": "qcow2", "raw": "raw", "iso": "raw"}


class LiveDiskDriver(driver.LibvirtDriver):
    """Nova's libvirt driver with livedisk's live snapshots, volume swaps and quiescing.

    Domains stay defined, except with the method rebase. A server is frozen only while the point in time is fixed, and is
    thawed if this process dies. An image is written once. On start, the driver cleans up what a dead process left.
    """

    def init_host(self, host):
        super().init_host(host)
        LOG.info("livedisk %s takes the live snapshots", livedisk.version())
        try:
            self._recover()
        except livedisk.Error as error:
            # The servers run, and the next snapshot of a domain that is not clean reports it.
            LOG.error("livedisk could not clean up unfinished operations: %s", error)

    def _recover(self):
        """Rolls back or completes the operations of a nova-compute that died."""

        def recover(connection):
            left = [path for found in connection.operations() if found.orphaned for path in found.destinations]
            return left, connection.recover()

        left, recovery = self._with_connection(recover)
        for path in left:
            # Nova's temporary directory of a snapshot, now unused.
            directory = os.path.dirname(path)
            if os.path.dirname(directory) == os.path.normpath(CONF.libvirt.snapshots_directory):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        if recovery.domains:
            LOG.warning(
                "livedisk cleaned up %(domains)s servers: %(thawed)s thawed, %(back)s operations rolled back, "
                "%(completed)s completed, %(failed)s failed",
                {
                    "domains": recovery.domains,
                    "thawed": recovery.thawed,
                    "back": recovery.taken_back,
                    "completed": recovery.completed,
                    "failed": recovery.failed,
                },
            )

    def _connect(self):
        # Nova runs libvirt's event loop in a native thread, whichever way it waits itself.
        return livedisk.open_from(self._host.get_connection())

    def _with_connection(self, use):
        def connected():
            with self._connect() as connection:
                return use(connection)

        return waiting.call(connected)

    def _starter(self, name):
        def start(*args, **kwargs):
            # The operation keeps what it needs of the connection.
            with self._connect() as connection:
                return getattr(connection, name)(*args, **kwargs)

        return start

    def _translated(self, guest, instance_id):
        def is_there():
            try:
                state = guest.get_power_state(self._host)
            except (exception.NovaException, self._libvirt_error()):
                return False, False
            return True, state in (power_state.RUNNING, power_state.PAUSED)

        return failures.translated(instance_id, is_there)

    @staticmethod
    def _libvirt_error():
        # Nova imports libvirt late.
        return driver.libvirt.libvirtError

    def quiesce(self, context, instance, image_meta):
        """Freezes a server's file systems until unquiesce, or until [livedisk] quiesce_limit has passed."""
        self._can_quiesce(instance, image_meta)
        guest = self._host.get_guest(instance)
        with self._translated(guest, instance.uuid):
            count = self._with_connection(
                lambda connection: connection.freeze(guest.uuid, limit=CONF.livedisk.quiesce_limit)
            )
        LOG.info("%s file systems are frozen", count, instance=instance)

    def unquiesce(self, context, instance, image_meta):
        """Thaws a server's file systems. Fails if the limit has already thawed them."""
        self._can_quiesce(instance, image_meta)
        guest = self._host.get_guest(instance)
        with self._translated(guest, instance.uuid):
            try:
                self._with_connection(lambda connection: connection.thaw(guest.uuid))
            except livedisk.NoOperationError:
                # Frozen by a nova-compute with Nova's own driver.
                super().unquiesce(context, instance, image_meta)

    def _live_snapshot(
        self, context, instance, guest, disk_path, out_path, source_format, image_format, image_meta
    ):
        """Writes an image of a running server's disk to out_path, readable by this process."""
        target = next((disk.target_dev for disk in guest.get_all_disks() if disk.source_path == disk_path), None)
        if target is None:
            raise exception.DiskNotFound(location=disk_path)
        # livedisk compresses by its backup method, with zstd: that takes root, and a newer QEMU than some nodes may have.
        compress = CONF.libvirt.snapshot_compression and image_format == "qcow2"
        direct = FORMATS.get(image_format) if not compress else None
        written = out_path if direct else out_path + ".livedisk"
        try:
            with self._translated(guest, instance.uuid), waiting.started(
                self._starter("start_live_snapshot"),
                guest.uuid,
                {target: written},
                format=direct or "qcow2",
                method=CONF.livedisk.method,
                quiesce=self._quiesce_mode(instance, image_meta),
                freeze_limit=CONF.livedisk.freeze_limit,
                bandwidth=CONF.livedisk.bandwidth * units.Mi,
                verify=CONF.livedisk.verify,
                write_blocking=CONF.livedisk.write_blocking,
            ) as operation:
                report = waiting.finish(operation)
            LOG.info(
                "livedisk: snapshot by %(method)s, %(consistency)s-consistent, frozen for %(frozen).1f ms, "
                "%(copied)s bytes copied in %(elapsed).1f s",
                {
                    "method": report.method,
                    "consistency": report.consistency,
                    "frozen": report.freeze_ns / 1e6,
                    "copied": report.bytes_copied,
                    "elapsed": report.elapsed_ns / 1e9,
                },
                instance=instance,
            )
            # libvirt gives the file to QEMU's user, and may not give it back.
            if os.stat(written).st_uid != os.getuid():
                privileged.chown(written, uid=os.getuid())
            if not direct:
                libvirt_utils.extract_snapshot(written, "qcow2", out_path, image_format)
        finally:
            if not direct:
                fileutils.delete_if_exists(written)

    def _quiesce_mode(self, instance, image_meta):
        try:
            self._can_quiesce(instance, image_meta)
        except exception.NovaException as error:
            if self._requires_quiesce(image_meta):
                LOG.error(
                    'Quiescing is not available, and the image property "os_require_quiesce" is set: %s',
                    error,
                    instance=instance,
                )
                raise
            LOG.info("Quiescing is not available: %s", error, instance=instance)
            return "none"
        return "require" if self._requires_quiesce(image_meta) else "prefer"

    def _swap_volume(self, guest, disk_dev, conf, resize_to, hw_firmware_type=None):
        """Moves a running server's disk to another volume. hw_firmware_type is Nova 26's."""
        if conf.source_type != "block":
            # A file exists already, and a network volume needs its secret: Nova's own code handles both.
            own = () if hw_firmware_type is None else (hw_firmware_type,)
            return super()._swap_volume(guest, disk_dev, conf, resize_to, *own)
        try:
            with waiting.started(
                self._starter("migrate_disk"),
                guest.uuid,
                disk_dev,
                conf.source_path,
                format=conf.driver_format,
                method="mirror",
                bandwidth=CONF.livedisk.bandwidth * units.Mi,
                write_blocking=CONF.livedisk.write_blocking,
            ) as operation:
                waiting.finish(operation)
        except livedisk.Error as error:
            LOG.error("The disk %s could not be moved to %s: %s", disk_dev, conf.source_path, error)
            # The one exception that makes Nova disconnect the new volume.
            raise exception.VolumeRebaseFailed(reason=str(error)) from error
        if resize_to:
            guest.get_block_device(disk_dev).resize(resize_to * units.Gi)
