// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk status.

use livedisk::{Connection, DiskStatus, OperationStatus};
use serde_json::{Value, json};

use crate::args::Status;
use crate::output::{self, Failure, Output};
use crate::units;

pub fn run(connection: &Connection, status: &Status) -> Result<Output, Failure> {
    let operations = connection.operations(status.domain.as_deref())?;
    let json: Vec<Value> = operations.iter().map(object).collect();
    Ok(Output {
        text: lines(&operations),
        json: json!({ "operations": json }),
    })
}

fn object(operation: &OperationStatus) -> Value {
    let disks: Vec<Value> = operation.disks.iter().map(disk_object).collect();
    let mut object = json!({
        "domain": operation.domain,
        "id": operation.id,
        "kind": operation.kind,
        "method": operation.method.name(),
        "mark": operation.mark,
        "owner_host": operation.owner_host,
        "owner_process": operation.owner_process,
        "orphaned": operation.orphaned,
        "disks": disks,
    });
    if let Some(object) = object.as_object_mut() {
        units::put_time(object, "started", operation.started);
    }
    object
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
fn lines(operations: &[OperationStatus]) -> String {
    if operations.is_empty() {
        return "no operations".into();
    }
    let titles = [
        "DOMAIN",
        "DISK",
        "METHOD",
        "MARK",
        "COPIED",
        "STARTED",
        "PROCESS",
        "DESTINATION",
    ];
    let rows = operations.iter().flat_map(|operation| {
        let disks = operation.disks.iter().map(|disk| row(operation, Some(disk)));
        let none = operation.disks.is_empty().then(|| row(operation, None));
        disks.chain(none)
    });
    output::table(titles, rows)
}

/// A freeze has no disks.
fn row(operation: &OperationStatus, disk: Option<&DiskStatus>) -> [String; 8] {
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
        units::local(operation.started, 0),
        format!("{}@{}{gone}", operation.owner_process, operation.owner_host),
        disk.map_or_else(nothing, |disk| disk.destination.clone()),
    ]
}
