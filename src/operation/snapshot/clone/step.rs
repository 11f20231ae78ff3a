// SPDX-License-Identifier: LGPL-2.1-or-later
//! The steps of a snapshot by clone: all that there is to say of each, in one place.

use super::engine::Engine;
use super::failure::Failure;
use super::plan::Way;
use super::seen::{Chain, SeenDisk};
use crate::operation::course::procedure::{self, StepOf, Turn};
use crate::operation::parts::throttle;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::{Image, Job, Mark};
use crate::operation::types::{CloneMethod, Phase};

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    WriteRecord(Mark),
    MakeImage(usize),
    MakeOverlay(usize),
    FixPoint,
    MergeOverlay(usize),
    Clone(usize),
    Verify,
    StartCommit(usize),
    AwaitJobs,
    PivotCommit(usize),
    CommitOffline(usize),
    Thaw,
    Throttle(usize),
    Unthrottle(usize),
    AbortCommit(usize),
    AwaitFinish,
    RemoveOverlay(usize),
    RemoveImage(usize),
    RemoveRecord,
    Fail(Failure),
    Done,
}

type What = procedure::What<Engine>;

impl StepOf<Engine> for Step {
    fn what(self) -> What {
        match self {
            Step::WriteRecord(mark) => What::write_record(mark, |seen, mark| seen.mark = mark, Engine::write_record),

            Step::MakeImage(index) => What::new(
                move |plan| format!("prepare the {}", image(plan, index)),
                move |seen| seen.disks[index].destination = seen.disks[index].prepared(),
                move |engine, _| engine.make_image(index),
            ),
            Step::MakeOverlay(index) => What::new(
                move |plan| format!("make an overlay beside the image of disk '{}'", target(plan, index)),
                move |seen| seen.disks[index].overlay = Image::Made,
                move |engine, _| engine.make_overlay(index),
            ),
            // The freeze window, with the one snapshot of all disks in it.
            Step::FixPoint => What::new(
                |plan| {
                    plan.window_in_words("take an external snapshot of all disks at once (virDomainSnapshotCreateXML)")
                },
                |seen| {
                    seen.fixed = true;
                    seen.disks.iter_mut().for_each(|disk| disk.chain = Chain::Overlay);
                },
                |engine, _| engine.fix_point(),
            ),
            // What a process that died left frozen.
            Step::Thaw => What::new(
                |_| "thaw the guest's file systems".into(),
                |seen| seen.thawed = true,
                |engine, _| engine.left.thaw(&engine.plan.guest),
            ),
            // It goes back into A, and libvirt does not know of it.
            Step::MergeOverlay(index) => What::new(
                move |plan| {
                    format!(
                        "libvirtd died in the snapshot and does not know the overlay that the guest writes to: commit that \
                         into the image of disk '{}' (block-commit, qemu-img)",
                        target(plan, index)
                    )
                },
                move |seen| (seen.disks[index].chain, seen.disks[index].overlay) = (Chain::Source, Image::Half),
                move |engine, seen| engine.disks[index].overlay.merge(seen.alive),
            ),

            Step::Clone(index) => What::new(
                move |plan| {
                    format!(
                        "clone disk '{}', which is quiet, to the {} {}, and sync it",
                        target(plan, index),
                        image(plan, index),
                        how(plan, index)
                    )
                },
                move |seen| {
                    seen.disks[index].destination = seen.disks[index].prepared();
                    seen.disks[index].cloned = true;
                },
                move |engine, _| engine.clone_disk(index),
            ),
            Step::Verify => What::new(
                |plan| match plan.verify {
                    true => "check the images and compare them with the disks".into(),
                    false => "check that the images are in place and of the right size".into(),
                },
                |seen| seen.verified = true,
                |engine, _| engine.verify(),
            ),

            Step::StartCommit(index) => What::new(
                move |plan| {
                    format!(
                        "commit the overlay of disk '{}' into its image (virDomainBlockCommit, active)",
                        target(plan, index)
                    )
                },
                move |seen| seen.disks[index].commit = Job::Running,
                move |engine, _| engine.disks[index].overlay.start_commit(),
            ),
            Step::PivotCommit(index) => What::new(
                move |plan| format!("pivot disk '{}' to its image", target(plan, index)),
                move |seen| seen.disks[index].commit = Job::Ending,
                move |engine, _| engine.disks[index].overlay.pivot_commit(),
            ),
            Step::AbortCommit(index) => What::new(
                move |plan| format!("end the commit of disk '{}'", target(plan, index)),
                // It is seen as failed as soon as it is gone.
                move |seen| seen.disks[index].commit = Job::Failed,
                move |engine, _| engine.disks[index].overlay.abort_commit(),
            ),
            // What an active commit does, for a domain that is off.
            Step::CommitOffline(index) => What::new(
                move |plan| {
                    format!(
                        "commit the overlay of disk '{}' into its image, and write that into the definition (qemu-img)",
                        target(plan, index)
                    )
                },
                move |seen| seen.disks[index].chain = Chain::Source,
                move |engine, _| engine.disks[index].commit_offline(),
            ),
            Step::Throttle(index) => What::new(
                move |plan| {
                    format!(
                        "throttle the guest's writes to disk '{}' (virDomainSetBlockIoTune)",
                        target(plan, index)
                    )
                },
                move |seen| (seen.disks[index].throttled, seen.disks[index].commit) = (true, Job::Running),
                move |engine, _| throttle::throttle(engine, index),
            ),
            Step::Unthrottle(index) => What::new(
                move |plan| format!("restore the own limits of disk '{}'", target(plan, index)),
                move |seen| seen.disks[index].throttled = false,
                move |engine, _| throttle::unthrottle(engine, index),
            ),
            Step::AwaitJobs => What::wait(Turn::AwaitJobs, "wait for QEMU", |seen| {
                for disk in &mut seen.disks {
                    match disk.commit {
                        Job::Running => disk.commit = Job::Ready,
                        Job::Ending => (disk.commit, disk.chain) = (Job::Completed, Chain::Source),
                        _ => {}
                    }
                }
            }),
            Step::AwaitFinish => What::wait(Turn::AwaitFinish, "stay READY until finish is called", |seen| {
                seen.finish = true;
            })
            .in_phase(Phase::Ready),

            Step::RemoveOverlay(index) => What::new(
                move |plan| format!("remove the overlay of disk '{}'", target(plan, index)),
                move |seen| seen.disks[index].overlay = Image::Missing,
                move |engine, _| engine.disks[index].remove_overlay(&engine.plan.disks[index]),
            ),
            Step::RemoveImage(index) => What::new(
                move |plan| format!("remove the {}", image(plan, index)),
                move |seen| (seen.disks[index].destination, seen.disks[index].cloned) = (Image::Missing, false),
                move |engine, _| engine.disks[index].remove_image(),
            ),
            Step::RemoveRecord => {
                What::remove_record(|seen| seen.mark = Mark::Absent, Engine::remove_record).in_phase(Phase::Finishing)
            }
            Step::Fail(failure) => What::fail(move |engine| failure.explain(engine)),
            Step::Done => What::done().in_phase(Phase::Finishing),
        }
    }
}

impl SeenDisk {
    /// Its destination, as soon as it is prepared.
    fn prepared(&self) -> Image {
        if self.taken { Image::Taken } else { Image::Made }
    }
}

fn target(plan: &Plan, index: usize) -> &str {
    plan.disks[index].target.as_str()
}

fn image(plan: &Plan, index: usize) -> String {
    let disk = &plan.disks[index];
    format!("{} image '{}'", disk.format, disk.destination.shown())
}

fn how(plan: &Plan, index: usize) -> &'static str {
    match (plan.ways[index], plan.clone) {
        (Way::Callback, _) => "by the caller's function",
        (Way::Content, _) => "by writing what its chain shows, in one pass",
        (Way::File, CloneMethod::Copy) => "by a copy that keeps holes",
        (Way::File, CloneMethod::Reflink) => "by shared blocks (FICLONE)",
        (Way::File, _) => "by shared blocks if possible, else by a copy",
    }
}
