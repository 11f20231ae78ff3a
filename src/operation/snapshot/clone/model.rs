// SPDX-License-Identifier: LGPL-2.1-or-later
//! What each step of a snapshot by clone does when all goes well: for the plan that a dry run shows, for the count of
//! steps, and as the hypervisor of the property tests.

use super::{Chain, Observed, Step, next};
use crate::operation::state::{Goal, Image, Job, Mark, steps};

/// The world after `step`. `taken` are the destinations that are the caller's own.
pub(crate) fn apply(seen: &mut Observed, step: Step, taken: &[bool]) {
    let image = |index: usize| if taken[index] { Image::Taken } else { Image::Made };
    match step {
        Step::WriteRecord(mark) => seen.mark = mark,
        Step::MakeImage(index) => seen.disks[index].destination = image(index),
        Step::MakeOverlay(index) => seen.disks[index].overlay = Image::Made,
        Step::FixPoint => {
            seen.fixed = true;
            for disk in &mut seen.disks {
                disk.chain = Chain::Overlay;
            }
        }
        Step::MergeOverlay(index) => {
            seen.disks[index].chain = Chain::Source;
            seen.disks[index].overlay = Image::Half;
        }
        Step::Clone(index) => {
            seen.disks[index].destination = image(index);
            seen.disks[index].cloned = true;
        }
        Step::Verify => seen.verified = true,
        Step::StartCommit(index) => seen.disks[index].commit = Job::Running,
        Step::AwaitJobs => {
            for disk in &mut seen.disks {
                match disk.commit {
                    Job::Running => disk.commit = Job::Ready,
                    Job::Ending => (disk.commit, disk.chain) = (Job::Completed, Chain::Source),
                    _ => {}
                }
            }
        }
        Step::PivotCommit(index) => seen.disks[index].commit = Job::Ending,
        Step::CommitOffline(index) => seen.disks[index].chain = Chain::Source,
        Step::Thaw => seen.thawed = true,
        Step::Throttle(index) => {
            seen.disks[index].throttled = true;
            seen.disks[index].commit = Job::Running;
        }
        Step::Unthrottle(index) => seen.disks[index].throttled = false,
        // It is seen as failed as soon as it is gone.
        Step::AbortCommit(index) => seen.disks[index].commit = Job::Failed,
        Step::AwaitFinish => seen.finish = true,
        Step::RemoveOverlay(index) => seen.disks[index].overlay = Image::Missing,
        Step::RemoveImage(index) => {
            seen.disks[index].destination = Image::Missing;
            seen.disks[index].cloned = false;
        }
        Step::RemoveRecord => seen.mark = Mark::Absent,
        Step::Fail(_) | Step::Done => {}
    }
}

/// The steps from here to the end, when all goes well.
pub(crate) fn plan(seen: &Observed, goal: Goal, taken: &[bool]) -> Vec<Step> {
    let is_last = |step| matches!(step, Step::Done | Step::Fail(_));
    steps(
        seen,
        |seen| next(seen, goal),
        |seen, step| apply(seen, step, taken),
        is_last,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::operation::snapshot::clone::accidents::{accidents, outcomes};
    use crate::operation::snapshot::clone::{Failure, SeenDisk};

    fn start(disks: usize, by_callback: bool) -> Observed {
        let disk = SeenDisk {
            chain: Chain::Source,
            overlay: Image::Missing,
            destination: Image::Missing,
            cloned: false,
            commit: Job::NotStarted,
            throttled: false,
        };
        Observed {
            alive: true,
            off: false,
            thawed: true,
            mark: Mark::Absent,
            fixed: false,
            verified: false,
            finish: false,
            by_callback,
            disks: vec![disk; disks],
        }
    }

    /// A process died, and another one resumes: what only the old one knew is forgotten.
    fn resumed(seen: &Observed) -> Option<Observed> {
        let mut world = seen.clone();
        (world.finish, world.fixed) = (false, false);
        world.verified = world.mark == Mark::Fixed;
        world.thawed = world.mark != Mark::Fixing;
        for disk in &mut world.disks {
            disk.cloned = world.mark == Mark::Fixed;
            for image in [&mut disk.overlay, &mut disk.destination] {
                if world.mark == Mark::Begun && *image == Image::Made {
                    *image = Image::Half;
                }
            }
        }
        (world.mark != Mark::Absent).then_some(world)
    }

    /// Every state that steps and accidents lead to, with the goals that are possible there: forward may turn back
    /// anywhere, and back never turns forward.
    fn reachable(first: Observed, taken: &[bool]) -> HashSet<(Observed, Goal)> {
        let mut known = HashSet::new();
        let mut open = vec![(first, Goal::Forward)];
        while let Some((seen, goal)) = open.pop() {
            if !known.insert((seen.clone(), goal)) {
                continue;
            }
            open.push((seen.clone(), Goal::Back));
            let worlds = outcomes(&seen, next(&seen, goal), true, taken);
            let worlds = worlds.into_iter().chain(accidents(&seen)).chain(resumed(&seen));
            open.extend(worlds.map(|world| (world, goal)));
        }
        known
    }

    type World = (HashSet<(Observed, Goal)>, Vec<bool>);

    fn worlds() -> Vec<World> {
        let mut all = Vec::new();
        for (by_callback, taken) in [
            (false, vec![false]),
            (false, vec![true]),
            (false, vec![false, false]),
            (true, vec![false]),
            (true, vec![true]),
        ] {
            all.push((reachable(start(taken.len(), by_callback), &taken), taken));
        }
        all
    }

    #[test]
    fn from_every_reachable_state_both_goals_terminate() {
        let mut states = 0;
        for (world, taken) in worlds() {
            for (seen, goal) in &world {
                states += 1;
                let steps = plan(seen, *goal, &taken);
                assert!(
                    steps.len() < 60,
                    "{goal:?} from {seen:?} does not end: {:?}",
                    &steps[..60]
                );
            }
        }
        assert!(states > 1000, "only {states} states were reached");
    }

    /// The property that matters most: what the guest wrote since the snapshot is never removed, only committed.
    #[test]
    fn an_overlay_goes_only_when_it_was_committed() {
        for (world, _) in worlds() {
            for (seen, goal) in &world {
                match next(seen, *goal) {
                    Step::RemoveOverlay(index) => assert_eq!(seen.disks[index].chain, Chain::Source),
                    Step::MergeOverlay(index) => assert_eq!(seen.disks[index].chain, Chain::Unnamed),
                    Step::StartCommit(index) | Step::PivotCommit(index) => {
                        assert!(seen.alive && seen.disks[index].chain == Chain::Overlay);
                    }
                    Step::Clone(index) => {
                        assert!(seen.alive && seen.fixed && seen.disks[index].chain == Chain::Overlay);
                    }
                    Step::CommitOffline(index) => assert!(seen.off && seen.disks[index].chain == Chain::Overlay),
                    Step::RemoveImage(index) => assert!(seen.disks[index].destination.is_ours()),
                    Step::RemoveRecord => assert!(seen.disks.iter().all(|disk| disk.chain == Chain::Source)),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_throttle_is_never_left_behind() {
        let mut set = 0;
        for (world, taken) in worlds() {
            for (seen, goal) in &world {
                let step = next(seen, *goal);
                let is_throttled = seen.disks.iter().any(|disk| disk.throttled);
                let leaves = matches!(step, Step::Done | Step::AwaitFinish | Step::RemoveRecord);
                assert!(!(is_throttled && leaves), "{step:?} under a throttle: {seen:?}");
                set += usize::from(matches!(step, Step::Throttle(_)));
                let mut end = seen.clone();
                for step in plan(seen, Goal::Back, &taken) {
                    apply(&mut end, step, &taken);
                }
                assert!(!end.disks.iter().any(|disk| disk.throttled), "{seen:?}");
            }
        }
        assert!(set > 0);
    }

    #[test]
    fn back_is_as_before_or_says_why_not() {
        for (world, taken) in worlds() {
            for (seen, _) in &world {
                let mut end = seen.clone();
                for step in plan(seen, Goal::Back, &taken) {
                    assert!(!matches!(
                        step,
                        Step::FixPoint | Step::MakeImage(_) | Step::MakeOverlay(_) | Step::Clone(_)
                    ));
                    apply(&mut end, step, &taken);
                }
                match next(&end, Goal::Back) {
                    Step::Done => {
                        assert_eq!(end.mark, Mark::Absent);
                        for disk in &end.disks {
                            assert_eq!(disk.chain, Chain::Source);
                            assert!(!disk.overlay.is_ours() && !disk.destination.is_ours());
                        }
                    }
                    // Only what nobody can help is left: another instance of the guest, or a commit that QEMU failed.
                    Step::Fail(Failure::Restarted) => assert!(!seen.alive && !seen.off),
                    Step::Fail(Failure::Commit(index)) => assert_eq!(end.disks[index].commit, Job::Failed),
                    other => panic!("{other:?} from {seen:?}"),
                }
            }
        }
    }

    #[test]
    fn forward_ends_in_done_only_with_whole_images_and_the_guest_at_home() {
        for (world, taken) in worlds() {
            for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
                let mut end = seen.clone();
                for step in plan(seen, Goal::Forward, &taken) {
                    apply(&mut end, step, &taken);
                }
                if next(&end, Goal::Forward) == Step::Done {
                    assert!(end.fixed && end.verified && end.mark == Mark::Absent);
                    for disk in &end.disks {
                        assert!(disk.cloned && disk.chain == Chain::Source && disk.overlay == Image::Missing);
                    }
                }
            }
        }
    }

    #[test]
    fn the_window_opens_only_with_everything_prepared() {
        for (world, _) in worlds() {
            for (seen, _) in world.iter().filter(|(_, goal)| *goal == Goal::Forward) {
                if next(seen, Goal::Forward) == Step::FixPoint {
                    assert!(seen.alive && !seen.fixed && seen.mark == Mark::Fixing);
                    for disk in &seen.disks {
                        assert_eq!(disk.overlay, Image::Made);
                        assert!(seen.by_callback || disk.destination != Image::Missing);
                    }
                }
            }
        }
    }

    #[test]
    fn the_plan_reads_in_order() {
        assert_eq!(
            plan(&start(1, false), Goal::Forward, &[false]),
            [
                Step::WriteRecord(Mark::Begun),
                Step::MakeImage(0),
                Step::MakeOverlay(0),
                Step::WriteRecord(Mark::Fixing),
                Step::FixPoint,
                Step::WriteRecord(Mark::Copying),
                Step::Clone(0),
                Step::Verify,
                Step::WriteRecord(Mark::Fixed),
                Step::StartCommit(0),
                Step::AwaitJobs,
                Step::PivotCommit(0),
                Step::AwaitJobs,
                Step::RemoveOverlay(0),
                Step::AwaitFinish,
                Step::RemoveRecord,
            ]
        );
    }
}
