// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk.

use super::seen::{Chain, Observed};
use super::step::Step;
use crate::operation::course::modelled::Modelled;
use crate::operation::course::procedure::StepOf;
use crate::operation::state::{Image, Job, Mark};

impl Modelled<Step> for Observed {
    fn outcomes(&self, step: Step, failed: bool) -> Vec<Self> {
        let mut after = self.clone();
        (step.what().effect)(&mut after);
        let mut worlds = Vec::new();
        match step {
            Step::AwaitJobs | Step::AwaitFinish | Step::AwaitReturn => return vec![self.clone()],
            // The end of these is waited for.
            Step::RestartWriteBlocking => worlds.push(self.but(|world| world.copy.job = Job::Ending)),
            Step::PivotCopy => {
                worlds.push(self.but(|world| (world.copy.job, world.copy.settled) = (Job::Ending, false)))
            }
            Step::PivotCommit => worlds.push(self.but(|world| {
                (world.active_overlay().commit, world.copy.settled) = (Job::Ending, true);
            })),
            Step::AbortCommit => worlds.push(self.but(|world| world.active_overlay().commit = Job::Ending)),
            // The caller's own.
            Step::MakeDestination => worlds.push(self.but(|world| world.destination.image = Image::Taken)),
            // It had pivoted.
            Step::SettlePivot => {
                worlds.push(self.but(|world| (world.chain, world.copy.settled) = (world.chain_after_copy(), true)))
            }
            _ => {}
        }
        worlds.push(after);
        if failed {
            worlds.push(self.clone());
            match step {
                Step::MakeDestination | Step::Clone => {
                    for image in [Image::Missing, Image::Half, Image::Made] {
                        worlds.push(
                            self.but(|world| (world.destination.image, world.destination.cloned) = (image, false)),
                        );
                    }
                }
                Step::MakeOverlay => {
                    for image in [Image::Missing, Image::Made] {
                        worlds.push(self.but(|world| world.overlay.image = image));
                    }
                }
                Step::MakeDestinationOverlay => {
                    for image in [Image::Missing, Image::Made] {
                        worlds.push(self.but(|world| world.destination_overlay.image = image));
                    }
                }
                // libvirtd dies in the snapshot.
                Step::TakeSnapshot => worlds.push(self.but(|world| world.chain = Chain::Unnamed)),
                Step::PivotCopy => worlds.push(self.but(|world| world.copy.settled = false)),
                Step::PivotCommit => worlds.push(self.but(|world| world.copy.settled = true)),
                Step::Throttle => worlds.push(self.but(|world| world.throttled = true)),
                Step::StartReturn => worlds.push(self.but(|world| world.copy.job = Job::Failed)),
                _ => {}
            }
        }
        worlds
    }

    fn accidents(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        let (before, after) = (self.chain_before_copy(), self.chain_after_copy());
        // The definition names the one or the other.
        let places = match self.chain {
            Chain::Astray => vec![before, after],
            chain => vec![chain],
        };
        for (off, chain) in [false, true]
            .into_iter()
            .flat_map(|off| places.iter().map(move |chain| (off, *chain)))
        {
            worlds.push(self.but(|world| {
                (world.alive, world.off, world.chain, world.copy.way_back) = (false, off, chain, Job::NotStarted);
                world.throttled = false;
                for job in world.jobs() {
                    if job.runs() {
                        *job = Job::Failed;
                    }
                }
            }));
        }
        worlds.push(self.but(|world| world.finish = true));
        for moved in self.copy.job.moves(self.copy.limited) {
            worlds.push(self.but(|world| world.copy.job = moved));
        }
        for moved in self.commit().moves(false) {
            worlds.push(self.but(|world| world.active_overlay().commit = moved));
        }
        if self.copy.job == Job::Ending {
            // It was to be started again.
            worlds.push(self.but(|world| world.copy.job = Job::NotStarted));
        }
        let is_pivoting = self.alive && self.mark == Mark::Fixing && self.chain == before && !self.copy.settled;
        if is_pivoting && self.copy.job == Job::Ending {
            worlds.push(self.but(|world| (world.chain, world.copy.job) = (after, Job::Completed)));
        }
        // libvirtd dies in the pivot.
        if is_pivoting && self.copy.job.runs() {
            for copy in [Job::Failed, Job::NotStarted] {
                worlds.push(self.but(|world| (world.chain, world.copy.job) = (Chain::Astray, copy)));
            }
        }
        if self.commit() == Job::Ending {
            worlds.push(self.but(|world| {
                world.active_overlay().commit = Job::NotStarted;
                world.chain = world.chain_after_commit();
            }));
        }
        if self.alive && self.chain == Chain::Astray {
            let ways = [Job::NotStarted, Job::Running, Job::Ready, Job::Ending, Job::Failed];
            for way_back in ways.into_iter().filter(|_| self.copy.way_back.runs()) {
                worlds.push(self.but(|world| world.copy.way_back = way_back));
            }
            if self.copy.way_back == Job::Ending {
                worlds.push(self.but(|world| (world.chain, world.copy.way_back) = (before, Job::Completed)));
            }
        }
        if self.alive && self.copy.way_back == Job::Completed {
            worlds.push(self.but(|world| world.copy.way_back = Job::NotStarted));
        }
        // libvirt was just noting it.
        if self.chain == Chain::Unnamed {
            worlds.push(self.but(|world| world.chain = Chain::Overlay));
        }
        worlds
    }
}
