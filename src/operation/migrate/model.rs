// SPDX-License-Identifier: LGPL-2.1-or-later
//! The properties of a migration: what holds in every state that steps and accidents lead to.

use super::engine::Engine;
use super::failure::Failure;
use super::seen::{Chain, Observed};
use super::step::Step;
use crate::operation::course::procedure::{Model, StepOf, steps};
use crate::operation::course::reachable::{States, must_terminate, reachable};
use crate::operation::state::{Goal, Image, Job, Mark, Remedy};
use crate::operation::types::Method;

/// The world after `step`.
fn apply(seen: &mut Observed, step: Step) {
    (step.what().effect)(seen);
}

/// The steps from here to the end, when all goes well.
fn plan(seen: &Observed, goal: Goal) -> Vec<Step> {
    steps::<Engine>(seen, goal)
}

/// A process died, and another one resumes: what only the old one knew is forgotten.
fn resumed(seen: &Observed) -> Observed {
    let mut world = seen.clone();
    world.destination.cloned = world.mark >= Mark::Copying;
    world.finish = false;
    world.copy.settled &= world.mark != Mark::Fixing;
    if world.mark == Mark::Begun && world.destination.image == Image::Made {
        world.destination.image = Image::Half;
    }
    if world.chain == Chain::Source && world.overlay.image == Image::Made {
        world.overlay.image = Image::Half;
    }
    let unused = matches!(world.chain, Chain::Source | Chain::Overlay) && world.copy.job == Job::NotStarted;
    if unused && world.destination_overlay.image == Image::Made {
        world.destination_overlay.image = Image::Half;
    }
    world
}

fn states() -> States<Engine> {
    let methods = [Method::Clone, Method::Mirror].into_iter();
    let starts = methods.flat_map(|method| {
        (0..8).map(move |bits| Observed::at_start(method, bits & 1 > 0, bits & 2 > 0, bits & 4 > 0))
    });
    reachable::<Engine, _>(starts, |seen| [resumed(seen)])
}

#[test]
fn from_every_reachable_state_both_goals_terminate() {
    must_terminate::<Engine>(&[states()]);
}

#[test]
fn back_is_as_before_until_the_pivot_and_forward_after_it() {
    for (seen, _) in states() {
        let mut end = seen.clone();
        for step in plan(&seen, Goal::Back) {
            apply(&mut end, step);
        }
        let last = end.next(Goal::Back);
        match last {
            Step::Done if seen.passed_no_return() => assert_eq!(end.chain, Chain::Destination),
            Step::Done => {
                assert_eq!(end.chain, Chain::Source, "{seen:?}");
                for image in [end.overlay.image, end.destination.image, end.destination_overlay.image] {
                    assert!(!matches!(image, Image::Made | Image::Half), "{seen:?}");
                }
            }
            // Only what cannot be helped is left: another instance of the guest, or a commit that QEMU failed.
            Step::Fail(Failure::Restarted) => assert!(!seen.alive && !seen.off),
            Step::Fail(Failure::Commit) => assert_eq!(end.commit(), Job::Failed),
            Step::Fail(Failure::Return) => assert_eq!(end.copy.way_back, Job::Failed),
            other => panic!("{other:?} from {seen:?}"),
        }
    }
}

/// The property that matters most: no file that a chain needs is ever removed.
#[test]
fn no_step_removes_what_the_guest_lives_on() {
    for (seen, goal) in states() {
        if seen.alive && seen.chain == Chain::Astray {
            let step = seen.next(goal);
            let returns = matches!(step, Step::StartReturn | Step::AwaitReturn | Step::Return);
            assert!(
                returns || matches!(step, Step::Unthrottle | Step::Fail(Failure::Return)),
                "{step:?} from {seen:?}"
            );
        }
        if seen.chain == Chain::Unnamed {
            assert_eq!(seen.next(goal), Step::MergeOverlay, "{seen:?}");
        }
        match seen.next(goal) {
            Step::TakeSnapshot => assert_eq!(seen.overlay.image, Image::Made),
            Step::RemoveOverlay => assert!(matches!(seen.chain, Chain::Source | Chain::Destination)),
            Step::RemoveDestination => {
                assert_eq!(seen.chain, Chain::Source);
                let unsettled = seen.off && seen.method == Method::Mirror && seen.mark == Mark::Fixing;
                assert!(seen.copy.settled || !unsettled, "{seen:?}");
            }
            Step::RemoveDestinationOverlay => assert!(matches!(seen.chain, Chain::Source | Chain::Destination)),
            Step::CommitOffline => {
                assert!(seen.off && matches!(seen.chain, Chain::Overlay | Chain::Moved));
                assert!(seen.copy.settled || !seen.is_between(), "{seen:?}");
            }
            Step::DeleteSource => assert_eq!(seen.chain, Chain::Destination),
            Step::PivotCopy => {
                assert!(
                    seen.copy.job == Job::Ready
                        && (seen.method == Method::Mirror || seen.destination.cloned)
                        && seen.finish
                )
            }
            _ => {}
        }
    }
}

/// Where nothing comes after it (an end, a failure without a way back, a caller that is waited for) and where it
/// would be forgotten.
#[test]
fn a_throttle_is_never_left_behind() {
    let (mut set, mut lifted) = (0, 0);
    for (seen, goal) in states() {
        if !seen.throttled {
            continue;
        }
        assert!(seen.alive);
        let step = seen.next(goal);
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

/// After the point of no return a commit that does not converge whatever is done is given up, not waited for.
#[test]
fn a_hopeless_commit_ends() {
    let hopeless = |seen: &Observed| seen.chain == Chain::Moved && seen.commit() == Job::Stuck(Remedy::None);
    let states = states();
    let mut found = states
        .iter()
        .filter(|(seen, _)| seen.alive && hopeless(seen))
        .peekable();
    assert!(found.peek().is_some());
    for (seen, goal) in found {
        if seen.mark == Mark::Fixed {
            assert_eq!(seen.next(*goal), Step::AbortCommit, "{seen:?}");
        }
    }
}

#[test]
fn the_plan_of_a_clone_reads_as_the_six_steps() {
    let steps = plan(&Observed::at_start(Method::Clone, false, true, true), Goal::Forward);
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
