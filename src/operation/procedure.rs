// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the loop needs of a procedure.

use std::fmt::Debug;

use super::journal::Journal;
use super::state::Goal;
use super::types::{Phase, Report};
use crate::driver::Guest;
use crate::error::{Error, Result};

/// What the loop has to do next.
pub(super) enum Turn {
    /// Nothing: the goal is reached.
    Done,
    /// Turn back, for this reason.
    Fail(Error),
    /// Wait for block jobs to move.
    AwaitJobs,
    /// Wait for the caller.
    AwaitFinish,
    /// Carry out the step.
    Act,
}

/// An operation's observing, deciding and acting.
pub(super) trait Procedure: Send {
    /// Observes the world and decides the next step towards the goal.
    fn look(&mut self, goal: Goal) -> Result<Turn>;

    /// Carries out the step that was decided last.
    fn act(&mut self) -> Result<()>;

    /// The step that was decided last.
    fn step(&self) -> &dyn Debug;

    /// What the caller is told while the step that was decided last is taken.
    fn phase(&self) -> Phase;

    /// How many steps there are from the one that was decided last to the goal.
    fn steps_left(&self) -> usize;

    /// Copied and to be copied.
    fn bytes(&self) -> (u64, u64);

    /// There is no way back any more: whatever is wished, the goal is forward.
    fn passed_no_return(&self) -> bool;

    fn report(&self) -> Option<Report>;

    /// Over a new connection, after the daemon came back.
    fn reconnect(&mut self) -> Result<()>;

    fn has_events(&self) -> bool;

    fn guest(&self) -> &Guest;

    fn journal(&self) -> &Journal;

    /// Whether what was observed last is settled by going on: what is left to do is to say so.
    fn is_settled_forward(&self) -> bool;

    /// The steps to the goal from what was observed last, in words.
    fn words(&self, goal: Goal) -> Vec<String>;

    /// File systems thawed that a dead process had left frozen.
    fn thawed(&self) -> u32;
}
