// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk.

use super::seen::Observed;
use super::step::Step;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::procedure::StepOf;
use crate::operation::state::{Image, Job};

impl Modelled<Step> for Observed {
    fn outcomes(&self, step: Step, failed: bool) -> Vec<Self> {
        let after = |step: Step| {
            let mut world = self.clone();
            (step.what().effect)(&mut world);
            world
        };
        let mut worlds = match step {
            Step::AwaitJobs | Step::AwaitFinish => return vec![self.clone()],
            // Its end is waited for.
            Step::RestartWriteBlocking(index) => vec![after(step), after(Step::AbortJob(index))],
            _ => vec![after(step)],
        };
        if failed {
            worlds.push(self.clone());
            if let Step::MakeImage(index) = step {
                for image in [Image::Missing, Image::Half] {
                    let mut world = self.clone();
                    world.images[index] = image;
                    worlds.push(world);
                }
            }
        }
        worlds
    }

    fn accidents(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        worlds.push(self.but(|world| {
            world.alive = false;
            for job in &mut world.jobs {
                if job.runs() {
                    *job = Job::Failed;
                }
            }
        }));
        worlds.push(self.but(|world| world.finish = true));
        // Somebody else defines the domain, or undefines it.
        if let Some(stored) = self.stored {
            worlds.push(self.but(|world| world.stored = stored.changed_by_others()));
        }
        for (index, job) in self.jobs.iter().enumerate().filter(|(_, job)| job.runs()) {
            for moved in job.moves(self.limited) {
                worlds.push(self.but(|world| world.jobs[index] = moved));
            }
            if self.fixed {
                worlds.push(self.but(|world| world.jobs[index] = Job::Completed));
            }
            // It was to be started again.
            if *job == Job::Ending && !self.fixed {
                worlds.push(self.but(|world| world.jobs[index] = Job::NotStarted));
            }
        }
        worlds
    }
}
