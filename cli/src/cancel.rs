// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk cancel.

use std::time::Duration;

use livedisk::{Connection, ErrorCode, OperationStatus};
use serde_json::json;

use crate::args::Cancel;
use crate::output::{Failure, Output};

/// Rolls back what a dead process left, and asks a living one to. A freeze is thawed, whichever process holds it.
pub fn run(connection: &Connection, cancel: &Cancel) -> Result<Output, Failure> {
    let Cancel {
        domain,
        target,
        timeout,
    } = cancel;
    let has_disk = |found: &OperationStatus| {
        let mut disks = found.disks.iter();
        target
            .as_ref()
            .is_none_or(|target| disks.any(|disk| disk.target == *target))
    };
    let found = connection.operations(Some(domain))?.into_iter().filter(has_disk);
    let found: Vec<OperationStatus> = found.collect();
    let Some(first) = found.first() else {
        let which = target
            .as_ref()
            .map(|target| format!("disk '{target}' of "))
            .unwrap_or_default();
        let message = format!("{which}domain '{domain}' has no operation under way; see livedisk status");
        return Err(Failure::new(ErrorCode::NoOperation, message));
    };
    for operation in &found {
        roll_back(connection, domain, operation, *timeout)?;
    }
    let ids: Vec<&str> = found.iter().map(|operation| operation.id.as_str()).collect();
    Ok(Output {
        text: format!("the {} of domain '{domain}' was cancelled and rolled back", first.kind),
        json: json!({ "domain": domain, "cancelled": ids }),
    })
}

fn roll_back(
    connection: &Connection,
    domain: &str,
    operation: &OperationStatus,
    timeout: Duration,
) -> Result<(), Failure> {
    if operation.kind == "freeze" {
        return thaw(connection, domain, operation);
    }
    if !operation.orphaned {
        return Ok(connection.cancel(domain, &operation.id, timeout)?);
    }
    // Any disk of it.
    let target = operation.disks.first().map_or("", |disk| disk.target.as_str());
    connection.attach(domain, target)?.cancel()?;
    Ok(())
}

/// One that its guard has let go is over too, once its note is gone.
fn thaw(connection: &Connection, domain: &str, freeze: &OperationStatus) -> Result<(), Failure> {
    let Err(error) = connection.thaw(domain) else {
        return Ok(());
    };
    let left = connection.operations(Some(domain))?;
    if left.iter().any(|operation| operation.id == freeze.id) {
        return Err(error.into());
    }
    Ok(())
}
