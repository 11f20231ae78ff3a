// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is a procedure's own: which steps there are, what comes when, how each is carried out. The loop around it is
//! [`crate::operation::course::run`]'s.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::image::Made;
use crate::libvirt::Subscription;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::shared::Shared;
use crate::operation::notice::Notice;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
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
    subscription: Mutex<Option<Subscription>>,
    pub(in crate::operation) journal: Arc<Journal>,
}

impl Ties {
    pub(in crate::operation) fn new(guest: &Guest, journal: Journal, shared: Arc<Shared>) -> Result<Self> {
        let asked = Arc::clone(&shared);
        journal.on_cancel(move || asked.request(|requests| requests.cancel = true));
        let ties = Self {
            shared,
            subscription: Mutex::new(None),
            journal: Arc::new(journal),
        };
        ties.subscribe(guest)?;
        Ok(ties)
    }

    pub(in crate::operation) fn subscribe(&self, guest: &Guest) -> Result<()> {
        let mut subscription = self.subscription.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped first: the callbacks of a dead connection must not outlive it.
        *subscription = None;
        *subscription = self.shared.subscribe(guest)?;
        Ok(())
    }

    pub(in crate::operation) fn has_events(&self) -> bool {
        let subscription = self.subscription.lock();
        subscription.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Records how far it is, the image that was made for each disk, and what else whoever resumes it needs.
    pub(in crate::operation) fn note<'a, Request: Serialize, Note: Serialize>(
        &self,
        mark: Mark,
        made: impl IntoIterator<Item = Option<&'a Made>>,
        request: Request,
        note: Note,
    ) -> Result<()> {
        self.journal.note(mark, made, &Details { request, note })
    }
}

/// What the record keeps that a procedure alone understands.
#[derive(Serialize, Deserialize)]
pub(in crate::operation) struct Details<Request, Note> {
    pub(in crate::operation) request: Request,
    #[serde(flatten)]
    pub(in crate::operation) note: Note,
}

/// What is observed of an operation, and what is decided from it. It is pure.
pub(in crate::operation) trait Model: Clone + Debug + Send + 'static {
    type Step;

    /// The next step towards the goal.
    #[must_use]
    fn next(&self, goal: Goal) -> Self::Step;

    /// What the caller sees on the way forward, where the step does not say.
    fn phase(&self) -> Phase;

    /// There is no way back any more: whatever is asked for, the goal is forward.
    fn passed_no_return(&self) -> bool {
        false
    }

    /// Whether what was observed is cleaned up by going on: all that is left is to record it.
    fn is_resolved_forward(&self) -> bool;
}

/// A step of the procedure `P`.
pub(in crate::operation) trait StepOf<P: Procedure>: Copy + PartialEq + Debug + Send {
    /// All that there is to say of it.
    fn what(self) -> What<P>;
}

/// A kind of operation: its plan, its model, and its hands. The loop has the plan and the ties, and shares them with the
/// hands.
pub(in crate::operation) trait Procedure: Send + Sized + 'static {
    const KIND: Kind;
    /// What was asked for, and what was decided for it: what may be started is the plan.
    type Request: Asked + Clone + Serialize + DeserializeOwned + Send + Sync;
    type Observed: Model<Step = Self::Step> + Modelled<Self::Step>;
    type Step: StepOf<Self>;
    /// What the record keeps beside the request, for the process that resumes the operation.
    type Note: Serialize + DeserializeOwned;

    /// The state before the first step.
    fn at_start(plan: &Planned<Self::Request>) -> Self::Observed;

    /// The disks and the note of the first record.
    fn first_record(plan: &Planned<Self::Request>) -> Result<(Vec<RecordedDisk>, Self::Note)>;

    /// With its record written, and nothing done.
    fn at_rest(plan: Arc<Planned<Self::Request>>, ties: Arc<Ties>) -> Self;

    /// As the record of a process that is gone and the world show it.
    fn find(&mut self, record: &Record, note: Self::Note) -> Result<Self::Observed>;

    /// What libvirt, the file system and the record say now. `last` is what was observed before.
    fn observe(&mut self, last: &Self::Observed) -> Result<Self::Observed>;

    /// The goal was Forward and is Back from now on.
    fn turn_back(&mut self) {}

    /// Copied and to be copied.
    fn bytes(&self) -> (u64, u64);

    /// `None` where it has not come so far. What it warns of is added.
    fn report(&self) -> Option<Report>;

    /// What came up on the way that is otherwise than the caller may think.
    fn notices(&self) -> Vec<Notice> {
        Vec::new()
    }

    /// File systems thawed that a dead process had left frozen.
    fn thawed(&self) -> u32 {
        0
    }
}

type Words<P> = Box<dyn Fn(&Planned<<P as Procedure>::Request>) -> String>;
type Effect<P> = Box<dyn Fn(&mut <P as Procedure>::Observed)>;
type Act<P> = Box<dyn FnOnce(&mut P, &<P as Procedure>::Observed) -> Result<()>>;
/// Why the operation rolls back, or ends.
type Why<P> = Box<dyn FnOnce(&P) -> Error>;

/// All that there is to say of one step, in one place. Its name is its point in the fault matrix.
pub(in crate::operation) struct What<P: Procedure> {
    pub(in crate::operation) turn: Turn<Why<P>>,
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
        turn: Turn<Why<P>>,
        words: &'static str,
        effect: impl Fn(&mut P::Observed) + 'static,
    ) -> Self {
        Self {
            turn,
            ..Self::new(|_| words.to_owned(), effect, |_, _| Ok(()))
        }
    }

    pub(in crate::operation) fn fail(why: impl FnOnce(&P) -> Error + 'static) -> Self {
        Self::wait(Turn::Fail(Box::new(why)), "roll back", |_| {})
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

/// What the caller sees while `step` is taken.
pub(in crate::operation) fn phase<P: Procedure>(seen: &P::Observed, goal: Goal, step: P::Step) -> Phase {
    match goal {
        Goal::Back => Phase::Finishing,
        Goal::Forward => step.what().phase.unwrap_or_else(|| seen.phase()),
    }
}

/// The steps from `seen` to the goal, when all goes well.
pub(in crate::operation) fn steps<P: Procedure>(seen: &P::Observed, goal: Goal) -> Vec<P::Step> {
    state::steps(
        seen,
        |seen| seen.next(goal),
        |seen, step| (step.what().effect)(seen),
        |step| matches!(step.what().turn, Turn::Done | Turn::Fail(_)),
    )
}

/// The same in words.
pub(in crate::operation) fn words<P: Procedure>(
    plan: &Planned<P::Request>,
    seen: &P::Observed,
    goal: Goal,
) -> Vec<String> {
    let steps = steps::<P>(seen, goal);
    steps.into_iter().map(|step| (step.what().words)(plan)).collect()
}
