// SPDX-License-Identifier: LGPL-2.1-or-later
//! The bitmaps that the images of a domain that is off keep.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::failure;
use super::layer::Layer;
use super::qemu_img::{self, Bitmap};
use crate::error::{Error, ErrorCode, Result};

/// Longer ones lead in a circle.
const LONGEST: usize = 256;

/// Of each image of the chain that begins with the qcow2 image at `path`: its path, and its bitmaps. It ends before the first
/// image that is no qcow2 file and so has none.
pub(crate) fn bitmaps_of_chain(path: &str) -> Result<Vec<(String, Vec<Bitmap>)>> {
    let mut found = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next.take().filter(|_| found.len() < LONGEST) {
        // A FIFO would be waited for.
        let kind = std::fs::metadata(&path).map_err(|error| failure::cannot(&path, "read", error))?;
        if !kind.is_file() && !kind.file_type().is_block_device() {
            let message = format!("'{}' is neither a file nor a block device", path.escape_debug());
            return Err(Error::new(ErrorCode::Io, message));
        }
        let info = qemu_img::info_live(&Layer::whole(path.as_str(), "qcow2"))?;
        if info.backing_format.as_deref() == Some("qcow2") {
            // A relative name is one beside the image.
            let backing = info.backing.map(|name| Path::new(&path).with_file_name(name));
            next = backing.and_then(|path| path.into_os_string().into_string().ok());
        }
        found.push((path, info.bitmaps));
    }
    Ok(found)
}

/// Whether a qcow2 image that QEMU has open is of a version that keeps bitmaps.
pub(crate) fn can_keep_bitmaps(image: &Layer) -> Result<bool> {
    qemu_img::info_live(image).map(|info| info.keeps_bitmaps)
}

/// A copy of an image has no checkpoints.
pub(crate) fn drop_bitmaps(file: &File, shown: &str) -> Result<()> {
    let bitmaps = qemu_img::info(file, "qcow2", shown)?.bitmaps;
    bitmaps
        .iter()
        .try_for_each(|bitmap| qemu_img::drop_bitmap(file, &bitmap.name, shown))
}

/// libvirt makes up a bitmap that is missing when it commits into the clone, and that one knows too little.
pub(crate) fn must_have_bitmaps_of(source: &Layer, clone: &File, shown: &str) -> Result<()> {
    let found = qemu_img::info(clone, "qcow2", shown)?.bitmaps;
    let wanted = qemu_img::info_live(source)?.bitmaps;
    let mut wanted = wanted.iter().filter(|bitmap| bitmap.records && !bitmap.in_use);
    match wanted.find(|bitmap| !found.contains(bitmap)) {
        None => Ok(()),
        Some(lost) => Err(Error::new(
            ErrorCode::Verify,
            format!(
                "the clone '{shown}' lacks the bitmap of checkpoint '{}', or its bitmap differs from that of '{}'; clone the \
                 file as it is, or delete the checkpoint first",
                lost.name,
                source.path.escape_debug()
            ),
        )),
    }
}
