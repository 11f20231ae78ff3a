// SPDX-License-Identifier: LGPL-2.1-or-later
//! The migration as the loop sees it.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, at_start};
use super::failure::Failure;
use super::next;
use super::plan::Plan;
use super::seen::Observed;
use super::step::Step;
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::operation::course::procedure::{Procedure, Ties, Turn};
use crate::operation::course::shared::Shared;
use crate::operation::course::step::steps;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::state::Goal;
use crate::operation::types::{Consistency, Method, Phase, Report};

impl Procedure for Engine {
    type Plan = Plan;
    type Observed = Observed;
    type Step = Step;
    type Failure = Failure;

    fn method(plan: &Plan) -> Method {
        plan.method
    }

    fn targets(plan: &Plan) -> Vec<&str> {
        vec![plan.target.as_str()]
    }

    fn guest(plan: &Plan) -> &Arc<Guest> {
        &plan.guest
    }

    fn at_start(plan: &Plan) -> Observed {
        at_start(plan)
    }

    fn next(seen: &Observed, goal: Goal) -> Step {
        next(seen, goal)
    }

    fn turn(step: Step) -> Turn<Failure> {
        step.what().turn
    }

    fn steps(_plan: &Plan, seen: &Observed, goal: Goal) -> Vec<Step> {
        steps(seen, goal, Step::what)
    }

    fn describe(plan: &Plan, step: Step) -> String {
        (step.what().words)(plan)
    }

    fn phase(seen: &Observed, goal: Goal, step: Step) -> Phase {
        match goal {
            Goal::Back => Phase::Finishing,
            Goal::Forward => step.what().phase.unwrap_or_else(|| seen.phase()),
        }
    }

    fn passed_no_return(seen: &Observed) -> bool {
        seen.passed_no_return()
    }

    fn is_settled_forward(seen: &Observed) -> bool {
        seen.passed_no_return()
    }

    fn begin(plan: Plan, claim: &Claim<'_>, shared: Arc<Shared>) -> Result<Self> {
        let journal = Journal::begin(&plan.guest, Self::first_record(&plan)?, claim)?;
        let ties = Ties::new(&plan.guest, journal, shared)?;
        Ok(Self::at_rest(plan, ties))
    }

    fn resume(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Observed)> {
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

    fn perform(&mut self, step: Step, seen: &Observed) -> Result<()> {
        (step.what().act)(self, seen)
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
        })
    }
}
