// SPDX-License-Identifier: LGPL-2.1-or-later
//! The properties of a snapshot by backup: what holds in every state that steps and accidents lead to.

use super::engine::Engine;
use super::seen::{Observed, Read};
use super::step::Step;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::procedure::{Model, StepOf, steps};
use crate::operation::course::reachable::{States, must_terminate, reachable};
use crate::operation::parts::backup::checkpoint::Checkpoint;
use crate::operation::parts::backup::export::Export;
use crate::operation::state::{Goal, Image, Mark};

/// The world after `step`.
fn apply(seen: &mut Observed, step: Step) {
    (step.what().effect)(seen);
}

/// The steps from here to the end, when all goes well.
fn plan(seen: &Observed, goal: Goal) -> Vec<Step> {
    steps::<Engine>(seen, goal)
}

fn start(disks: usize) -> Observed {
    // The second one is the caller's.
    Observed::at_start((0..disks).map(|index| index == 1).collect())
}

fn start_with_checkpoint() -> Observed {
    Observed {
        checkpoint: Checkpoint::Missing,
        ..start(1)
    }
}

/// A process died, and another one resumes: what only the old one knew is forgotten.
fn resumed(seen: &Observed) -> Vec<Observed> {
    let mut worlds = Vec::new();
    worlds.push(seen.but(|world| world.thawed = false));
    for index in 0..seen.images.len() {
        if seen.mark == Mark::Begun && seen.images[index] == Image::Missing {
            worlds.push(seen.but(|world| world.images[index] = Image::Half));
        }
    }
    worlds.push(seen.but(|world| {
        (world.finish, world.verified, world.backup.full, world.backup.broken) = (false, false, false, false);
        world.fixed = world.mark == Mark::Fixed;
        for read in &mut world.reads {
            if *read != Read::Done || !world.noted {
                *read = Read::Waiting;
            }
        }
        world.noted = true;
    }));
    worlds
}

fn worlds() -> Vec<States<Engine>> {
    vec![
        reachable::<Engine, _>([start(1)], resumed),
        reachable::<Engine, _>([start_with_checkpoint()], resumed),
        reachable::<Engine, _>([start(2)], resumed),
    ]
}

#[test]
fn from_every_reachable_state_both_goals_terminate() {
    must_terminate::<Engine>(&worlds());
}

#[test]
fn back_leaves_nothing_and_touches_no_image_of_the_caller() {
    for world in worlds() {
        for (seen, _) in &world {
            let mut end = seen.clone();
            for step in plan(seen, Goal::Back) {
                if let Step::RemoveImage(index) = step {
                    assert!(end.images[index].is_ours());
                }
                assert!(!matches!(
                    step,
                    Step::FixPoint | Step::MakeImage(_) | Step::MakeScratch(_) | Step::StartReader(_)
                ));
                apply(&mut end, step);
            }
            assert_eq!(end.mark, Mark::Absent);
            assert!(seen.mark == Mark::Absent || end.checkpoint != Checkpoint::Made);
            assert!(!end.images.iter().chain(&end.scratches).any(|image| image.is_ours()));
            assert!(!end.backup.server && !end.reads.contains(&Read::Reading));
            if seen.alive {
                assert!(end.thawed && !end.backup.stopped && end.backup.export == Export::None);
            }
        }
    }
}

#[test]
fn forward_ends_in_done_only_with_every_disk_copied_and_nothing_left() {
    for world in worlds() {
        for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
            let mut end = seen.clone();
            for step in plan(seen, Goal::Forward) {
                apply(&mut end, step);
            }
            if end.next(Goal::Forward) == Step::Done && seen.mark != Mark::Absent {
                assert!(end.fixed && end.mark == Mark::Absent && end.verified);
                assert!(end.reads.iter().all(|read| *read == Read::Done));
                assert!(!end.backup.server && !end.scratches.iter().any(|image| image.is_ours()));
                assert!(!end.alive || end.backup.export == Export::None);
            }
        }
    }
}

#[test]
fn a_window_opens_only_with_everything_prepared() {
    for world in worlds() {
        for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
            if seen.next(Goal::Forward) == Step::FixPoint {
                assert_ne!(seen.checkpoint, Checkpoint::Made);
                assert!(seen.mark == Mark::Fixing && seen.alive && seen.thawed && !seen.fixed && seen.backup.server);
                assert!(!seen.images.contains(&Image::Missing) && !seen.scratches.contains(&Image::Missing));
            }
        }
    }
}

#[test]
fn a_backup_is_ended_with_nobody_reading() {
    for world in worlds() {
        for (seen, goal) in &world {
            if seen.next(*goal) == Step::EndBackup {
                assert!(!seen.reads.contains(&Read::Reading), "{goal:?}: {seen:?}");
            }
        }
    }
}

/// And it stays with the images of its point in time.
#[test]
fn a_checkpoint_is_deleted_with_no_backup_under_way_and_never_once_its_point_is_fixed() {
    for world in worlds() {
        for (seen, goal) in &world {
            if seen.next(*goal) == Step::RemoveCheckpoint {
                assert!(seen.checkpoint == Checkpoint::Made && (!seen.alive || seen.backup.export == Export::None));
                assert!(
                    *goal == Goal::Back || !seen.fixed && seen.mark == Mark::Fixing,
                    "{seen:?}"
                );
            }
        }
    }
    let mut seen = start_with_checkpoint();
    plan(&seen, Goal::Forward)
        .into_iter()
        .for_each(|step| apply(&mut seen, step));
    assert_eq!(seen.checkpoint, Checkpoint::Made);
}

#[test]
fn the_plan_reads_in_order() {
    let steps = plan(&start(1), Goal::Forward);
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
