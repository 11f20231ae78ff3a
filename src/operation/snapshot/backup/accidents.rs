// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk.

use super::model::apply;
use super::{Observed, Read, Step};
use crate::operation::course::held::Modelled;
use crate::operation::parts::backup::export::Export;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Image;

/// The worlds that `step` leaves; where it `failed`, also those in which it did nothing, or half of it.
pub(super) fn outcomes(seen: &Observed, step: Step, failed: bool, taken: &[bool]) -> Vec<Observed> {
    let with = |change: &dyn Fn(&mut Observed)| {
        let mut world = seen.clone();
        change(&mut world);
        world
    };
    if matches!(step, Step::AwaitJobs | Step::AwaitFinish) {
        return vec![seen.clone()];
    }
    let mut worlds = vec![with(&|world| apply(world, step, taken))];
    if failed {
        worlds.push(seen.clone());
        match step {
            Step::MakeImage(index) => {
                for image in [Image::Missing, Image::Half] {
                    worlds.push(with(&|world| world.images[index] = image));
                }
            }
            Step::MakeScratch(index) => worlds.push(with(&|world| world.scratches[index] = Image::Missing)),
            Step::MakeServer => worlds.push(with(&|world| world.server = false)),
            // The call was cut off, and did it all the same.
            Step::FixPoint => worlds.push(with(&|world| world.export = Export::Running)),
            _ => {}
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
    with(&|world| (world.alive, world.export, world.stopped) = (false, Export::None, false));
    with(&|world| world.finish = true);
    // An administrator lets a guest go on that was stopped.
    with(&|world| world.stopped = false);
    if seen.export != Export::None {
        with(&|world| world.stopped = true);
        with(&|world| world.broken = true);
        with(&|world| world.export = Export::None);
        with(&|world| world.export = Export::Ending);
    }
    // It was asked to end, and QEMU's jobs did before libvirt knew.
    if seen.export == Export::Ending && seen.broken {
        with(&|world| world.export = Export::Running);
    }
    if seen.fixed {
        with(&|world| world.full = true);
    }
    for index in (0..seen.reads.len()).filter(|index| seen.reads[*index] == Read::Reading) {
        for noted in [seen.noted, false] {
            with(&|world| (world.reads[index], world.noted) = (Read::Done, noted));
            with(&|world| (world.reads[index], world.noted) = (Read::Failed, noted));
        }
        // What it read is of no use, for QEMU's job had ended.
        with(&|world| (world.reads[index], world.noted, world.broken) = (Read::Waiting, false, true));
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
