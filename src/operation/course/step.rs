// SPDX-License-Identifier: LGPL-2.1-or-later
//! All that there is to say of one step, in one place: its words, its effect on the model, how it is carried out, and what
//! the caller is told meanwhile. Its name is its point in the fault matrix.

use crate::error::Result;
use crate::operation::course::procedure::{Procedure, Turn};
use crate::operation::state::{self, Goal, Mark};
use crate::operation::types::Phase;

type Words<P> = Box<dyn Fn(&<P as Procedure>::Plan) -> String>;
type Effect<P> = Box<dyn Fn(&mut <P as Procedure>::Observed)>;
type Act<P> = Box<dyn FnOnce(&mut P, &<P as Procedure>::Observed) -> Result<()>>;

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

impl<P: Procedure + 'static> What<P> {
    pub(in crate::operation) fn new(
        words: impl Fn(&P::Plan) -> String + 'static,
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
        let words = move |plan: &P::Plan| match mark {
            Mark::Begun => format!(
                "record the operation in the metadata of domain '{}'",
                P::guest(plan).name()
            ),
            _ => "record progress in the domain's metadata".into(),
        };
        Self::new(
            words,
            move |seen| effect(seen, mark),
            move |procedure, _| write(procedure, mark),
        )
    }

    pub(in crate::operation) fn remove_record(effect: fn(&mut P::Observed), remove: fn(&P) -> Result<()>) -> Self {
        let words = |_: &P::Plan| "remove the record from the domain's metadata".into();
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

/// The steps from `seen` to the goal, when all goes well.
pub(in crate::operation) fn steps<P: Procedure>(
    seen: &P::Observed,
    goal: Goal,
    what: impl Fn(P::Step) -> What<P>,
) -> Vec<P::Step> {
    state::steps(
        seen,
        |seen| P::next(seen, goal),
        |seen, step| (what(step).effect)(seen),
        |step| matches!(what(step).turn, Turn::Done | Turn::Fail(_)),
    )
}
