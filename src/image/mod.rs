// SPDX-License-Identifier: LGPL-2.1-or-later
//! Image files: where they may lie, how they are made, how they are checked. No libvirt here.
#![forbid(unsafe_code)]

mod clone;
mod destination;
mod made;
mod nbd;
mod output;
mod qemu_img;
mod write_out;

pub(crate) use clone::{Cloned, Watch, can_share_blocks, copy, reflink};
pub(crate) use destination::{Destination, Place};
pub(crate) use made::Made;
pub(crate) use nbd::Server;
pub(crate) use output::{Backing, Output};
pub(crate) use qemu_img::{are_equal, check, commit, compare_with_live, has_content, has_data_file, rebase_relative};

/// A clone that failed, and why.
pub(crate) fn failed_clone(shown: &str, error: std::io::Error) -> crate::error::Error {
    output::cannot(shown, "clone to", error)
}

/// Makes an empty qcow2 overlay on `backing` (path, format), where nothing is. It is in `made` also when only half made.
pub(crate) fn make_overlay(
    path: &str,
    size: u64,
    backing: (&str, &str),
    made: &mut Option<Made>,
) -> crate::error::Result<()> {
    let (overlay, file) = Made::create(path)?;
    *made = Some(overlay);
    qemu_img::create_qcow2(&file, size, Some(backing), &path.escape_debug().to_string())
}

/// Removes a disk's old image.
pub(crate) fn remove_source(path: &str) -> crate::error::Result<()> {
    std::fs::remove_file(path).map_err(|error| output::cannot(path, "remove", error))
}

/// Opens a quiet image for reading.
pub(crate) fn open_source(path: &str) -> crate::error::Result<std::fs::File> {
    std::fs::File::open(path).map_err(|error| output::cannot(path, "read", error))
}

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

/// What makes a file the same file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Identity {
    File { device: u64, inode: u64 },
    Device { number: u64 },
}

impl Identity {
    pub(crate) fn of(stat: &Stat) -> Self {
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice {
            Self::Device { number: stat.st_rdev }
        } else {
            Self::File {
                device: stat.st_dev,
                inode: stat.st_ino,
            }
        }
    }

    /// Of the file that `path` leads to, through symlinks; `None` where there is none that we can see.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        rustix::fs::stat(path).ok().as_ref().map(Self::of)
    }
}
