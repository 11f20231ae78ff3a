// SPDX-License-Identifier: LGPL-2.1-or-later
//! The migration of a disk: all that is known of the procedure, as one pure function.
//!
//! With CLONE the disk's chain goes through four shapes, and the shape is what libvirt says, not what is remembered:
//!
//! ```text
//! Source       A                the beginning
//! Overlay      A <- A'          external snapshot; A is quiet, and is cloned to B
//! Moved        B <- B'          shallow copy of A' to B' and pivot: after the point of no return
//! Destination  B                active commit of B' into B and pivot
//! ```
//!
//! With MIRROR it goes from Source to Destination in one full copy with pivot.

#[cfg(any(test, debug_assertions, feature = "faults"))]
mod accidents;
mod clone;
mod engine;
mod failure;
#[cfg(test)]
mod model;
mod observe;
pub(super) mod plan;
mod procedure;
mod seen;
mod step;

pub(in crate::operation) use engine::Engine;
use failure::Failure;
use seen::{Chain, Observed, Source};
use step::Step;

use crate::operation::course::procedure::Model;
use crate::operation::state::{Goal, Image, Job, Mark, Remedy};
use crate::operation::types::{Method, Phase};

impl Observed {
    /// The pivot of the copy was about to be made, and the definition names what came before.
    fn is_between(&self) -> bool {
        let copied_to = match (self.method, self.chain) {
            (Method::Mirror, Chain::Source) => self.destination.image,
            (_, Chain::Overlay) => self.destination_overlay.image,
            _ => Image::Missing,
        };
        self.mark == Mark::Fixing && copied_to.is_ours()
    }

    /// A job runs that has not caught up with the guest yet, or is about to.
    fn needs_throttle(&self) -> bool {
        let runs = |job| matches!(job, Job::Running | Job::Stuck(_) | Job::Ending);
        match self.chain {
            Chain::Source | Chain::Overlay if runs(self.copy.job) => true,
            Chain::Source | Chain::Overlay if self.copy.job == Job::Ready => self.finish,
            Chain::Overlay => runs(self.commit()) || self.commit() == Job::Ready,
            Chain::Moved => self.commit() != Job::Failed,
            Chain::Source | Chain::Destination | Chain::Astray | Chain::Unnamed | Chain::Foreign => false,
        }
    }
}

impl Model for Observed {
    type Step = Step;

    fn next(&self, goal: Goal) -> Step {
        if self.throttled && self.alive && !self.needs_throttle() {
            return Step::Unthrottle;
        }
        if self.alive && (self.chain == Chain::Astray || self.copy.way_back == Job::Completed) {
            return way_back(self.copy.way_back);
        }
        if self.chain == Chain::Unnamed {
            return Step::MergeOverlay;
        }
        match goal {
            Goal::Back if !self.passed_no_return() => back(self),
            Goal::Back | Goal::Forward => forward(self),
        }
    }

    fn phase(&self) -> Phase {
        if self.passed_no_return() || self.mark >= Mark::Fixing {
            Phase::Finishing
        } else {
            Phase::Copying
        }
    }

    /// The guest lives on the destination.
    fn passed_no_return(&self) -> bool {
        matches!(self.chain, Chain::Moved | Chain::Destination)
    }

    fn is_resolved_forward(&self) -> bool {
        self.passed_no_return()
    }
}

/// Whatever the goal is, nothing else may be done meanwhile: libvirt would do it to the wrong image.
fn way_back(job: Job) -> Step {
    match job {
        Job::NotStarted => Step::StartReturn,
        Job::Running | Job::Stuck(_) | Job::Ending => Step::AwaitReturn,
        Job::Ready => Step::Return,
        Job::Completed => Step::CloseDestination,
        Job::Failed => Step::Fail(Failure::Return),
    }
}

fn forward(seen: &Observed) -> Step {
    match seen.chain {
        Chain::Moved if seen.off => Step::CommitOffline,
        Chain::Moved if !seen.alive => Step::Fail(Failure::Restarted),
        _ if !seen.alive && seen.chain != Chain::Destination => Step::Fail(Failure::DomainGone),
        Chain::Astray | Chain::Unnamed | Chain::Foreign => Step::Fail(Failure::ForeignChain),
        Chain::Source | Chain::Overlay if seen.mark == Mark::Absent => Step::WriteRecord(Mark::Begun),
        Chain::Source if seen.method == Method::Mirror => match (seen.mark, seen.destination.image) {
            (_, Image::Missing | Image::Half) => Step::MakeDestination,
            (Mark::Begun, _) => Step::WriteRecord(Mark::Copying),
            _ => copy(seen),
        },
        Chain::Source if seen.overlay.image.is_wanting() => Step::MakeOverlay,
        Chain::Source => Step::TakeSnapshot,
        Chain::Overlay if !seen.destination.cloned => Step::Clone,
        Chain::Overlay if seen.mark == Mark::Begun && seen.destination.verify => Step::Verify,
        Chain::Overlay if seen.mark == Mark::Begun => Step::WriteRecord(Mark::Copying),
        Chain::Overlay if seen.destination_overlay.image.is_wanting() => Step::MakeDestinationOverlay,
        Chain::Overlay => copy(seen),
        Chain::Moved if seen.mark != Mark::Fixed => Step::WriteRecord(Mark::Fixed),
        Chain::Moved => commit(seen.commit()),
        Chain::Destination => conclude(seen),
    }
}

/// The copy is brought to READY, kept there until the caller wants it, and pivoted to.
fn copy(seen: &Observed) -> Step {
    match seen.copy.job {
        Job::NotStarted if seen.mark == Mark::Copying => Step::StartCopy,
        Job::NotStarted | Job::Failed | Job::Completed => Step::Fail(Failure::Copy),
        Job::Stuck(Remedy::LiftLimit) => Step::LiftLimit,
        Job::Stuck(Remedy::WriteBlocking) => Step::RestartWriteBlocking,
        Job::Stuck(Remedy::Throttle) => Step::Throttle,
        Job::Stuck(Remedy::None) => Step::Fail(Failure::NotConverging),
        Job::Running | Job::Ending => Step::AwaitJobs,
        Job::Ready if !seen.finish => Step::AwaitFinish,
        Job::Ready if seen.copy.limited => Step::LiftLimit,
        Job::Ready if seen.mark == Mark::Copying => Step::WriteRecord(Mark::Fixing),
        Job::Ready => Step::PivotCopy,
    }
}

/// The overlay that the guest is on goes into its base.
fn commit(job: Job) -> Step {
    match job {
        Job::NotStarted => Step::StartCommit,
        Job::Ready => Step::PivotCommit,
        Job::Failed => Step::Fail(Failure::Commit),
        Job::Stuck(Remedy::Throttle) => Step::Throttle,
        Job::Stuck(_) => Step::AbortCommit,
        Job::Running | Job::Ending | Job::Completed => Step::AwaitJobs,
    }
}

fn conclude(seen: &Observed) -> Step {
    if seen.mark == Mark::Absent {
        Step::Done
    } else if seen.overlay.image.is_ours() {
        Step::RemoveOverlay
    } else if seen.destination_overlay.image.is_ours() {
        Step::RemoveDestinationOverlay
    } else if seen.source == Source::ToBeDeleted {
        Step::DeleteSource
    } else {
        Step::RemoveRecord
    }
}

fn back(seen: &Observed) -> Step {
    match seen.chain {
        Chain::Astray | Chain::Unnamed | Chain::Foreign => return Step::Fail(Failure::ForeignChain),
        Chain::Source | Chain::Overlay if seen.alive => match seen.copy.job {
            Job::Running | Job::Stuck(_) | Job::Ready => return Step::AbortCopy,
            Job::Ending => return Step::AwaitJobs,
            Job::NotStarted | Job::Completed | Job::Failed => {}
        },
        _ => {}
    }
    if seen.off && seen.is_between() && !seen.copy.settled {
        return Step::SettlePivot;
    }
    if seen.chain == Chain::Overlay && seen.alive {
        return commit(seen.commit());
    }
    if seen.chain == Chain::Overlay {
        return if seen.off {
            Step::CommitOffline
        } else {
            Step::Fail(Failure::Restarted)
        };
    }
    if seen.destination_overlay.image.is_ours() {
        Step::RemoveDestinationOverlay
    } else if seen.destination.image.is_ours() {
        Step::RemoveDestination
    } else if seen.overlay.image.is_ours() {
        Step::RemoveOverlay
    } else if seen.mark != Mark::Absent {
        Step::RemoveRecord
    } else {
        Step::Done
    }
}
