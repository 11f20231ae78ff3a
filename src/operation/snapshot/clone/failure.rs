// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a snapshot by clone fails, and what to do about it.

use super::disk::source;
use super::engine::Engine;
use crate::driver::code_of_reason;
use crate::error::{Error, ErrorCode};

/// Why an operation rolls back by itself, or cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    DomainGone,
    /// The domain runs again, on overlays that hold what it wrote.
    Restarted,
    Commit(usize),
    ForeignChain(usize),
    /// The snapshot was taken in a window whose end was not observed.
    OutcomeUnknown,
}

impl Failure {
    pub(super) fn explain(self, engine: &Engine) -> Error {
        let name = engine.plan.guest.name();
        let disk = |index: usize| format!("disk '{}' of domain '{name}'", engine.plan.disks[index].target);
        let (code, message) = match self {
            Self::DomainGone => (
                ErrorCode::DomainState,
                format!(
                    "domain '{name}' was shut off, destroyed or restarted during the operation; start again when it runs"
                ),
            ),
            Self::Restarted => (
                ErrorCode::DomainState,
                format!(
                    "domain '{name}' was restarted during the operation and runs on overlays with what it wrote since; let \
                     recover bring it back to its own images (livedisk recover)"
                ),
            ),
            Self::Commit(index) => {
                let reason = engine.disks[index].overlay.commit.failure();
                let reason = reason.unwrap_or("no reason is known");
                (
                    code_of_reason(reason),
                    format!(
                        "{}: the active commit of its overlay into '{}' failed: {reason}; the guest continues on the \
                         overlay; fix the storage and commit it (virsh blockcommit --active --pivot)",
                        disk(index),
                        source(&engine.plan.disks[index]).path.escape_debug()
                    ),
                )
            }
            Self::ForeignChain(index) => (
                ErrorCode::Busy,
                format!(
                    "{}: another program changed its backing chain during the snapshot; see 'virsh dumpxml'",
                    disk(index)
                ),
            ),
            Self::OutcomeUnknown => (
                ErrorCode::JobFailed,
                format!(
                    "it is not known when the snapshot of domain '{name}' was taken, so it cannot be relied on; take another"
                ),
            ),
        };
        Error::new(code, message)
    }
}
