// SPDX-License-Identifier: LGPL-2.1-or-later
//! A plan in words.

use super::Step;
use super::disk::PlannedDisk;
use super::plan::Plan;
use crate::image::Place;
use crate::operation::state::Mark;

pub(super) fn image(disk: &PlannedDisk) -> String {
    format!(
        "{} image '{}' of {} bytes",
        disk.format,
        disk.destination.shown(),
        disk.size
    )
}

pub(super) fn make(disk: &PlannedDisk) -> String {
    match (&disk.place, disk.reuse) {
        (Place::Free, _) => format!("make the {}", image(disk)),
        (_, true) => format!("take the existing {}", image(disk)),
        (_, false) => format!("prepare the {}", image(disk)),
    }
}

/// One step, as a dry run reports it.
pub(in crate::operation) fn step(step: Step, plan: &Plan) -> String {
    let name = plan.guest.name();
    let disk = |index: usize| &plan.disks[index];
    match step {
        Step::WriteRecord(Mark::Begun) => format!("record the operation in the metadata of domain '{name}'"),
        Step::WriteRecord(_) => "record progress in the domain's metadata".into(),
        Step::MakeImage(index) => make(disk(index)),
        Step::StartCopy(index) => {
            let what = if plan.shallow {
                "the active layer of disk"
            } else {
                "disk"
            };
            format!("mirror {what} '{}' to it (virDomainBlockCopy)", disk(index).target)
        }
        Step::AwaitJobs => "wait for QEMU".into(),
        Step::AwaitFinish => "be READY until finish is called".into(),
        Step::FixPoint => fix(plan),
        Step::Verify => "check that the images are in place, whole and of the right size, and sync them".into(),
        Step::RemoveRecord => "remove the record from the domain's metadata".into(),
        Step::LiftLimit => "lift the bandwidth limit for the last writes".into(),
        Step::RestartWriteBlocking(index) => {
            format!("mirror disk '{}' again, write-blocking", disk(index).target)
        }
        Step::Thaw => "thaw the guest's file systems".into(),
        Step::Resume => "resume the guest's vCPUs".into(),
        Step::AbortJob(index) => format!("end the block job of disk '{}'", disk(index).target),
        Step::RemoveImage(index) => format!("remove the {}", image(disk(index))),
        Step::Fail(_) => "turn back".into(),
        Step::Done => "be done".into(),
    }
}

fn fix(plan: &Plan) -> String {
    let call = "end the mirrors (virDomainBlockJobAbort)";
    if plan.freeze {
        format!(
            "freeze the guest's file systems, {call}, thaw them; at most {:?}",
            plan.freeze_limit
        )
    } else if plan.disks.len() > 1 && !plan.paused {
        format!("pause the guest's vCPUs, {call}, resume them")
    } else {
        format!("{call}, without a freeze")
    }
}
