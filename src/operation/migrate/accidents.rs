// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world without livedisk's doing.

use super::plan::Plan;
use super::seen::{Chain, Observed};
use super::step::Step;
use crate::operation::course::held::Modelled;
use crate::operation::state::{Image, Job, Mark};

/// The worlds that `step` leaves; where it `failed`, also those in which it did nothing, or half of it.
pub(super) fn outcomes(seen: &Observed, step: Step, failed: bool) -> Vec<Observed> {
    let mut after = seen.clone();
    (step.what().effect)(&mut after);
    let mut worlds = Vec::new();
    let mut with = |world: &Observed, change: &dyn Fn(&mut Observed)| {
        let mut world = world.clone();
        change(&mut world);
        worlds.push(world);
    };
    match step {
        Step::AwaitJobs | Step::AwaitFinish | Step::AwaitReturn => return vec![seen.clone()],
        // The end of these is waited for.
        Step::RestartWriteBlocking => with(seen, &|world| world.copy.job = Job::Ending),
        Step::PivotCopy => with(seen, &|world| {
            (world.copy.job, world.copy.settled) = (Job::Ending, false)
        }),
        Step::PivotCommit => with(seen, &|world| {
            (world.active_overlay().commit, world.copy.settled) = (Job::Ending, true);
        }),
        Step::AbortCommit => with(seen, &|world| world.active_overlay().commit = Job::Ending),
        // The caller's own.
        Step::MakeDestination => with(seen, &|world| world.destination.image = Image::Taken),
        // It had pivoted.
        Step::SettlePivot => with(seen, &|world| {
            (world.chain, world.copy.settled) = (world.chain_after_copy(), true)
        }),
        _ => {}
    }
    with(&after, &|_| {});
    if failed {
        with(seen, &|_| {});
        match step {
            Step::MakeDestination | Step::Clone => {
                for image in [Image::Missing, Image::Half, Image::Made] {
                    with(seen, &|world| {
                        (world.destination.image, world.destination.cloned) = (image, false)
                    });
                }
            }
            Step::MakeOverlay => {
                for image in [Image::Missing, Image::Made] {
                    with(seen, &|world| world.overlay.image = image);
                }
            }
            Step::MakeDestinationOverlay => {
                for image in [Image::Missing, Image::Made] {
                    with(seen, &|world| world.destination_overlay.image = image);
                }
            }
            // libvirtd dies in the snapshot.
            Step::TakeSnapshot => with(seen, &|world| world.chain = Chain::Unnamed),
            Step::PivotCopy => with(seen, &|world| world.copy.settled = false),
            Step::PivotCommit => with(seen, &|world| world.copy.settled = true),
            Step::Throttle => with(seen, &|world| world.throttled = true),
            Step::StartReturn => with(seen, &|world| world.copy.job = Job::Failed),
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
    let (before, behind) = (seen.chain_before_copy(), seen.chain_after_copy());
    // The definition names the one or the other.
    let places = match seen.chain {
        Chain::Astray => vec![before, behind],
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
    for moved in seen.copy.job.moves(seen.copy.limited) {
        with(&|world| world.copy.job = moved);
    }
    for moved in seen.commit().moves(false) {
        with(&|world| world.active_overlay().commit = moved);
    }
    if seen.copy.job == Job::Ending {
        // It was to be started again.
        with(&|world| world.copy.job = Job::NotStarted);
    }
    let is_pivoting = seen.alive && seen.mark == Mark::Fixing && seen.chain == before && !seen.copy.settled;
    if is_pivoting && seen.copy.job == Job::Ending {
        with(&|world| (world.chain, world.copy.job) = (behind, Job::Completed));
    }
    // libvirtd dies in the pivot.
    if is_pivoting && seen.copy.job.runs() {
        for copy in [Job::Failed, Job::NotStarted] {
            with(&|world| (world.chain, world.copy.job) = (Chain::Astray, copy));
        }
    }
    if seen.commit() == Job::Ending {
        with(&|world| {
            world.active_overlay().commit = Job::NotStarted;
            world.chain = world.chain_after_commit();
        });
    }
    if seen.alive && seen.chain == Chain::Astray {
        let ways = [Job::NotStarted, Job::Running, Job::Ready, Job::Ending, Job::Failed];
        for way_back in ways.into_iter().filter(|_| seen.copy.way_back.runs()) {
            with(&|world| world.copy.way_back = way_back);
        }
        if seen.copy.way_back == Job::Ending {
            with(&|world| (world.chain, world.copy.way_back) = (before, Job::Completed));
        }
    }
    if seen.alive && seen.copy.way_back == Job::Completed {
        with(&|world| world.copy.way_back = Job::NotStarted);
    }
    // libvirt was just noting it.
    if seen.chain == Chain::Unnamed {
        with(&|world| world.chain = Chain::Overlay);
    }
    worlds
}

impl Modelled<Plan, Step> for Observed {
    fn outcomes(&self, _plan: &Plan, step: Step, failed: bool) -> Vec<Self> {
        outcomes(self, step, failed)
    }

    fn accidents(&self) -> Vec<Self> {
        accidents(self)
    }
}
