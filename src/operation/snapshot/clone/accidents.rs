// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk.

use super::seen::{Chain, Observed};
use super::step::Step;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::procedure::StepOf;
use crate::operation::state::{Image, Job};

impl Modelled<Step> for Observed {
    fn outcomes(&self, step: Step, failed: bool) -> Vec<Self> {
        let mut after = self.clone();
        (step.what().effect)(&mut after);
        let mut worlds = Vec::new();
        match step {
            Step::AwaitJobs | Step::AwaitFinish => return vec![self.clone()],
            // Its end is waited for.
            Step::AbortCommit(index) => worlds.push(after.but(|world| world.disks[index].commit = Job::Ending)),
            _ => {}
        }
        worlds.push(after);
        if failed {
            worlds.push(self.clone());
            match step {
                Step::MakeImage(index) | Step::Clone(index) => {
                    for image in [Image::Missing, Image::Half, Image::Made, Image::Taken] {
                        worlds.push(self.but(|world| world.disks[index].destination = image));
                    }
                }
                Step::MakeOverlay(index) => {
                    for image in [Image::Missing, Image::Made] {
                        worlds.push(self.but(|world| world.disks[index].overlay = image));
                    }
                }
                // The snapshot was taken; libvirtd may not have lived to note it.
                Step::FixPoint => {
                    for chain in [Chain::Overlay, Chain::Unnamed] {
                        worlds.push(self.but(|world| world.disks.iter_mut().for_each(|disk| disk.chain = chain)));
                    }
                }
                Step::Throttle(index) => worlds.push(self.but(|world| world.disks[index].throttled = true)),
                _ => {}
            }
        }
        worlds
    }

    fn accidents(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        for off in [false, true] {
            worlds.push(self.but(|world| {
                (world.alive, world.off) = (false, off);
                for disk in &mut world.disks {
                    disk.throttled = false;
                    if disk.commit.runs() {
                        disk.commit = Job::Failed;
                    }
                }
            }));
        }
        worlds.push(self.but(|world| world.finish = true));
        for (index, disk) in self.disks.iter().enumerate() {
            for moved in disk.commit.moves(false) {
                worlds.push(self.but(|world| world.disks[index].commit = moved));
            }
            if disk.commit == Job::Ending {
                worlds.push(self.but(|world| {
                    (world.disks[index].commit, world.disks[index].chain) = (Job::Completed, Chain::Source)
                }));
                // The pivot is made, and the guest may die before the job is seen to have ended.
                worlds.push(self.but(|world| world.disks[index].chain = Chain::Source));
            }
            // libvirt was just noting it.
            if disk.chain == Chain::Unnamed {
                worlds.push(self.but(|world| world.disks[index].chain = Chain::Overlay));
            }
        }
        worlds
    }

    /// A commit that failed is tried once more.
    fn turned_back(&mut self) {
        for disk in self.disks.iter_mut().filter(|disk| disk.commit == Job::Failed) {
            disk.commit = Job::NotStarted;
        }
    }
}
