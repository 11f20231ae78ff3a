// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where a part works: one disk of the operation's guest.

use std::sync::Arc;

use crate::driver::{BlockDevice, Guest};
use crate::error::{Error, Result};
use crate::operation::course::procedure::Ties;
use crate::operation::course::shared::Shared;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::RecordedDisk;

#[derive(Clone)]
pub(in crate::operation) struct Site {
    pub(in crate::operation) guest: Arc<Guest>,
    pub(in crate::operation) target: String,
    /// The disk's place in the record.
    pub(in crate::operation) index: usize,
    pub(in crate::operation) shared: Arc<Shared>,
    pub(in crate::operation) journal: Arc<Journal>,
}

impl Site {
    pub(in crate::operation) fn new(guest: &Arc<Guest>, ties: &Ties, index: usize, target: &str) -> Self {
        Self {
            guest: Arc::clone(guest),
            target: target.to_owned(),
            index,
            shared: Arc::clone(&ties.shared),
            journal: Arc::clone(&ties.journal),
        }
    }

    pub(in crate::operation) fn device(&self) -> BlockDevice<'_> {
        self.guest.get_block_device(&self.target)
    }

    /// The disk as the record has it.
    pub(in crate::operation) fn recorded(&self) -> Result<RecordedDisk> {
        self.journal.read().disk(self.index).cloned()
    }

    /// Why the disk's job of this kind (`copy`, `commit`) failed, where QEMU said so.
    pub(in crate::operation) fn failure_of(&self, kind: &str) -> Option<String> {
        let end = self.shared.facts(|facts| facts.qemu_end(kind, &self.target).cloned());
        end.flatten()
    }

    /// A new job is about to start: what was said of the old one is void.
    pub(in crate::operation) fn forget_events(&self) {
        self.shared.facts(|facts| facts.forget(&self.target));
    }

    pub(in crate::operation) fn what(&self) -> String {
        format!("disk '{}' of domain '{}'", self.target, self.guest.name())
    }

    /// The same error, of this disk.
    pub(in crate::operation) fn explain(&self, error: &Error) -> Error {
        Error::new(error.code(), format!("{}: {}", self.what(), error.message()))
            .with_libvirt_code(error.libvirt_code())
    }
}
