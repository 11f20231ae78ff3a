// SPDX-License-Identifier: LGPL-2.1-or-later
//! The snapshot by clone as the loop sees it.

use std::sync::Arc;

use super::engine::{Engine, at_start};
use super::failure::Failure;
use super::next;
use super::seen::Observed;
use super::step::Step;
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::operation::course::procedure::{Procedure, Ties, Turn};
use crate::operation::course::shared::Shared;
use crate::operation::course::step::steps;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::parts::tracked::Tracked;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::{Goal, Mark};
use crate::operation::types::{Method, Phase, Report};

impl Procedure for Engine {
    type Plan = Plan;
    type Observed = Observed;
    type Step = Step;
    type Failure = Failure;

    fn method(plan: &Plan) -> Method {
        plan.method
    }

    fn targets(plan: &Plan) -> Vec<&str> {
        plan.targets()
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

    fn passed_no_return(_seen: &Observed) -> bool {
        false
    }

    fn is_settled_forward(seen: &Observed) -> bool {
        seen.mark == Mark::Fixed
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

    fn turn_back(&mut self) {
        // A commit that failed is tried once more.
        for disk in &mut self.disks {
            if disk.overlay.commit.failure().is_some() {
                disk.overlay.commit = Tracked::default();
            }
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        failure.explain(self)
    }

    fn bytes(&self) -> (u64, u64) {
        let commits = self.disks.iter().map(|disk| &disk.overlay.commit);
        commits.fold(self.bytes_cloned(), |(done, total), commit| {
            (done + commit.done, total + commit.total)
        })
    }

    fn report(&self) -> Option<Report> {
        let fixed = self.fixed?;
        Some(Report {
            method: Method::Clone,
            consistency: fixed.consistency,
            filesystems_frozen: fixed.frozen,
            disk_count: self.plan.disk_count(),
            point_in_time: fixed.at,
            freeze: fixed.freeze,
            pause: fixed.pause,
            bytes_copied: self.bytes_cloned().0,
            elapsed: self.ties.shared.began().elapsed(),
            full_disks: 0,
        })
    }

    fn thawed(&self) -> u32 {
        self.left.thawed
    }
}
