// SPDX-License-Identifier: LGPL-2.1-or-later
//! The snapshot by a pull backup: all that is known of the procedure, as one pure function.
//!
//! The backup's job lasts no longer than its disks are read. It is ended before anything else is done, on every way: until
//! then the guest's writes go to scratch files too.

#[cfg(any(test, debug_assertions, feature = "faults"))]
mod accidents;
mod disk;
mod engine;
mod failure;
#[cfg(test)]
mod model;
pub(in crate::operation) mod plan;
mod procedure;
mod seen;
pub(in crate::operation) mod since;
mod step;

pub(in crate::operation) use engine::Engine;
use failure::Failure;
use seen::{Observed, Read};
use step::Step;

use crate::operation::course::procedure::Model;
use crate::operation::parts::backup::checkpoint::Checkpoint;
use crate::operation::parts::backup::export::Export;
use crate::operation::state::{Goal, Mark, position};
use crate::operation::types::Phase;

impl Model for Observed {
    type Step = Step;

    fn next(&self, goal: Goal) -> Step {
        match goal {
            Goal::Forward => forward(self),
            Goal::Back => back(self),
        }
    }

    fn phase(&self) -> Phase {
        if self.fixed { Phase::Copying } else { Phase::Preparing }
    }

    fn is_resolved_forward(&self) -> bool {
        self.mark == Mark::Fixed && self.reads.iter().all(|read| *read == Read::Done)
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
        // An attempt was cut off halfway.
        Mark::Fixing if seen.backup.export == Export::None && seen.checkpoint == Checkpoint::Made => {
            Step::RemoveCheckpoint
        }
        Mark::Fixing if seen.backup.export == Export::None && is_prepared(seen) => Step::FixPoint,
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
    } else if !seen.backup.server {
        Step::MakeServer
    } else {
        Step::WriteRecord(Mark::Fixing)
    }
}

fn is_prepared(seen: &Observed) -> bool {
    let mut files = seen.images.iter().chain(&seen.scratches);
    seen.backup.server && !files.any(|image| image.is_wanting())
}

/// One disk after the other: the guest must not feel it.
fn read(seen: &Observed) -> Step {
    if seen.backup.stopped {
        Step::Fail(Failure::GuestStopped)
    } else if seen.backup.export != Export::Running || seen.backup.broken {
        Step::Fail(Failure::Lost)
    } else if seen.backup.full {
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
        match seen.backup.export {
            Export::Running => return Some(Step::EndBackup),
            Export::Ending => return Some(Step::AwaitJobs),
            Export::None => {}
        }
        // Without the backup the write goes through.
        if seen.backup.stopped {
            return Some(Step::Resume);
        }
    }
    if let Some(index) = position(&seen.scratches, |image| image.is_ours()) {
        return Some(Step::RemoveScratch(index));
    }
    seen.backup.server.then_some(Step::RemoveServer)
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
    if seen.checkpoint == Checkpoint::Made {
        return Step::RemoveCheckpoint;
    }
    if let Some(index) = position(&seen.images, |image| image.is_ours()) {
        return Step::RemoveImage(index);
    }
    if seen.mark != Mark::Absent {
        return Step::RemoveRecord;
    }
    Step::Done
}
