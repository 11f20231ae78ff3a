// SPDX-License-Identifier: LGPL-2.1-or-later
//! A plan in words.

use super::Step;
use crate::operation::snapshot::describe::{image, make};
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Mark;

/// One step, as a dry run reports it.
pub(in crate::operation) fn step(step: Step, plan: &Plan) -> String {
    let name = plan.guest.name();
    let disk = |index: usize| &plan.disks[index];
    let scratch = |index: usize| {
        let disk = disk(index);
        let directory = disk.scratch.as_deref().unwrap_or_default();
        format!(
            "scratch file of disk '{}' in '{}'",
            disk.target,
            directory.escape_debug()
        )
    };
    match step {
        Step::WriteRecord(Mark::Begun) => format!("note the operation in the metadata of domain '{name}'"),
        Step::WriteRecord(_) => "note how far it is".into(),
        Step::MakeImage(index) => make(disk(index)),
        Step::MakeScratch(index) => format!("make the {}", scratch(index)),
        Step::MakeServer => "make the directory of the export's socket".into(),
        Step::FixPoint => fix(plan),
        Step::StartReader(index) => format!(
            "copy disk '{}' from the backup's export to '{}' (qemu-img{})",
            disk(index).target,
            disk(index).destination.shown(),
            if plan.compress { ", compressed" } else { "" }
        ),
        Step::AwaitJobs => "wait for it".into(),
        Step::NoteRead => "note what is copied".into(),
        Step::StopReader => "end the copying".into(),
        Step::EndBackup => "end the backup (virDomainAbortJob)".into(),
        Step::RemoveScratch(index) => format!("remove the {}", scratch(index)),
        Step::RemoveServer => "remove the directory of the export's socket".into(),
        Step::AwaitFinish => "be READY until finish is called".into(),
        Step::Verify => "check that the images are in place and of the right size".into(),
        Step::Thaw => "thaw the guest's file systems".into(),
        Step::Resume => "resume the guest's vCPUs".into(),
        Step::RemoveImage(index) => format!("remove the {}", image(disk(index))),
        Step::RemoveRecord => "remove the note from the domain's metadata".into(),
        Step::Fail(_) => "turn back".into(),
        Step::Done => "be done".into(),
    }
}

fn fix(plan: &Plan) -> String {
    let call = "begin the backup (virDomainBackupBegin)";
    if plan.freeze {
        format!(
            "freeze the guest's file systems, {call}, thaw them; at most {:?}",
            plan.freeze_limit
        )
    } else {
        format!("{call}, without a freeze")
    }
}
