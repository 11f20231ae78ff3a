// SPDX-License-Identifier: LGPL-2.1-or-later
//! The room that scratch files have. QEMU pauses the guest when a scratch file cannot grow, and the guest's own image may lie
//! beside it: a backup is ended while there is still room.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::image;
use crate::operation::course::shared::Shared;
use crate::operation::parts::window::spawn;

/// A twentieth of a file system is left alone, within these limits.
const SHARE: u64 = 20;
const LEAST: u64 = 4 << 20;
const MOST: u64 = 1 << 30;

/// A guest on quick storage overwrites about 50 MiB meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Of a file system of this size.
fn reserve(size: u64) -> u64 {
    (size / SHARE).clamp(LEAST, MOST)
}

/// How much may be written there; `None` where nobody can say.
pub(in crate::operation) fn usable(directory: &str) -> Option<u64> {
    let room = image::Room::of(Path::new(directory))?;
    Some(room.free.saturating_sub(reserve(room.size)))
}

pub(in crate::operation) fn must_be_usable(directory: &str, what: &str) -> Result<()> {
    if usable(directory) != Some(0) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::NoSpace,
        format!(
            "{what}: the file system of '{}' has too little room for a scratch file; make room there, or name another \
             directory for scratch files (scratch)",
            directory.escape_debug()
        ),
    ))
}

/// Watches file systems in a thread of its own.
pub(in crate::operation) struct Room {
    used_up: Arc<AtomicBool>,
    /// Dropped, it ends the thread.
    _end: Sender<()>,
}

impl Room {
    pub(in crate::operation) fn watch(directories: BTreeSet<String>, shared: &Arc<Shared>) -> Result<Self> {
        let used_up = Arc::new(AtomicBool::new(false));
        let (end, ended) = channel();
        let (noted, shared) = (Arc::clone(&used_up), Arc::clone(shared));
        spawn("livedisk-room", move || {
            while ended.recv_timeout(LOOK_AGAIN) == Err(RecvTimeoutError::Timeout) {
                if directories.iter().any(|directory| usable(directory) == Some(0)) {
                    noted.store(true, Ordering::SeqCst);
                    shared.wake();
                    return;
                }
            }
        })?;
        Ok(Self { used_up, _end: end })
    }

    pub(in crate::operation) fn is_used_up(&self) -> bool {
        self.used_up.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_system_is_left_alone() {
        for (mib, reserved) in [(64, 4), (1024, 51), (1 << 20, 1024)] {
            assert_eq!(reserve(mib << 20) >> 20, reserved, "of {mib} MiB");
        }
    }
}
