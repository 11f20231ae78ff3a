// SPDX-License-Identifier: LGPL-2.1-or-later
//! The live snapshot by clone: all that is known of the procedure, as one pure function.
//!
//! Each disk's chain goes there and back, and its shape is what libvirt says, not what is remembered:
//!
//! ```text
//! Source    A          the beginning
//! Overlay   A <- A'    external snapshot of all disks at once, in the freeze window; A is quiet, and is cloned
//! Source    A          active commit of A' into A and pivot
//! ```
//!
//! What the guest writes after the point in time lies in A', so the commit is the only way out of Overlay: forward,
//! back, after a failure and after a cancel.

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
mod step;

pub(in crate::operation) use engine::Engine;
use failure::Failure;
use seen::{Chain, Observed, SeenDisk};
use step::Step;

use crate::operation::course::procedure::Model;
use crate::operation::state::{Goal, Job, Mark, Remedy, position};
use crate::operation::types::Phase;

impl SeenDisk {
    /// Its commit has not caught up with the guest yet, or is about to pivot.
    fn needs_throttle(&self) -> bool {
        self.chain == Chain::Overlay && !matches!(self.commit, Job::Failed | Job::NotStarted)
    }
}

impl Model for Observed {
    type Step = Step;

    fn next(&self, goal: Goal) -> Step {
        if let Some(index) = position(&self.disks, |disk| disk.chain == Chain::Foreign) {
            return Step::Fail(Failure::ForeignChain(index));
        }
        if self.alive
            && let Some(index) = position(&self.disks, |disk| disk.throttled && !disk.needs_throttle())
        {
            return Step::Unthrottle(index);
        }
        if self.alive && !self.thawed {
            return Step::Thaw;
        }
        if let Some(index) = position(&self.disks, |disk| disk.chain == Chain::Unnamed) {
            return Step::MergeOverlay(index);
        }
        match goal {
            Goal::Forward => forward(self),
            Goal::Back => back(self),
        }
    }

    fn phase(&self) -> Phase {
        if self.mark < Mark::Copying || (self.mark == Mark::Fixing && !self.fixed) {
            Phase::Preparing
        } else {
            Phase::Copying
        }
    }

    fn is_resolved_forward(&self) -> bool {
        self.mark == Mark::Fixed
    }
}

fn commit_offline(seen: &Observed) -> Option<Step> {
    let left = position(&seen.disks, |disk| disk.chain == Chain::Overlay);
    left.filter(|_| seen.off).map(Step::CommitOffline)
}

fn forward(seen: &Observed) -> Step {
    let is_whole = seen.mark == Mark::Fixed || (seen.mark == Mark::Absent && seen.fixed);
    let is_home = seen.disks.iter().all(|disk| disk.chain == Chain::Source);
    if is_whole && let Some(step) = commit_offline(seen) {
        return step;
    }
    if !(seen.alive || is_whole && is_home) {
        return Step::Fail(Failure::DomainGone);
    }
    match seen.mark {
        // The record goes last, so its absence after the point in time is the end.
        Mark::Absent if seen.fixed => Step::Done,
        Mark::Absent => Step::WriteRecord(Mark::Begun),
        Mark::Begun => prepare(seen),
        Mark::Fixing if seen.fixed => Step::WriteRecord(Mark::Copying),
        Mark::Fixing if is_home => make_overlay(seen).unwrap_or(Step::FixPoint),
        Mark::Fixing | Mark::Copying | Mark::Fixed if !seen.fixed => Step::Fail(Failure::OutcomeUnknown),
        Mark::Fixing | Mark::Copying => clone(seen),
        Mark::Fixed => commit(seen).or_else(|| remove_overlay(seen)).unwrap_or(if seen.finish {
            Step::RemoveRecord
        } else {
            Step::AwaitFinish
        }),
    }
}

fn prepare(seen: &Observed) -> Step {
    if let Some(index) = position(&seen.disks, |disk| disk.destination.is_wanting() && !seen.by_callback) {
        Step::MakeImage(index)
    } else {
        make_overlay(seen).unwrap_or(Step::WriteRecord(Mark::Fixing))
    }
}

fn make_overlay(seen: &Observed) -> Option<Step> {
    position(&seen.disks, |disk| disk.overlay.is_wanting()).map(Step::MakeOverlay)
}

fn clone(seen: &Observed) -> Step {
    // A that is not below its overlay any more is not quiet.
    if let Some(index) = position(&seen.disks, |disk| disk.chain != Chain::Overlay) {
        Step::Fail(Failure::ForeignChain(index))
    } else if let Some(index) = position(&seen.disks, |disk| !disk.cloned) {
        Step::Clone(index)
    } else if !seen.verified {
        Step::Verify
    } else {
        Step::WriteRecord(Mark::Fixed)
    }
}

/// Every disk back on A; `None` where they are. One that fails does not keep the others from it.
fn commit(seen: &Observed) -> Option<Step> {
    let find =
        |wanted: fn(Job) -> bool| position(&seen.disks, |disk| disk.chain == Chain::Overlay && wanted(disk.commit));
    if let Some(index) = find(|job| job == Job::Ready) {
        Some(Step::PivotCommit(index))
    } else if let Some(index) = find(|job| job == Job::NotStarted) {
        Some(Step::StartCommit(index))
    } else if let Some(index) = find(|job| job == Job::Stuck(Remedy::Throttle)) {
        Some(Step::Throttle(index))
    } else if let Some(index) = find(|job| matches!(job, Job::Stuck(_))) {
        Some(Step::AbortCommit(index))
    } else if find(|job| job != Job::Failed).is_some() {
        Some(Step::AwaitJobs)
    } else {
        find(|job| job == Job::Failed).map(|index| Step::Fail(Failure::Commit(index)))
    }
}

fn remove_overlay(seen: &Observed) -> Option<Step> {
    position(&seen.disks, |disk| {
        disk.chain == Chain::Source && disk.overlay.is_ours()
    })
    .map(Step::RemoveOverlay)
}

fn back(seen: &Observed) -> Step {
    // First, because the overlays and the commit may need the room.
    if let Some(index) = position(&seen.disks, |disk| disk.destination.is_ours()) {
        return Step::RemoveImage(index);
    }
    if seen.alive
        && let Some(step) = commit(seen)
    {
        return step;
    }
    if let Some(step) = commit_offline(seen).or_else(|| remove_overlay(seen)) {
        return step;
    }
    if seen.disks.iter().any(|disk| disk.chain == Chain::Overlay) {
        Step::Fail(Failure::Restarted)
    } else if seen.mark != Mark::Absent {
        Step::RemoveRecord
    } else {
        Step::Done
    }
}
