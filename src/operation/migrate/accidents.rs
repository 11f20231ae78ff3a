// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk.

use super::seen::{Chain, Observed};
use super::step::Step;
use crate::operation::course::modelled::Modelled;
use crate::operation::state::{Image, Job, Mark};

impl Modelled<Step> for Observed {
    fn outcomes(&self, step: Step, failed: bool) -> Vec<Self> {
        let mut after = self.clone();
        (step.what().effect)(&mut after);
        let mut worlds = Vec::new();
        let mut with = |world: &Observed, change: &dyn Fn(&mut Observed)| {
            let mut world = world.clone();
            change(&mut world);
            worlds.push(world);
        };
        match step {
            Step::AwaitJobs | Step::AwaitFinish | Step::AwaitReturn => return vec![self.clone()],
            // The end of these is waited for.
            Step::RestartWriteBlocking => with(self, &|world| world.copy.job = Job::Ending),
            Step::PivotCopy => with(self, &|world| {
                (world.copy.job, world.copy.settled) = (Job::Ending, false)
            }),
            Step::PivotCommit => with(self, &|world| {
                (world.active_overlay().commit, world.copy.settled) = (Job::Ending, true);
            }),
            Step::AbortCommit => with(self, &|world| world.active_overlay().commit = Job::Ending),
            // The caller's own.
            Step::MakeDestination => with(self, &|world| world.destination.image = Image::Taken),
            // It had pivoted.
            Step::SettlePivot => with(self, &|world| {
                (world.chain, world.copy.settled) = (world.chain_after_copy(), true)
            }),
            _ => {}
        }
        with(&after, &|_| {});
        if failed {
            with(self, &|_| {});
            match step {
                Step::MakeDestination | Step::Clone => {
                    for image in [Image::Missing, Image::Half, Image::Made] {
                        with(self, &|world| {
                            (world.destination.image, world.destination.cloned) = (image, false)
                        });
                    }
                }
                Step::MakeOverlay => {
                    for image in [Image::Missing, Image::Made] {
                        with(self, &|world| world.overlay.image = image);
                    }
                }
                Step::MakeDestinationOverlay => {
                    for image in [Image::Missing, Image::Made] {
                        with(self, &|world| world.destination_overlay.image = image);
                    }
                }
                // libvirtd dies in the snapshot.
                Step::TakeSnapshot => with(self, &|world| world.chain = Chain::Unnamed),
                Step::PivotCopy => with(self, &|world| world.copy.settled = false),
                Step::PivotCommit => with(self, &|world| world.copy.settled = true),
                Step::Throttle => with(self, &|world| world.throttled = true),
                Step::StartReturn => with(self, &|world| world.copy.job = Job::Failed),
                _ => {}
            }
        }
        worlds
    }

    fn accidents(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut with = |change: &dyn Fn(&mut Observed)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
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
            with(&|world| {
                (world.alive, world.off, world.chain, world.copy.way_back) = (false, off, chain, Job::NotStarted);
                world.throttled = false;
                for job in world.jobs() {
                    if job.runs() {
                        *job = Job::Failed;
                    }
                }
            });
        }
        with(&|world| world.finish = true);
        for moved in self.copy.job.moves(self.copy.limited) {
            with(&|world| world.copy.job = moved);
        }
        for moved in self.commit().moves(false) {
            with(&|world| world.active_overlay().commit = moved);
        }
        if self.copy.job == Job::Ending {
            // It was to be started again.
            with(&|world| world.copy.job = Job::NotStarted);
        }
        let is_pivoting = self.alive && self.mark == Mark::Fixing && self.chain == before && !self.copy.settled;
        if is_pivoting && self.copy.job == Job::Ending {
            with(&|world| (world.chain, world.copy.job) = (after, Job::Completed));
        }
        // libvirtd dies in the pivot.
        if is_pivoting && self.copy.job.runs() {
            for copy in [Job::Failed, Job::NotStarted] {
                with(&|world| (world.chain, world.copy.job) = (Chain::Astray, copy));
            }
        }
        if self.commit() == Job::Ending {
            with(&|world| {
                world.active_overlay().commit = Job::NotStarted;
                world.chain = world.chain_after_commit();
            });
        }
        if self.alive && self.chain == Chain::Astray {
            let ways = [Job::NotStarted, Job::Running, Job::Ready, Job::Ending, Job::Failed];
            for way_back in ways.into_iter().filter(|_| self.copy.way_back.runs()) {
                with(&|world| world.copy.way_back = way_back);
            }
            if self.copy.way_back == Job::Ending {
                with(&|world| (world.chain, world.copy.way_back) = (before, Job::Completed));
            }
        }
        if self.alive && self.copy.way_back == Job::Completed {
            with(&|world| world.copy.way_back = Job::NotStarted);
        }
        // libvirt was just noting it.
        if self.chain == Chain::Unnamed {
            with(&|world| world.chain = Chain::Overlay);
        }
        worlds
    }
}
