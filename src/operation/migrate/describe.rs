// SPDX-License-Identifier: LGPL-2.1-or-later
//! The plan of a migration in words.

use super::Step;
use super::plan::Plan;
use crate::operation::state::Mark;
use crate::operation::types::{CloneMethod, Method};

pub(in crate::operation) fn step(step: Step, plan: &Plan) -> String {
    let (name, target) = (plan.guest.name(), plan.target.as_str());
    let (source, destination) = (plan.source.0.escape_debug(), plan.destination.shown());
    match step {
        Step::WriteRecord(Mark::Begun) => format!("note the operation in the metadata of domain '{name}'"),
        Step::WriteRecord(_) => "note how far it is".into(),
        Step::MakeOverlay => format!("make an overlay beside '{source}'"),
        Step::TakeSnapshot => format!(
            "take an external snapshot of disk '{target}', so that '{source}' is quiet (virDomainSnapshotCreateXML)"
        ),
        Step::MergeOverlay => format!(
            "libvirtd died in the snapshot and does not know the overlay that the guest writes to: commit that into the image \
             of disk '{target}' (block-commit, qemu-img)"
        ),
        Step::Clone => {
            let how = match plan.clone {
                CloneMethod::Auto => "by shared blocks if possible, else by a copy",
                CloneMethod::Reflink => "by shared blocks (FICLONE)",
                CloneMethod::Copy => "by a copy that keeps holes",
                CloneMethod::Volume => "by storage volumes",
                CloneMethod::Callback => "by the caller's function",
            };
            format!("clone '{source}' to '{destination}' {how}, and sync it")
        }
        Step::Verify => "compare the two".into(),
        Step::MakeDestination if plan.encryption.is_some() => {
            format!("make the empty file '{destination}', which libvirt encrypts as the disk is")
        }
        Step::MakeDestination => format!("make the {} image '{destination}' of {} bytes", plan.format, plan.size),
        Step::MakeDestinationOverlay => format!("make an overlay beside '{destination}'"),
        Step::StartCopy if plan.method == Method::Mirror => {
            format!("mirror disk '{target}' to it (virDomainBlockCopy)")
        }
        Step::StartCopy => "copy what the guest wrote since to that overlay (virDomainBlockCopy, shallow)".into(),
        Step::AwaitJobs => "wait for QEMU".into(),
        Step::AwaitFinish => "be READY until finish is called; until then everything can be taken back".into(),
        Step::LiftLimit => "lift the bandwidth limit".into(),
        Step::RestartWriteBlocking => "copy again, write-blocking".into(),
        Step::Throttle => format!("throttle the guest's writes to disk '{target}' (virDomainSetBlockIoTune)"),
        Step::Unthrottle => "set the disk's own limits again".into(),
        Step::PivotCopy => "pivot to it: from here on the way is forward".into(),
        Step::StartReturn => format!(
            "libvirtd died in the pivot and does not know where the guest writes: copy that back to where libvirt has disk \
             '{target}' (blockdev-mirror)"
        ),
        Step::AwaitReturn => "wait for QEMU".into(),
        Step::Return => "pivot back".into(),
        Step::CloseDestination => format!("let QEMU close '{destination}' (blockdev-del)"),
        Step::SettlePivot => "see on which side of the pivot the guest's last writes are (qemu-img)".into(),
        Step::StartCommit => "commit the overlay into its base (virDomainBlockCommit, active)".into(),
        Step::CommitOffline => "commit the overlay into its base, and write that into the definition (qemu-img)".into(),
        Step::PivotCommit => "pivot to the base".into(),
        Step::AbortCopy => "end the copy".into(),
        Step::AbortCommit => "end the commit".into(),
        Step::RemoveOverlay | Step::RemoveDestinationOverlay => "remove an overlay".into(),
        Step::RemoveDestination => format!("remove '{destination}'"),
        Step::DeleteSource => format!("remove the source '{source}'"),
        Step::RemoveRecord => "remove the note from the domain's metadata".into(),
        Step::Fail(_) => "turn back".into(),
        Step::Done => "be done".into(),
    }
}
