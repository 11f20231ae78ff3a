// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk snapshot.

use livedisk::{Connection, ErrorCode, SnapshotDisk, SnapshotOptions};

use crate::args::{self, Arguments, Snapshot};
use crate::operation;
use crate::output::{Failure, Output};
use crate::report::{self, Done, Kind};

pub fn run(connection: &Connection, snapshot: &Snapshot, arguments: &Arguments) -> Result<Output, Failure> {
    let options = options(snapshot)?;
    let start = || connection.start_live_snapshot(&snapshot.domain, &options);
    let (operation, report) = operation::run(start, snapshot.run.dry_run, arguments)?;
    Ok(if snapshot.run.dry_run {
        operation::planned(&snapshot.domain, &operation, &report, &disks(snapshot))
    } else {
        let done = Done {
            domain: &snapshot.domain,
            kind: Kind::Snapshot,
            disks: disks(snapshot),
            report: &report,
        };
        done.output()
    })
}

fn options(snapshot: &Snapshot) -> Result<SnapshotOptions, Failure> {
    for target in snapshot.formats.iter().filter_map(|format| format.target.as_ref()) {
        if !snapshot.disks.iter().any(|disk| disk.target == *target) {
            let message = format!("--format {target}=...: no --disk {target}=... goes with it; name the disk too");
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
    }
    // One for the disk goes before one for all.
    let format = |wanted: &str| {
        let find = |target: Option<&str>| {
            snapshot
                .formats
                .iter()
                .find(|format| format.target.as_deref() == target)
        };
        find(Some(wanted)).or(find(None)).map(|format| format.name.clone())
    };
    let disks = snapshot.disks.iter().map(|disk| SnapshotDisk {
        target: disk.target.clone(),
        destination: disk.destination.clone(),
        format: format(&disk.target),
        reuse_existing: snapshot.reuse_existing,
        allow_plaintext: snapshot.run.allow_plaintext,
    });
    Ok(SnapshotOptions {
        disks: disks.collect(),
        method: snapshot.method.into(),
        quiesce: snapshot.quiesce.into(),
        clone: snapshot.clone.into(),
        shallow: snapshot.shallow,
        auto_finish: true,
        dry_run: snapshot.run.dry_run,
        verify: snapshot.verify,
        write_blocking: snapshot.run.write_blocking,
        freeze_limit: snapshot.freeze_limit.unwrap_or_default(),
        bandwidth: snapshot.run.bandwidth.unwrap_or_default(),
        ..SnapshotOptions::default()
    })
}

fn disks(snapshot: &Snapshot) -> Vec<report::Disk> {
    let disk = |disk: &args::Disk| report::Disk {
        target: disk.target.clone(),
        destination: disk.destination.clone(),
    };
    snapshot.disks.iter().map(disk).collect()
}
