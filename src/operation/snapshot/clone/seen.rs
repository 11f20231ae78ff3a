// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is seen of a snapshot by clone.

use crate::operation::state::{Image, Job, Mark};

/// The live chain of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Chain {
    Source,
    Overlay,
    /// Source as libvirt has it, which did not live to note the snapshot; but the guest writes to A'.
    Unnamed,
    /// None of these: somebody else changed it.
    Foreign,
}

/// What is seen of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SeenDisk {
    pub(crate) chain: Chain,
    /// A'.
    pub(crate) overlay: Image,
    pub(crate) destination: Image,
    /// The destination is the caller's own.
    pub(crate) taken: bool,
    /// The destination holds all of A, and is on disk.
    pub(crate) cloned: bool,
    /// The active commit of A' into A.
    pub(crate) commit: Job,
    /// The guest's disk is throttled by us.
    pub(crate) throttled: bool,
}

/// What libvirt, the file system and the record say now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Observed {
    /// The guest instance that the operation was started on still exists.
    pub(crate) alive: bool,
    /// No instance of the domain runs.
    pub(crate) off: bool,
    /// Not frozen by us, as far as can be known.
    pub(crate) thawed: bool,
    /// `Begun`: files are being made. `Fixing`: the window is about to open, or is open. `Copying`: the point in time is
    /// fixed. `Fixed`: the images are whole.
    pub(crate) mark: Mark,
    /// The window has been passed, and what it came to is known.
    pub(crate) fixed: bool,
    /// The images were checked.
    pub(crate) verified: bool,
    pub(crate) finish: bool,
    /// The caller's function makes the images, where there is nothing before.
    pub(crate) by_callback: bool,
    pub(crate) disks: Vec<SeenDisk>,
}

impl Observed {
    /// Before the first step. `taken`, of each disk.
    pub(super) fn at_start(taken: impl IntoIterator<Item = bool>, by_callback: bool) -> Self {
        let disk = |taken| SeenDisk {
            chain: Chain::Source,
            overlay: Image::Missing,
            destination: Image::Missing,
            taken,
            cloned: false,
            commit: Job::NotStarted,
            throttled: false,
        };
        Self {
            alive: true,
            off: false,
            thawed: true,
            mark: Mark::Absent,
            fixed: false,
            verified: false,
            finish: false,
            by_callback,
            disks: taken.into_iter().map(disk).collect(),
        }
    }
}
