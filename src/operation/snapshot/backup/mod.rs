// SPDX-License-Identifier: LGPL-2.1-or-later
//! The snapshot by a pull backup: all that is known of the procedure, as one pure function.
//!
//! The backup's job lasts no longer than its disks are read. It is ended before anything else is done, on every way: until
//! then the guest's writes go to scratch files too.

#[cfg(any(test, debug_assertions, feature = "faults"))]
mod accidents;
pub(super) mod describe;
mod disk;
pub(in crate::operation) mod engine;
mod explain;
pub(super) mod model;
pub(in crate::operation) mod plan;

use crate::operation::course::procedure::Turn;
use crate::operation::parts::backup::export::Export;
use crate::operation::state::{Goal, Image, Mark, position};
use crate::operation::types::Phase;

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
    /// QEMU stopped the guest for a write that failed, which may be one to a scratch file.
    pub(crate) stopped: bool,
    /// The window has been passed, though the record may not say so yet.
    pub(crate) fixed: bool,
    /// The caller wants the operation finished.
    pub(crate) finish: bool,
    /// The record says of each disk that is copied that it is.
    pub(crate) noted: bool,
    pub(crate) verified: bool,
    /// The scratch files have had the room that there is for them.
    pub(crate) full: bool,
    /// The directory of the export's socket is there.
    pub(crate) server: bool,
    pub(crate) export: Export,
    /// QEMU has no job for the backup any more that libvirt shows.
    pub(crate) broken: bool,
    /// Of each disk.
    pub(crate) images: Vec<Image>,
    pub(crate) scratches: Vec<Image>,
    pub(crate) reads: Vec<Read>,
}

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    WriteRecord(Mark),
    MakeImage(usize),
    MakeScratch(usize),
    MakeServer,
    /// The freeze window.
    FixPoint,
    StartReader(usize),
    /// Wait for the reader, or for the backup's end.
    AwaitJobs,
    /// The record: what is copied.
    NoteRead,
    StopReader,
    /// Its connections first.
    EndBackup,
    RemoveScratch(usize),
    RemoveServer,
    /// Wait for the caller: READY.
    AwaitFinish,
    Verify,
    Thaw,
    Resume,
    RemoveImage(usize),
    RemoveRecord,
    /// Not possible any more: turn back.
    Fail(Failure),
    Done,
}

/// Why an operation turns back by itself.
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

/// The next step from what is observed towards the goal.
#[must_use]
pub(crate) fn next(seen: &Observed, goal: Goal) -> Step {
    match goal {
        Goal::Forward => forward(seen),
        Goal::Back => back(seen),
    }
}

fn forward(seen: &Observed) -> Step {
    let complete = seen.fixed && seen.reads.iter().all(|read| *read == Read::Done);
    if !seen.alive {
        // A finished copy needs no guest any more.
        return match (complete, seen.mark) {
            (true, Mark::Absent) => Step::Done,
            (true, Mark::Fixed) => conclude(seen),
            _ => Step::Fail(Failure::DomainGone),
        };
    }
    if !seen.thawed {
        return Step::Thaw;
    }
    match seen.mark {
        // The record goes last, so its absence after the point in time is the end.
        Mark::Absent if seen.fixed => Step::Done,
        Mark::Absent => Step::WriteRecord(Mark::Begun),
        Mark::Begun => prepare(seen),
        Mark::Fixing if seen.fixed => Step::WriteRecord(Mark::Fixed),
        Mark::Fixing if seen.export == Export::None && is_prepared(seen) => Step::FixPoint,
        Mark::Copying | Mark::Fixing => Step::Fail(Failure::OutcomeUnknown),
        Mark::Fixed if complete && !seen.noted => Step::NoteRead,
        Mark::Fixed if complete => conclude(seen),
        Mark::Fixed => read(seen),
    }
}

fn prepare(seen: &Observed) -> Step {
    if let Some(index) = position(&seen.images, |image| image.is_wanting()) {
        Step::MakeImage(index)
    } else if let Some(index) = position(&seen.scratches, |image| image.is_wanting()) {
        Step::MakeScratch(index)
    } else if !seen.server {
        Step::MakeServer
    } else {
        Step::WriteRecord(Mark::Fixing)
    }
}

fn is_prepared(seen: &Observed) -> bool {
    let mut files = seen.images.iter().chain(&seen.scratches);
    seen.server && !files.any(|image| image.is_wanting())
}

/// One disk after the other: the guest must not feel it.
fn read(seen: &Observed) -> Step {
    if seen.stopped {
        Step::Fail(Failure::GuestStopped)
    } else if seen.export != Export::Running || seen.broken {
        Step::Fail(Failure::Lost)
    } else if seen.full {
        Step::Fail(Failure::ScratchFull)
    } else if let Some(index) = position(&seen.reads, |read| *read == Read::Failed) {
        Step::Fail(Failure::Reader(index))
    } else if seen.reads.contains(&Read::Reading) {
        Step::AwaitJobs
    } else if !seen.noted {
        Step::NoteRead
    } else {
        position(&seen.reads, |read| *read == Read::Waiting).map_or(Step::NoteRead, Step::StartReader)
    }
}

/// Everything is copied.
fn conclude(seen: &Observed) -> Step {
    if let Some(step) = end(seen) {
        step
    } else if !seen.finish {
        Step::AwaitFinish
    } else if !seen.verified {
        Step::Verify
    } else {
        Step::RemoveRecord
    }
}

/// Ends the backup, lets the guest go, and removes what QEMU needed for it.
fn end(seen: &Observed) -> Option<Step> {
    if seen.alive {
        match seen.export {
            Export::Running => return Some(Step::EndBackup),
            Export::Ending => return Some(Step::AwaitJobs),
            Export::None => {}
        }
        // Without the backup the write goes through.
        if seen.stopped {
            return Some(Step::Resume);
        }
    }
    if let Some(index) = position(&seen.scratches, |image| image.is_ours()) {
        return Some(Step::RemoveScratch(index));
    }
    seen.server.then_some(Step::RemoveServer)
}

fn back(seen: &Observed) -> Step {
    if seen.alive && !seen.thawed {
        return Step::Thaw;
    }
    if seen.reads.contains(&Read::Reading) {
        return Step::StopReader;
    }
    if let Some(step) = end(seen) {
        return step;
    }
    if let Some(index) = position(&seen.images, |image| image.is_ours()) {
        return Step::RemoveImage(index);
    }
    if seen.mark != Mark::Absent {
        return Step::RemoveRecord;
    }
    Step::Done
}

/// What the caller is told while `step` is taken.
#[must_use]
pub(crate) fn phase(seen: &Observed, goal: Goal, step: Step) -> Phase {
    match step {
        _ if goal == Goal::Back => Phase::Finishing,
        Step::AwaitFinish => Phase::Ready,
        Step::Verify | Step::RemoveRecord | Step::Fail(_) | Step::Done => Phase::Finishing,
        _ if seen.fixed => Phase::Copying,
        _ => Phase::Preparing,
    }
}

/// What the loop does at `step`.
pub(super) fn turn(step: Step) -> Turn<Failure> {
    match step {
        Step::Done => Turn::Done,
        Step::Fail(failure) => Turn::Fail(failure),
        Step::AwaitJobs => Turn::AwaitJobs,
        Step::AwaitFinish => Turn::AwaitFinish,
        _ => Turn::Act,
    }
}
