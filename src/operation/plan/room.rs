// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether destinations can hold what is to be copied there: looked at before the guest is frozen for it.

use std::collections::BTreeMap;
use std::fs::metadata;
use std::os::unix::fs::MetadataExt;

use crate::error::{Error, ErrorCode, Result};
use crate::image::{Room, allocated, directory_of};

const MIB: u64 = 1 << 20;

/// What is to be copied to a file.
pub(in crate::operation) struct Load<'a> {
    /// For the message.
    pub(in crate::operation) target: &'a str,
    pub(in crate::operation) destination: &'a str,
    /// The room of the images whose content is copied.
    pub(in crate::operation) images: Vec<u64>,
}

impl Load<'_> {
    /// At least so much: an image above another may hide what that one has, so the biggest counts alone. What stands at the
    /// destination makes room when it is written over.
    fn bytes(&self) -> u64 {
        let most = self.images.iter().copied().max().unwrap_or(0);
        most.saturating_sub(allocated(self.destination))
    }
}

/// Refuses with NO_SPACE what a file system cannot hold. One that cannot be asked is not judged.
pub(in crate::operation) fn must_have_room(domain: &str, loads: &[Load<'_>]) -> Result<()> {
    let mut wanted: BTreeMap<u64, (u64, Vec<&Load<'_>>)> = BTreeMap::new();
    for load in loads {
        if let Ok(file_system) = metadata(directory_of(load.destination)) {
            let entry = wanted.entry(file_system.dev()).or_default();
            entry.0 += load.bytes();
            entry.1.push(load);
        }
    }
    for (bytes, loads) in wanted.into_values() {
        let destination = loads[0].destination;
        let Some(Room { free, .. }) = Room::of(directory_of(destination)) else {
            continue;
        };
        if free < bytes {
            let targets: Vec<_> = loads.iter().map(|load| load.target).collect();
            return Err(Error::new(
                ErrorCode::NoSpace,
                format!(
                    "the file system of '{}' has {} MiB free, and disk '{}' of domain '{domain}' has {} MiB of data; make room \
                     there, or name another destination",
                    destination.escape_debug(),
                    free / MIB,
                    targets.join("', '"),
                    bytes.div_ceil(MIB),
                ),
            ));
        }
    }
    Ok(())
}
