// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk recover.

use livedisk::{Connection, ErrorCode, Recovered, Settlement};
use serde_json::{Value, json};

use crate::args::Recover;
use crate::output::{Failure, Output};
use crate::words;

pub fn run(connection: &Connection, recover: &Recover) -> Result<Output, Failure> {
    let recovery = connection.recover(recover.domain.as_deref(), recover.dry_run)?;
    let operations: Vec<Value> = recovery.operations.iter().map(object).collect();
    let lines: Vec<String> = recovery
        .operations
        .iter()
        .flat_map(|operation| lines(operation, recover.dry_run))
        .collect();
    let output = Output {
        text: if lines.is_empty() {
            "nothing to recover".into()
        } else {
            lines.join("\n")
        },
        json: json!({
            "domains": recovery.domains(),
            "thawed": recovery.thawed(),
            "completed": recovery.completed(),
            "taken_back": recovery.taken_back(),
            "failed": recovery.failed(),
            "operations": operations,
        }),
    };
    match recovery.failed() {
        0 => Ok(output),
        failed => {
            let message = format!(
                "{failed} of {} operations could not be cleaned up",
                recovery.operations.len()
            );
            Err(Failure::new(ErrorCode::JobFailed, message).beside(output))
        }
    }
}

fn object(operation: &Recovered) -> Value {
    let (settlement, reason) = match &operation.settlement {
        Settlement::Completed => ("completed", None),
        Settlement::TakenBack => ("taken_back", None),
        Settlement::LeftAlone => ("left_alone", None),
        Settlement::Failed(error) => ("failed", Some(words::ours(error.message()))),
    };
    json!({
        "domain": operation.domain,
        "id": operation.id,
        "kind": operation.kind,
        "method": operation.method.name(),
        "mark": operation.mark,
        "owner": operation.owner,
        "thawed": operation.thawed,
        "plan": operation.plan,
        "settlement": settlement,
        "reason": reason,
    })
}

/// What was found, then what was done or is to be done.
fn lines(operation: &Recovered, dry_run: bool) -> Vec<String> {
    let Recovered {
        domain,
        kind,
        mark,
        owner,
        ..
    } = operation;
    let method = operation.method.name();
    let mut lines = vec![format!("domain '{domain}': {kind} by {method}, {mark}, of {owner}")];
    if operation.thawed {
        lines.push("  the guest had been left frozen and was thawed".into());
    }
    lines.push(match (&operation.settlement, dry_run) {
        (Settlement::Completed, false) => "  completed".into(),
        (Settlement::TakenBack, false) => "  rolled back".into(),
        (Settlement::Completed, true) => "  would be completed:".into(),
        (Settlement::TakenBack, true) => "  would be rolled back:".into(),
        (Settlement::LeftAlone, _) => "  left alone, because its process is running".into(),
        (Settlement::Failed(error), _) => format!("  not cleaned up: {}", words::ours(error.message())),
    });
    if dry_run {
        lines.extend(operation.plan.iter().map(|step| format!("    {step}")));
    }
    lines
}
