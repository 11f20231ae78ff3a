// SPDX-License-Identifier: LGPL-2.1-or-later
//! The directory in which a file lies, and the room there.

use std::path::Path;

use rustix::fs::statvfs;

pub(crate) fn directory_of(path: &str) -> &Path {
    Path::new(path).parent().unwrap_or(Path::new("/"))
}

/// Of a file system, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// What an ordinary user may still write.
    pub(crate) free: u64,
    pub(crate) size: u64,
}

impl Room {
    /// `None` where it cannot be asked.
    pub(crate) fn of(directory: &Path) -> Option<Self> {
        let found = statvfs(directory).ok()?;
        Some(Self {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            size: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}
