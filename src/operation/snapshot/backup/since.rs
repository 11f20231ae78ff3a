// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a backup has to do with checkpoints: which disks the new one covers, and which are copied from an old one on. All that
//! may be missing or broken is found here, before anything begins.

use crate::driver::{Checkpoint, Guest, by_name};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Identity};
use crate::libvirt::xml::{Disk, DomainXml};
use crate::operation::plan::preflight::find_disk;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::types::SnapshotOptions;

/// libvirt keeps a checkpoint in a file of this name and an ending.
const LONGEST_NAME: usize = 250;

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

/// What can be refused without looking at the domain.
pub(super) fn check_options(options: &SnapshotOptions) -> Result<()> {
    for (name, option) in [(&options.checkpoint, "checkpoint"), (&options.since, "since")] {
        if let Some(name) = name {
            must_be_a_name(name, option)?;
        }
    }
    let only_with_since = |what: &str| {
        Err(error(
            ErrorCode::InvalidArgument,
            format!("{what} is for increments only; set since, or leave it out"),
        ))
    };
    if options.since.is_none() {
        if options.full_if_needed {
            return only_with_since("FULL_IF_NEEDED");
        }
        if let Some(disk) = options.disks.iter().find(|disk| disk.backing.is_some()) {
            return only_with_since(&format!("backing of disk '{}'", disk.target.escape_debug()));
        }
    }
    Ok(())
}

fn must_be_a_name(name: &str, option: &str) -> Result<()> {
    let is_one =
        !name.is_empty() && !name.starts_with('.') && !name.contains('/') && !name.chars().any(char::is_control);
    if is_one && name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(error(
        ErrorCode::InvalidArgument,
        format!(
            "{option}: '{}' cannot be a checkpoint's name, which has 1 to {LONGEST_NAME} bytes, no '/' and no control character, \
             and does not begin with '.'",
            name.escape_debug()
        ),
    ))
}

/// Decides of each disk whether its changes are noted, and whether they are all that is copied.
pub(super) fn prepare(
    guest: &Guest,
    config: &DomainXml,
    options: &SnapshotOptions,
    disks: &mut [PlannedDisk],
    in_use: &[Identity],
) -> Result<()> {
    if options.checkpoint.is_none() && options.since.is_none() {
        return Ok(());
    }
    let checkpoints = guest.checkpoints()?;
    if let Some(name) = &options.checkpoint {
        must_be_new(guest, &checkpoints, name, disks)?;
        note_changes(guest, config, name, disks)?;
    }
    if let Some(name) = &options.since {
        let since = checkpoints.iter().find(|checkpoint| checkpoint.name == *name);
        let since = since.ok_or_else(|| no_checkpoint(guest, name))?;
        for planned in disks.iter_mut() {
            choose(guest, config, since, options.full_if_needed, planned)?;
        }
        for (planned, wanted) in disks.iter_mut().zip(&options.disks) {
            rest(guest, planned, wanted.backing.as_deref(), in_use)?;
        }
    }
    Ok(())
}

fn no_checkpoint(guest: &Guest, name: &str) -> Error {
    error(
        ErrorCode::NoCheckpoint,
        format!(
            "domain '{0}' has no checkpoint '{name}'; see 'livedisk checkpoints {0}', or take a full backup without since",
            guest.name()
        ),
    )
}

fn must_be_new(guest: &Guest, checkpoints: &[Checkpoint], name: &str, disks: &[PlannedDisk]) -> Result<()> {
    let domain = guest.name();
    if checkpoints.iter().any(|checkpoint| checkpoint.name == name) {
        return Err(error(
            ErrorCode::Busy,
            format!(
                "domain '{domain}' has a checkpoint '{name}' already; give the new one another name, or delete that one \
                 first (livedisk checkpoints {domain} --delete NAME)"
            ),
        ));
    }
    let targets: Vec<_> = disks.iter().map(|disk| disk.target.as_str()).collect();
    match guest.disks_with_bitmap(name, &targets)?.first() {
        None => Ok(()),
        Some(target) => Err(error(
            ErrorCode::Busy,
            format!(
                "disk '{target}' of domain '{domain}' has a bitmap '{name}' that belongs to no checkpoint; give the new \
                 checkpoint another name, or remove the bitmap while the domain is off (qemu-img bitmap --remove)"
            ),
        )),
    }
}

/// Why no bitmap can note what changes on a disk, if so.
fn why_not_noted(disk: &Disk) -> Result<Option<String>> {
    let layer = disk.active();
    Ok(match (layer.format.as_deref(), by_name(layer)) {
        _ if disk.readonly => Some("it is read-only".into()),
        (Some("qcow2"), Some(image)) => {
            let keeps = image::can_keep_bitmaps(&image)?;
            (!keeps).then(|| "its image is of version 2 of qcow2, which keeps no bitmaps (compat=0.10)".into())
        }
        (Some("qcow2"), None) => Some("its image is neither a file nor a block device of this host".into()),
        (format, _) => Some(format!("format {} keeps no bitmaps", format.unwrap_or("unknown"))),
    })
}

fn note_changes(guest: &Guest, config: &DomainXml, name: &str, disks: &mut [PlannedDisk]) -> Result<()> {
    let domain = guest.name();
    for planned in disks.iter_mut() {
        let target = &planned.target;
        match why_not_noted(find_disk(guest, config, target)?)? {
            None => planned.changes.noted = true,
            Some(why) => planned.changes.unnoted = Some(why),
        }
    }
    if disks.iter().any(|disk| disk.changes.noted) {
        return Ok(());
    }
    Err(error(
        ErrorCode::Unsupported,
        format!(
            "checkpoint '{name}' would cover no disk of domain '{domain}': only writable \
             qcow2 images keep bitmaps; leave checkpoint out"
        ),
    ))
}

/// Only what has changed, or the whole disk.
fn choose(
    guest: &Guest,
    config: &DomainXml,
    since: &Checkpoint,
    full_if_needed: bool,
    planned: &mut PlannedDisk,
) -> Result<()> {
    let (domain, target, name) = (guest.name(), &planned.target, &since.name);
    let covered = since.disks.iter().find(|disk| disk.target == *target);
    let why = match covered.map(|disk| &disk.why_not) {
        Some(None) => {
            planned.changes.since = Some(name.clone());
            return Ok(());
        }
        Some(Some(why)) if !full_if_needed => {
            return Err(error(
                ErrorCode::Checkpoint,
                format!(
                    "checkpoint '{name}' of domain '{domain}' cannot be used: disk '{target}': {why}; take a full backup without \
                     since, or ask for FULL_IF_NEEDED, which copies such a disk whole"
                ),
            ));
        }
        Some(Some(why)) => why.clone(),
        None => match why_not_noted(find_disk(guest, config, target)?)? {
            Some(why) => why,
            None => format!("checkpoint '{name}' does not cover it"),
        },
    };
    planned.changes.whole = Some(why);
    Ok(())
}

/// An increment is a qcow2 image that we make, on what it rests on.
fn rest(guest: &Guest, planned: &mut PlannedDisk, backing: Option<&str>, in_use: &[Identity]) -> Result<()> {
    let what = format!("disk '{}' of domain '{}'", planned.target, guest.name());
    let refused = |code, why: &str| Err(error(code, format!("{what}: {why}")));
    if planned.changes.since.is_none() {
        return Ok(());
    }
    if planned.format != "qcow2" {
        return refused(
            ErrorCode::Unsupported,
            "raw cannot hold an increment; use qcow2, or leave since out",
        );
    }
    if planned.reuse {
        return refused(
            ErrorCode::Unsupported,
            "since and REUSE_EXISTING do not go together; let livedisk make the image",
        );
    }
    let Destination::Path(destination) = &planned.destination else {
        return refused(
            ErrorCode::Unsupported,
            "an increment is written to a file or a block device",
        );
    };
    let Some(backing) = backing else { return Ok(()) };
    let is_in_use = Identity::of_path(backing).is_some_and(|identity| in_use.contains(&identity));
    if is_in_use || Identity::are_one(backing, destination) {
        return refused(
            ErrorCode::Destination,
            &format!(
                "backing '{}' is an image that the guest uses, or the destination itself; name the image of the earlier backup",
                backing.escape_debug()
            ),
        );
    }
    let found = image::find_backing(backing);
    planned.backing = Some(found.map_err(|failure| error(failure.code(), format!("{what}: {failure}")))?);
    Ok(())
}
