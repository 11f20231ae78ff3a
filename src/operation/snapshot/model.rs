// SPDX-License-Identifier: LGPL-2.1-or-later
//! What each step does when all goes well: for the plan that a dry run shows, for the count of steps, and as the
//! hypervisor of the property tests.

use super::{Observed, Step, next};
use crate::operation::state::{Goal, Image, Job, Mark, steps};

/// The world after `step`.
pub(crate) fn apply(seen: &mut Observed, step: Step, taken: &[bool]) {
    match step {
        Step::WriteRecord(mark) => seen.mark = mark,
        Step::MakeImage(index) => {
            seen.images[index] = if taken[index] { Image::Taken } else { Image::Made };
        }
        Step::StartCopy(index) => seen.jobs[index] = Job::Running,
        Step::AwaitJobs => {
            for job in &mut seen.jobs {
                *job = match (*job, seen.fixed) {
                    (Job::Running | Job::Stuck(_), false) => Job::Ready,
                    (Job::Ending, false) => Job::Failed,
                    (Job::Failed, _) => Job::Failed,
                    (_, true) => Job::Completed,
                    (job, false) => job,
                };
            }
        }
        Step::AwaitFinish => seen.finish = true,
        Step::LiftLimit => {
            seen.limited = false;
            for job in &mut seen.jobs {
                if matches!(job, Job::Stuck(_)) {
                    *job = Job::Running;
                }
            }
        }
        Step::RestartWriteBlocking(index) => seen.jobs[index] = Job::NotStarted,
        Step::FixPoint => {
            seen.fixed = true;
            seen.jobs.fill(Job::Ending);
        }
        Step::Verify => seen.verified = true,
        Step::Thaw => seen.thawed = true,
        Step::Resume => seen.resumed = true,
        Step::AbortJob(index) => seen.jobs[index] = Job::Ending,
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
    use crate::operation::snapshot::Failure;
    use crate::operation::snapshot::accidents::{accidents, outcomes};

    fn start(disks: usize, limited: bool) -> Observed {
        Observed {
            alive: true,
            mark: Mark::Absent,
            thawed: true,
            resumed: true,
            fixed: false,
            finish: false,
            limited,
            verified: false,
            images: vec![Image::Missing; disks],
            jobs: vec![Job::NotStarted; disks],
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
        with(&|world| world.resumed = false);
        for index in 0..seen.images.len() {
            if seen.mark == Mark::Begun && seen.images[index] == Image::Missing {
                with(&|world| world.images[index] = Image::Half);
            }
        }
        with(&|world| (world.finish, world.verified) = (false, false));
        for index in 0..seen.jobs.len() {
            // It died in the window: the jobs ended, and how is unknown.
            if seen.mark == Mark::Fixing && matches!(seen.jobs[index], Job::Ready) {
                with(&|world| world.jobs[index] = Job::Completed);
            }
        }
        worlds
    }

    /// Every state that steps and accidents lead to, with the goals that are possible there: forward may turn back
    /// anywhere, and back never turns forward.
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

    type World = (HashSet<(Observed, Goal)>, Vec<bool>);

    fn worlds() -> Vec<World> {
        let mut all = Vec::new();
        for disks in [1, 2] {
            for limited in [false, true] {
                let taken: Vec<bool> = (0..disks).map(|index| index == 1).collect();
                all.push((reachable(start(disks, limited), &taken), taken));
            }
        }
        all
    }

    #[test]
    fn from_every_reachable_state_both_goals_terminate() {
        let mut states = 0;
        for (world, taken) in worlds() {
            for (seen, goal) in &world {
                states += 1;
                let steps = plan(seen, *goal, &taken);
                assert!(
                    steps.len() < 60,
                    "{goal:?} from {seen:?} does not end: {:?}",
                    &steps[..60]
                );
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
                        assert!(matches!(end.images[index], Image::Made | Image::Half));
                    }
                    assert!(!matches!(
                        step,
                        Step::FixPoint | Step::MakeImage(_) | Step::StartCopy(_)
                    ));
                    apply(&mut end, step, &taken);
                }
                assert_eq!(end.mark, Mark::Absent);
                assert!(
                    !end.images
                        .iter()
                        .any(|image| matches!(image, Image::Made | Image::Half))
                );
                if seen.alive {
                    assert!(end.thawed && end.resumed);
                    assert!(
                        end.jobs
                            .iter()
                            .all(|job| matches!(job, Job::NotStarted | Job::Completed | Job::Failed))
                    );
                }
            }
        }
    }

    #[test]
    fn forward_ends_in_done_only_with_every_disk_copied_and_checked() {
        for (world, taken) in worlds() {
            for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
                let mut end = seen.clone();
                for step in plan(seen, Goal::Forward, &taken) {
                    apply(&mut end, step, &taken);
                }
                if next(&end, Goal::Forward) == Step::Done {
                    assert!(end.fixed && end.mark == Mark::Absent);
                    assert!(end.jobs.iter().all(|job| *job == Job::Completed), "{seen:?} -> {end:?}");
                }
            }
        }
    }

    #[test]
    fn a_window_opens_only_with_everything_prepared() {
        for (world, _) in worlds() {
            for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
                if next(seen, Goal::Forward) == Step::FixPoint {
                    assert_eq!(seen.mark, Mark::Fixing);
                    assert!(seen.alive && seen.thawed && seen.resumed && !seen.fixed);
                    assert!(!seen.images.contains(&Image::Missing));
                    assert!(seen.finish && !seen.limited);
                }
            }
        }
    }

    #[test]
    fn jobs_that_ended_unseen_are_no_success() {
        let mut seen = start(1, false);
        seen.mark = Mark::Fixing;
        seen.images = vec![Image::Made];
        seen.jobs = vec![Job::Completed];
        assert_eq!(next(&seen, Goal::Forward), Step::Fail(Failure::OutcomeUnknown));
    }

    #[test]
    fn the_plan_of_a_mirror_reads_in_order() {
        let steps = plan(&start(1, false), Goal::Forward, &[false]);
        assert_eq!(
            steps,
            [
                Step::WriteRecord(Mark::Begun),
                Step::MakeImage(0),
                Step::WriteRecord(Mark::Copying),
                Step::StartCopy(0),
                Step::AwaitJobs,
                Step::AwaitFinish,
                Step::WriteRecord(Mark::Fixing),
                Step::FixPoint,
                Step::WriteRecord(Mark::Fixed),
                Step::AwaitJobs,
                Step::Verify,
                Step::RemoveRecord,
            ]
        );
    }
}
