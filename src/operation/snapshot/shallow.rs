// SPDX-License-Identifier: LGPL-2.1-or-later
//! Copies that keep the backing file of what they copy.

use crate::driver::{Guest, by_name, why_not_whole};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Backing};
use crate::libvirt::xml::Disk;

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

/// The copy names its backing file, and what is below that is found by the headers: they must name what the definition does.
fn must_agree(guest: &Guest, disk: &Disk, what: &str) -> Result<()> {
    if !guest.host().is_local() {
        return Ok(());
    }
    for (index, layer) in disk.chain.iter().enumerate().skip(1) {
        let Some(layer) = by_name(layer).filter(|layer| layer.format == "qcow2") else {
            continue;
        };
        let below = disk.chain.get(index + 1).and_then(by_name);
        if !image::rests_on(&layer, below.as_ref())? {
            return Err(error(
                ErrorCode::Unsupported,
                format!(
                    "{what}: the header of '{}' names another backing file than the domain's definition; rewrite the header \
                     while the domain is off (qemu-img rebase -u), or leave SHALLOW out",
                    layer.path.escape_debug()
                ),
            ));
        }
    }
    Ok(())
}

/// The backing file that the copy keeps, where the disk has one.
pub(super) fn backing_kept(guest: &Guest, disk: &Disk, format: &str, what: &str) -> Result<Option<Backing>> {
    let Some(layer) = disk.backing() else {
        return Ok(None);
    };
    if format != "qcow2" {
        return Err(error(
            ErrorCode::Unsupported,
            format!("{what} has a backing file, which format {format} cannot keep; use qcow2 or leave SHALLOW out"),
        ));
    }
    let unnamed = match why_not_whole(&disk.chain[1..]) {
        None => guest.why_not_named(disk, 1)?,
        sliced => sliced,
    };
    if let Some(hindrance) = unnamed {
        return Err(hindrance.refuse(what, "cannot keep its backing file", "leave SHALLOW out"));
    }
    must_agree(guest, disk, what)?;
    match (layer.source.path(), &layer.format) {
        (Some(path), Some(format)) => Ok(Some(Backing {
            path: path.to_owned(),
            format: format.clone(),
        })),
        _ => Err(error(
            ErrorCode::Unsupported,
            format!("{what} has a backing image without a path or stated format; leave SHALLOW out"),
        )),
    }
}
