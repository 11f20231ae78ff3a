// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which of libvirt's calls starts the mirrors of a plan, and what that call copies.

use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::Plan;
use crate::operation::types::Method;

impl Plan {
    /// The call that starts a mirror.
    pub(super) fn mirroring_call(&self) -> &'static str {
        match self.method {
            Method::Rebase => "virDomainBlockRebase",
            _ => "virDomainBlockCopy",
        }
    }

    /// REBASE copies the active layer onto an overlay, and what is below it later. A mirror copies all at once.
    pub(super) fn flattens(&self, disk: &PlannedDisk) -> bool {
        self.method == Method::Rebase && !self.shallow && disk.backing.is_some()
    }
}
