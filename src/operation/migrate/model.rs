// SPDX-License-Identifier: LGPL-2.1-or-later
//! What each step of a migration does when all goes well.

use super::{Chain, Observed, Step, next};
use crate::operation::state::{Goal, Image, Job, Mark, steps};
use crate::operation::types::Method;

/// The world after `step`.
pub(crate) fn apply(seen: &mut Observed, step: Step) {
    match step {
        Step::WriteRecord(mark) => seen.mark = mark,
        Step::MakeOverlay => seen.overlay = Image::Made,
        Step::TakeSnapshot => seen.chain = Chain::Overlay,
        Step::MergeOverlay => (seen.chain, seen.overlay) = (Chain::Source, Image::Half),
        Step::Clone => (seen.destination, seen.cloned) = (Image::Made, true),
        Step::Verify => seen.verify = false,
        Step::MakeDestination => seen.destination = Image::Made,
        Step::MakeDestinationOverlay => seen.destination_overlay = Image::Made,
        Step::StartCopy => seen.copy = Job::Running,
        Step::LiftLimit => {
            seen.limited = false;
            if matches!(seen.copy, Job::Stuck(_)) {
                seen.copy = Job::Running;
            }
        }
        Step::Throttle => {
            seen.throttled = true;
            for job in [&mut seen.copy, &mut seen.commit] {
                if matches!(job, Job::Stuck(_)) {
                    *job = Job::Running;
                }
            }
        }
        Step::Unthrottle => seen.throttled = false,
        Step::RestartWriteBlocking => seen.copy = Job::NotStarted,
        Step::StartCommit => seen.commit = Job::Running,
        Step::AwaitJobs => {
            for job in [&mut seen.copy, &mut seen.commit] {
                *job = match *job {
                    Job::Running | Job::Stuck(_) => Job::Ready,
                    Job::Ending => Job::Failed,
                    job => job,
                };
            }
        }
        Step::AwaitFinish => seen.finish = true,
        Step::PivotCopy => {
            (seen.copy, seen.settled) = (Job::Completed, false);
            seen.chain = if seen.method == Method::Mirror {
                Chain::Destination
            } else {
                Chain::Moved
            };
        }
        Step::StartReturn => (seen.way_back, seen.copy) = (Job::Running, Job::Failed),
        Step::AwaitReturn => {
            seen.way_back = match seen.way_back {
                Job::Ending => Job::Completed,
                _ => Job::Ready,
            };
            if seen.way_back == Job::Completed {
                seen.chain = if seen.method == Method::Mirror {
                    Chain::Source
                } else {
                    Chain::Overlay
                };
            }
        }
        Step::Return => seen.way_back = Job::Ending,
        Step::SettlePivot => seen.settled = true,
        Step::CloseDestination => seen.way_back = Job::NotStarted,
        Step::PivotCommit => {
            // Another one may be started.
            (seen.commit, seen.settled) = (Job::NotStarted, true);
            seen.chain = if seen.chain == Chain::Moved {
                Chain::Destination
            } else {
                Chain::Source
            };
        }
        Step::CommitOffline => {
            seen.chain = if seen.chain == Chain::Moved {
                Chain::Destination
            } else {
                Chain::Source
            };
        }
        Step::AbortCopy => seen.copy = Job::Ending,
        Step::AbortCommit => seen.commit = Job::Ending,
        Step::RemoveOverlay => seen.overlay = Image::Missing,
        Step::RemoveDestination => (seen.destination, seen.cloned) = (Image::Missing, false),
        Step::RemoveDestinationOverlay => seen.destination_overlay = Image::Missing,
        Step::DeleteSource => seen.source_deleted = true,
        Step::RemoveRecord => seen.mark = Mark::Absent,
        Step::Fail(_) | Step::Done => {}
    }
}

/// The steps from here to the end, when all goes well.
pub(crate) fn plan(seen: &Observed, goal: Goal) -> Vec<Step> {
    let is_last = |step| matches!(step, Step::Done | Step::Fail(_));
    steps(seen, |seen| next(seen, goal), apply, is_last)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::operation::migrate::Failure;
    use crate::operation::migrate::accidents::{accidents, outcomes};
    use crate::operation::state::Remedy;

    fn start(method: Method, limited: bool, verify: bool, delete_source: bool) -> Observed {
        Observed {
            method,
            alive: true,
            off: false,
            mark: Mark::Absent,
            chain: Chain::Source,
            overlay: Image::Missing,
            destination: Image::Missing,
            cloned: false,
            destination_overlay: Image::Missing,
            copy: Job::NotStarted,
            way_back: Job::NotStarted,
            settled: true,
            commit: Job::NotStarted,
            limited,
            throttled: false,
            finish: false,
            verify,
            delete_source,
            source_deleted: false,
        }
    }

    /// A process died, and another one resumes: what only the old one knew is forgotten.
    fn resumed(seen: &Observed) -> Observed {
        let mut world = seen.clone();
        world.cloned = world.mark >= Mark::Copying;
        world.finish = false;
        world.settled &= world.mark != Mark::Fixing;
        if world.mark == Mark::Begun && world.destination == Image::Made {
            world.destination = Image::Half;
        }
        if world.chain == Chain::Source && world.overlay == Image::Made {
            world.overlay = Image::Half;
        }
        let unused = matches!(world.chain, Chain::Source | Chain::Overlay) && world.copy == Job::NotStarted;
        if unused && world.destination_overlay == Image::Made {
            world.destination_overlay = Image::Half;
        }
        world
    }

    fn reachable() -> HashSet<(Observed, Goal)> {
        let mut open = Vec::new();
        for method in [Method::Clone, Method::Mirror] {
            for bits in 0..8 {
                open.push((start(method, bits & 1 > 0, bits & 2 > 0, bits & 4 > 0), Goal::Forward));
            }
        }
        let mut known = HashSet::new();
        while let Some((seen, goal)) = open.pop() {
            if !known.insert((seen.clone(), goal)) {
                continue;
            }
            open.push((seen.clone(), Goal::Back));
            let worlds = outcomes(&seen, next(&seen, goal), true);
            let worlds = worlds.into_iter().chain(accidents(&seen)).chain([resumed(&seen)]);
            open.extend(worlds.map(|world| (world, goal)));
        }
        known
    }

    #[test]
    fn from_every_reachable_state_both_goals_terminate() {
        let states = reachable();
        assert!(states.len() > 1000, "only {} states were reached", states.len());
        for (seen, goal) in &states {
            let steps = plan(seen, *goal);
            assert!(
                steps.len() < 60,
                "{goal:?} from {seen:?} does not end: {:?}",
                &steps[..60]
            );
        }
    }

    #[test]
    fn back_is_as_before_until_the_pivot_and_forward_behind_it() {
        for (seen, _) in reachable() {
            let mut end = seen.clone();
            for step in plan(&seen, Goal::Back) {
                apply(&mut end, step);
            }
            let last = next(&end, Goal::Back);
            match last {
                Step::Done if seen.passed_no_return() => assert_eq!(end.chain, Chain::Destination),
                Step::Done => {
                    assert_eq!(end.chain, Chain::Source, "{seen:?}");
                    for image in [end.overlay, end.destination, end.destination_overlay] {
                        assert!(!matches!(image, Image::Made | Image::Half), "{seen:?}");
                    }
                }
                // Only what nobody can help is left: another instance of the guest, or a commit that QEMU failed.
                Step::Fail(Failure::Restarted) => assert!(!seen.alive && !seen.off),
                Step::Fail(Failure::Commit) => assert_eq!(end.commit, Job::Failed),
                Step::Fail(Failure::Return) => assert_eq!(end.way_back, Job::Failed),
                other => panic!("{other:?} from {seen:?}"),
            }
        }
    }

    /// The property that matters most: no file that a chain needs is ever removed.
    #[test]
    fn no_step_removes_what_the_guest_lives_on() {
        for (seen, goal) in reachable() {
            if seen.alive && seen.chain == Chain::Astray {
                let step = next(&seen, goal);
                let returns = matches!(step, Step::StartReturn | Step::AwaitReturn | Step::Return);
                assert!(
                    returns || matches!(step, Step::Unthrottle | Step::Fail(Failure::Return)),
                    "{step:?} from {seen:?}"
                );
            }
            if seen.chain == Chain::Unnamed {
                assert_eq!(next(&seen, goal), Step::MergeOverlay, "{seen:?}");
            }
            match next(&seen, goal) {
                Step::TakeSnapshot => assert_eq!(seen.overlay, Image::Made),
                Step::RemoveOverlay => assert!(matches!(seen.chain, Chain::Source | Chain::Destination)),
                Step::RemoveDestination => {
                    assert_eq!(seen.chain, Chain::Source);
                    let unsettled = seen.off && seen.method == Method::Mirror && seen.mark == Mark::Fixing;
                    assert!(seen.settled || !unsettled, "{seen:?}");
                }
                Step::RemoveDestinationOverlay => assert!(matches!(seen.chain, Chain::Source | Chain::Destination)),
                Step::CommitOffline => {
                    assert!(seen.off && matches!(seen.chain, Chain::Overlay | Chain::Moved));
                    assert!(seen.settled || !seen.is_between(), "{seen:?}");
                }
                Step::DeleteSource => assert_eq!(seen.chain, Chain::Destination),
                Step::PivotCopy => {
                    assert!(seen.copy == Job::Ready && (seen.method == Method::Mirror || seen.cloned) && seen.finish)
                }
                _ => {}
            }
        }
    }

    /// Where nothing comes behind it (an end, a failure without a way back, a caller that is waited for) and where it
    /// would be forgotten.
    #[test]
    fn a_throttle_is_never_left_behind() {
        let (mut set, mut lifted) = (0, 0);
        for (seen, goal) in reachable() {
            if !seen.throttled {
                continue;
            }
            assert!(seen.alive);
            let step = next(&seen, goal);
            let last = match step {
                Step::Fail(_) => goal == Goal::Back || seen.passed_no_return(),
                Step::Done | Step::AwaitFinish | Step::RemoveRecord => true,
                _ => false,
            };
            assert!(!last, "{step:?} under a throttle: {goal:?} {seen:?}");
            set += usize::from(step == Step::Throttle);
            lifted += usize::from(step == Step::Unthrottle);
            let mut end = seen.clone();
            for step in plan(&seen, Goal::Back) {
                apply(&mut end, step);
            }
            assert!(!end.throttled, "{seen:?}");
        }
        assert!(set > 0 && lifted > 0);
    }

    /// Behind the point of no return a commit that does not converge whatever is done is given up, not waited for.
    #[test]
    fn a_hopeless_commit_ends() {
        let hopeless = |seen: &Observed| seen.chain == Chain::Moved && seen.commit == Job::Stuck(Remedy::None);
        let states = reachable();
        let mut found = states
            .iter()
            .filter(|(seen, _)| seen.alive && hopeless(seen))
            .peekable();
        assert!(found.peek().is_some());
        for (seen, goal) in found {
            if seen.mark == Mark::Fixed {
                assert_eq!(next(seen, *goal), Step::AbortCommit, "{seen:?}");
            }
        }
    }

    #[test]
    fn the_plan_of_a_clone_reads_as_the_six_steps() {
        let steps = plan(&start(Method::Clone, false, true, true), Goal::Forward);
        assert_eq!(
            steps,
            [
                Step::WriteRecord(Mark::Begun),
                Step::MakeOverlay,
                Step::TakeSnapshot,
                Step::Clone,
                Step::Verify,
                Step::WriteRecord(Mark::Copying),
                Step::MakeDestinationOverlay,
                Step::StartCopy,
                Step::AwaitJobs,
                Step::AwaitFinish,
                Step::WriteRecord(Mark::Fixing),
                Step::PivotCopy,
                Step::WriteRecord(Mark::Fixed),
                Step::StartCommit,
                Step::AwaitJobs,
                Step::PivotCommit,
                Step::RemoveOverlay,
                Step::RemoveDestinationOverlay,
                Step::DeleteSource,
                Step::RemoveRecord,
            ]
        );
    }
}
