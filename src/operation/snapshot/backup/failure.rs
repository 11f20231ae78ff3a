// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a snapshot by backup fails, and what to do about it.

use super::disk::Copy;
use super::engine::Engine;
use crate::error::{Error, ErrorCode};
use crate::operation::parts::window::domain_gone;

/// Why an operation rolls back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    DomainGone,
    Reader(usize),
    /// The backup ended before everything was read.
    Lost,
    ScratchFull,
    GuestStopped,
    /// The agent died in the window: nobody knows how long the guest was frozen.
    OutcomeUnknown,
}

impl Failure {
    pub(super) fn explain(self, engine: &Engine) -> Error {
        let (guest, name) = (&engine.plan.guest, engine.plan.guest.name());
        match self {
            Failure::DomainGone => domain_gone(guest),
            Failure::Reader(index) => reader(engine, index),
            Failure::Lost => lost(engine),
            Failure::ScratchFull => engine.job.full(guest),
            Failure::GuestStopped if engine.job.is_full(&engine.ties.shared) => engine.job.full(guest),
            Failure::GuestStopped => Error::new(
                ErrorCode::JobFailed,
                format!(
                    "a write of domain '{name}' failed during its backup, and QEMU stopped the domain; it continues \
                     without the backup; check its own storage and that of the scratch files"
                ),
            ),
            Failure::OutcomeUnknown => Error::new(
                ErrorCode::JobFailed,
                format!(
                    "it is unknown how long domain '{name}' was frozen when its backup began, so it was rolled back; \
                     copy again"
                ),
            ),
        }
    }
}

fn lost(engine: &Engine) -> Error {
    let guest = &engine.plan.guest;
    if guest.goes_away() {
        return domain_gone(guest);
    }
    if engine.job.broken {
        return Error::new(
            ErrorCode::JobFailed,
            format!(
                "the backup of domain '{}' was lost: libvirtd died meanwhile, or QEMU ended its job; copy again",
                guest.name()
            ),
        );
    }
    Error::new(
        ErrorCode::JobFailed,
        format!(
            "the backup of domain '{}' ended before everything was copied: it was aborted, or QEMU could not read a \
             disk or write a scratch file; check QEMU's log of the domain, then copy again",
            guest.name()
        ),
    )
}

fn reader(engine: &Engine, index: usize) -> Error {
    let (guest, planned) = (&engine.plan.guest, &engine.plan.disks[index]);
    let Copy::Failed(error) = &engine.disks[index].copy else {
        return lost(engine);
    };
    // Its export went with it.
    if error.code() == ErrorCode::Io && guest.goes_away() {
        return domain_gone(guest);
    }
    let advice = match error.code() {
        ErrorCode::NoSpace => "; make room or name another destination",
        ErrorCode::Io => "; check the destination's storage, then copy again",
        _ => "",
    };
    let message = format!(
        "the backup of disk '{}' of domain '{}' failed: {}{advice}",
        planned.target,
        guest.name(),
        error.message()
    );
    Error::new(error.code(), message)
}
