// SPDX-License-Identifier: LGPL-2.1-or-later
//! What each step does when all goes well: for the plan that a dry run shows, for the count of steps, and as the
//! hypervisor of the property tests.

use super::{Observed, Read, Step, next};
use crate::operation::parts::backup::export::Export;
use crate::operation::state::{Goal, Image, Mark, steps};

/// The world after `step`.
pub(crate) fn apply(seen: &mut Observed, step: Step, taken: &[bool]) {
    match step {
        Step::WriteRecord(mark) => seen.mark = mark,
        Step::MakeImage(index) => {
            seen.images[index] = if taken[index] { Image::Taken } else { Image::Made };
        }
        Step::MakeScratch(index) => seen.scratches[index] = Image::Made,
        Step::MakeServer => seen.server = true,
        Step::FixPoint => (seen.fixed, seen.export) = (true, Export::Running),
        Step::StartReader(index) => seen.reads[index] = Read::Reading,
        Step::AwaitJobs => {
            for read in &mut seen.reads {
                if *read == Read::Reading {
                    (*read, seen.noted) = (Read::Done, false);
                }
            }
            if seen.export == Export::Ending {
                seen.export = Export::None;
            }
        }
        Step::NoteRead => seen.noted = true,
        Step::StopReader => {
            for read in &mut seen.reads {
                if *read == Read::Reading {
                    *read = Read::Waiting;
                }
            }
        }
        Step::EndBackup => seen.export = Export::Ending,
        Step::RemoveScratch(index) => seen.scratches[index] = Image::Missing,
        Step::RemoveServer => seen.server = false,
        Step::AwaitFinish => seen.finish = true,
        Step::Verify => seen.verified = true,
        Step::Thaw => seen.thawed = true,
        Step::Resume => seen.stopped = false,
        Step::RemoveImage(index) => seen.images[index] = Image::Missing,
        Step::RemoveRecord => seen.mark = Mark::Absent,
        Step::Fail(_) | Step::Done => {}
    }
}

/// The steps from here to the end, when all goes well.
pub(crate) fn plan(seen: &Observed, goal: Goal, taken: &[bool]) -> Vec<Step> {
    let is_last = |step| matches!(step, Step::Done | Step::Fail(_));
    steps(
        seen,
        |seen| next(seen, goal),
        |seen, step| apply(seen, step, taken),
        is_last,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::operation::snapshot::backup::accidents::{accidents, outcomes};

    fn start(disks: usize) -> Observed {
        Observed {
            alive: true,
            mark: Mark::Absent,
            thawed: true,
            stopped: false,
            fixed: false,
            finish: false,
            noted: true,
            verified: false,
            full: false,
            server: false,
            export: Export::None,
            broken: false,
            images: vec![Image::Missing; disks],
            scratches: vec![Image::Missing; disks],
            reads: vec![Read::Waiting; disks],
        }
    }

    /// A process died, and another one resumes: what only the old one knew is forgotten.
    fn resumed(seen: &Observed) -> Vec<Observed> {
        let mut worlds = Vec::new();
        let mut with = |change: &dyn Fn(&mut Observed)| {
            let mut world = seen.clone();
            change(&mut world);
            worlds.push(world);
        };
        with(&|world| world.thawed = false);
        for index in 0..seen.images.len() {
            if seen.mark == Mark::Begun && seen.images[index] == Image::Missing {
                with(&|world| world.images[index] = Image::Half);
            }
        }
        with(&|world| {
            (world.finish, world.verified, world.full, world.broken) = (false, false, false, false);
            world.fixed = world.mark == Mark::Fixed;
            for read in &mut world.reads {
                if *read != Read::Done || !world.noted {
                    *read = Read::Waiting;
                }
            }
            world.noted = true;
        });
        worlds
    }

    /// Every state that steps and accidents lead to, with the goals that are possible there.
    fn reachable(first: Observed, taken: &[bool]) -> HashSet<(Observed, Goal)> {
        let mut known = HashSet::new();
        let mut open = vec![(first, Goal::Forward)];
        while let Some((seen, goal)) = open.pop() {
            if !known.insert((seen.clone(), goal)) {
                continue;
            }
            open.push((seen.clone(), Goal::Back));
            let worlds = outcomes(&seen, next(&seen, goal), true, taken);
            let worlds = worlds.into_iter().chain(accidents(&seen)).chain(resumed(&seen));
            open.extend(worlds.map(|world| (world, goal)));
        }
        known
    }

    /// The states that can be reached, and which images are the caller's.
    type World = (HashSet<(Observed, Goal)>, Vec<bool>);

    fn worlds() -> Vec<World> {
        let of = |disks: usize| {
            let taken: Vec<bool> = (0..disks).map(|index| index == 1).collect();
            (reachable(start(disks), &taken), taken)
        };
        vec![of(1), of(2)]
    }

    #[test]
    fn from_every_reachable_state_both_goals_terminate() {
        let mut states = 0;
        for (world, taken) in worlds() {
            for (seen, goal) in &world {
                states += 1;
                let steps = plan(seen, *goal, &taken);
                assert!(steps.len() < 60, "{goal:?} from {seen:?} does not end");
            }
        }
        assert!(states > 1000, "only {states} states were reached");
    }

    #[test]
    fn back_leaves_nothing_and_touches_no_image_of_the_caller() {
        for (world, taken) in worlds() {
            for (seen, _) in &world {
                let mut end = seen.clone();
                for step in plan(seen, Goal::Back, &taken) {
                    if let Step::RemoveImage(index) = step {
                        assert!(end.images[index].is_ours());
                    }
                    assert!(!matches!(
                        step,
                        Step::FixPoint | Step::MakeImage(_) | Step::MakeScratch(_) | Step::StartReader(_)
                    ));
                    apply(&mut end, step, &taken);
                }
                assert_eq!(end.mark, Mark::Absent);
                assert!(!end.images.iter().chain(&end.scratches).any(|image| image.is_ours()));
                assert!(!end.server && !end.reads.contains(&Read::Reading));
                if seen.alive {
                    assert!(end.thawed && !end.stopped && end.export == Export::None);
                }
            }
        }
    }

    #[test]
    fn forward_ends_in_done_only_with_every_disk_copied_and_nothing_left() {
        for (world, taken) in worlds() {
            for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
                let mut end = seen.clone();
                for step in plan(seen, Goal::Forward, &taken) {
                    apply(&mut end, step, &taken);
                }
                if next(&end, Goal::Forward) == Step::Done && seen.mark != Mark::Absent {
                    assert!(end.fixed && end.mark == Mark::Absent && end.verified);
                    assert!(end.reads.iter().all(|read| *read == Read::Done));
                    assert!(!end.server && !end.scratches.iter().any(|image| image.is_ours()));
                    assert!(!end.alive || end.export == Export::None);
                }
            }
        }
    }

    #[test]
    fn a_window_opens_only_with_everything_prepared() {
        for (world, _) in worlds() {
            for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
                if next(seen, Goal::Forward) == Step::FixPoint {
                    assert!(seen.mark == Mark::Fixing && seen.alive && seen.thawed && !seen.fixed && seen.server);
                    assert!(!seen.images.contains(&Image::Missing) && !seen.scratches.contains(&Image::Missing));
                }
            }
        }
    }

    #[test]
    fn a_backup_is_ended_with_nobody_reading() {
        for (world, _) in worlds() {
            for (seen, goal) in &world {
                if next(seen, *goal) == Step::EndBackup {
                    assert!(!seen.reads.contains(&Read::Reading), "{goal:?}: {seen:?}");
                }
            }
        }
    }

    #[test]
    fn the_plan_reads_in_order() {
        let steps = plan(&start(1), Goal::Forward, &[false]);
        assert_eq!(
            steps,
            [
                Step::WriteRecord(Mark::Begun),
                Step::MakeImage(0),
                Step::MakeScratch(0),
                Step::MakeServer,
                Step::WriteRecord(Mark::Fixing),
                Step::FixPoint,
                Step::WriteRecord(Mark::Fixed),
                Step::StartReader(0),
                Step::AwaitJobs,
                Step::NoteRead,
                Step::EndBackup,
                Step::AwaitJobs,
                Step::RemoveScratch(0),
                Step::RemoveServer,
                Step::AwaitFinish,
                Step::Verify,
                Step::RemoveRecord,
            ]
        );
    }
}
