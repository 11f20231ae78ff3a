// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is a procedure's own: which steps there are, what comes when, how each is carried out. The loop around it is
//! [`crate::operation::course::run`]'s.

use std::fmt::Debug;
use std::sync::Arc;

use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::libvirt::Subscription;
use crate::operation::course::held::Modelled;
use crate::operation::course::shared::Shared;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::state::Goal;
use crate::operation::types::{Method, Phase, Report};

/// What the loop does at a step.
pub(in crate::operation) enum Turn<Failure> {
    /// Nothing: the goal is reached.
    Done,
    /// Turn back, for this reason.
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
pub(in crate::operation) trait Procedure: Send + Sized {
    type Plan;
    type Observed: Clone + Debug + Send + Modelled<Self::Plan, Self::Step>;
    type Step: Copy + PartialEq + Debug + Send;
    type Failure: Copy;

    // The plan: what may be started.

    fn method(plan: &Self::Plan) -> Method;
    fn targets(plan: &Self::Plan) -> Vec<&str>;
    fn guest(plan: &Self::Plan) -> &Arc<Guest>;

    // The model: pure.

    /// The state before the first step.
    fn at_start(plan: &Self::Plan) -> Self::Observed;

    /// The next step from what is observed towards the goal.
    fn next(seen: &Self::Observed, goal: Goal) -> Self::Step;

    fn turn(step: Self::Step) -> Turn<Self::Failure>;

    /// The steps from `seen` to the goal, when all goes well.
    fn steps(plan: &Self::Plan, seen: &Self::Observed, goal: Goal) -> Vec<Self::Step>;

    /// The step in words, as a dry run reports it.
    fn describe(plan: &Self::Plan, step: Self::Step) -> String;

    /// What the caller sees while `step` is taken.
    fn phase(seen: &Self::Observed, goal: Goal, step: Self::Step) -> Phase;

    /// There is no way back any more: whatever is asked for, the goal is forward.
    fn passed_no_return(seen: &Self::Observed) -> bool;

    /// Whether what was observed is cleaned up by going on: all that is left is to record it.
    fn is_settled_forward(seen: &Self::Observed) -> bool;

    // The hands.

    /// Writes the record; from then on the operation is this process's.
    fn begin(plan: Self::Plan, claim: &Claim<'_>, shared: Arc<Shared>) -> Result<Self>;

    /// Resumes an operation from its record and from what can be observed.
    fn resume(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Self::Observed)>;

    fn plan(&self) -> &Self::Plan;
    fn ties(&self) -> &Ties;
    fn ties_mut(&mut self) -> &mut Ties;

    /// What libvirt, the file system and the record say now. `last` is what was observed before.
    fn observe(&mut self, last: &Self::Observed) -> Result<Self::Observed>;

    /// Carries out `step`, which was decided from `seen`.
    fn perform(&mut self, step: Self::Step, seen: &Self::Observed) -> Result<()>;

    /// The goal was Forward and is Back from now on.
    fn turn_back(&mut self) {}

    /// Why `failure` makes the operation turn back, or end.
    fn explain(&self, failure: Self::Failure) -> Error;

    /// Copied and to be copied.
    fn bytes(&self) -> (u64, u64);

    fn report(&self) -> Option<Report>;

    /// File systems thawed that a dead process had left frozen.
    fn thawed(&self) -> u32 {
        0
    }
}

/// The steps in words.
pub(in crate::operation) fn words<P: Procedure>(plan: &P::Plan, seen: &P::Observed, goal: Goal) -> Vec<String> {
    let steps = P::steps(plan, seen, goal);
    steps.into_iter().map(|step| P::describe(plan, step)).collect()
}
