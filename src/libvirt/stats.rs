// SPDX-License-Identifier: LGPL-2.1-or-later
//! The backup job, as virDomainGetJobStats and the JOB_COMPLETED event report it.

use std::collections::HashMap;

use virt_sys as sys;

use super::params::{Value, number, text};

/// The backup job as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackupRunning {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// How a backup job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupEnd {
    pub(crate) success: bool,
    pub(crate) message: String,
    /// Bytes, over all disks.
    pub(crate) total: u64,
}

/// What virDomainGetJobStats says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JobStats {
    None,
    Backup(BackupRunning),
    /// Migration, save, dump: a job that is not a backup.
    Foreign,
}

pub(super) fn is_backup(map: &HashMap<String, Value>) -> bool {
    number(map, sys::VIR_DOMAIN_JOB_OPERATION) == u64::from(sys::VIR_DOMAIN_JOB_OPERATION_BACKUP)
}

pub(super) fn current(kind: i32, map: &HashMap<String, Value>) -> JobStats {
    if kind == sys::VIR_DOMAIN_JOB_NONE as i32 {
        JobStats::None
    } else if is_backup(map) {
        JobStats::Backup(BackupRunning {
            done: number(map, sys::VIR_DOMAIN_JOB_DISK_PROCESSED),
            total: number(map, sys::VIR_DOMAIN_JOB_DISK_TOTAL),
        })
    } else {
        JobStats::Foreign
    }
}

/// `success` alone is not to be trusted: an aborted backup may say success=1 and carry a message.
pub(super) fn ended(kind: i32, map: &HashMap<String, Value>) -> Option<BackupEnd> {
    if !is_backup(map) {
        return None;
    }
    let message = text(map, sys::VIR_DOMAIN_JOB_ERRMSG).unwrap_or_default();
    let completed = kind == sys::VIR_DOMAIN_JOB_COMPLETED as i32;
    let success = completed && number(map, sys::VIR_DOMAIN_JOB_SUCCESS) == 1 && message.is_empty();
    let total = number(map, sys::VIR_DOMAIN_JOB_DISK_TOTAL);
    Some(BackupEnd {
        success,
        message,
        total,
    })
}
