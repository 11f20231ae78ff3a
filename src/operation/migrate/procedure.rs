// SPDX-License-Identifier: LGPL-2.1-or-later
//! The migration as the loop sees it.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, at_start};
use super::failure::Failure;
use super::next;
use super::plan::{Plan, Request};
use super::seen::Observed;
use super::step::Step;
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::operation::course::procedure::{Procedure, Ties, What};
use crate::operation::course::shared::Shared;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::Record;
use crate::operation::state::Goal;
use crate::operation::types::{Consistency, Phase, Report, Warnings};

impl Procedure for Engine {
    type Request = Request;
    type Observed = Observed;
    type Step = Step;
    type Failure = Failure;

    fn at_start(plan: &Plan) -> Observed {
        at_start(plan)
    }

    fn next(seen: &Observed, goal: Goal) -> Step {
        next(seen, goal)
    }

    fn what(step: Step) -> What<Self> {
        step.what()
    }

    fn phase(seen: &Observed) -> Phase {
        seen.phase()
    }

    fn passed_no_return(seen: &Observed) -> bool {
        seen.passed_no_return()
    }

    fn is_settled_forward(seen: &Observed) -> bool {
        seen.passed_no_return()
    }

    fn first_record(plan: &Plan) -> Result<Record> {
        Self::first_record(plan)
    }

    fn at_rest(plan: Plan, ties: Ties) -> Self {
        Self::at_rest(plan, ties)
    }

    fn found(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Observed)> {
        Self::found(guest, journal, shared)
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn ties(&self) -> &Ties {
        &self.ties
    }

    fn ties_mut(&mut self) -> &mut Ties {
        &mut self.ties
    }

    fn observe(&mut self, last: &Observed) -> Result<Observed> {
        self.look(last)
    }

    fn explain(&self, failure: Failure) -> Error {
        failure.explain(self)
    }

    fn bytes(&self) -> (u64, u64) {
        let jobs = [&self.copy.job, &self.overlay.commit, &self.destination_overlay.commit];
        jobs.iter().fold(self.clone.progress, |(done, total), job| {
            (done + job.done, total + job.total)
        })
    }

    fn report(&self) -> Option<Report> {
        Some(Report {
            method: self.plan.method,
            consistency: Consistency::Crash,
            filesystems_frozen: 0,
            disk_count: 1,
            point_in_time: self.pivot.moved_at()?,
            freeze: Duration::ZERO,
            pause: Duration::ZERO,
            bytes_copied: self.bytes().0,
            elapsed: self.ties.shared.began().elapsed(),
            full_disks: 0,
            warnings: Warnings {
                source_kept: self.source_kept,
                ..Warnings::default()
            },
        })
    }
}
