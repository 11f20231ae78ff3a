// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk snapshot.

use std::collections::HashMap;

use livedisk::{Connection, ErrorCode, SnapshotDisk, SnapshotOptions};

use crate::args::{Arguments, Disk, Snapshot};
use crate::operation;
use crate::output::{Failure, Output};
use crate::report::{self, Done, Kind};

pub fn run(connection: &Connection, snapshot: &Snapshot, arguments: &Arguments) -> Result<Output, Failure> {
    let disks = match &snapshot.to {
        Some(directory) => all_disks(connection, snapshot, directory)?,
        None => snapshot.disks.clone(),
    };
    let options = options(snapshot, &disks)?;
    let start = || connection.start_live_snapshot(&snapshot.domain, &options);
    let (operation, report) = operation::run(start, snapshot.run.dry_run, arguments)?;
    let disk = |disk: Disk| report::Disk {
        target: disk.target,
        destination: disk.destination,
    };
    let disks: Vec<report::Disk> = disks.into_iter().map(disk).collect();
    Ok(if snapshot.run.dry_run {
        operation::planned(&snapshot.domain, &operation, &report, &disks)
    } else {
        let done = Done {
            domain: &snapshot.domain,
            kind: Kind::Snapshot,
            disks,
            report: &report,
            remarks: operation::remarks(&operation),
        };
        done.output()
    })
}

/// Each to DIRECTORY/TARGET.FORMAT.
fn all_disks(connection: &Connection, snapshot: &Snapshot, directory: &str) -> Result<Vec<Disk>, Failure> {
    let disks = connection.disks(&snapshot.domain)?.into_iter();
    let disks: Vec<Disk> = disks
        .filter(|disk| !disk.removable)
        .map(|disk| {
            let format = format(snapshot, &disk.target).or(disk.format);
            let format = format.as_deref().unwrap_or("raw");
            Disk {
                destination: format!("{}/{}.{format}", directory.trim_end_matches('/'), disk.target),
                target: disk.target,
            }
        })
        .collect();
    if disks.is_empty() {
        let message = format!("domain '{}' has no disk to take a snapshot of", snapshot.domain);
        return Err(Failure::new(ErrorCode::NoDisk, message));
    }
    Ok(disks)
}

/// What was asked for the disk goes before what was for all.
fn format(snapshot: &Snapshot, wanted: &str) -> Option<String> {
    let formats = || snapshot.formats.iter();
    let of_disk = formats().find(|format| format.target.as_deref() == Some(wanted));
    let of_all = || formats().find(|format| format.target.is_none());
    of_disk.or_else(of_all).map(|format| format.name.clone())
}

fn options(snapshot: &Snapshot, disks: &[Disk]) -> Result<SnapshotOptions, Failure> {
    for target in snapshot.formats.iter().filter_map(|format| format.target.as_ref()) {
        if !disks.iter().any(|disk| disk.target == *target) {
            let message = match &snapshot.to {
                None => format!("--format {target}=...: the snapshot has no such disk; add --disk {target}=..."),
                Some(_) => format!("--format {target}=...: domain '{}' has no such disk", snapshot.domain),
            };
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
    }
    let mut backings = HashMap::new();
    for backing in &snapshot.backings {
        let target = &backing.target;
        let message = if !disks.iter().any(|disk| disk.target == *target) {
            format!("--backing {target}=...: the snapshot has no such disk; add --disk {target}=...")
        } else if backings.insert(target, &backing.destination).is_some() {
            format!("--backing {target}=...: given twice; an increment has one backing file")
        } else {
            continue;
        };
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    }
    let disks = disks.iter().map(|disk| SnapshotDisk {
        backing: backings.get(&disk.target).map(|path| (*path).clone()),
        target: disk.target.clone(),
        destination: disk.destination.clone(),
        format: format(snapshot, &disk.target),
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
        compress: snapshot.compress,
        full_if_needed: snapshot.full_if_needed,
        checkpoint: snapshot.checkpoint.clone(),
        since: snapshot.since.clone(),
        scratch: snapshot.scratch.clone(),
        freeze_limit: snapshot.freeze_limit.unwrap_or_default(),
        bandwidth: snapshot.run.bandwidth.unwrap_or_default(),
        ..SnapshotOptions::default()
    })
}
