// SPDX-License-Identifier: LGPL-2.1-or-later
//! The steps of a migration: all that there is to say of each, in one place.

use super::engine::Engine;
use super::failure::Failure;
use super::seen::{Chain, Source};
use crate::operation::course::procedure::{self, StepOf, Turn};
use crate::operation::parts::throttle;
use crate::operation::state::{Image, Job, Mark};
use crate::operation::types::{CloneMethod, Method, Phase};

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    WriteRecord(Mark),
    MakeOverlay,
    TakeSnapshot,
    MergeOverlay,
    Clone,
    Verify,
    MakeDestination,
    MakeDestinationOverlay,
    StartCopy,
    LiftLimit,
    RestartWriteBlocking,
    Throttle,
    Unthrottle,
    StartCommit,
    CommitOffline,
    AwaitJobs,
    AwaitFinish,
    PivotCopy,
    StartReturn,
    AwaitReturn,
    Return,
    CloseDestination,
    SettlePivot,
    PivotCommit,
    AbortCopy,
    AbortCommit,
    RemoveOverlay,
    RemoveDestination,
    RemoveDestinationOverlay,
    DeleteSource,
    RemoveRecord,
    Fail(Failure),
    Done,
}

type What = procedure::What<Engine>;

impl StepOf<Engine> for Step {
    fn what(self) -> What {
        match self {
            Step::WriteRecord(mark) => {
                let what = What::write_record(mark, |seen, mark| seen.mark = mark, Engine::write_record);
                match mark {
                    Mark::Begun => what.in_phase(Phase::Preparing),
                    _ => what,
                }
            }

            // The overlay A', and the clone of A below it.
            Step::MakeOverlay => What::new(
                |plan| format!("make an overlay beside '{}'", plan.source.path.escape_debug()),
                |seen| seen.overlay.image = Image::Made,
                |engine, _| engine.overlay.make(),
            )
            .in_phase(Phase::Preparing),
            Step::TakeSnapshot => What::new(
                |plan| {
                    format!(
                        "take an external snapshot of disk '{}', so that '{}' is quiet (virDomainSnapshotCreateXML)",
                        plan.target,
                        plan.source.path.escape_debug()
                    )
                },
                |seen| seen.chain = Chain::Overlay,
                |engine, _| engine.take_snapshot(),
            )
            .in_phase(Phase::Preparing),
            // It goes back into A, and libvirt does not know of it.
            Step::MergeOverlay => What::new(
                |plan| {
                    format!(
                        "libvirtd died in the snapshot and does not know the overlay that the guest writes to: commit that \
                         into the image of disk '{}' (block-commit, qemu-img)",
                        plan.target
                    )
                },
                |seen| (seen.chain, seen.overlay.image) = (Chain::Source, Image::Half),
                |engine, seen| engine.overlay.merge(seen.alive),
            ),
            Step::Clone => What::new(
                |plan| {
                    let (source, destination) = (plan.source.path.escape_debug(), plan.destination.shown());
                    format!("clone '{source}' to '{destination}' {}, and sync it", how(plan.clone))
                },
                |seen| (seen.destination.image, seen.destination.cloned) = (Image::Made, true),
                |engine, _| engine.clone_base(),
            ),
            Step::Verify => What::new(
                |_| "compare the two".into(),
                |seen| seen.destination.verify = false,
                |engine, _| engine.verify(),
            ),

            // The copy, to B or to its overlay B'.
            Step::MakeDestination => What::new(
                |plan| match plan.encryption {
                    Some(_) => format!(
                        "make the empty file '{}', which libvirt encrypts as the disk is",
                        plan.destination.shown()
                    ),
                    None => format!(
                        "make the {} image '{}' of {} bytes",
                        plan.format,
                        plan.destination.shown(),
                        plan.size
                    ),
                },
                |seen| seen.destination.image = Image::Made,
                |engine, _| engine.make_destination(),
            )
            .in_phase(Phase::Preparing),
            Step::MakeDestinationOverlay => What::new(
                |plan| format!("make an overlay beside '{}'", plan.destination.shown()),
                |seen| seen.destination_overlay.image = Image::Made,
                |engine, _| engine.make_destination_overlay(),
            ),
            Step::StartCopy => What::new(
                |plan| match plan.method {
                    Method::Mirror => format!("mirror disk '{}' to it (virDomainBlockCopy)", plan.target),
                    _ => "copy what the guest wrote since to that overlay (virDomainBlockCopy, shallow)".into(),
                },
                |seen| seen.copy.job = Job::Running,
                |engine, _| engine.start_copy(),
            ),
            Step::LiftLimit => What::new(
                |_| "lift the bandwidth limit".into(),
                |seen| {
                    seen.copy.limited = false;
                    seen.copy.job = seen.copy.job.helped();
                },
                |engine, _| engine.copy.lift_limit(),
            ),
            Step::RestartWriteBlocking => What::new(
                |_| "copy again, write-blocking".into(),
                |seen| seen.copy.job = Job::NotStarted,
                |engine, _| engine.copy.restart_write_blocking(),
            ),
            Step::AbortCopy => What::new(
                |_| "end the copy".into(),
                |seen| seen.copy.job = Job::Ending,
                |engine, _| engine.copy.abort(),
            ),
            Step::PivotCopy => What::new(
                |_| "pivot to it; after this the migration cannot be undone".into(),
                |seen| {
                    (seen.copy.job, seen.copy.settled) = (Job::Completed, false);
                    seen.chain = seen.chain_after_copy();
                },
                |engine, _| engine.pivot_copy(),
            ),
            Step::AwaitFinish => What::wait(
                Turn::AwaitFinish,
                "stay READY until finish is called; until then everything can be rolled back",
                |seen| seen.finish = true,
            )
            .in_phase(Phase::Ready),

            // The way back from a pivot that libvirtd did not live to note.
            Step::StartReturn => What::new(
                |plan| {
                    format!(
                        "libvirtd died in the pivot and does not know where the guest writes: copy that back to where libvirt \
                         has disk '{}' (blockdev-mirror)",
                        plan.target
                    )
                },
                |seen| (seen.copy.way_back, seen.copy.job) = (Job::Running, Job::Failed),
                |engine, _| engine.start_return(),
            ),
            Step::AwaitReturn => What::new(
                |_| "wait for QEMU".into(),
                |seen| {
                    if seen.copy.way_back == Job::Ending {
                        (seen.copy.way_back, seen.chain) = (Job::Completed, seen.chain_before_copy());
                    } else {
                        seen.copy.way_back = Job::Ready;
                    }
                },
                |engine, _| engine.await_return(),
            ),
            Step::Return => What::new(
                |_| "pivot back".into(),
                |seen| seen.copy.way_back = Job::Ending,
                |engine, _| engine.pivot.complete_return(),
            ),
            Step::CloseDestination => What::new(
                |plan| format!("let QEMU close '{}' (blockdev-del)", plan.destination.shown()),
                |seen| seen.copy.way_back = Job::NotStarted,
                |engine, _| engine.pivot.close_destination(),
            ),
            // The same, of a domain that is off.
            Step::SettlePivot => What::new(
                |_| "find out on which side of the pivot the guest's last writes are (qemu-img)".into(),
                |seen| seen.copy.settled = true,
                |engine, _| engine.settle_pivot(),
            ),

            // The commit of the overlay that the guest is on: of B' on the way forward, of A' on the way back.
            Step::StartCommit => What::new(
                |_| "commit the overlay into its base (virDomainBlockCommit, active)".into(),
                |seen| seen.active_overlay().commit = Job::Running,
                |engine, seen| engine.active_overlay(seen).start_commit(),
            ),
            Step::PivotCommit => What::new(
                |_| "pivot to the base".into(),
                |seen| {
                    // Another one may be started.
                    (seen.active_overlay().commit, seen.copy.settled) = (Job::NotStarted, true);
                    seen.chain = seen.chain_after_commit();
                },
                |engine, seen| {
                    engine.pivot.settled = true;
                    engine.active_overlay(seen).pivot_commit()
                },
            ),
            Step::AbortCommit => What::new(
                |_| "end the commit".into(),
                |seen| seen.active_overlay().commit = Job::Ending,
                |engine, seen| engine.active_overlay(seen).abort_commit(),
            ),
            // What an active commit does, for a domain that is off.
            Step::CommitOffline => What::new(
                |_| "commit the overlay into its base, and write that into the definition (qemu-img)".into(),
                |seen| seen.chain = seen.chain_after_commit(),
                |engine, seen| engine.commit_offline(seen),
            ),

            Step::Throttle => What::new(
                |plan| {
                    format!(
                        "throttle the guest's writes to disk '{}' (virDomainSetBlockIoTune)",
                        plan.target
                    )
                },
                |seen| {
                    seen.throttled = true;
                    seen.jobs().into_iter().for_each(|job| *job = job.helped());
                },
                |engine, _| throttle::throttle(engine, 0),
            ),
            Step::Unthrottle => What::new(
                |_| "restore the disk's own limits".into(),
                |seen| seen.throttled = false,
                |engine, _| throttle::unthrottle(engine, 0),
            ),
            Step::AwaitJobs => What::wait(Turn::AwaitJobs, "wait for QEMU", |seen| {
                for job in seen.jobs() {
                    *job = match *job {
                        Job::Running | Job::Stuck(_) => Job::Ready,
                        Job::Ending => Job::Failed,
                        job => job,
                    };
                }
            }),

            Step::RemoveOverlay => What::new(
                |_| "remove an overlay".into(),
                |seen| seen.overlay.image = Image::Missing,
                |engine, seen| engine.remove_overlay(seen),
            ),
            Step::RemoveDestinationOverlay => What::new(
                |_| "remove an overlay".into(),
                |seen| seen.destination_overlay.image = Image::Missing,
                |engine, seen| engine.remove_destination_overlay(seen),
            ),
            Step::RemoveDestination => What::new(
                |plan| format!("remove '{}'", plan.destination.shown()),
                |seen| (seen.destination.image, seen.destination.cloned) = (Image::Missing, false),
                |engine, _| engine.remove_destination(),
            ),
            Step::DeleteSource => What::new(
                |plan| format!("remove the source '{}'", plan.source.path.escape_debug()),
                |seen| seen.source = Source::Deleted,
                |engine, _| engine.delete_source(),
            ),
            Step::RemoveRecord => What::remove_record(|seen| seen.mark = Mark::Absent, Engine::remove_record),
            Step::Fail(failure) => What::fail(move |engine| failure.explain(engine)),
            Step::Done => What::done(),
        }
    }
}

fn how(clone: CloneMethod) -> &'static str {
    match clone {
        CloneMethod::Auto => "by shared blocks if possible, else by a copy",
        CloneMethod::Reflink => "by shared blocks (FICLONE)",
        CloneMethod::Copy => "by a copy that keeps holes",
        CloneMethod::Volume => "by storage volumes",
        CloneMethod::Callback => "by the caller's function",
    }
}
