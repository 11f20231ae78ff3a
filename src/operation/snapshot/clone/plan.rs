// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether and how disks can be cloned: what CLONE asks before it begins, and AUTO before it takes it.

use serde::{Deserialize, Serialize};

use crate::driver::{Guest, Hindrance, why_not_pivoted, why_not_whole};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Place};
use crate::libvirt::xml::{Device, Disk, DomainXml, Layer, Source};
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::types::{CloneMethod, Method, SnapshotOptions};

/// A mirror takes more than about three seconds for such a hole.
const MANY_ZEROES: u64 = 256 << 30;

/// How the quiet image gets to its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// The image's file is cloned as it is.
    File,
    /// What the backing chain shows is written to the destination: flattened, converted, or onto something that exists.
    Content,
    /// The caller's function does it.
    Callback,
}

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

/// The method, and where it is CLONE each disk's way.
pub(crate) fn choose(
    guest: &Guest,
    config: &DomainXml,
    options: &SnapshotOptions,
    disks: &[PlannedDisk],
) -> Result<(Method, Vec<Way>)> {
    if !matches!(options.method, Method::Auto | Method::Clone) {
        return Ok((options.method, Vec::new()));
    }
    if options.method == Method::Clone && options.clone == CloneMethod::Callback && options.clone_callback.is_none() {
        return Err(error(ErrorCode::InvalidArgument, "CALLBACK needs a function; pass one"));
    }
    let mirror = (Method::Mirror, Vec::new());
    // AUTO takes it where it is quick, and where a mirror is not.
    let shares = options.clone != CloneMethod::Copy && disks.iter().all(shares_blocks);
    let mostly_holes = options.clone != CloneMethod::Reflink && is_slow_to_mirror(disks);
    if options.method == Method::Auto && !shares && !mostly_holes {
        return Ok(mirror);
    }
    let mut ways = Vec::new();
    for planned in disks {
        let way = match config.disk(&planned.target) {
            Some(disk) => way(guest, disk, planned, options)?,
            None => Err(Hindrance::unsupported("it no longer exists")),
        };
        match way {
            Ok(way) => ways.push(way),
            Err(_) if options.method == Method::Auto => return Ok(mirror),
            Err(hindrance) => {
                let what = format!("disk '{}' of domain '{}'", planned.target, guest.name());
                return Err(hindrance.refuse(&what, "cannot be cloned", "use MIRROR"));
            }
        }
    }
    if options.method == Method::Auto && !mostly_holes && ways.iter().any(|way| *way != Way::File) {
        return Ok(mirror);
    }
    if ways.contains(&Way::Content) {
        image::must_be_able_to_convert()?;
    }
    Ok((Method::Clone, ways))
}

/// The way, or why there is none.
fn way(
    guest: &Guest,
    disk: &Disk,
    planned: &PlannedDisk,
    options: &SnapshotOptions,
) -> Result<std::result::Result<Way, Hindrance>> {
    let is_known = |layer: &Layer| layer.source.path().is_some() && layer.format.is_some();
    let why = if disk.device != Device::Disk {
        "it is not a hard disk"
    } else if disk.readonly {
        "it is read-only"
    } else if disk.is_encrypted() {
        "it is encrypted"
    } else if !guest.host().is_local() {
        "the connection is remote"
    } else if !matches!(disk.active().source, Source::File(_)) {
        "it is not a file"
    } else if !disk.chain.iter().all(is_known) {
        "its backing chain has an image without path or stated format"
    } else if disk
        .active()
        .source
        .path()
        .is_some_and(|path| !image::fits_header(path))
    {
        "its image's name is longer than the 1023 bytes that an overlay's header holds"
    } else if options.clone == CloneMethod::Volume {
        "cloning by storage volumes is not supported yet"
    } else if let Some(hindrance) = why_not_pivoted(disk) {
        // The overlay goes back into the image by a pivot.
        return Ok(Err(hindrance));
    } else if let Some(hindrance) = guest.why_not_named(disk, 0)? {
        return Ok(Err(hindrance));
    } else if options.clone == CloneMethod::Callback
        && let Some(hindrance) = why_not_whole(&disk.chain)
    {
        // It is given names alone.
        return Ok(Err(hindrance));
    } else {
        return Ok(way_of_file(disk, planned, options).map_err(Hindrance::unsupported));
    };
    Ok(Err(Hindrance::unsupported(why)))
}

fn way_of_file(
    disk: &Disk,
    planned: &PlannedDisk,
    options: &SnapshotOptions,
) -> std::result::Result<Way, &'static str> {
    let keeps_backing = planned.backing.is_some();
    let is_same = planned.place == Place::Free
        && disk.active().format.as_ref() == Some(&planned.format)
        && (disk.backing().is_none() || keeps_backing);
    match options.clone {
        CloneMethod::Callback if options.method == Method::Clone => Ok(Way::Callback),
        CloneMethod::Reflink if disk.active().slice.is_some() => {
            Err("it is a part of a file only (<slices>), which is copied and shares no blocks")
        }
        _ if is_same => Ok(Way::File),
        _ if keeps_backing => Err("SHALLOW keeps the backing file only in a new file of the disk's own format"),
        CloneMethod::Reflink => Err(
            "only an unchanged copy can share blocks, and this one is flattened, converted or written to an existing \
             destination",
        ),
        _ => Ok(Way::Content),
    }
}

/// QEMU writes zeroes over the whole size of a mirror's destination before it copies, of a new file that reads as zeroes
/// too, and libvirt has no way to pass it on: a clone goes by the data alone.
fn is_slow_to_mirror(disks: &[PlannedDisk]) -> bool {
    let holes = |disk: &PlannedDisk| {
        let data: u64 = disk.layers.iter().map(image::Layer::allocated).sum();
        disk.size.saturating_sub(data)
    };
    // What stands there already may hold anything, and a clone writes zeroes over it, too.
    disks.iter().all(|disk| disk.place == Place::Free) && disks.iter().any(|disk| holes(disk) >= MANY_ZEROES)
}

/// Its clone takes no room.
pub(crate) fn takes_no_room(way: Option<&Way>, options: &SnapshotOptions, disk: &PlannedDisk) -> bool {
    way == Some(&Way::File) && options.clone != CloneMethod::Copy && shares_blocks(disk)
}

/// The destination's file system clones, and is the image's own.
fn shares_blocks(disk: &PlannedDisk) -> bool {
    let (Some(source), Destination::Path(destination)) = (&disk.source, &disk.destination) else {
        return false;
    };
    source.slice.is_none()
        && image::can_share_blocks(image::directory_of(&source.path), image::directory_of(destination))
}
