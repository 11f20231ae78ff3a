// SPDX-License-Identifier: LGPL-2.1-or-later
//! The plan of a snapshot by clone in words.

use super::Step;
use super::plan::Way;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Mark;
use crate::operation::types::CloneMethod;

pub(in crate::operation) fn step(step: Step, plan: &Plan) -> String {
    let name = plan.guest.name();
    let target = |index: usize| plan.disks[index].target.as_str();
    let image = |index: usize| {
        let disk = &plan.disks[index];
        format!("{} image '{}'", disk.format, disk.destination.shown())
    };
    match step {
        Step::WriteRecord(Mark::Begun) => format!("note the operation in the metadata of domain '{name}'"),
        Step::WriteRecord(_) => "note how far it is".into(),
        Step::MakeImage(index) => format!("prepare the {}", image(index)),
        Step::MakeOverlay(index) => format!("make an overlay beside the image of disk '{}'", target(index)),
        Step::FixPoint => fix(plan),
        Step::MergeOverlay(index) => format!(
            "libvirtd died in the snapshot and does not know the overlay that the guest writes to: commit that into the image \
             of disk '{}' (block-commit, qemu-img)",
            target(index)
        ),
        Step::Clone(index) => format!(
            "clone disk '{}', which is quiet, to the {} {}, and sync it",
            target(index),
            image(index),
            how(plan, index)
        ),
        Step::Verify if plan.verify => "check the images and compare them with the disks".into(),
        Step::Verify => "check that the images are in place and of the right size".into(),
        Step::StartCommit(index) => format!(
            "commit the overlay of disk '{}' into its image (virDomainBlockCommit, active)",
            target(index)
        ),
        Step::AwaitJobs => "wait for QEMU".into(),
        Step::PivotCommit(index) => format!("pivot disk '{}' to its image", target(index)),
        Step::CommitOffline(index) => format!(
            "commit the overlay of disk '{}' into its image, and write that into the definition (qemu-img)",
            target(index)
        ),
        Step::Thaw => "thaw the guest's file systems".into(),
        Step::Throttle(index) => format!(
            "throttle the guest's writes to disk '{}' (virDomainSetBlockIoTune)",
            target(index)
        ),
        Step::Unthrottle(index) => format!("set the own limits of disk '{}' again", target(index)),
        Step::AbortCommit(index) => format!("end the commit of disk '{}'", target(index)),
        Step::AwaitFinish => "be READY until finish is called".into(),
        Step::RemoveOverlay(index) => format!("remove the overlay of disk '{}'", target(index)),
        Step::RemoveImage(index) => format!("remove the {}", image(index)),
        Step::RemoveRecord => "remove the note from the domain's metadata".into(),
        Step::Fail(_) => "turn back".into(),
        Step::Done => "be done".into(),
    }
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

fn fix(plan: &Plan) -> String {
    let call = "take an external snapshot of all disks at once (virDomainSnapshotCreateXML)";
    if plan.freeze && !plan.paused {
        format!(
            "freeze the guest's file systems, {call}, thaw them; at most {:?}",
            plan.freeze_limit
        )
    } else {
        format!("{call}, without a freeze")
    }
}
