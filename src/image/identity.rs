// SPDX-License-Identifier: LGPL-2.1-or-later
//! What makes a file the same file.

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

    /// Whether both paths lead to one file.
    pub(crate) fn are_one(path: &str, other: &str) -> bool {
        let found = Self::of_path(path);
        found.is_some() && found == Self::of_path(other)
    }
}
