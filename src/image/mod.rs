// SPDX-License-Identifier: LGPL-2.1-or-later
//! Image files: where they may lie, how they are made, how they are checked. No libvirt here.
#![forbid(unsafe_code)]

mod access;
mod backing;
mod bitmaps;
mod clone;
mod convert;
mod destination;
mod failure;
mod header;
mod identity;
mod increment;
mod layer;
mod made;
mod nbd;
mod output;
mod owner;
mod qemu_img;
mod room;
mod write_out;

use std::path::{Path, PathBuf};

pub(crate) use access::{is_closed_to, is_readable};
pub(crate) use backing::{find_backing, fits_header};
pub(crate) use bitmaps::{bitmaps_of_chain, can_keep_bitmaps, drop_bitmaps, must_have_bitmaps_of};
pub(crate) use clone::{Cloned, can_share_blocks, copy, reflink};
pub(crate) use convert::{Exported, Manner, Source};
pub(crate) use destination::{Destination, Place};
pub(crate) use header::{name_backing, rests_on};
pub(crate) use identity::Identity;
pub(crate) use layer::{Backing, Layer, allocated};
pub(crate) use made::Made;
pub(crate) use nbd::Server;
pub(crate) use output::{Form, Output};
pub(crate) use owner::{give_as, is_handed_over, succeed};
pub(crate) use qemu_img::{
    Bitmap, are_equal, check, commit, compare_with_live, has_content, must_be_able_to_convert,
    must_be_able_to_copy_changes, remove_bitmap,
};
pub(crate) use room::{Room, directory_of};
pub(crate) use write_out::Watch;

/// A clone that failed, and why.
pub(crate) fn failed_clone(shown: &str, error: std::io::Error) -> crate::error::Error {
    failure::cannot(shown, "clone to", error)
}

/// Makes an empty qcow2 overlay on `backing`, where nothing is. It is in `made` also when only half made.
pub(crate) fn make_overlay(
    path: &str,
    size: u64,
    backing: &Layer,
    made: &mut Option<Made>,
) -> crate::error::Result<()> {
    let (overlay, file) = Made::create(path)?;
    *made = Some(overlay);
    give_as(&backing.path, &file);
    let backing = Some(&backing.as_backing());
    qemu_img::create_qcow2(&file, size, backing, false, &path.escape_debug().to_string())
}

/// Makes an empty qcow2 image where nothing is, whose `owner`'s (a path) owner it is. It is in `made` also when only half made.
pub(crate) fn make_scratch(
    path: &str,
    size: u64,
    owner: Option<&str>,
    made: &mut Option<Made>,
) -> crate::error::Result<()> {
    let (scratch, file) = Made::create(path)?;
    *made = Some(scratch);
    if let Some(owner) = owner {
        give_as(owner, &file);
    }
    qemu_img::create_qcow2(&file, size, None, false, &path.escape_debug().to_string())
}

/// Removes a disk's old image, and where the disk named it by symbolic links those too, which lead nowhere then.
pub(crate) fn remove_source(path: &str) -> crate::error::Result<()> {
    let image = without_links(path);
    let links = links_from(path);
    let remove = |path: &Path| {
        std::fs::remove_file(path).map_err(|error| failure::cannot(&path.to_string_lossy(), "remove", error))
    };
    remove(Path::new(&image))?;
    links.iter().rev().try_for_each(|link| {
        log::info!(
            "'{}' led to the image '{}', and is removed",
            link.to_string_lossy().escape_debug(),
            image.escape_debug()
        );
        remove(link)
    })
}

/// The symbolic links from `path` to the file that it leads to.
fn links_from(path: &str) -> Vec<PathBuf> {
    let mut links = Vec::new();
    let mut at = PathBuf::from(path);
    // The kernel follows no more.
    while let (Ok(to), true) = (std::fs::read_link(&at), links.len() < 40) {
        // A relative one is one beside the link.
        let next = at.with_file_name("").join(to);
        links.push(std::mem::replace(&mut at, next));
    }
    links
}

/// The name of the file itself that `path` leads to, or `path` where that is not known.
pub(crate) fn without_links(path: &str) -> String {
    let found = std::fs::canonicalize(path).ok();
    let found = found.and_then(|found| found.into_os_string().into_string().ok());
    found.unwrap_or_else(|| path.to_owned())
}

/// Opens what an operation wrote to, for reading: a file by its own name, a block device also by a link.
pub(crate) fn open_destination(path: &str) -> crate::error::Result<std::fs::File> {
    match Identity::of_path(path) {
        Some(Identity::Device { .. }) => open_source(path),
        _ => Made::adopt(path).map(|(_, file)| file),
    }
}

/// Opens a quiet image for reading.
pub(crate) fn open_source(path: &str) -> crate::error::Result<std::fs::File> {
    std::fs::File::open(path).map_err(|error| failure::cannot(path, "read", error))
}
