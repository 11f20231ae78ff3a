// SPDX-License-Identifier: LGPL-2.1-or-later
//! The properties of a snapshot by clone: what holds in every state that steps and accidents lead to.

use super::engine::Engine;
use super::failure::Failure;
use super::seen::{Chain, Observed};
use super::step::Step;
use crate::operation::course::procedure::{Model, StepOf, steps};
use crate::operation::course::reachable::{States, must_terminate, reachable};
use crate::operation::state::{Goal, Image, Job, Mark};

/// The world after `step`.
fn apply(seen: &mut Observed, step: Step) {
    (step.what().effect)(seen);
}

/// The steps from here to the end, when all goes well.
fn plan(seen: &Observed, goal: Goal) -> Vec<Step> {
    steps::<Engine>(seen, goal)
}

/// A process died, and another one resumes: what only the old one knew is forgotten.
fn resumed(seen: &Observed) -> Option<Observed> {
    let mut world = seen.clone();
    (world.finish, world.fixed) = (false, false);
    world.verified = world.mark == Mark::Fixed;
    world.thawed = world.mark != Mark::Fixing;
    for disk in &mut world.disks {
        disk.cloned = world.mark == Mark::Fixed;
        for image in [&mut disk.overlay, &mut disk.destination] {
            if world.mark == Mark::Begun && *image == Image::Made {
                *image = Image::Half;
            }
        }
    }
    (world.mark != Mark::Absent).then_some(world)
}

fn worlds() -> Vec<States<Engine>> {
    let mut all = Vec::new();
    for (by_callback, taken) in [
        (false, vec![false]),
        (false, vec![true]),
        (false, vec![false, false]),
        (true, vec![false]),
        (true, vec![true]),
    ] {
        all.push(reachable::<Engine, _>(
            [Observed::at_start(taken, by_callback)],
            resumed,
        ));
    }
    all
}

#[test]
fn from_every_reachable_state_both_goals_terminate() {
    must_terminate::<Engine>(&worlds());
}

/// The property that matters most: what the guest wrote since the snapshot is never removed, only committed.
#[test]
fn an_overlay_goes_only_when_it_was_committed() {
    for world in worlds() {
        for (seen, goal) in &world {
            match seen.next(*goal) {
                Step::RemoveOverlay(index) => assert_eq!(seen.disks[index].chain, Chain::Source),
                Step::MergeOverlay(index) => assert_eq!(seen.disks[index].chain, Chain::Unnamed),
                Step::StartCommit(index) | Step::PivotCommit(index) => {
                    assert!(seen.alive && seen.disks[index].chain == Chain::Overlay);
                }
                Step::Clone(index) => {
                    assert!(seen.alive && seen.fixed && seen.disks[index].chain == Chain::Overlay);
                }
                Step::CommitOffline(index) => assert!(seen.off && seen.disks[index].chain == Chain::Overlay),
                Step::RemoveImage(index) => assert!(seen.disks[index].destination.is_ours()),
                Step::RemoveRecord => assert!(seen.disks.iter().all(|disk| disk.chain == Chain::Source)),
                _ => {}
            }
        }
    }
}

#[test]
fn a_throttle_is_never_left_behind() {
    let mut set = 0;
    for world in worlds() {
        for (seen, goal) in &world {
            let step = seen.next(*goal);
            let is_throttled = seen.disks.iter().any(|disk| disk.throttled);
            let leaves = matches!(step, Step::Done | Step::AwaitFinish | Step::RemoveRecord);
            assert!(!(is_throttled && leaves), "{step:?} under a throttle: {seen:?}");
            set += usize::from(matches!(step, Step::Throttle(_)));
            let mut end = seen.clone();
            for step in plan(seen, Goal::Back) {
                apply(&mut end, step);
            }
            assert!(!end.disks.iter().any(|disk| disk.throttled), "{seen:?}");
        }
    }
    assert!(set > 0);
}

#[test]
fn back_is_as_before_or_says_why_not() {
    for world in worlds() {
        for (seen, _) in &world {
            let mut end = seen.clone();
            for step in plan(seen, Goal::Back) {
                assert!(!matches!(
                    step,
                    Step::FixPoint | Step::MakeImage(_) | Step::MakeOverlay(_) | Step::Clone(_)
                ));
                apply(&mut end, step);
            }
            match end.next(Goal::Back) {
                Step::Done => {
                    assert_eq!(end.mark, Mark::Absent);
                    for disk in &end.disks {
                        assert_eq!(disk.chain, Chain::Source);
                        assert!(!disk.overlay.is_ours() && !disk.destination.is_ours());
                    }
                }
                // Only what cannot be helped is left: another instance of the guest, or a commit that QEMU failed.
                Step::Fail(Failure::Restarted) => assert!(!seen.alive && !seen.off),
                Step::Fail(Failure::Commit(index)) => assert_eq!(end.disks[index].commit, Job::Failed),
                other => panic!("{other:?} from {seen:?}"),
            }
        }
    }
}

#[test]
fn forward_ends_in_done_only_with_whole_images_and_the_guest_at_home() {
    for world in worlds() {
        for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
            let mut end = seen.clone();
            for step in plan(seen, Goal::Forward) {
                apply(&mut end, step);
            }
            if end.next(Goal::Forward) == Step::Done {
                assert!(end.fixed && end.verified && end.mark == Mark::Absent);
                for disk in &end.disks {
                    assert!(disk.cloned && disk.chain == Chain::Source && disk.overlay == Image::Missing);
                }
            }
        }
    }
}

#[test]
fn the_window_opens_only_with_everything_prepared() {
    for world in worlds() {
        for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
            if seen.next(Goal::Forward) == Step::FixPoint {
                assert!(seen.alive && !seen.fixed && seen.mark == Mark::Fixing);
                for disk in &seen.disks {
                    assert_eq!(disk.overlay, Image::Made);
                    assert!(seen.by_callback || disk.destination != Image::Missing);
                }
            }
        }
    }
}

#[test]
fn the_plan_reads_in_order() {
    assert_eq!(
        plan(&Observed::at_start([false], false), Goal::Forward),
        [
            Step::WriteRecord(Mark::Begun),
            Step::MakeImage(0),
            Step::MakeOverlay(0),
            Step::WriteRecord(Mark::Fixing),
            Step::FixPoint,
            Step::WriteRecord(Mark::Copying),
            Step::Clone(0),
            Step::Verify,
            Step::WriteRecord(Mark::Fixed),
            Step::StartCommit(0),
            Step::AwaitJobs,
            Step::PivotCommit(0),
            Step::AwaitJobs,
            Step::RemoveOverlay(0),
            Step::AwaitFinish,
            Step::RemoveRecord,
        ]
    );
}
