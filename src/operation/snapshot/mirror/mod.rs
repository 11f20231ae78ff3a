// SPDX-License-Identifier: LGPL-2.1-or-later
//! The live snapshot by mirrors: all that is known of the procedure, as one pure function.
//!
//! Starting, going on, cancelling and recovering are the same loop of observe, [`next`] and step, entered with another
//! state or goal; nothing has clean-up code of its own.

#[cfg(any(test, debug_assertions, feature = "faults"))]
mod accidents;
mod call;
mod disk;
mod engine;
mod failure;
#[cfg(test)]
mod model;
pub(in crate::operation::snapshot) mod plan;
mod procedure;
mod seen;
mod step;

pub(in crate::operation) use engine::Engine;
use failure::Failure;
pub(in crate::operation) use seen::{Observed, Rest};
pub(in crate::operation) use step::Step;

use crate::operation::course::procedure::Model;
use crate::operation::state::{Goal, Job, Mark, Remedy, Stored, position};
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
        if self.mark == Mark::Copying {
            Phase::Copying
        } else {
            Phase::Finishing
        }
    }

    fn is_resolved_forward(&self) -> bool {
        self.mark == Mark::Fixed && self.jobs.iter().all(|job| *job == Job::Completed)
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
    // As soon as there is nothing left to start: what the guest would lose if it ended now is more the longer it takes.
    if is_away(seen) && !is_starting(seen) {
        return Step::Redefine;
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

/// Something is left of the definition's way out of libvirt and back.
fn is_away(seen: &Observed) -> bool {
    seen.stored.is_some_and(|stored| stored != Stored::Stands)
}

/// Mirrors are left to be started, and may be.
fn is_starting(seen: &Observed) -> bool {
    seen.mark == Mark::Copying && seen.jobs.contains(&Job::NotStarted) && !seen.jobs.contains(&Job::Failed)
}

/// Mirrors are brought to READY, kept there until the caller wants them, and then to the window.
fn mirror(seen: &Observed) -> Step {
    if let Some(index) = position(&seen.jobs, |job| *job == Job::Failed) {
        return Step::Fail(Failure::Job(index));
    }
    if let Some(index) = position(&seen.jobs, |job| *job == Job::NotStarted) {
        return match (seen.mark, seen.stored) {
            (Mark::Copying, Some(Stored::Stands)) => Step::SaveDefinition,
            (Mark::Copying, Some(Stored::Saved { .. })) => Step::Undefine,
            (Mark::Copying, Some(Stored::Contested)) => Step::Fail(Failure::DefinedAgain),
            (Mark::Copying, None | Some(Stored::Away { .. })) => Step::StartCopy(index),
            _ => Step::Fail(Failure::OutcomeUnknown),
        };
    }
    // A mirror that ended before the window, or in one that nobody saw the end of, is no result.
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
    if is_away(seen) {
        return Step::Redefine;
    }
    if !seen.finish {
        return Step::AwaitFinish;
    }
    match seen.rest {
        Rest::Flatten => Step::Flatten,
        Rest::Verify => Step::Verify,
        Rest::Nothing => Step::RemoveRecord,
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
    }
    if is_away(seen) {
        return Step::Redefine;
    }
    if seen.alive {
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
