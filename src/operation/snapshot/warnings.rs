// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a snapshot's report is to warn of, as far as it is known beforehand.

use crate::driver::Guest;
use crate::error::Result;
use crate::libvirt::xml::DomainXml;
use crate::operation::plan::preflight::find_disk;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::types::{Method, SnapshotOptions, Warnings};

pub(super) fn warnings(
    guest: &Guest,
    config: &DomainXml,
    options: &SnapshotOptions,
    method: Method,
    disks: &[PlannedDisk],
) -> Result<Warnings> {
    let mut warnings = Warnings::default();
    for planned in disks {
        let disk = find_disk(guest, config, &planned.target)?;
        let is_raw = disk.active().format.as_deref() == Some("raw");
        let by_name = match method {
            Method::Clone => &disk.chain[..],
            Method::Mirror | Method::Rebase if options.verify => &disk.chain[..],
            // QEMU itself opens it anew.
            Method::Mirror | Method::Rebase if is_raw => &disk.chain[..1],
            _ if planned.backing.is_some() => &disk.chain[1..],
            _ => &[],
        };
        warnings.unidentified_image |= guest.has_unidentified(by_name);
    }
    Ok(warnings)
}
