// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk status.

use std::time::SystemTime;

use livedisk::{Connection, DiskStatus, OperationStatus};
use serde_json::{Value, json};

use crate::args::Status;
use crate::output::{Failure, Output};

pub fn run(connection: &Connection, status: &Status) -> Result<Output, Failure> {
    let operations = connection.operations(status.domain.as_deref())?;
    let json: Vec<Value> = operations.iter().map(object).collect();
    Ok(Output {
        text: table(&operations),
        json: json!({ "operations": json }),
    })
}

fn object(operation: &OperationStatus) -> Value {
    let started = operation
        .started
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let disks: Vec<Value> = operation.disks.iter().map(disk_object).collect();
    json!({
        "domain": operation.domain,
        "id": operation.id,
        "kind": operation.kind,
        "method": operation.method.name(),
        "mark": operation.mark,
        "started_ns": u64::try_from(started.as_nanos()).unwrap_or(u64::MAX),
        "owner_host": operation.owner_host,
        "owner_process": operation.owner_process,
        "orphaned": operation.orphaned,
        "disks": disks,
    })
}

fn disk_object(disk: &DiskStatus) -> Value {
    json!({
        "target": disk.target,
        "destination": disk.destination,
        "format": disk.format,
        "bytes_done": disk.progress.map(|(done, _)| done),
        "bytes_total": disk.progress.map(|(_, total)| total),
    })
}

/// A line a disk.
fn table(operations: &[OperationStatus]) -> String {
    if operations.is_empty() {
        return "no operations".into();
    }
    let titles = ["DOMAIN", "DISK", "METHOD", "MARK", "COPIED", "PROCESS", "DESTINATION"].map(str::to_owned);
    let mut rows = vec![titles];
    for operation in operations {
        for disk in &operation.disks {
            rows.push(row(operation, Some(disk)));
        }
        if operation.disks.is_empty() {
            rows.push(row(operation, None));
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A freeze has no disks.
fn row(operation: &OperationStatus, disk: Option<&DiskStatus>) -> [String; 7] {
    let gone = if operation.orphaned { " (gone)" } else { "" };
    let copied = match disk.and_then(|disk| disk.progress) {
        Some((done, total)) => format!("{} %", u128::from(done) * 100 / u128::from(total.max(1))),
        None => "-".into(),
    };
    let nothing = || "-".to_owned();
    [
        operation.domain.clone(),
        disk.map_or_else(nothing, |disk| disk.target.clone()),
        disk.map_or(operation.kind, |_| operation.method.name()).into(),
        operation.mark.into(),
        copied,
        format!("{}@{}{gone}", operation.owner_process, operation.owner_host),
        disk.map_or_else(nothing, |disk| disk.destination.clone()),
    ]
}
