// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk's doing.

use super::model::apply;
use super::plan::Plan;
use super::{Observed, Step};
use crate::operation::course::held::Modelled;
use crate::operation::state::{Image, Job};

/// The worlds that `step` leaves; where it `failed`, also those in which it did nothing, or half of it.
pub(super) fn outcomes(seen: &Observed, step: Step, failed: bool, taken: &[bool]) -> Vec<Observed> {
    let after = |step| {
        let mut world = seen.clone();
        apply(&mut world, step, taken);
        world
    };
    let mut worlds = match step {
        Step::AwaitJobs | Step::AwaitFinish => return vec![seen.clone()],
        // Its end is waited for.
        Step::RestartWriteBlocking(index) => vec![after(step), after(Step::AbortJob(index))],
        _ => vec![after(step)],
    };
    if failed {
        worlds.push(seen.clone());
        if let Step::MakeImage(index) = step {
            for image in [Image::Missing, Image::Half] {
                let mut world = seen.clone();
                world.images[index] = image;
                worlds.push(world);
            }
        }
    }
    worlds
}

/// What can happen to the world beside livedisk.
pub(super) fn accidents(seen: &Observed) -> Vec<Observed> {
    let mut worlds = Vec::new();
    let mut with = |change: &dyn Fn(&mut Observed)| {
        let mut world = seen.clone();
        change(&mut world);
        worlds.push(world);
    };
    with(&|world| {
        world.alive = false;
        for job in &mut world.jobs {
            if job.runs() {
                *job = Job::Failed;
            }
        }
    });
    with(&|world| world.finish = true);
    for (index, job) in seen.jobs.iter().enumerate().filter(|(_, job)| job.runs()) {
        for moved in job.moves(seen.limited) {
            with(&|world| world.jobs[index] = moved);
        }
        if seen.fixed {
            with(&|world| world.jobs[index] = Job::Completed);
        }
        // It was to be started again.
        if *job == Job::Ending && !seen.fixed {
            with(&|world| world.jobs[index] = Job::NotStarted);
        }
    }
    worlds
}

impl Modelled<Plan, Step> for Observed {
    fn outcomes(&self, plan: &Plan, step: Step, failed: bool) -> Vec<Self> {
        outcomes(self, step, failed, &plan.taken())
    }

    fn accidents(&self) -> Vec<Self> {
        accidents(self)
    }
}
