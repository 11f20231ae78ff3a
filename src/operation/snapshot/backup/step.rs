// SPDX-License-Identifier: LGPL-2.1-or-later
//! The steps of a snapshot by backup: all that there is to say of each, in one place.

use super::engine::Engine;
use super::failure::Failure;
use super::seen::Read;
use crate::operation::course::procedure::{self, StepOf, Turn};
use crate::operation::parts::backup::checkpoint::Checkpoint;
use crate::operation::parts::backup::export::Export;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::{Image, Mark};
use crate::operation::types::Phase;

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    WriteRecord(Mark),
    MakeImage(usize),
    MakeScratch(usize),
    MakeServer,
    /// The freeze window.
    FixPoint,
    /// The one that was made at a point in time of which there is no image.
    RemoveCheckpoint,
    StartReader(usize),
    /// Wait for the reader, or for the backup's end.
    AwaitJobs,
    /// The record: what is copied.
    NoteRead,
    StopReader,
    /// Its connections first.
    EndBackup,
    RemoveScratch(usize),
    RemoveServer,
    /// Wait for the caller: READY.
    AwaitFinish,
    Verify,
    Thaw,
    Resume,
    RemoveImage(usize),
    RemoveRecord,
    /// Not possible any more: roll back.
    Fail(Failure),
    Done,
}

type What = procedure::What<Engine>;

impl StepOf<Engine> for Step {
    fn what(self) -> What {
        match self {
            Step::WriteRecord(mark) => What::write_record(mark, |seen, mark| seen.mark = mark, Engine::write_record),

            Step::MakeImage(index) => What::new(
                move |plan| plan.disks[index].to_prepare(),
                move |seen| seen.images[index] = if seen.taken[index] { Image::Taken } else { Image::Made },
                move |engine, _| engine.make_image(index),
            ),
            Step::MakeScratch(index) => What::new(
                move |plan| format!("make the {}", scratch(plan, index)),
                move |seen| seen.scratches[index] = Image::Made,
                move |engine, _| engine.disks[index].make_scratch(&engine.plan.disks[index]),
            ),
            Step::MakeServer => What::new(
                |_| "make the directory of the export's socket".into(),
                |seen| seen.backup.server = true,
                |engine, _| engine.job.server.make(&engine.plan.guest),
            ),
            Step::FixPoint => What::new(
                |plan| plan.window_in_words(&begin(plan)),
                |seen| {
                    (seen.fixed, seen.backup.export) = (true, Export::Running);
                    seen.checkpoint = seen.checkpoint.begun();
                },
                |engine, _| engine.fix_point(),
            ),
            Step::RemoveCheckpoint => What::new(
                |plan| {
                    let name = plan.checkpoint.as_deref().unwrap_or_default();
                    format!("delete the new checkpoint '{name}'")
                },
                |seen| seen.checkpoint = Checkpoint::Missing,
                |engine, _| engine.remove_checkpoint(),
            ),
            // What a process that died left frozen.
            Step::Thaw => What::new(
                |_| "thaw the guest's file systems".into(),
                |seen| seen.thawed = true,
                |engine, _| engine.left.thaw(&engine.plan.guest),
            ),

            Step::StartReader(index) => What::new(
                move |plan| copy(plan, index),
                move |seen| seen.reads[index] = Read::Reading,
                move |engine, _| engine.start_reader(index),
            ),
            Step::AwaitJobs => What::wait(Turn::AwaitJobs, "wait for it", |seen| {
                for read in &mut seen.reads {
                    if *read == Read::Reading {
                        (*read, seen.noted) = (Read::Done, false);
                    }
                }
                if seen.backup.export == Export::Ending {
                    seen.backup.export = Export::None;
                }
            }),
            Step::NoteRead => What::new(
                |_| "record what is copied".into(),
                |seen| seen.noted = true,
                |engine, _| engine.write_record(Mark::Fixed),
            ),
            Step::StopReader => What::new(
                |_| "end the copying".into(),
                |seen| {
                    for read in &mut seen.reads {
                        if *read == Read::Reading {
                            *read = Read::Waiting;
                        }
                    }
                },
                |engine, _| engine.stop_reader(),
            ),
            Step::EndBackup => What::new(
                |_| "end the backup (virDomainAbortJob)".into(),
                |seen| seen.backup.export = Export::Ending,
                |engine, _| engine.job.end(&engine.plan.guest),
            ),
            // Without the backup a write that failed goes through.
            Step::Resume => What::new(
                |_| "resume the guest's vCPUs".into(),
                |seen| seen.backup.stopped = false,
                |engine, _| engine.job.resume(&engine.plan.guest),
            ),
            Step::RemoveScratch(index) => What::new(
                move |plan| format!("remove the {}", scratch(plan, index)),
                move |seen| seen.scratches[index] = Image::Missing,
                move |engine, _| engine.disks[index].remove_scratch(),
            ),
            Step::RemoveServer => What::new(
                |_| "remove the directory of the export's socket".into(),
                |seen| seen.backup.server = false,
                |engine, _| engine.job.server.remove(),
            ),

            Step::AwaitFinish => What::wait(Turn::AwaitFinish, "stay READY until finish is called", |seen| {
                seen.finish = true;
            })
            .in_phase(Phase::Ready),
            Step::Verify => What::new(
                |_| "check that the images are in place and of the right size".into(),
                |seen| seen.verified = true,
                |engine, _| engine.verify(),
            )
            .in_phase(Phase::Finishing),
            Step::RemoveImage(index) => What::new(
                move |plan| format!("remove the {}", plan.disks[index].image()),
                move |seen| seen.images[index] = Image::Missing,
                move |engine, _| engine.disks[index].image.remove(),
            ),
            Step::RemoveRecord => {
                What::remove_record(|seen| seen.mark = Mark::Absent, Engine::remove_record).in_phase(Phase::Finishing)
            }
            Step::Fail(failure) => What::fail(move |engine| failure.explain(engine)).in_phase(Phase::Finishing),
            Step::Done => What::done().in_phase(Phase::Finishing),
        }
    }
}

fn begin(plan: &Plan) -> String {
    match &plan.checkpoint {
        None => "begin the backup (virDomainBackupBegin)".into(),
        Some(name) => format!("begin the backup and make checkpoint '{name}' (virDomainBackupBegin)"),
    }
}

fn copy(plan: &Plan, index: usize) -> String {
    let disk = &plan.disks[index];
    let (what, program) = match (&disk.changes.since, &disk.changes.whole) {
        (Some(since), _) => (format!(" as it changed since checkpoint '{since}'"), "qemu-io"),
        (None, Some(why)) => (format!(" whole, because {why},"), "qemu-img"),
        (None, None) => (String::new(), "qemu-img"),
    };
    let on = disk.backing.as_ref();
    let on = on.map(|on| format!(", on '{}'", on.path.escape_debug()));
    format!(
        "copy disk '{}'{what} from the backup's export to '{}'{} ({program}{})",
        disk.target,
        disk.destination.shown(),
        on.unwrap_or_default(),
        if plan.compress { ", compressed" } else { "" }
    )
}

fn scratch(plan: &Plan, index: usize) -> String {
    let disk = &plan.disks[index];
    let directory = disk.scratch.as_deref().unwrap_or_default();
    format!(
        "scratch file of disk '{}' in '{}'",
        disk.target,
        directory.escape_debug()
    )
}
