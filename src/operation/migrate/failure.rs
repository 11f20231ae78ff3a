// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a migration fails, and what to do about it.

use super::engine::Engine;
use crate::driver::code_of_reason;
use crate::error::{Error, ErrorCode};
use crate::operation::parts::tracked::does_not_catch_up;

/// Why a migration rolls back by itself, or cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    DomainGone,
    /// The domain runs again, on an overlay that holds what it wrote.
    Restarted,
    Copy,
    Commit,
    NotConverging,
    Return,
    ForeignChain,
}

impl Failure {
    pub(super) fn explain(self, engine: &Engine) -> Error {
        let what = engine.site.what();
        let shown = engine.plan.destination.shown();
        match self {
            Self::DomainGone => Error::new(
                ErrorCode::DomainState,
                format!(
                    "{what}: the domain was shut off, destroyed or restarted during the migration; start again when it runs"
                ),
            ),
            Self::Restarted => Error::new(
                ErrorCode::DomainState,
                format!(
                    "{what}: the domain was restarted during the migration and runs on an overlay with what it wrote since; \
                     let recover clean it up (livedisk recover)"
                ),
            ),
            Self::Copy | Self::Commit => {
                let commits = [&engine.overlay.commit, &engine.destination_overlay.commit];
                let (reason, job) = if self == Self::Copy {
                    (engine.copy.job.failure(), "copy to")
                } else {
                    let failures = commits.into_iter().find_map(|commit| commit.failure());
                    (failures, "active commit on the way to")
                };
                let reason = reason.unwrap_or("how it ended was not observed");
                Error::new(
                    code_of_reason(reason),
                    format!("{what}: the {job} '{shown}' failed: {reason}; see QEMU's log of the domain"),
                )
            }
            Self::NotConverging => {
                let reason = does_not_catch_up("copy", engine.copy.job.rates().unwrap_or_default());
                Error::new(
                    ErrorCode::JobFailed,
                    format!("{what}: {reason}; ask for WRITE_BLOCKING, or try again when the guest writes less"),
                )
            }
            Self::Return => Error::new(
                ErrorCode::JobFailed,
                format!(
                    "{what}: libvirtd died in the pivot and does not know that the guest writes to '{shown}'; QEMU's copy back \
                     to the image that libvirt names failed: {}; fix that, then recover (livedisk recover); keep every image \
                     until then",
                    engine.pivot.failure().unwrap_or("without a reason")
                ),
            ),
            Self::ForeignChain => Error::new(
                ErrorCode::Busy,
                format!(
                    "{what}: its backing chain is not one that the migration makes, so another program changed it; nothing more \
                     is touched; compare 'virsh dumpxml' with QEMU's query-block (virsh qemu-monitor-command)"
                ),
            ),
        }
    }
}
