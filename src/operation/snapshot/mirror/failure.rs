// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a snapshot by mirrors fails, and what to do about it.

use super::engine::Engine;
use crate::driver::code_of_reason;
use crate::error::{Error, ErrorCode};
use crate::operation::parts::definition::defined_again;
use crate::operation::parts::window::domain_gone;

/// Why an operation rolls back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    DomainGone,
    Job(usize),
    NotConverging(usize),
    /// Somebody else defines the domain again and again.
    DefinedAgain,
    /// The agent died in the window: nobody knows what the images hold.
    OutcomeUnknown,
}

impl Failure {
    pub(super) fn explain(self, engine: &Engine) -> Error {
        let name = engine.plan.guest.name();
        match self {
            Self::DomainGone => domain_gone(&engine.plan.guest),
            Self::Job(index) => {
                let (planned, job) = (&engine.plan.disks[index], &engine.disks[index].mirror.job);
                let reason = job.failure().unwrap_or("no reason is known");
                let code = code_of_reason(reason);
                let advice = match code {
                    ErrorCode::NoSpace => "make room or name another destination",
                    ErrorCode::Permission => "let QEMU's user write there",
                    _ => "see QEMU's log of the domain",
                };
                Error::new(
                    code,
                    format!(
                        "the copy of disk '{}' of domain '{name}' to '{}' failed: {reason}; {advice}",
                        planned.target,
                        planned.destination.shown()
                    ),
                )
            }
            Self::NotConverging(index) => {
                let rates = engine.disks[index].mirror.job.rates().unwrap_or_default();
                Error::new(
                    ErrorCode::JobFailed,
                    format!(
                        "the copy of disk '{}' of domain '{name}' does not catch up: the guest dirties {} KiB/s and {} KiB/s \
                         are copied; ask for WRITE_BLOCKING, for BACKUP, or try again when the guest writes less",
                        engine.plan.disks[index].target,
                        rates.dirtied >> 10,
                        rates.copied >> 10
                    ),
                )
            }
            Self::DefinedAgain => defined_again(&engine.plan.guest),
            Self::OutcomeUnknown => Error::new(
                ErrorCode::JobFailed,
                format!("it is unknown how the copy of domain '{name}' ended, so it was rolled back; copy again"),
            ),
        }
    }
}
