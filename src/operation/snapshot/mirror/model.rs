// SPDX-License-Identifier: LGPL-2.1-or-later
//! The properties of a snapshot by mirrors: what holds in every state that steps and accidents lead to.

use super::engine::Engine;
use super::failure::Failure;
use super::is_away;
use super::seen::{Observed, Rest};
use super::step::Step;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::procedure::{Model, StepOf, steps};
use crate::operation::course::reachable::{States, must_terminate, reachable};
use crate::operation::state::{Goal, Image, Job, Mark, Stored};

/// The world after `step`.
fn apply(seen: &mut Observed, step: Step) {
    (step.what().effect)(seen);
}

/// The steps from here to the end, when all goes well.
fn plan(seen: &Observed, goal: Goal) -> Vec<Step> {
    steps::<Engine>(seen, goal)
}

fn start(disks: usize, limited: bool, rest: Rest, stored: Option<Stored>) -> Observed {
    // The second one is the caller's.
    let taken = (0..disks).map(|index| index == 1).collect();
    Observed::at_start(taken, limited, rest, stored)
}

/// By virDomainBlockCopy.
fn mirror(disks: usize, limited: bool) -> Observed {
    start(disks, limited, Rest::Verify, None)
}

/// By virDomainBlockRebase, of a domain that is defined.
fn rebase(disks: usize, limited: bool) -> Observed {
    start(disks, limited, Rest::Flatten, Some(Stored::Stands))
}

/// A process died, and another one resumes: what only the old one knew is forgotten.
fn resumed(seen: &Observed, rest: Rest) -> Vec<Observed> {
    let mut worlds = Vec::new();
    // Without a record nobody does.
    if seen.mark == Mark::Absent {
        return worlds;
    }
    worlds.push(seen.but(|world| world.thawed = false));
    worlds.push(seen.but(|world| world.resumed = false));
    for index in 0..seen.images.len() {
        if seen.mark == Mark::Begun && seen.images[index] == Image::Missing {
            worlds.push(seen.but(|world| world.images[index] = Image::Half));
        }
    }
    worlds.push(seen.but(|world| {
        (world.finish, world.rest) = (false, rest);
        world.stored = match world.stored {
            Some(Stored::Saved { .. } | Stored::Contested) => Some(Stored::Saved { again: false }),
            Some(Stored::Away { .. }) => Some(Stored::Away { again: false }),
            stored => stored,
        };
    }));
    for index in 0..seen.jobs.len() {
        // It died in the window: the jobs ended and nobody knows how.
        if seen.mark == Mark::Fixing && matches!(seen.jobs[index], Job::Ready) {
            worlds.push(seen.but(|world| world.jobs[index] = Job::Completed));
        }
    }
    worlds
}

fn worlds() -> Vec<States<Engine>> {
    let mut all = Vec::new();
    for disks in [1, 2] {
        for limited in [false, true] {
            for start in [mirror(disks, limited), rebase(disks, limited)] {
                let rest = start.rest;
                all.push(reachable::<Engine, _>([start], |seen| resumed(seen, rest)));
            }
        }
    }
    all
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
                    assert!(matches!(end.images[index], Image::Made | Image::Half));
                }
                assert!(!matches!(
                    step,
                    Step::FixPoint | Step::MakeImage(_) | Step::StartCopy(_)
                ));
                apply(&mut end, step);
            }
            assert_eq!(end.mark, Mark::Absent);
            assert!(!is_away(&end), "{seen:?} -> {end:?}");
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
    for world in worlds() {
        for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
            let mut end = seen.clone();
            for step in plan(seen, Goal::Forward) {
                apply(&mut end, step);
            }
            if end.next(Goal::Forward) == Step::Done {
                assert!(end.fixed && end.mark == Mark::Absent && end.rest == Rest::Nothing);
                assert!(!is_away(&end), "{seen:?} -> {end:?}");
                assert!(end.jobs.iter().all(|job| *job == Job::Completed), "{seen:?} -> {end:?}");
            }
        }
    }
}

#[test]
fn a_window_opens_only_with_everything_prepared() {
    for world in worlds() {
        for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
            if seen.next(Goal::Forward) == Step::FixPoint {
                assert_eq!(seen.mark, Mark::Fixing);
                assert!(seen.alive && seen.thawed && seen.resumed && !seen.fixed);
                assert!(!seen.images.contains(&Image::Missing));
                assert!(seen.finish && !seen.limited && !is_away(seen));
            }
        }
    }
}

/// What is taken away was saved before, and nothing comes between but what needs it away.
#[test]
fn a_definition_is_away_only_while_mirrors_are_started() {
    for world in worlds() {
        for (seen, goal) in &world {
            let step = seen.next(*goal);
            match step {
                Step::SaveDefinition => assert_eq!(seen.stored, Some(Stored::Stands)),
                Step::Undefine => assert!(matches!(seen.stored, Some(Stored::Saved { .. }))),
                Step::StartCopy(_) => assert!(matches!(seen.stored, None | Some(Stored::Away { .. }))),
                _ => {}
            }
            let may_be_away = matches!(
                step,
                Step::Undefine | Step::StartCopy(_) | Step::Redefine | Step::Thaw | Step::Resume | Step::Fail(_)
            );
            assert!(!is_away(seen) || may_be_away, "{step:?} from {seen:?}");
        }
    }
}

/// However often it is, and wherever it begins: the definition is taken away twice at most.
#[test]
fn somebody_who_defines_the_domain_again_and_again_ends_the_operation_by_name() {
    let mut ended = 0;
    for world in worlds() {
        let at_first = world.iter().filter(|(seen, goal)| {
            let stands = matches!(seen.stored, Some(Stored::Stands | Stored::Saved { again: false }));
            *goal == Goal::Forward && stands && seen.alive && seen.mark == Mark::Copying
        });
        for (seen, _) in at_first {
            let (mut end, mut steps) = (seen.clone(), Vec::new());
            let last = loop {
                assert!(steps.len() < 60, "from {seen:?} it does not end: {steps:?}");
                let step = end.next(Goal::Forward);
                apply(&mut end, step);
                steps.push(step);
                if matches!(step, Step::Fail(_) | Step::Done) {
                    break step;
                }
                if step == Step::Undefine {
                    end.stored = end.stored.and_then(Stored::changed_by_others);
                }
            };
            let undefined = steps.iter().filter(|step| **step == Step::Undefine).count();
            assert!(undefined <= 2, "{steps:?}");
            assert_eq!(
                undefined == 2,
                last == Step::Fail(Failure::DefinedAgain),
                "{seen:?}: {steps:?}"
            );
            if undefined == 2 {
                ended += 1;
                assert!(
                    !steps.iter().any(|step| matches!(step, Step::StartCopy(_))),
                    "{steps:?}"
                );
                // What somebody else has defined stands, and what was saved is forgotten.
                let back = plan(&end, Goal::Back);
                assert!(
                    back.contains(&Step::Redefine) && !back.contains(&Step::Undefine),
                    "{back:?}"
                );
            }
        }
    }
    assert!(ended > 0);
}

#[test]
fn jobs_that_ended_unseen_are_no_success() {
    let mut seen = mirror(1, false);
    seen.mark = Mark::Fixing;
    seen.images = vec![Image::Made];
    seen.jobs = vec![Job::Completed];
    assert_eq!(seen.next(Goal::Forward), Step::Fail(Failure::OutcomeUnknown));
}

#[test]
fn the_plan_of_a_mirror_reads_in_order() {
    let steps = plan(&mirror(1, false), Goal::Forward);
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

#[test]
fn a_rebase_is_a_mirror_whose_definition_is_away_at_its_start_and_that_is_flattened_at_its_end() {
    let steps = plan(&rebase(2, false), Goal::Forward);
    let start = steps.iter().position(|step| *step == Step::SaveDefinition).unwrap();
    assert_eq!(
        steps[start..start + 5],
        [
            Step::SaveDefinition,
            Step::Undefine,
            Step::StartCopy(0),
            Step::StartCopy(1),
            Step::Redefine,
        ]
    );
    assert!(steps.ends_with(&[Step::Flatten, Step::Verify, Step::RemoveRecord]));
    let others: Vec<_> = steps
        .into_iter()
        .filter(|step| {
            !matches!(
                step,
                Step::SaveDefinition | Step::Undefine | Step::Redefine | Step::Flatten
            )
        })
        .collect();
    assert_eq!(others, plan(&mirror(2, false), Goal::Forward));
}
