// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a backup asks before it begins.

use super::since;
use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Identity};
use crate::libvirt::xml::DomainXml;
use crate::operation::parts::backup::{export, scratch};
use crate::operation::plan::preflight::find_disk;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::types::{Method, SnapshotOptions};

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

/// Options that a backup alone has.
pub(in crate::operation) fn check_options(options: &SnapshotOptions) -> Result<()> {
    since::check_options(options)?;
    let is_backup = matches!(options.method, Method::Backup | Method::Auto);
    let wants_points = options.checkpoint.is_some() || options.since.is_some();
    if wants_points && !is_backup {
        return Err(error(
            ErrorCode::Unsupported,
            "checkpoint and since: only a backup makes checkpoints and increments; use BACKUP, or AUTO, which takes it then",
        ));
    }
    if options.compress && !is_backup {
        return Err(error(
            ErrorCode::Unsupported,
            "COMPRESS: only a backup compresses its images; use BACKUP, or AUTO, which takes it then",
        ));
    }
    if options.scratch.is_some() && !is_asked_for(options) {
        return Err(error(
            ErrorCode::InvalidArgument,
            "scratch: only BACKUP has scratch files; leave it out, or use BACKUP",
        ));
    }
    if is_asked_for(options) && options.shallow {
        return Err(error(
            ErrorCode::Unsupported,
            "SHALLOW and BACKUP do not go together: libvirt's backup always copies the whole chain; use MIRROR",
        ));
    }
    Ok(())
}

/// AUTO takes it for what no other method can do.
pub(in crate::operation) fn is_asked_for(options: &SnapshotOptions) -> bool {
    let needs_it = options.compress || options.checkpoint.is_some() || options.since.is_some();
    options.method == Method::Backup || (options.method == Method::Auto && needs_it)
}

/// Finds each disk's place for a scratch file. What comes back is where the exports' sockets may be.
pub(in crate::operation) fn prepare(
    guest: &Guest,
    config: &DomainXml,
    options: &SnapshotOptions,
    disks: &mut [PlannedDisk],
    in_use: &[Identity],
) -> Result<String> {
    let name = guest.name();
    if !guest.host().has_backup(&config.machine)? {
        return Err(error(
            ErrorCode::Unsupported,
            format!(
                "the libvirt and QEMU of domain '{name}' offer no backup: virDomainBackupBegin works with libvirt 7.2 and later, \
                 and QEMU 5.2 and later; use MIRROR"
            ),
        ));
    }
    if !guest.host().is_local() {
        return Err(error(
            ErrorCode::Unsupported,
            format!(
                "domain '{name}': a backup is read on the domain's own host, and the connection is remote; use MIRROR"
            ),
        ));
    }
    for planned in disks.iter_mut() {
        let what = format!("disk '{}' of domain '{name}'", planned.target);
        if options.compress && planned.format != "qcow2" {
            return Err(error(
                ErrorCode::Unsupported,
                format!(
                    "{what}: format {} cannot be compressed; use qcow2 or leave COMPRESS out",
                    planned.format
                ),
            ));
        }
        if options.compress && planned.reuse {
            return Err(error(
                ErrorCode::Unsupported,
                format!("{what}: COMPRESS and REUSE_EXISTING do not go together; let livedisk make the image"),
            ));
        }
        let disk = find_disk(guest, config, &planned.target)?;
        // nbd_blockdev_client_closed: Assertion `qemu_in_main_thread()'. Seen with QEMU 7.2.
        if disk.io_thread {
            return Err(error(
                ErrorCode::Unsupported,
                format!(
                    "{what} is served by an I/O thread, and QEMU aborts when the reader of such a disk's export disconnects; use \
                     MIRROR or CLONE"
                ),
            ));
        }
        planned.scratch = Some(scratch::directory(options.scratch.as_deref(), disk, &what)?);
    }
    since::prepare(guest, config, options, disks, in_use)?;
    if disks.iter().any(|disk| disk.changes.since.is_some()) {
        image::must_be_able_to_copy_changes()?;
    }
    export::base(guest)
}
