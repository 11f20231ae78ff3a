// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model knows beside steps that do all they should: effects that come later, steps that fail, and what happens
//! to the world behind livedisk's back.

use super::model::apply;
use super::plan::Plan;
use super::{Chain, Observed, Step};
use crate::operation::course::held::Modelled;
use crate::operation::state::{Image, Job, Mark};
use crate::operation::types::Method;

impl Observed {
    /// On which sides of the copy's pivot the guest is.
    fn sides(&self) -> (Chain, Chain) {
        match self.method {
            Method::Mirror => (Chain::Source, Chain::Destination),
            _ => (Chain::Overlay, Chain::Moved),
        }
    }
}

/// The worlds that `step` leaves; where it `failed`, also those in which it did nothing, or half of it.
pub(super) fn outcomes(seen: &Observed, step: Step, failed: bool) -> Vec<Observed> {
    let mut after = seen.clone();
    apply(&mut after, step);
    let mut worlds = Vec::new();
    let mut with = |world: &Observed, change: &dyn Fn(&mut Observed)| {
        let mut world = world.clone();
        change(&mut world);
        worlds.push(world);
    };
    match step {
        Step::AwaitJobs | Step::AwaitFinish | Step::AwaitReturn => return vec![seen.clone()],
        // The end of these is waited for.
        Step::RestartWriteBlocking => with(seen, &|world| world.copy = Job::Ending),
        Step::PivotCopy => with(seen, &|world| (world.copy, world.settled) = (Job::Ending, false)),
        Step::PivotCommit => with(seen, &|world| (world.commit, world.settled) = (Job::Ending, true)),
        Step::AbortCommit => with(seen, &|world| world.commit = Job::Ending),
        // The caller's own.
        Step::MakeDestination => with(seen, &|world| world.destination = Image::Taken),
        // It had pivoted.
        Step::SettlePivot => with(seen, &|world| (world.chain, world.settled) = (world.sides().1, true)),
        _ => {}
    }
    with(&after, &|_| {});
    if failed {
        with(seen, &|_| {});
        match step {
            Step::MakeDestination | Step::Clone => {
                for image in [Image::Missing, Image::Half, Image::Made] {
                    with(seen, &|world| (world.destination, world.cloned) = (image, false));
                }
            }
            Step::MakeOverlay => {
                for image in [Image::Missing, Image::Made] {
                    with(seen, &|world| world.overlay = image);
                }
            }
            Step::MakeDestinationOverlay => {
                for image in [Image::Missing, Image::Made] {
                    with(seen, &|world| world.destination_overlay = image);
                }
            }
            // libvirtd dies in the snapshot.
            Step::TakeSnapshot => with(seen, &|world| world.chain = Chain::Unnamed),
            Step::PivotCopy => with(seen, &|world| world.settled = false),
            Step::PivotCommit => with(seen, &|world| world.settled = true),
            Step::Throttle => with(seen, &|world| world.throttled = true),
            Step::StartReturn => with(seen, &|world| world.copy = Job::Failed),
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
    let (before, behind) = seen.sides();
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
            (world.alive, world.off, world.chain, world.way_back) = (false, off, chain, Job::NotStarted);
            world.throttled = false;
            for job in [&mut world.copy, &mut world.commit] {
                if job.runs() {
                    *job = Job::Failed;
                }
            }
        });
    }
    with(&|world| world.finish = true);
    for moved in seen.copy.moves(seen.limited) {
        with(&|world| world.copy = moved);
    }
    for moved in seen.commit.moves(false) {
        with(&|world| world.commit = moved);
    }
    if seen.copy == Job::Ending {
        // It was to be started again.
        with(&|world| world.copy = Job::NotStarted);
    }
    let is_pivoting = seen.alive && seen.mark == Mark::Fixing && seen.chain == before && !seen.settled;
    if is_pivoting && seen.copy == Job::Ending {
        with(&|world| (world.chain, world.copy) = (behind, Job::Completed));
    }
    // libvirtd dies in the pivot.
    if is_pivoting && seen.copy.runs() {
        for copy in [Job::Failed, Job::NotStarted] {
            with(&|world| (world.chain, world.copy) = (Chain::Astray, copy));
        }
    }
    if seen.commit == Job::Ending {
        let below = match seen.chain {
            Chain::Moved => Chain::Destination,
            Chain::Overlay => Chain::Source,
            chain => chain,
        };
        with(&|world| (world.chain, world.commit) = (below, Job::NotStarted));
    }
    if seen.alive && seen.chain == Chain::Astray {
        let ways = [Job::NotStarted, Job::Running, Job::Ready, Job::Ending, Job::Failed];
        for way_back in ways.into_iter().filter(|_| seen.way_back.runs()) {
            with(&|world| world.way_back = way_back);
        }
        if seen.way_back == Job::Ending {
            with(&|world| (world.chain, world.way_back) = (before, Job::Completed));
        }
    }
    if seen.alive && seen.way_back == Job::Completed {
        with(&|world| world.way_back = Job::NotStarted);
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
