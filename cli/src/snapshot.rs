// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk snapshot.

use std::time::Duration;

use indicatif::BinaryBytes;
use livedisk::{Connection, Consistency, ErrorCode, Report, SnapshotDisk, SnapshotOptions};
use serde_json::{Value, json};

use crate::args::{Arguments, Snapshot};
use crate::operation::{self, nanoseconds, point_in_time};
use crate::output::{Failure, Output};

pub fn run(connection: &Connection, snapshot: &Snapshot, arguments: &Arguments) -> Result<Output, Failure> {
    let options = options(snapshot)?;
    let start = || connection.start_live_snapshot(&snapshot.domain, &options);
    let (operation, report) = operation::run(start, snapshot.run.dry_run, arguments)?;
    Ok(if snapshot.run.dry_run {
        operation::planned(&snapshot.domain, &operation, &report, disks(snapshot))
    } else {
        done(snapshot, &report)
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
        ..SnapshotDisk::default()
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

fn done(snapshot: &Snapshot, report: &Report) -> Output {
    Output {
        text: words(snapshot, report),
        json: json!({
            "domain": snapshot.domain,
            "method": report.method.name(),
            "consistency": report.consistency.name(),
            "filesystems_frozen": report.filesystems_frozen,
            "point_in_time_ns": nanoseconds(point_in_time(report)),
            "freeze_ns": nanoseconds(report.freeze),
            "pause_ns": nanoseconds(report.pause),
            "bytes_copied": report.bytes_copied,
            "elapsed_ns": nanoseconds(report.elapsed),
            "disks": disks(snapshot),
        }),
    }
}

fn words(snapshot: &Snapshot, report: &Report) -> String {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let mut lines = vec![
        format!("snapshot of domain '{}' done", snapshot.domain),
        format!("method       {}", report.method.name()),
        format!("consistency  {}", report.consistency.name()),
    ];
    let point = point_in_time(report);
    lines.push(format!(
        "as of        {}.{:09} s since 1970",
        point.as_secs(),
        point.subsec_nanos()
    ));
    if report.freeze > Duration::ZERO {
        lines.push(format!(
            "freeze       {:.1} ms, file systems: {}",
            milliseconds(report.freeze),
            report.filesystems_frozen
        ));
    }
    if report.pause > Duration::ZERO {
        lines.push(format!("pause        {:.1} ms", milliseconds(report.pause)));
    }
    lines.push(format!("copied       {}", BinaryBytes(report.bytes_copied)));
    lines.push(format!("time         {:.1} s", report.elapsed.as_secs_f64()));
    for disk in &snapshot.disks {
        lines.push(format!("{:12} {}", disk.target, disk.destination));
    }
    if report.consistency == Consistency::Crash {
        lines.push(
            "warning: not frozen over the point in time: the images are as after a power failure; \
             for more, see that the guest agent runs and ask for --quiesce require"
                .into(),
        );
    }
    lines.join("\n")
}

fn disks(snapshot: &Snapshot) -> Vec<Value> {
    let disks = snapshot.disks.iter();
    disks
        .map(|disk| json!({ "target": disk.target, "destination": disk.destination }))
        .collect()
}
