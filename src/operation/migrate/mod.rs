// SPDX-License-Identifier: LGPL-2.1-or-later
//! The migration of a disk: all that is known of the procedure, as one pure function.
//!
//! With CLONE the disk's chain goes through four shapes, and the shape is what libvirt says, not what is remembered:
//!
//! ```text
//! Source       A                the beginning
//! Overlay      A <- A'          external snapshot; A is quiet, and is cloned to B
//! Moved        B <- B'          shallow copy of A' to B' and pivot: the point of no return is behind
//! Destination  B                active commit of B' into B and pivot
//! ```
//!
//! With MIRROR it goes from Source to Destination in one full copy with pivot.

#[cfg(any(test, debug_assertions, feature = "faults"))]
mod accidents;
pub(super) mod describe;
pub(super) mod engine;
pub(super) mod model;
pub(super) mod plan;

use crate::operation::course::procedure::Turn;
use crate::operation::state::{Goal, Image, Job, Mark, Remedy};
use crate::operation::types::{Method, Phase};

/// The live disk chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Chain {
    Source,
    Overlay,
    Moved,
    Destination,
    /// Source or Overlay as libvirt has it, which did not live to note the pivot; but the guest writes to the destination.
    Astray,
    /// Source as libvirt has it, which did not live to note the snapshot; but the guest writes to A'.
    Unnamed,
    /// None of these: somebody else changed it.
    Foreign,
}

/// What libvirt, the file system and the record say now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Observed {
    pub(crate) method: Method,
    pub(crate) alive: bool,
    /// No instance of the domain runs.
    pub(crate) off: bool,
    /// `Copying`: the destination is whole, or is being mirrored to. `Fixing`: about to pivot. `Fixed`: pivoted.
    pub(crate) mark: Mark,
    pub(crate) chain: Chain,
    /// A'.
    pub(crate) overlay: Image,
    /// B.
    pub(crate) destination: Image,
    /// B holds all of A, and is on disk.
    pub(crate) cloned: bool,
    /// B'.
    pub(crate) destination_overlay: Image,
    /// The copy (of A' to B', or of A to B), as long as the chain rests on A.
    pub(crate) copy: Job,
    /// Behind a pivot that libvirt knows nothing of, what brings the guest back to where libvirt has it; completed: its former
    /// place is still open.
    pub(crate) way_back: Job,
    /// Of a domain that is off: on which side of the copy's pivot the guest's last writes are is known.
    pub(crate) settled: bool,
    /// The active commit: of A' into A on the way back, of B' into B on the way forward.
    pub(crate) commit: Job,
    pub(crate) limited: bool,
    /// The guest's disk is throttled by us.
    pub(crate) throttled: bool,
    pub(crate) finish: bool,
    /// Contents are to be compared, or were.
    pub(crate) verify: bool,
    pub(crate) delete_source: bool,
    pub(crate) source_deleted: bool,
}

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    WriteRecord(Mark),
    MakeOverlay,
    TakeSnapshot,
    /// A' goes back into A behind libvirt's back, which knows nothing of it.
    MergeOverlay,
    Clone,
    Verify,
    MakeDestination,
    MakeDestinationOverlay,
    StartCopy,
    LiftLimit,
    RestartWriteBlocking,
    Throttle,
    Unthrottle,
    StartCommit,
    /// What an active commit does, for a domain that is off.
    CommitOffline,
    AwaitJobs,
    AwaitFinish,
    PivotCopy,
    StartReturn,
    AwaitReturn,
    Return,
    CloseDestination,
    /// The same, of a domain that is off.
    SettlePivot,
    PivotCommit,
    AbortCopy,
    AbortCommit,
    RemoveOverlay,
    RemoveDestination,
    RemoveDestinationOverlay,
    DeleteSource,
    RemoveRecord,
    Fail(Failure),
    Done,
}

/// Why a migration turns back by itself, or cannot go on.
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

impl Observed {
    /// The guest lives on the destination: forward is the only way.
    pub(crate) fn passed_no_return(&self) -> bool {
        matches!(self.chain, Chain::Moved | Chain::Destination)
    }

    /// The pivot of the copy was about to be made, and the definition names what came before.
    fn is_between(&self) -> bool {
        let copied_to = match (self.method, self.chain) {
            (Method::Mirror, Chain::Source) => self.destination,
            (_, Chain::Overlay) => self.destination_overlay,
            _ => Image::Missing,
        };
        self.mark == Mark::Fixing && copied_to.is_ours()
    }

    /// A job runs that has not caught up with the guest yet, or is about to.
    fn needs_throttle(&self) -> bool {
        let runs = |job| matches!(job, Job::Running | Job::Stuck(_) | Job::Ending);
        match self.chain {
            Chain::Source | Chain::Overlay if runs(self.copy) => true,
            Chain::Source | Chain::Overlay if self.copy == Job::Ready => self.finish,
            Chain::Overlay => runs(self.commit) || self.commit == Job::Ready,
            Chain::Moved => self.commit != Job::Failed,
            Chain::Source | Chain::Destination | Chain::Astray | Chain::Unnamed | Chain::Foreign => false,
        }
    }
}

/// The next step from what is observed towards the goal.
#[must_use]
pub(crate) fn next(seen: &Observed, goal: Goal) -> Step {
    if seen.throttled && seen.alive && !seen.needs_throttle() {
        return Step::Unthrottle;
    }
    if seen.alive && (seen.chain == Chain::Astray || seen.way_back == Job::Completed) {
        return way_back(seen.way_back);
    }
    if seen.chain == Chain::Unnamed {
        return Step::MergeOverlay;
    }
    match goal {
        Goal::Back if !seen.passed_no_return() => back(seen),
        Goal::Back | Goal::Forward => forward(seen),
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
        Chain::Source if seen.method == Method::Mirror => match (seen.mark, seen.destination) {
            (_, Image::Missing | Image::Half) => Step::MakeDestination,
            (Mark::Begun, _) => Step::WriteRecord(Mark::Copying),
            _ => copy(seen),
        },
        Chain::Source if seen.overlay.is_wanting() => Step::MakeOverlay,
        Chain::Source => Step::TakeSnapshot,
        Chain::Overlay if !seen.cloned => Step::Clone,
        Chain::Overlay if seen.mark == Mark::Begun && seen.verify => Step::Verify,
        Chain::Overlay if seen.mark == Mark::Begun => Step::WriteRecord(Mark::Copying),
        Chain::Overlay if seen.destination_overlay.is_wanting() => Step::MakeDestinationOverlay,
        Chain::Overlay => copy(seen),
        Chain::Moved if seen.mark != Mark::Fixed => Step::WriteRecord(Mark::Fixed),
        Chain::Moved => commit(seen.commit, Step::Fail(Failure::Commit)),
        Chain::Destination => conclude(seen),
    }
}

/// The copy is brought to READY, kept there until the caller wants it, and pivoted to.
fn copy(seen: &Observed) -> Step {
    match seen.copy {
        Job::NotStarted if seen.mark == Mark::Copying => Step::StartCopy,
        Job::NotStarted | Job::Failed | Job::Completed => Step::Fail(Failure::Copy),
        Job::Stuck(Remedy::LiftLimit) => Step::LiftLimit,
        Job::Stuck(Remedy::WriteBlocking) => Step::RestartWriteBlocking,
        Job::Stuck(Remedy::Throttle) => Step::Throttle,
        Job::Stuck(Remedy::None) => Step::Fail(Failure::NotConverging),
        Job::Running | Job::Ending => Step::AwaitJobs,
        Job::Ready if !seen.finish => Step::AwaitFinish,
        Job::Ready if seen.limited => Step::LiftLimit,
        Job::Ready if seen.mark == Mark::Copying => Step::WriteRecord(Mark::Fixing),
        Job::Ready => Step::PivotCopy,
    }
}

fn commit(job: Job, failed: Step) -> Step {
    match job {
        Job::NotStarted => Step::StartCommit,
        Job::Ready => Step::PivotCommit,
        Job::Failed => failed,
        Job::Stuck(Remedy::Throttle) => Step::Throttle,
        Job::Stuck(_) => Step::AbortCommit,
        Job::Running | Job::Ending | Job::Completed => Step::AwaitJobs,
    }
}

fn conclude(seen: &Observed) -> Step {
    if seen.mark == Mark::Absent {
        Step::Done
    } else if seen.overlay.is_ours() {
        Step::RemoveOverlay
    } else if seen.destination_overlay.is_ours() {
        Step::RemoveDestinationOverlay
    } else if seen.delete_source && !seen.source_deleted {
        Step::DeleteSource
    } else {
        Step::RemoveRecord
    }
}

fn back(seen: &Observed) -> Step {
    match seen.chain {
        Chain::Astray | Chain::Unnamed | Chain::Foreign => return Step::Fail(Failure::ForeignChain),
        Chain::Source | Chain::Overlay if seen.alive => match seen.copy {
            Job::Running | Job::Stuck(_) | Job::Ready => return Step::AbortCopy,
            Job::Ending => return Step::AwaitJobs,
            Job::NotStarted | Job::Completed | Job::Failed => {}
        },
        _ => {}
    }
    if seen.off && seen.is_between() && !seen.settled {
        return Step::SettlePivot;
    }
    if seen.chain == Chain::Overlay && seen.alive {
        return commit(seen.commit, Step::Fail(Failure::Commit));
    }
    if seen.chain == Chain::Overlay {
        return if seen.off {
            Step::CommitOffline
        } else {
            Step::Fail(Failure::Restarted)
        };
    }
    if seen.destination_overlay.is_ours() {
        Step::RemoveDestinationOverlay
    } else if seen.destination.is_ours() {
        Step::RemoveDestination
    } else if seen.overlay.is_ours() {
        Step::RemoveOverlay
    } else if seen.mark != Mark::Absent {
        Step::RemoveRecord
    } else {
        Step::Done
    }
}

/// What the caller is told while `step` is taken.
#[must_use]
pub(crate) fn phase(seen: &Observed, goal: Goal, step: Step) -> Phase {
    if goal == Goal::Back {
        return Phase::Finishing;
    }
    match step {
        Step::AwaitFinish => Phase::Ready,
        Step::WriteRecord(Mark::Begun) | Step::MakeOverlay | Step::TakeSnapshot | Step::MakeDestination => {
            Phase::Preparing
        }
        _ if seen.passed_no_return() || seen.mark >= Mark::Fixing => Phase::Finishing,
        _ => Phase::Copying,
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
