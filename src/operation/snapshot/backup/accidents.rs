// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk.

use super::seen::{Observed, Read};
use super::step::Step;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::procedure::StepOf;
use crate::operation::parts::backup::checkpoint::Checkpoint;
use crate::operation::parts::backup::export::Export;
use crate::operation::state::Image;

impl Modelled<Step> for Observed {
    fn outcomes(&self, step: Step, failed: bool) -> Vec<Self> {
        if matches!(step, Step::AwaitJobs | Step::AwaitFinish) {
            return vec![self.clone()];
        }
        let mut worlds = vec![self.but(|world| (step.what().effect)(world))];
        if failed {
            worlds.push(self.clone());
            match step {
                Step::MakeImage(index) => {
                    for image in [Image::Missing, Image::Half] {
                        worlds.push(self.but(|world| world.images[index] = image));
                    }
                }
                Step::MakeScratch(index) => worlds.push(self.but(|world| world.scratches[index] = Image::Missing)),
                Step::MakeServer => worlds.push(self.but(|world| world.backup.server = false)),
                // The call was cut off, and did it all the same.
                Step::FixPoint => {
                    worlds.push(self.but(|world| {
                        (world.backup.export, world.checkpoint) = (Export::Running, world.checkpoint.begun());
                    }));
                    // libvirtd died of it, and has never heard of the checkpoint, or of the backup.
                    worlds.push(self.but(|world| world.checkpoint = world.checkpoint.begun()));
                    worlds.push(self.but(|world| world.backup.export = Export::Running));
                }
                _ => {}
            }
        }
        worlds
    }

    fn accidents(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        worlds.push(
            self.but(|world| (world.alive, world.backup.export, world.backup.stopped) = (false, Export::None, false)),
        );
        worlds.push(self.but(|world| world.finish = true));
        // An administrator lets a guest go on that was stopped.
        worlds.push(self.but(|world| world.backup.stopped = false));
        // Somebody deletes it, or it goes with a transient domain.
        if self.checkpoint == Checkpoint::Made {
            worlds.push(self.but(|world| world.checkpoint = Checkpoint::Missing));
        }
        if self.backup.export != Export::None {
            worlds.push(self.but(|world| world.backup.stopped = true));
            worlds.push(self.but(|world| world.backup.broken = true));
            worlds.push(self.but(|world| world.backup.export = Export::None));
            worlds.push(self.but(|world| world.backup.export = Export::Ending));
        }
        // It was asked to end, and QEMU's jobs did before libvirt knew.
        if self.backup.export == Export::Ending && self.backup.broken {
            worlds.push(self.but(|world| world.backup.export = Export::Running));
        }
        if self.fixed {
            worlds.push(self.but(|world| world.backup.full = true));
        }
        for index in (0..self.reads.len()).filter(|index| self.reads[*index] == Read::Reading) {
            for noted in [self.noted, false] {
                worlds.push(self.but(|world| (world.reads[index], world.noted) = (Read::Done, noted)));
                worlds.push(self.but(|world| (world.reads[index], world.noted) = (Read::Failed, noted)));
            }
            // What it read is of no use, for QEMU's job had ended.
            worlds.push(
                self.but(|world| (world.reads[index], world.noted, world.backup.broken) = (Read::Waiting, false, true)),
            );
        }
        worlds
    }
}
