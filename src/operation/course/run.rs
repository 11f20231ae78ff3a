// SPDX-License-Identifier: LGPL-2.1-or-later
//! The course of one operation: what was observed and decided last. It is the same for every procedure.

use std::fmt::Debug;
use std::mem::replace;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::operation::course::faults;
use crate::operation::course::held::Held;
use crate::operation::course::procedure::{Details, Model, Procedure, StepOf, Ties, Turn, phase, steps, words};
use crate::operation::course::shared::Shared;
use crate::operation::notice;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::Record;
use crate::operation::plan::planned::{Asked, Planned};
use crate::operation::state::Goal;
use crate::operation::types::{Phase, Report};

pub(in crate::operation) struct Course<P: Procedure> {
    plan: Arc<Planned<P::Request>>,
    ties: Arc<Ties>,
    procedure: P,
    seen: P::Observed,
    goal: Goal,
    step: Option<P::Step>,
    /// When the step was decided first.
    since: Instant,
    held: Held<P>,
}

impl<P: Procedure> Course<P> {
    /// Writes the record; from then on the operation is this process's.
    pub(in crate::operation) fn begin(
        plan: Planned<P::Request>,
        claim: &Claim<impl Deref<Target = Guest>>,
        shared: Arc<Shared>,
        step_count: u32,
    ) -> Result<Self> {
        let (disks, note) = P::first_record(&plan)?;
        let request = plan.request.clone();
        let record = Record::new(P::KIND, plan.method(), disks, &Details { request, note })?;
        let journal = Journal::begin(&plan.guest, record, claim)?;
        journal.note_step_count(step_count);
        let held = Held::begun(P::at_start(&plan).next(Goal::Forward));
        Self::at_rest(plan, journal, shared, held)
    }

    /// As the record of a process that is gone and the world show it.
    pub(in crate::operation) fn resume(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<Self> {
        let record = journal.read();
        let details: Details<P::Request, P::Note> = record.details()?;
        let plan = Planned::found(guest, details.request);
        let mut course = Self::at_rest(plan, journal, shared, Held::resumed())?;
        course.seen = course.procedure.find(&record, details.note)?;
        Ok(course)
    }

    fn at_rest(plan: Planned<P::Request>, journal: Journal, shared: Arc<Shared>, held: Held<P>) -> Result<Self> {
        let ties = Arc::new(Ties::new(&plan.guest, journal, shared)?);
        let plan = Arc::new(plan);
        Ok(Self {
            procedure: P::at_rest(Arc::clone(&plan), Arc::clone(&ties)),
            seen: P::at_start(&plan),
            plan,
            ties,
            goal: Goal::Forward,
            step: None,
            since: Instant::now(),
            held,
        })
    }

    fn decide(&mut self, step: P::Step) {
        if self.step == Some(step) {
            return;
        }
        let taken = self.since.elapsed().as_secs_f64() * 1e3;
        if let Some(last) = self.step.replace(step) {
            let said = (last.what().words)(&self.plan);
            log::info!("step took {taken:>7.1} ms: {said}");
        }
        self.since = Instant::now();
    }
}

/// A course as the loop sees it.
pub(in crate::operation) trait Run: Send {
    /// Observes the world and decides the next step towards the goal.
    fn look(&mut self, goal: Goal) -> Result<Turn<Error>>;

    /// Carries out the step that was decided last.
    fn act(&mut self) -> Result<()>;

    /// The step that was decided last.
    fn step(&self) -> &dyn Debug;

    /// What the caller sees while the step that was decided last is taken.
    fn phase(&self) -> Phase;

    /// How many steps there are from the one that was decided last to the goal.
    fn steps_left(&self) -> usize;

    /// The steps to the goal from what was observed last, in words.
    fn words(&self, goal: Goal) -> Vec<String>;

    /// What is done otherwise than was asked for, and why.
    fn remarks(&self) -> Vec<String>;

    fn passed_no_return(&self) -> bool;

    fn is_resolved_forward(&self) -> bool;

    /// Over a new connection, after the daemon came back.
    fn reconnect(&mut self) -> Result<()>;

    fn has_events(&self) -> bool;

    fn guest(&self) -> &Guest;

    fn journal(&self) -> &Journal;

    fn bytes(&self) -> (u64, u64);

    fn report(&self) -> Option<Report>;

    fn thawed(&self) -> u32;

    /// In test builds, what its model cannot explain.
    fn unexplained(&self) -> Option<Error>;
}

impl<P: Procedure> Run for Course<P> {
    fn look(&mut self, goal: Goal) -> Result<Turn<Error>> {
        if (self.goal, goal) == (Goal::Forward, Goal::Back) {
            self.procedure.turn_back();
        }
        let seen = self.procedure.observe(&self.seen)?;
        let goals = [replace(&mut self.goal, goal), goal];
        let before = replace(&mut self.seen, seen);
        self.held.look(self.plan.guest.name(), goals, [&before, &self.seen])?;
        let step = self.seen.next(goal);
        self.decide(step);
        log::debug!("{goal:?}: {step:?} from {:?}", self.seen);
        Ok(match step.what().turn {
            Turn::Fail(why) => Turn::Fail(why(&self.procedure)),
            Turn::Done => Turn::Done,
            Turn::AwaitJobs => Turn::AwaitJobs,
            Turn::AwaitFinish => Turn::AwaitFinish,
            Turn::Act => Turn::Act,
        })
    }

    fn act(&mut self) -> Result<()> {
        match self.step {
            Some(step) => {
                let result = if faults::skips(&step) {
                    Ok(())
                } else {
                    (step.what().act)(&mut self.procedure, &self.seen)
                };
                self.held.acted(step, &result);
                result
            }
            None => Ok(()),
        }
    }

    fn step(&self) -> &dyn Debug {
        match &self.step {
            Some(step) => step,
            None => &"Begin",
        }
    }

    fn phase(&self) -> Phase {
        self.step
            .map_or(Phase::Preparing, |step| phase::<P>(&self.seen, self.goal, step))
    }

    fn steps_left(&self) -> usize {
        steps::<P>(&self.seen, self.goal).len()
    }

    fn words(&self, goal: Goal) -> Vec<String> {
        words::<P>(&self.plan, &self.seen, goal)
    }

    fn remarks(&self) -> Vec<String> {
        notice::remarks(&self.plan.notices())
    }

    fn passed_no_return(&self) -> bool {
        self.seen.passed_no_return()
    }

    fn is_resolved_forward(&self) -> bool {
        self.seen.is_resolved_forward()
    }

    fn reconnect(&mut self) -> Result<()> {
        self.plan.guest.reconnect()?;
        self.ties.subscribe(&self.plan.guest)
    }

    fn has_events(&self) -> bool {
        self.ties.has_events()
    }

    fn guest(&self) -> &Guest {
        &self.plan.guest
    }

    fn journal(&self) -> &Journal {
        &self.ties.journal
    }

    fn bytes(&self) -> (u64, u64) {
        self.procedure.bytes()
    }

    fn report(&self) -> Option<Report> {
        let report = self.procedure.report()?;
        let notices = [self.plan.notices(), self.procedure.notices()].concat();
        Some(Report {
            full_disks: notice::full_disks(&notices),
            warnings: notice::warnings(&notices),
            ..report
        })
    }

    fn thawed(&self) -> u32 {
        self.procedure.thawed()
    }

    fn unexplained(&self) -> Option<Error> {
        self.held.unexplained()
    }
}
