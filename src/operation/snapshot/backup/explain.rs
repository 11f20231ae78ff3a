// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a backup failed, in words.

use super::Failure;
use super::disk::Copy;
use super::engine::Engine;
use crate::error::{Error, ErrorCode};
use crate::operation::course::procedure::Procedure;

pub(super) fn failure(engine: &Engine, failure: Failure) -> Error {
    let (guest, name) = (&engine.plan().guest, engine.plan().guest.name());
    match failure {
        Failure::DomainGone => Error::new(
            ErrorCode::DomainState,
            format!(
                "domain '{name}' was shut off, destroyed or restarted during the operation; start again when it runs"
            ),
        ),
        Failure::Reader(index) => reader(engine, index),
        Failure::Lost => lost(engine),
        Failure::ScratchFull => engine.job.full(guest),
        Failure::GuestStopped if engine.job.is_full(&engine.ties().shared) => engine.job.full(guest),
        Failure::GuestStopped => Error::new(
            ErrorCode::JobFailed,
            format!(
                "a write of domain '{name}' failed while its backup ran, and QEMU stopped the domain; it goes on without the \
                 backup; see to its own storage and to that of the scratch files"
            ),
        ),
        Failure::OutcomeUnknown => Error::new(
            ErrorCode::JobFailed,
            format!("nobody saw how the backup of domain '{name}' began, so it cannot be relied on; copy again"),
        ),
    }
}

fn lost(engine: &Engine) -> Error {
    let guest = &engine.plan().guest;
    if guest.goes_away() {
        return failure(engine, Failure::DomainGone);
    }
    if engine.job.broken {
        return Error::new(
            ErrorCode::JobFailed,
            format!(
                "the backup of domain '{}' was lost: libvirtd died meanwhile, or QEMU ended its job, and nobody knows when; copy \
                 again",
                guest.name()
            ),
        );
    }
    Error::new(
        ErrorCode::JobFailed,
        format!(
            "the backup of domain '{}' ended before everything was copied: somebody ended it, or QEMU could not read a disk or \
             write a scratch file; see QEMU's log of the domain, then copy again",
            guest.name()
        ),
    )
}

fn reader(engine: &Engine, index: usize) -> Error {
    let (guest, planned) = (&engine.plan().guest, &engine.plan().disks[index]);
    let Copy::Failed(error) = &engine.disks[index].copy else {
        return lost(engine);
    };
    // Its export went with it.
    if error.code() == ErrorCode::Io && guest.goes_away() {
        return failure(engine, Failure::DomainGone);
    }
    let advice = match error.code() {
        ErrorCode::NoSpace => "; make room or name another destination",
        ErrorCode::Io => "; see to the destination's storage, then copy again",
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
