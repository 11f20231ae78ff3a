// SPDX-License-Identifier: LGPL-2.1-or-later
//! The steps of a snapshot by mirrors: all that there is to say of each, in one place.

use super::Failure;
use super::engine::Engine;
use super::seen::Rest;
use crate::operation::course::procedure::{self, StepOf, Turn};
use crate::operation::state::{Image, Job, Mark, Stored};
use crate::operation::types::Phase;

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    WriteRecord(Mark),
    MakeImage(usize),
    /// By virDomainBlockRebase, which libvirt refuses of a domain that is defined.
    SaveDefinition,
    Undefine,
    StartCopy(usize),
    Redefine,
    /// Wait for the jobs to move.
    AwaitJobs,
    /// Wait for the caller: READY.
    AwaitFinish,
    LiftLimit,
    RestartWriteBlocking(usize),
    /// The freeze window.
    FixPoint,
    Flatten,
    Verify,
    Thaw,
    Resume,
    AbortJob(usize),
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
            Step::WriteRecord(mark) => {
                let what = What::write_record(mark, |seen, mark| seen.mark = mark, Engine::write_record);
                match mark {
                    Mark::Begun | Mark::Copying => what.in_phase(Phase::Preparing),
                    _ => what.in_phase(Phase::Finishing),
                }
            }
            Step::MakeImage(index) => What::new(
                move |plan| plan.disks[index].to_prepare(),
                move |seen| seen.images[index] = if seen.taken[index] { Image::Taken } else { Image::Made },
                move |engine, _| engine.make_image(index),
            )
            .in_phase(Phase::Preparing),

            Step::SaveDefinition => What::new(
                |plan| format!("save the definition of domain '{}' to a file", plan.guest.name()),
                |seen| seen.stored = Some(Stored::Saved { again: false }),
                |engine, _| engine.definition.save(),
            )
            .in_phase(Phase::Preparing),
            Step::Undefine => What::new(
                |plan| {
                    format!(
                        "undefine domain '{}', which keeps running (virDomainUndefineFlags)",
                        plan.guest.name()
                    )
                },
                |seen| seen.stored = seen.stored.map(Stored::undefined),
                |engine, _| engine.definition.take_away(),
            )
            .in_phase(Phase::Preparing),
            Step::StartCopy(index) => What::new(
                move |plan| {
                    let disk = &plan.disks[index];
                    let what = match plan.shallow || disk.backing.is_some() {
                        true => "the active layer of disk",
                        false => "disk",
                    };
                    format!("mirror {what} '{}' to it ({})", disk.target, plan.mirroring_call())
                },
                move |seen| seen.jobs[index] = Job::Running,
                move |engine, _| engine.start_copy(index),
            )
            .in_phase(Phase::Copying),
            Step::Redefine => What::new(
                |plan| {
                    format!(
                        "define domain '{}' again, as it was (virDomainDefineXML)",
                        plan.guest.name()
                    )
                },
                |seen| seen.stored = Some(Stored::Stands),
                |engine, _| engine.definition.give_back(),
            )
            .in_phase(Phase::Copying),
            Step::LiftLimit => What::new(
                |_| "lift the bandwidth limit for the last writes".into(),
                |seen| {
                    seen.limited = false;
                    seen.jobs.iter_mut().for_each(|job| *job = job.helped());
                },
                |engine, _| engine.lift_limit(),
            )
            .in_phase(Phase::Copying),
            Step::RestartWriteBlocking(index) => What::new(
                move |plan| format!("mirror disk '{}' again, write-blocking", plan.disks[index].target),
                move |seen| seen.jobs[index] = Job::NotStarted,
                move |engine, _| engine.disks[index].mirror.restart_write_blocking(),
            )
            .in_phase(Phase::Copying),
            Step::AbortJob(index) => What::new(
                move |plan| format!("end the block job of disk '{}'", plan.disks[index].target),
                move |seen| seen.jobs[index] = Job::Ending,
                move |engine, _| engine.disks[index].mirror.abort(),
            ),
            Step::AwaitJobs => What::wait(Turn::AwaitJobs, "wait for QEMU", |seen| {
                for job in &mut seen.jobs {
                    *job = match (*job, seen.fixed) {
                        (Job::Running | Job::Stuck(_), false) => Job::Ready,
                        (Job::Ending, false) => Job::Failed,
                        (Job::Failed, _) => Job::Failed,
                        (_, true) => Job::Completed,
                        (job, false) => job,
                    };
                }
            }),
            Step::AwaitFinish => What::wait(Turn::AwaitFinish, "stay READY until finish is called", |seen| {
                seen.finish = true;
            })
            .in_phase(Phase::Ready),

            Step::FixPoint => What::new(
                |plan| plan.window_in_words("end the mirrors (virDomainBlockJobAbort)"),
                |seen| {
                    seen.fixed = true;
                    seen.jobs.fill(Job::Ending);
                },
                |engine, _| engine.fix_point(),
            ),
            // What a process that died in the window left of it.
            Step::Thaw => What::new(
                |_| "thaw the guest's file systems".into(),
                |seen| seen.thawed = true,
                |engine, _| engine.left.thaw(&engine.plan.guest),
            ),
            Step::Resume => What::new(
                |_| "resume the guest's vCPUs".into(),
                |seen| seen.resumed = true,
                |engine, _| engine.plan.guest.resume(),
            ),

            Step::Flatten => What::new(
                |_| "copy the backing chains into the images (qemu-img rebase)".into(),
                |seen| seen.rest = Rest::Verify,
                |engine, _| engine.flatten(),
            ),
            Step::Verify => What::new(
                |_| "check that the images are in place, whole and of the right size, and sync them".into(),
                |seen| seen.rest = Rest::Nothing,
                |engine, _| engine.verify(),
            ),
            Step::RemoveImage(index) => What::new(
                move |plan| format!("remove the {}", plan.disks[index].image()),
                move |seen| seen.images[index] = Image::Missing,
                move |engine, _| engine.disks[index].image.remove(),
            ),
            Step::RemoveRecord => What::remove_record(|seen| seen.mark = Mark::Absent, Engine::remove_record),
            Step::Fail(failure) => What::fail(move |engine| failure.explain(engine)).in_phase(Phase::Finishing),
            Step::Done => What::done(),
        }
    }
}
