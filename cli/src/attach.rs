// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk attach.

use livedisk::{Connection, OperationStatus};

use crate::args::{Arguments, Attach};
use crate::operation;
use crate::output::{Failure, Output};
use crate::report::{Disk, Done, Kind};

pub fn run(connection: &Connection, attach: &Attach, arguments: &Arguments) -> Result<Output, Failure> {
    let has_disk = |found: &OperationStatus| found.disks.iter().any(|disk| disk.target == attach.target);
    // The record goes with the operation's end.
    let found = connection.operations(Some(&attach.domain))?.into_iter().find(has_disk);
    let start = || connection.attach(&attach.domain, &attach.target);
    let (operation, report) = operation::run_to_end(start, arguments)?;
    let (kind, disks) = match found {
        Some(found) => (kind(&found), found.disks),
        None => (Kind::Snapshot, Vec::new()),
    };
    let disk = |disk: livedisk::DiskStatus| Disk {
        target: disk.target,
        destination: disk.destination,
    };
    let done = Done {
        domain: &attach.domain,
        kind,
        disks: disks.into_iter().map(disk).collect(),
        report: &report,
        remarks: operation::remarks(&operation),
    };
    Ok(done.attached(&attach.target))
}

fn kind(found: &OperationStatus) -> Kind {
    match found.kind {
        "migration" => Kind::Migration {
            old_image: found.old_image.clone(),
            to_remove: found.removes_old_image,
        },
        _ => Kind::Snapshot,
    }
}
