// SPDX-License-Identifier: LGPL-2.1-or-later
//! The live snapshot by mirrors: all that is known of the procedure, as one pure function.
//!
//! Starting, going on, cancelling and recovering are the same loop of observe, [`next`] and step, entered with another
//! state or goal; nothing has clean-up code of its own.

#[cfg(any(test, debug_assertions, feature = "faults"))]
mod accidents;
pub(super) mod backup;
pub(super) mod clone;
pub(super) mod describe;
pub(super) mod disk;
pub(super) mod engine;
pub(super) mod model;
pub(super) mod plan;

use crate::operation::course::procedure::Turn;
use crate::operation::state::{Goal, Image, Job, Mark, Remedy, position};
use crate::operation::types::Phase;

/// What libvirt, the file system and the record say now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Observed {
    /// The guest instance that the operation was started on still exists.
    pub(crate) alive: bool,
    pub(crate) mark: Mark,
    /// Not frozen by us, as far as can be known.
    pub(crate) thawed: bool,
    /// Not paused by us.
    pub(crate) resumed: bool,
    /// The window has been passed, though the record may not say so yet.
    pub(crate) fixed: bool,
    /// The caller wants the operation finished.
    pub(crate) finish: bool,
    pub(crate) limited: bool,
    pub(crate) verified: bool,
    pub(crate) images: Vec<Image>,
    /// One a disk.
    pub(crate) jobs: Vec<Job>,
}

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    WriteRecord(Mark),
    MakeImage(usize),
    StartCopy(usize),
    /// Wait for the jobs to move.
    AwaitJobs,
    /// Wait for the caller: READY.
    AwaitFinish,
    LiftLimit,
    RestartWriteBlocking(usize),
    /// The freeze window.
    FixPoint,
    Verify,
    Thaw,
    Resume,
    AbortJob(usize),
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
    Job(usize),
    NotConverging(usize),
    /// The agent died in the window: it is unknown what the images hold.
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
    if !seen.alive {
        // A finished copy needs no guest any more.
        let complete = matches!(seen.mark, Mark::Fixed | Mark::Absent)
            && seen.fixed
            && seen.jobs.iter().all(|job| *job == Job::Completed);
        return match (complete, seen.mark) {
            (false, _) => Step::Fail(Failure::DomainGone),
            (true, Mark::Absent) => Step::Done,
            (true, _) => conclude(seen),
        };
    }
    // The agent of a paused guest answers nothing.
    if !seen.resumed {
        return Step::Resume;
    }
    if !seen.thawed {
        return Step::Thaw;
    }
    match seen.mark {
        // The record goes last, so its absence after the point in time is the end.
        Mark::Absent if seen.fixed => Step::Done,
        Mark::Absent => Step::WriteRecord(Mark::Begun),
        Mark::Begun => match position(&seen.images, |image| image.is_wanting()) {
            Some(index) => Step::MakeImage(index),
            None => Step::WriteRecord(Mark::Copying),
        },
        Mark::Fixing if seen.fixed => match position(&seen.jobs, |job| *job == Job::Failed) {
            // After this mark a job that is gone has ended well.
            Some(index) => Step::Fail(Failure::Job(index)),
            None => Step::WriteRecord(Mark::Fixed),
        },
        Mark::Copying | Mark::Fixing => mirror(seen),
        Mark::Fixed => match position(&seen.jobs, |job| *job != Job::Completed) {
            None => conclude(seen),
            Some(index) if seen.jobs[index] == Job::Failed => Step::Fail(Failure::Job(index)),
            Some(_) => Step::AwaitJobs,
        },
    }
}

/// Mirrors are brought to READY, kept there until the caller wants them, and then to the window.
fn mirror(seen: &Observed) -> Step {
    if let Some(index) = position(&seen.jobs, |job| *job == Job::Failed) {
        return Step::Fail(Failure::Job(index));
    }
    if let Some(index) = position(&seen.jobs, |job| *job == Job::NotStarted) {
        return match seen.mark {
            Mark::Copying => Step::StartCopy(index),
            _ => Step::Fail(Failure::OutcomeUnknown),
        };
    }
    // A mirror that ended before the window, or in one whose end was not observed, is no result.
    if seen.jobs.contains(&Job::Completed) {
        return Step::Fail(Failure::OutcomeUnknown);
    }
    for (index, job) in seen.jobs.iter().enumerate() {
        match job {
            Job::Stuck(Remedy::LiftLimit) => return Step::LiftLimit,
            Job::Stuck(Remedy::WriteBlocking) => return Step::RestartWriteBlocking(index),
            Job::Stuck(Remedy::Throttle | Remedy::None) => return Step::Fail(Failure::NotConverging(index)),
            _ => {}
        }
    }
    if !seen.jobs.iter().all(|job| *job == Job::Ready) {
        Step::AwaitJobs
    } else if !seen.finish {
        Step::AwaitFinish
    } else if seen.limited {
        // The last writes of the freeze must not creep through a limit.
        Step::LiftLimit
    } else if seen.mark == Mark::Copying {
        Step::WriteRecord(Mark::Fixing)
    } else {
        Step::FixPoint
    }
}

fn conclude(seen: &Observed) -> Step {
    if !seen.finish {
        Step::AwaitFinish
    } else if !seen.verified {
        Step::Verify
    } else {
        Step::RemoveRecord
    }
}

fn back(seen: &Observed) -> Step {
    if seen.alive {
        if !seen.resumed {
            return Step::Resume;
        }
        if !seen.thawed {
            return Step::Thaw;
        }
        if let Some(index) = position(&seen.jobs, |job| {
            matches!(job, Job::Running | Job::Stuck(_) | Job::Ready)
        }) {
            return Step::AbortJob(index);
        }
        if seen.jobs.contains(&Job::Ending) {
            return Step::AwaitJobs;
        }
    }
    if let Some(index) = position(&seen.images, |image| image.is_ours()) {
        return Step::RemoveImage(index);
    }
    if seen.mark != Mark::Absent {
        return Step::RemoveRecord;
    }
    Step::Done
}

/// What the caller sees while `step` is taken.
#[must_use]
pub(crate) fn phase(seen: &Observed, goal: Goal, step: Step) -> Phase {
    if goal == Goal::Back {
        return Phase::Finishing;
    }
    match step {
        Step::AwaitFinish => Phase::Ready,
        Step::WriteRecord(Mark::Begun | Mark::Copying) | Step::MakeImage(_) => Phase::Preparing,
        Step::StartCopy(_) | Step::LiftLimit | Step::RestartWriteBlocking(_) => Phase::Copying,
        Step::AwaitJobs if seen.mark == Mark::Copying => Phase::Copying,
        _ => Phase::Finishing,
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
