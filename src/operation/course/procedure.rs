// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is a procedure's own: which steps there are, what comes when, how each is carried out. The loop around it is
//! [`crate::operation::course::run`]'s.

use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::libvirt::Subscription;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::shared::Shared;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::Record;
use crate::operation::plan::planned::{Asked, Planned};
use crate::operation::state::{self, Goal, Mark};
use crate::operation::types::{Phase, Report};

/// What the loop does at a step.
pub(in crate::operation) enum Turn<Failure> {
    /// Nothing: the goal is reached.
    Done,
    /// Roll back, for this reason.
    Fail(Failure),
    /// Wait for block jobs to move.
    AwaitJobs,
    /// Wait for the caller.
    AwaitFinish,
    /// Carry out the step.
    Act,
}

/// What ties an operation to its caller, to its domain and to libvirt's events.
pub(in crate::operation) struct Ties {
    pub(in crate::operation) shared: Arc<Shared>,
    /// `None` without an event loop.
    pub(in crate::operation) subscription: Option<Subscription>,
    pub(in crate::operation) journal: Arc<Journal>,
}

impl Ties {
    pub(in crate::operation) fn new(guest: &Guest, journal: Journal, shared: Arc<Shared>) -> Result<Self> {
        let asked = Arc::clone(&shared);
        journal.on_cancel(move || asked.request(|requests| requests.cancel = true));
        let mut ties = Self {
            shared,
            subscription: None,
            journal: Arc::new(journal),
        };
        ties.subscribe(guest)?;
        Ok(ties)
    }

    pub(in crate::operation) fn subscribe(&mut self, guest: &Guest) -> Result<()> {
        // Dropped first: the callbacks of a dead connection must not outlive it.
        self.subscription = None;
        self.subscription = self.shared.subscribe(guest)?;
        Ok(())
    }
}

/// A kind of operation: its plan, its model, and its hands.
pub(in crate::operation) trait Procedure: Send + Sized + 'static {
    /// What was asked for, and what was decided for it: what may be started is the plan.
    type Request: Asked;
    type Observed: Clone + Debug + Send + Modelled<Self::Step>;
    type Step: Copy + PartialEq + Debug + Send;
    type Failure: Copy;

    // The model: pure.

    /// The state before the first step.
    fn at_start(plan: &Planned<Self::Request>) -> Self::Observed;

    /// The next step from what is observed towards the goal.
    fn next(seen: &Self::Observed, goal: Goal) -> Self::Step;

    fn what(step: Self::Step) -> What<Self>;

    /// What the caller sees on the way forward, where the step does not say.
    fn phase(seen: &Self::Observed) -> Phase;

    /// There is no way back any more: whatever is asked for, the goal is forward.
    fn passed_no_return(seen: &Self::Observed) -> bool;

    /// Whether what was observed is cleaned up by going on: all that is left is to record it.
    fn is_settled_forward(seen: &Self::Observed) -> bool;

    // The hands.

    /// The record of an operation that is begun.
    fn first_record(plan: &Planned<Self::Request>) -> Result<Record>;

    /// With its record written, and nothing done.
    fn at_rest(plan: Planned<Self::Request>, ties: Ties) -> Self;

    /// Resumes an operation from its record and from what can be observed.
    fn found(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Self::Observed)>;

    fn plan(&self) -> &Planned<Self::Request>;
    fn ties(&self) -> &Ties;
    fn ties_mut(&mut self) -> &mut Ties;

    /// What libvirt, the file system and the record say now. `last` is what was observed before.
    fn observe(&mut self, last: &Self::Observed) -> Result<Self::Observed>;

    /// The goal was Forward and is Back from now on.
    fn turn_back(&mut self) {}

    /// Why `failure` makes the operation roll back, or end.
    fn explain(&self, failure: Self::Failure) -> Error;

    /// Copied and to be copied.
    fn bytes(&self) -> (u64, u64);

    fn report(&self) -> Option<Report>;

    /// File systems thawed that a dead process had left frozen.
    fn thawed(&self) -> u32 {
        0
    }
}

type Words<P> = Box<dyn Fn(&Planned<<P as Procedure>::Request>) -> String>;
type Effect<P> = Box<dyn Fn(&mut <P as Procedure>::Observed)>;
type Act<P> = Box<dyn FnOnce(&mut P, &<P as Procedure>::Observed) -> Result<()>>;

/// All that there is to say of one step, in one place. Its name is its point in the fault matrix.
pub(in crate::operation) struct What<P: Procedure> {
    pub(in crate::operation) turn: Turn<P::Failure>,
    /// As a dry run reports it.
    pub(in crate::operation) words: Words<P>,
    /// On what is observed, when all goes well.
    pub(in crate::operation) effect: Effect<P>,
    /// How it is carried out; it was decided from what was observed.
    pub(in crate::operation) act: Act<P>,
    /// `None`: the phase is that of the state.
    pub(in crate::operation) phase: Option<Phase>,
}

impl<P: Procedure> What<P> {
    pub(in crate::operation) fn new(
        words: impl Fn(&Planned<P::Request>) -> String + 'static,
        effect: impl Fn(&mut P::Observed) + 'static,
        act: impl FnOnce(&mut P, &P::Observed) -> Result<()> + 'static,
    ) -> Self {
        Self {
            turn: Turn::Act,
            words: Box::new(words),
            effect: Box::new(effect),
            act: Box::new(act),
            phase: None,
        }
    }

    pub(in crate::operation) fn write_record(
        mark: Mark,
        effect: fn(&mut P::Observed, Mark),
        write: fn(&mut P, Mark) -> Result<()>,
    ) -> Self {
        let words = move |plan: &Planned<P::Request>| match mark {
            Mark::Begun => format!("record the operation in the metadata of domain '{}'", plan.guest.name()),
            _ => "record progress in the domain's metadata".into(),
        };
        Self::new(
            words,
            move |seen| effect(seen, mark),
            move |procedure, _| write(procedure, mark),
        )
    }

    pub(in crate::operation) fn remove_record(effect: fn(&mut P::Observed), remove: fn(&P) -> Result<()>) -> Self {
        let words = |_: &Planned<P::Request>| "remove the record from the domain's metadata".into();
        Self::new(words, effect, move |procedure, _| remove(procedure))
    }

    /// QEMU, or the caller, is waited for.
    pub(in crate::operation) fn wait(
        turn: Turn<P::Failure>,
        words: &'static str,
        effect: impl Fn(&mut P::Observed) + 'static,
    ) -> Self {
        Self {
            turn,
            ..Self::new(|_| words.to_owned(), effect, |_, _| Ok(()))
        }
    }

    pub(in crate::operation) fn fail(failure: P::Failure) -> Self {
        Self::wait(Turn::Fail(failure), "roll back", |_| {})
    }

    pub(in crate::operation) fn done() -> Self {
        Self::wait(Turn::Done, "be done", |_| {})
    }

    pub(in crate::operation) fn in_phase(self, phase: Phase) -> Self {
        Self {
            phase: Some(phase),
            ..self
        }
    }
}

/// Writes the record; from then on the operation is this process's.
pub(in crate::operation) fn begin<P: Procedure>(
    plan: Planned<P::Request>,
    claim: &Claim<impl Deref<Target = Guest>>,
    shared: Arc<Shared>,
) -> Result<P> {
    let guest = Arc::clone(&plan.guest);
    let journal = Journal::begin(&guest, P::first_record(&plan)?, claim)?;
    let ties = Ties::new(&guest, journal, shared)?;
    Ok(P::at_rest(plan, ties))
}

/// What the caller sees while `step` is taken.
pub(in crate::operation) fn phase<P: Procedure>(seen: &P::Observed, goal: Goal, step: P::Step) -> Phase {
    match goal {
        Goal::Back => Phase::Finishing,
        Goal::Forward => P::what(step).phase.unwrap_or_else(|| P::phase(seen)),
    }
}

/// The steps from `seen` to the goal, when all goes well.
pub(in crate::operation) fn steps<P: Procedure>(seen: &P::Observed, goal: Goal) -> Vec<P::Step> {
    state::steps(
        seen,
        |seen| P::next(seen, goal),
        |seen, step| (P::what(step).effect)(seen),
        |step| matches!(P::what(step).turn, Turn::Done | Turn::Fail(_)),
    )
}

/// The same in words.
pub(in crate::operation) fn words<P: Procedure>(
    plan: &Planned<P::Request>,
    seen: &P::Observed,
    goal: Goal,
) -> Vec<String> {
    let steps = steps::<P>(seen, goal);
    steps.into_iter().map(|step| (P::what(step).words)(plan)).collect()
}
