// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is seen of a snapshot by mirrors.

use crate::operation::state::{Image, Job, Mark, Stored};

/// What is left to do to the images once they are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rest {
    /// They rest on the guest's backing images, and are not to.
    Flatten,
    Verify,
    Nothing,
}

/// What libvirt, the file system and the record say now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Observed {
    /// The guest instance that the operation was started on still exists.
    pub(crate) alive: bool,
    pub(crate) mark: Mark,
    /// Not frozen by us, as far as can be known.
    pub(crate) thawed: bool,
    /// Not paused by us.
    pub(crate) resumed: bool,
    /// The window has been passed, though the record may not say so yet.
    pub(crate) fixed: bool,
    /// The caller wants the operation finished.
    pub(crate) finish: bool,
    pub(crate) limited: bool,
    pub(crate) rest: Rest,
    /// Of a domain that must not be defined while its mirrors are started, where it is defined at all.
    pub(crate) stored: Option<Stored>,
    /// Of each disk: the destination is the caller's own.
    pub(crate) taken: Vec<bool>,
    pub(crate) images: Vec<Image>,
    pub(crate) jobs: Vec<Job>,
}

impl Observed {
    /// Before the first step. `taken`, of each disk.
    pub(super) fn at_start(taken: Vec<bool>, limited: bool, rest: Rest, stored: Option<Stored>) -> Self {
        Self {
            alive: true,
            mark: Mark::Absent,
            thawed: true,
            resumed: true,
            fixed: false,
            finish: false,
            limited,
            rest,
            stored,
            images: vec![Image::Missing; taken.len()],
            jobs: vec![Job::NotStarted; taken.len()],
            taken,
        }
    }
}
