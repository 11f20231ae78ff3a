// SPDX-License-Identifier: LGPL-2.1-or-later
//! Every state that a procedure can come to, for the properties of its model.

use std::collections::HashSet;

use crate::operation::course::modelled::Modelled;
use crate::operation::course::procedure::{Model, Procedure, steps};
use crate::operation::state::Goal;

/// States, with the goals that are possible there.
pub(in crate::operation) type States<P> = HashSet<(<P as Procedure>::Observed, Goal)>;

/// What steps and accidents lead to from `first`: forward may turn back anywhere, and back never turns forward. `resumed` is
/// what another process finds when the one that ran the operation has died.
pub(in crate::operation) fn reachable<P: Procedure, R: IntoIterator<Item = P::Observed>>(
    first: impl IntoIterator<Item = P::Observed>,
    resumed: impl Fn(&P::Observed) -> R,
) -> States<P> {
    let mut known = HashSet::new();
    let mut open: Vec<_> = first.into_iter().map(|seen| (seen, Goal::Forward)).collect();
    while let Some((seen, goal)) = open.pop() {
        if !known.insert((seen.clone(), goal)) {
            continue;
        }
        open.push((seen.clone(), Goal::Back));
        let worlds = seen.outcomes(seen.next(goal), true);
        let worlds = worlds.into_iter().chain(seen.accidents()).chain(resumed(&seen));
        open.extend(worlds.map(|world| (world, goal)));
    }
    known
}

/// Both goals end, from each of so many states that the model is not looked at in part.
pub(in crate::operation) fn must_terminate<P: Procedure>(worlds: &[States<P>]) {
    let states = worlds.iter().map(HashSet::len).sum::<usize>();
    assert!(states > 1000, "only {states} states were reached");
    for (seen, goal) in worlds.iter().flatten() {
        let steps = steps::<P>(seen, *goal);
        assert!(
            steps.len() < 60,
            "{goal:?} from {seen:?} does not end: {:?}",
            &steps[..60]
        );
    }
}
