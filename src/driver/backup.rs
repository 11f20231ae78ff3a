// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's backup job.

use std::ffi::CStr;

use serde_json::json;

use super::guest::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::{RunningBackup, backup_disks};
use crate::libvirt::{BackupEnd, Domain, JobStats};

impl Guest {
    /// virDomainBackupBegin with scratch files that exist, and with a new checkpoint, if one is wanted.
    pub(crate) fn begin_backup(&self, backup_xml: &CStr, checkpoint_xml: Option<&CStr>) -> Result<()> {
        self.call(&self.what("cannot begin the backup of"), |domain| {
            domain.backup_begin(backup_xml, checkpoint_xml)
        })
    }

    /// Whoever reads its export must be gone: QEMU waits for that with the whole guest.
    pub(crate) fn abort_backup(&self) -> Result<()> {
        let aborted = self.call(&self.what("cannot end the backup of"), Domain::abort_job);
        match aborted {
            // It ended meanwhile.
            Err(error) if error.code() == ErrorCode::DomainState && self.get_job_stats()? == JobStats::None => Ok(()),
            aborted => aborted,
        }
    }

    /// Each disk of the backup under way; `None` where none runs.
    pub(crate) fn get_backup(&self) -> Result<Option<Vec<RunningBackup>>> {
        let what = self.what("cannot query the backup of");
        let text = self.call(&what, Domain::backup_xml)?;
        text.map(|text| backup_disks(&text))
            .transpose()
            .map_err(|reason| Error::new(ErrorCode::Internal, format!("{what}: {reason}")))
    }

    /// An event comes when the image of that number, of this disk, has been written to beyond so many bytes.
    pub(crate) fn set_block_threshold(&self, target: &str, index: u32, bytes: u64) -> Result<()> {
        self.call(&self.what("cannot watch the scratch file of"), |domain| {
            domain.set_block_threshold(&format!("{target}[{index}]"), bytes)
        })
    }

    /// How the last backup ended, as long as libvirt knows.
    pub(crate) fn get_last_backup(&self) -> Result<Option<BackupEnd>> {
        self.call(&self.what("cannot query the last backup of"), Domain::last_backup)
    }

    /// Whether QEMU runs a job of the backup that libvirt shows.
    pub(crate) fn has_backup_jobs(&self) -> Result<bool> {
        let answer = self.monitor_command(&json!({ "execute": "query-block-jobs" }))?;
        let mut jobs = answer["return"].as_array().into_iter().flatten();
        Ok(jobs.any(|job| {
            let runs = matches!(job["status"].as_str(), Some("created" | "running" | "paused"));
            runs && job["device"].as_str().is_some_and(is_backup_job)
        }))
    }

    /// A write that failed stopped it, and is tried again when it is resumed: one to a scratch file that is full is not made
    /// any more once the backup is gone.
    pub(crate) fn is_stopped_by_io_error(&self) -> Result<bool> {
        self.call(&self.what("cannot read the state of"), Domain::is_paused_by_io_error)
    }
}

/// libvirt's names for the jobs of a backup.
pub(crate) fn is_backup_job(name: &str) -> bool {
    name.starts_with("backup-")
}
