// SPDX-License-Identifier: LGPL-2.1-or-later
//! The model held against the world. In test builds what is seen after each turn of the loop must follow from what was
//! seen before it: by the step that was taken, and by what the model says can happen beside it. A turn that does not is
//! printed, and its operation ends as INTERNAL. A release build has nothing of it.

#[cfg(not(any(test, debug_assertions, feature = "faults")))]
pub(in crate::operation) use absent::Held;
#[cfg(any(test, debug_assertions, feature = "faults"))]
pub(in crate::operation) use present::Held;

#[cfg(not(any(test, debug_assertions, feature = "faults")))]
mod absent {
    use std::marker::PhantomData;

    use crate::error::{Error, Result};
    use crate::operation::course::procedure::Procedure;
    use crate::operation::state::Goal;

    pub(in crate::operation) struct Held<P>(PhantomData<fn() -> P>);

    impl<P: Procedure> Held<P> {
        pub(in crate::operation) fn begun(_: P::Step) -> Self {
            Self(PhantomData)
        }

        pub(in crate::operation) fn resumed() -> Self {
            Self(PhantomData)
        }

        pub(in crate::operation) fn acted(&mut self, _: P::Step, _: &Result<()>) {}

        pub(in crate::operation) fn look(&mut self, _: &str, _: [Goal; 2], _: [&P::Observed; 2]) -> Result<()> {
            Ok(())
        }

        pub(in crate::operation) fn unexplained(&self) -> Option<Error> {
            None
        }
    }
}

#[cfg(any(test, debug_assertions, feature = "faults"))]
mod present {
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, HashSet};
    use std::io::Write;

    use crate::error::{Error, ErrorCode, Result};
    use crate::operation::course::modelled::Modelled;
    use crate::operation::course::procedure::Procedure;
    use crate::operation::state::Goal;

    /// A file to append turns to that cannot be explained, for whoever runs many processes.
    const FILE: &str = "LIVEDISK_UNEXPLAINED";
    /// More worlds than this are looked at for no turn.
    const MOST: usize = 50_000;

    /// Whether steps and accidents lead from one of `worlds` to `seen`. Those that are more like it are tried first.
    fn leads_to<Step, O: Modelled<Step>>(worlds: Vec<O>, seen: &O) -> bool {
        let parts = |world: &O| format!("{world:?}").split(", ").map(str::to_owned).collect::<Vec<_>>();
        let wanted = parts(seen);
        let distance = |world: &O| {
            parts(world)
                .iter()
                .zip(&wanted)
                .filter(|(is, wanted)| is != wanted)
                .count()
        };
        let mut known = HashSet::new();
        let mut reached: Vec<O> = Vec::new();
        let mut open = BinaryHeap::new();
        let mut next = worlds;
        loop {
            for world in next {
                if world == *seen {
                    return true;
                }
                if known.insert(world.clone()) {
                    open.push((Reverse(distance(&world)), reached.len()));
                    reached.push(world);
                }
            }
            match open.pop() {
                Some((_, index)) if known.len() < MOST => next = reached[index].accidents(),
                _ => return false,
            }
        }
    }

    /// What is known of the turn that is under way.
    pub(in crate::operation) struct Held<P: Procedure> {
        /// Something was seen before it.
        has_seen: bool,
        acted: Option<(P::Step, Result<()>)>,
        unexplained: Option<Error>,
    }

    impl<P: Procedure> Held<P> {
        /// An operation whose first step was carried out as it was begun.
        pub(in crate::operation) fn begun(step: P::Step) -> Self {
            Self {
                has_seen: true,
                acted: Some((step, Ok(()))),
                unexplained: None,
            }
        }

        /// An operation of which nothing was seen so far.
        pub(in crate::operation) fn resumed() -> Self {
            Self {
                has_seen: false,
                acted: None,
                unexplained: None,
            }
        }

        pub(in crate::operation) fn acted(&mut self, step: P::Step, result: &Result<()>) {
            self.acted = Some((step, result.clone()));
        }

        /// At the end of a turn: the goals and what was seen, before it and now.
        pub(in crate::operation) fn look(
            &mut self,
            domain: &str,
            goals: [Goal; 2],
            [before, now]: [&P::Observed; 2],
        ) -> Result<()> {
            let acted = self.acted.take();
            if !std::mem::replace(&mut self.has_seen, true) {
                return Ok(());
            }
            let mut worlds = match &acted {
                Some((step, result)) => before.outcomes(*step, result.is_err()),
                None => vec![before.clone()],
            };
            if goals == [Goal::Forward, Goal::Back] {
                worlds.iter_mut().for_each(Modelled::turned_back);
            }
            if leads_to(worlds, now) {
                return Ok(());
            }
            let step = match acted {
                Some((step, Ok(()))) => format!("{step:?}"),
                Some((step, Err(error))) => format!("{step:?}, which failed: {error}"),
                None => "none".into(),
            };
            let message = format!(
                "a turn of the operation on domain '{domain}' that the model cannot explain:\n  goal {goals:?}\n  before {before:?}\n  \
                 step {step}\n  now {now:?}"
            );
            log::error!("{message}");
            eprintln!("livedisk: {message}");
            if let Some(path) = std::env::var_os(FILE) {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                let _ = file.and_then(|mut file| writeln!(file, "{message}"));
            }
            let error = Error::new(ErrorCode::Internal, message);
            self.unexplained.get_or_insert_with(|| error.clone());
            Err(error)
        }

        pub(in crate::operation) fn unexplained(&self) -> Option<Error> {
            self.unexplained.clone()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::operation::snapshot::mirror::{Observed, Rest, Step};
        use crate::operation::state::{Image, Job, Mark};

        /// Mirrors that run, of so many disks.
        fn copying(disks: usize) -> Observed {
            Observed {
                alive: true,
                mark: Mark::Copying,
                thawed: true,
                resumed: true,
                fixed: false,
                finish: false,
                limited: false,
                rest: Rest::Verify,
                stored: None,
                taken: vec![false; disks],
                images: vec![Image::Made; disks],
                jobs: vec![Job::Running; disks],
            }
        }

        fn follows(before: &Observed, change: impl FnOnce(&mut Observed)) -> bool {
            let mut now = before.clone();
            change(&mut now);
            leads_to::<Step, _>(vec![before.clone()], &now)
        }

        #[test]
        fn what_may_happen_by_itself_is_explained() {
            let before = copying(2);
            assert!(follows(&before, |_| {}));
            assert!(follows(&before, |now| now.jobs[1] = Job::Ready));
            assert!(follows(&before, |now| (now.alive, now.jobs) = (false, vec![Job::Failed; 2])));
            // Many at once.
            let before = copying(24);
            assert!(follows(&before, |now| {
                now.finish = true;
                now.jobs.fill(Job::Ready);
                now.jobs[7] = Job::Failed;
            }));
        }

        #[test]
        fn what_no_step_did_is_not() {
            let before = copying(2);
            assert!(!follows(&before, |now| now.mark = Mark::Fixing));
            assert!(!follows(&before, |now| now.fixed = true));
            assert!(!follows(&before, |now| now.images[0] = Image::Missing));
            assert!(!follows(&before, |now| now.jobs[0] = Job::Completed));
            assert!(!follows(&before, |now| now.rest = Rest::Nothing));
            assert!(!follows(&before, |now| now.thawed = false));
            let mut dead = before.clone();
            (dead.alive, dead.jobs) = (false, vec![Job::Failed; 2]);
            assert!(!follows(&dead, |now| now.alive = true));
        }
    }
}
