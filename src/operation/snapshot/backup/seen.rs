// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is seen of a snapshot by backup.

use crate::operation::parts::backup::checkpoint::Checkpoint;
use crate::operation::parts::backup::export::Export;
use crate::operation::state::{Image, Mark};

/// How far a disk is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Read {
    /// Nobody reads it.
    Waiting,
    Reading,
    Done,
    Failed,
}

/// What libvirt, the file system and the record say now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Observed {
    /// The guest instance that the operation was started on still exists.
    pub(crate) alive: bool,
    pub(crate) mark: Mark,
    /// Not frozen by us, as far as can be known.
    pub(crate) thawed: bool,
    /// The window has been passed, though the record may not say so yet.
    pub(crate) fixed: bool,
    /// The caller wants the operation finished.
    pub(crate) finish: bool,
    /// The record says of each disk that is copied that it is.
    pub(crate) noted: bool,
    pub(crate) verified: bool,
    pub(crate) backup: SeenBackup,
    /// The one that is made at the point in time.
    pub(crate) checkpoint: Checkpoint,
    /// Of each disk: the destination is the caller's own.
    pub(crate) taken: Vec<bool>,
    pub(crate) images: Vec<Image>,
    pub(crate) scratches: Vec<Image>,
    pub(crate) reads: Vec<Read>,
}

/// What is seen of the backup itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SeenBackup {
    /// The directory of the export's socket is there.
    pub(crate) server: bool,
    pub(crate) export: Export,
    /// The scratch files have had the room that there is for them.
    pub(crate) full: bool,
    /// QEMU has no job for the backup any more that libvirt shows.
    pub(crate) broken: bool,
    /// QEMU stopped the guest for a write that failed, which may be one to a scratch file.
    pub(crate) stopped: bool,
}

impl SeenBackup {
    const NOTHING: Self = Self {
        server: false,
        export: Export::None,
        full: false,
        broken: false,
        stopped: false,
    };
}

impl Observed {
    /// Before the first step. `taken`, of each disk.
    pub(super) fn at_start(taken: Vec<bool>) -> Self {
        Self {
            alive: true,
            mark: Mark::Absent,
            thawed: true,
            fixed: false,
            finish: false,
            noted: true,
            verified: false,
            backup: SeenBackup::NOTHING,
            checkpoint: Checkpoint::Unwanted,
            images: vec![Image::Missing; taken.len()],
            scratches: vec![Image::Missing; taken.len()],
            reads: vec![Read::Waiting; taken.len()],
            taken,
        }
    }
}
