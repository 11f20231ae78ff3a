// SPDX-License-Identifier: LGPL-2.1-or-later
//! The course of one operation: what was observed and decided last. It is the same for every procedure.

use std::fmt::Debug;
use std::mem::replace;
use std::sync::Arc;
use std::time::Instant;

use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::operation::course::faults;
use crate::operation::course::held::Held;
use crate::operation::course::procedure::{Procedure, Turn, phase, steps, words};
use crate::operation::ownership::journal::Journal;
use crate::operation::plan::planned::Asked;
use crate::operation::state::Goal;
use crate::operation::types::{Phase, Report, Warnings};

pub(in crate::operation) struct Course<P: Procedure> {
    procedure: P,
    seen: P::Observed,
    goal: Goal,
    step: Option<P::Step>,
    /// When the step was decided first.
    since: Instant,
    held: Held<P>,
}

impl<P: Procedure> Course<P> {
    /// Of a procedure that was begun from what was `seen`.
    pub(in crate::operation) fn begun(procedure: P, seen: P::Observed) -> Self {
        let held = Held::begun(P::next(&seen, Goal::Forward));
        Self::new(procedure, seen, held)
    }

    /// Of a procedure that was resumed.
    pub(in crate::operation) fn resumed(procedure: P, seen: P::Observed) -> Self {
        Self::new(procedure, seen, Held::resumed())
    }

    fn new(procedure: P, seen: P::Observed, held: Held<P>) -> Self {
        Self {
            held,
            procedure,
            seen,
            goal: Goal::Forward,
            step: None,
            since: Instant::now(),
        }
    }

    fn decide(&mut self, step: P::Step) {
        if self.step == Some(step) {
            return;
        }
        let taken = self.since.elapsed().as_secs_f64() * 1e3;
        if let Some(last) = self.step.replace(step) {
            let said = (P::what(last).words)(self.procedure.plan());
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

    fn is_settled_forward(&self) -> bool;

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
        self.held.look(&self.procedure, goals, [&before, &self.seen])?;
        let step = P::next(&self.seen, goal);
        self.decide(step);
        log::debug!("{goal:?}: {step:?} from {:?}", self.seen);
        Ok(match P::what(step).turn {
            Turn::Fail(failure) => Turn::Fail(self.procedure.explain(failure)),
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
                    (P::what(step).act)(&mut self.procedure, &self.seen)
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
        words::<P>(self.procedure.plan(), &self.seen, goal)
    }

    fn remarks(&self) -> Vec<String> {
        self.procedure.plan().remarks()
    }

    fn passed_no_return(&self) -> bool {
        P::passed_no_return(&self.seen)
    }

    fn is_settled_forward(&self) -> bool {
        P::is_settled_forward(&self.seen)
    }

    fn reconnect(&mut self) -> Result<()> {
        let guest = Arc::clone(&self.procedure.plan().guest);
        guest.reconnect()?;
        self.procedure.ties_mut().subscribe(&guest)
    }

    fn has_events(&self) -> bool {
        self.procedure.ties().subscription.is_some()
    }

    fn guest(&self) -> &Guest {
        &self.procedure.plan().guest
    }

    fn journal(&self) -> &Journal {
        &self.procedure.ties().journal
    }

    fn bytes(&self) -> (u64, u64) {
        self.procedure.bytes()
    }

    fn report(&self) -> Option<Report> {
        self.procedure.report().map(|report| Report {
            warnings: Warnings {
                source_kept: report.warnings.source_kept,
                ..self.procedure.plan().warnings()
            },
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
