// SPDX-License-Identifier: LGPL-2.1-or-later
//! What mirrors ask before they begin, whichever call starts them.

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Layer, Place};
use crate::libvirt::xml::DomainXml;
use crate::operation::ownership::saved::{Saved, directory};
use crate::operation::plan::preflight::find_disk;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::shallow::backing_kept;
use crate::operation::types::SnapshotOptions;

fn unsupported(message: String) -> Error {
    Error::new(ErrorCode::Unsupported, message)
}

pub(in crate::operation::snapshot) fn check(guest: &Guest, config: &DomainXml, disks: &[PlannedDisk]) -> Result<()> {
    for planned in disks {
        if let Some(hindrance) = config
            .disk(&planned.target)
            .and_then(|disk| guest.why_not_mirrored(disk))
        {
            let what = format!("disk '{}' of domain '{}'", planned.target, guest.name());
            return Err(hindrance.refuse(&what, "cannot be mirrored", "use BACKUP"));
        }
    }
    Ok(())
}

/// What virDomainBlockRebase needs more; whether the domain must be undefined for it.
pub(in crate::operation::snapshot) fn prepare_rebase(
    guest: &Guest,
    config: &DomainXml,
    options: &SnapshotOptions,
    disks: &mut [PlannedDisk],
) -> Result<bool> {
    check(guest, config, disks)?;
    for planned in disks {
        let what = format!("disk '{}' of domain '{}'", planned.target, guest.name());
        if let Destination::Nbd { .. } = planned.destination {
            return Err(unsupported(format!(
                "{what}: virDomainBlockRebase copies to files and block devices only; use MIRROR"
            )));
        }
        let is_new = !planned.reuse && matches!(planned.place, Place::Free | Place::File);
        // qemu-img reads it afterwards, as this user.
        let can_read = |layer: &Layer| image::open_source(&layer.path).is_ok();
        let is_readable = !planned.layers.is_empty() && planned.layers.iter().skip(1).all(can_read);
        if !options.shallow && is_new && is_readable && planned.format == "qcow2" {
            // What cannot be named is copied with the rest.
            let disk = find_disk(guest, config, &planned.target)?;
            planned.backing = backing_kept(guest, disk, &planned.format, &what).unwrap_or_default();
            if planned.backing.is_some() {
                image::must_be_able_to_convert()?;
            }
        }
    }
    let is_defined = guest.has_persistent_configuration()?;
    if is_defined {
        must_come_back_whole(guest)?;
    }
    Ok(is_defined)
}

/// A domain that ends while it is not defined takes with it all that libvirt keeps of it beside its definition.
fn must_come_back_whole(guest: &Guest) -> Result<()> {
    let name = guest.name();
    directory()?;
    let mut left = Saved::all(guest.host())?.into_iter();
    if let Some(saved) = left.find(|saved| saved.uuid == guest.uuid()) {
        return Err(Error::new(
            ErrorCode::Busy,
            format!(
                "operation {} left a saved definition of domain '{name}'; let recover clean it up (livedisk recover)",
                saved.record.id
            ),
        ));
    }
    let lost = match guest.what_would_be_forgotten()? {
        Some(what) => Some(what),
        None if guest.has_fleeting_tpm()? => Some("the state of its emulated TPM".to_owned()),
        None => None,
    };
    match lost {
        None => Ok(()),
        Some(what) => Err(unsupported(format!(
            "REBASE needs domain '{name}' undefined for a moment, and libvirt would lose {what} if the guest ended then; use \
             MIRROR, which does not need that"
        ))),
    }
}
