// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a procedure's model says of one turn, where the model is held against the world: in test builds.

#[cfg(not(any(test, debug_assertions, feature = "faults")))]
pub(in crate::operation) trait Modelled<Step> {}

#[cfg(not(any(test, debug_assertions, feature = "faults")))]
impl<T, Step> Modelled<Step> for T {}

#[cfg(any(test, debug_assertions, feature = "faults"))]
pub(in crate::operation) trait Modelled<Step>:
    Clone + Eq + std::hash::Hash + std::fmt::Debug
{
    /// The worlds that `step` leaves; where it `failed`, also those in which it did nothing, or half of it.
    fn outcomes(&self, step: Step, failed: bool) -> Vec<Self>;

    /// What can happen to the world beside livedisk: jobs move, the guest dies, the caller wants it finished.
    fn accidents(&self) -> Vec<Self>;

    /// The same but for `change`.
    fn but(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        change(&mut world);
        world
    }

    /// The goal was Forward and is Back from now on.
    fn turned_back(&mut self) {}
}
