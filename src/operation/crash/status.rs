// SPDX-License-Identifier: LGPL-2.1-or-later
//! The operations that the domains of a connection have a record of, in whichever process.

use std::sync::Arc;
use std::time::SystemTime;

use super::definitions;
use crate::driver::{Guest, Host};
use crate::error::{ErrorCode, Result};
use crate::operation::ownership::record::{Kind, Record};
use crate::operation::types::Method;

/// An operation, as its record with the domain describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationStatus {
    /// The domain's name.
    pub domain: String,
    /// The operation's id.
    pub id: String,
    /// `snapshot`, `migration` or `freeze`.
    pub kind: &'static str,
    /// The method taken.
    pub method: Method,
    /// Its progress: `begun`, `copying`, `fixing` or `fixed`.
    pub mark: &'static str,
    /// When it was started.
    pub started: SystemTime,
    /// The host of the process that runs it.
    pub owner_host: String,
    /// The number of that process.
    pub owner_process: u32,
    /// That process is known to be dead, so the operation does not continue; or the limit of a freeze has passed.
    pub orphaned: bool,
    /// Of a migration: the image that the disk moves from, where that is a file or block device.
    pub old_image: Option<String>,
    /// Of a migration: that image is removed when the disk has moved.
    pub removes_old_image: bool,
    /// Its disks.
    pub disks: Vec<DiskStatus>,
}

/// A disk of such an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStatus {
    /// The disk target.
    pub target: String,
    /// Where its content goes.
    pub destination: String,
    /// In which format.
    pub format: String,
    /// Bytes copied and to be copied, while a block job runs on it.
    pub progress: Option<(u64, u64)>,
}

/// Of one domain, or of all.
pub(crate) fn operations(host: &Arc<Host>, domain: Option<&str>) -> Result<Vec<OperationStatus>> {
    let left = definitions::left(host, domain)?;
    let guests = definitions::guests(host, domain, !left.is_empty())?;
    let mut found: Vec<OperationStatus> = Vec::new();
    for guest in guests {
        let records = match Record::all(&guest) {
            // It was removed since the list was made.
            Err(error) if error.code() == ErrorCode::NoDomain && domain.is_none() => continue,
            other => other?,
        };
        for record in records {
            found.push(OperationStatus::of(guest.name(), Some(&guest), record?));
        }
    }
    for (saved, _) in left {
        if found.iter().all(|operation| operation.id != saved.record.id) {
            found.push(OperationStatus::of(&saved.name, None, saved.record));
        }
    }
    Ok(found)
}

impl OperationStatus {
    fn of(domain: &str, guest: Option<&Guest>, record: Record) -> Self {
        let disks = record.disks.iter().map(|disk| {
            let info = guest.map(|guest| guest.get_block_device(&disk.target).get_job_info());
            DiskStatus {
                target: disk.target.clone(),
                destination: disk.destination.clone(),
                format: disk.format.clone(),
                // A domain that is off has no block jobs to report.
                progress: info.and_then(Result::ok).flatten().map(|info| (info.done, info.total)),
            }
        });
        let request = match record.kind {
            Kind::Migration => &record.details["request"],
            Kind::Snapshot | Kind::Freeze => &serde_json::Value::Null,
        };
        Self {
            old_image: request["source"][0]
                .as_str()
                .filter(|path| !path.is_empty())
                .map(str::to_owned),
            removes_old_image: request["delete_source"].as_bool().unwrap_or_default(),
            domain: domain.to_owned(),
            orphaned: record.owner.is_dead() || record.has_lapsed(),
            mark: record.mark.name(),
            disks: disks.collect(),
            id: record.id,
            kind: record.kind.name(),
            method: record.method,
            started: record.started,
            owner_host: record.owner.host,
            owner_process: record.owner.process,
        }
    }
}
