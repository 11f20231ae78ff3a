// SPDX-License-Identifier: LGPL-2.1-or-later
//! What Nova's driver does with a guest as a whole, by operations.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::Quiet;
use crate::operation::{self, MigrateOptions, Operation, Quiesce, Report, SnapshotDisk, SnapshotOptions};

impl Guest {
    /// Leaves a standalone image of the running guest's disk at `out_path`, as Nova's `_live_snapshot` does, and returns
    /// when it is complete: [`Connection::start_live_snapshot`](crate::Connection::start_live_snapshot) with the method that
    /// it chooses, to its end. `format` is `qcow2`, `raw` or `None` for the disk's own.
    ///
    /// Nova's faults in this, and what livedisk does instead:
    /// - Nova undefines the domain meanwhile, which loses a vTPM, and the domain itself if nova-compute dies. Here the domain
    ///   stays defined.
    /// - Nova writes everything twice, to a delta and then to the image. Here the image is written once.
    /// - Nova freezes first and then ends the mirror, without a limit, and takes a job that vanished for complete. Here the
    ///   freeze is guarded and limited to 10 s, and a job that was not seen to complete is a failure.
    /// - After a failure Nova's files stay, and the guest may stay frozen. Here everything is rolled back.
    ///
    /// # Errors
    /// As that call and [`Operation::finish`].
    pub fn live_snapshot(&self, disk: &str, out_path: &str, format: Option<&str>, quiesce: Quiesce) -> Result<Report> {
        let _quiet = Quiet::new();
        let options = SnapshotOptions {
            disks: vec![SnapshotDisk {
                target: disk.to_owned(),
                destination: out_path.to_owned(),
                format: format.map(str::to_owned),
                ..SnapshotDisk::default()
            }],
            quiesce,
            auto_finish: true,
            ..SnapshotOptions::default()
        };
        Operation::start_live_snapshot(self.again()?, &options)?.finish(None)
    }

    /// Moves the running guest's disk to `destination` (a new file, a block device, an NBD URI), as Nova's `_swap_volume`
    /// does, and returns when the guest is on it: [`Connection::migrate_disk`](crate::Connection::migrate_disk) to its end.
    /// With `resize_to` the disk then has that many bytes. A raw block device must have exactly the disk's size, because
    /// QEMU copies to no other and resizes no device. The old volume stays as it is.
    ///
    /// Nova's faults in this, and what livedisk does instead:
    /// - Nova aborts any job that the disk has. Here a job that is in the way is `BUSY`, and continues.
    /// - Nova waits without a limit for a mirror that cannot catch up with the guest. Here the guest's writes are slowed down
    ///   for it.
    /// - Nova pivots at `cur == end`, and continues if the job has vanished. Here a mirror is pivoted when libvirt says that it
    ///   is ready.
    /// - Nova writes the old definition back and edits it later; after a crash in between, the domain starts on the old volume.
    ///   Here libvirt records the new disk with the pivot, live and stored.
    ///
    /// # Errors
    /// As that call and [`Operation::finish`]. Where the resize alone fails the message says that the disk has moved.
    pub fn swap_volume(&self, disk: &str, destination: &str, resize_to: Option<u64>) -> Result<Report> {
        let _quiet = Quiet::new();
        let options = MigrateOptions {
            target: disk.to_owned(),
            destination: destination.to_owned(),
            auto_finish: true,
            ..MigrateOptions::default()
        };
        let report = Operation::migrate_disk(self.again()?, &options)?.finish(None)?;
        if let Some(size) = resize_to {
            self.get_block_device(disk).resize(size).map_err(|error| {
                let message = format!("the disk has moved to its new volume, but {error}");
                Error::new(error.code(), message).with_libvirt_code(error.libvirt_code())
            })?;
        }
        Ok(report)
    }

    /// As Nova's `quiesce`: freezes the file systems around somebody else's snapshots until [`unquiesce`](Self::unquiesce),
    /// and returns how many. With [`Quiesce::Prefer`] a guest that cannot be frozen is 0 and a warning in the log,
    /// [`Quiesce::None`] is always 0.
    ///
    /// # Errors
    /// As [`freeze_filesystems`](Self::freeze_filesystems); with [`Quiesce::Prefer`] not `AGENT` and `FREEZE`.
    pub fn quiesce(&self, quiesce: Quiesce, limit: Duration) -> Result<u32> {
        if quiesce == Quiesce::None {
            return Ok(0);
        }
        match self.freeze_filesystems(limit) {
            Err(error)
                if quiesce == Quiesce::Prefer && matches!(error.code(), ErrorCode::Agent | ErrorCode::Freeze) =>
            {
                log::warn!("{error}; continuing without a freeze, so what is taken is crash-consistent");
                Ok(0)
            }
            frozen => frozen,
        }
    }

    /// As Nova's `unquiesce`: ends a [`quiesce`](Self::quiesce) of whichever process, and returns how many file systems were
    /// thawed; 0 where it had frozen none.
    ///
    /// # Errors
    /// As [`thaw_filesystems`](Self::thaw_filesystems), but `NO_OPERATION`.
    pub fn unquiesce(&self) -> Result<u32> {
        match self.thaw_filesystems() {
            Err(error) if error.code() == ErrorCode::NoOperation => Ok(0),
            thawed => thawed,
        }
    }

    /// Freezes the file systems, and returns how many: [`Connection::freeze`](crate::Connection::freeze). It lasts until
    /// [`thaw_filesystems`](Self::thaw_filesystems), or until `limit` (zero: 10 s) has passed or this process dies, when the
    /// guard thaws. Nova's call of this name has neither a guard nor a limit.
    ///
    /// # Errors
    /// As that call.
    pub fn freeze_filesystems(&self, limit: Duration) -> Result<u32> {
        let _quiet = Quiet::new();
        operation::freeze(self.again()?, limit)
    }

    /// Thaws them, and returns how many: [`Connection::thaw`](crate::Connection::thaw).
    ///
    /// # Errors
    /// As that call: `FREEZE` if the guest had been let go before, so that what was taken meanwhile is not consistent.
    pub fn thaw_filesystems(&self) -> Result<u32> {
        let _quiet = Quiet::new();
        operation::thaw(self)
    }
}
