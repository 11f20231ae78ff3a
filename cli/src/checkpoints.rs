// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk checkpoints.

use livedisk::{Checkpoint, CheckpointDisk, Connection};
use serde_json::{Value, json};

use crate::args::Checkpoints;
use crate::output::{Failure, Output, table};
use crate::units;

pub fn run(connection: &Connection, checkpoints: &Checkpoints) -> Result<Output, Failure> {
    let domain = &checkpoints.domain;
    if let Some(name) = &checkpoints.delete {
        connection.delete_checkpoint(domain, name)?;
        return Ok(Output {
            text: format!("domain '{domain}': checkpoint '{name}' deleted"),
            json: json!({ "domain": domain, "deleted": name }),
        });
    }
    let found = connection.checkpoints(domain)?;
    let list: Vec<Value> = found.iter().map(object).collect();
    Ok(Output {
        text: lines(&found),
        json: json!({ "domain": domain, "checkpoints": list }),
    })
}

fn object(checkpoint: &Checkpoint) -> Value {
    let why_not = checkpoint.why_not();
    let disks: Vec<Value> = checkpoint.disks.iter().map(disk_object).collect();
    let mut object = json!({
        "name": checkpoint.name,
        "parent": checkpoint.parent,
        "changed_bytes": checkpoint.changed_bytes(),
        "usable": why_not.is_none(),
        "why_not": why_not,
        "disks": disks,
    });
    if let Some(object) = object.as_object_mut() {
        units::put_time(object, "created", checkpoint.created);
    }
    object
}

fn disk_object(disk: &CheckpointDisk) -> Value {
    json!({
        "target": disk.target,
        "changed_bytes": disk.changed_bytes,
        "usable": disk.why_not.is_none(),
        "why_not": disk.why_not,
    })
}

fn lines(checkpoints: &[Checkpoint]) -> String {
    if checkpoints.is_empty() {
        return "no checkpoints".into();
    }
    let rows = checkpoints.iter().map(|checkpoint| {
        let disks: Vec<&str> = checkpoint.disks.iter().map(|disk| disk.target.as_str()).collect();
        let nothing = || "-".to_owned();
        [
            checkpoint.name.clone(),
            checkpoint.parent.clone().unwrap_or_else(nothing),
            units::local(checkpoint.created, 0),
            checkpoint
                .changed_bytes()
                .map_or_else(nothing, |bytes| bytes.to_string()),
            if disks.is_empty() { nothing() } else { disks.join(",") },
            checkpoint.why_not().map_or("yes".into(), |why| format!("no: {why}")),
        ]
    });
    table(["NAME", "PARENT", "CREATED", "CHANGED", "DISKS", "USABLE"], rows)
}
