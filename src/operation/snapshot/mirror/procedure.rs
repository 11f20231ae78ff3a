// SPDX-License-Identifier: LGPL-2.1-or-later
//! The snapshot by mirrors as the loop sees it.

use std::sync::Arc;

use super::disk::Mirrored;
use super::engine::{Engine, at_start};
use super::failure::Failure;
use super::next;
use super::seen::Observed;
use super::step::Step;
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::operation::course::procedure::{Procedure, Ties, What};
use crate::operation::course::shared::Shared;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::Record;
use crate::operation::snapshot::plan::{Plan, Request};
use crate::operation::state::{Goal, Job, Mark};
use crate::operation::types::{Phase, Report};

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

    fn passed_no_return(_seen: &Observed) -> bool {
        false
    }

    fn is_settled_forward(seen: &Observed) -> bool {
        seen.mark == Mark::Fixed && seen.jobs.iter().all(|job| *job == Job::Completed)
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

    fn observe(&mut self, _last: &Observed) -> Result<Observed> {
        self.look()
    }

    fn explain(&self, failure: Failure) -> Error {
        failure.explain(self)
    }

    fn bytes(&self) -> (u64, u64) {
        let disks = self.disks.iter().map(Mirrored::bytes);
        disks.fold((0, 0), |(done, total), disk| (done + disk.0, total + disk.1))
    }

    fn report(&self) -> Option<Report> {
        let fixed = self.fixed?;
        let disks = self.plan.disks.iter().zip(&self.disks);
        let copied = disks.map(|(planned, disk)| planned.copied(disk.mirror.job.done)).sum();
        Some(fixed.report(self.plan.method, self.plan.disks.len(), copied, &self.ties.shared))
    }

    fn thawed(&self) -> u32 {
        self.left.thawed
    }
}
