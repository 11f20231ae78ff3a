// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's backup job. libvirt gives it neither a bandwidth nor a look at its parts; QEMU's jobs below it have both.

use std::ffi::CStr;

use serde_json::{Value, json};

use super::guest::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::{Source, backup_targets};
use crate::libvirt::{BackupEnd, Domain};

impl Guest {
    /// virDomainBackupBegin onto images that exist.
    pub(crate) fn begin_backup(&self, backup_xml: &CStr) -> Result<()> {
        self.call(&self.what("cannot begin the backup of"), |domain| {
            domain.backup_begin(backup_xml)
        })
    }

    pub(crate) fn abort_backup(&self) -> Result<()> {
        self.call(&self.what("cannot end the backup of"), Domain::abort_job)
    }

    /// Each disk that the backup under way copies, and where to; `None` where none runs.
    pub(crate) fn get_backup(&self) -> Result<Option<Vec<(String, Source)>>> {
        let what = self.what("cannot ask for the backup of");
        let text = self.call(&what, Domain::backup_xml)?;
        text.map(|text| backup_targets(&text))
            .transpose()
            .map_err(|reason| Error::new(ErrorCode::Internal, format!("{what}: {reason}")))
    }

    /// How the last backup ended, as long as libvirt knows.
    pub(crate) fn get_last_backup(&self) -> Result<Option<BackupEnd>> {
        self.call(&self.what("cannot ask for the last backup of"), Domain::last_backup)
    }

    /// The names of the jobs that QEMU runs for the backup, without those that have come to their end.
    pub(crate) fn get_backup_jobs(&self) -> Result<Vec<String>> {
        let answer = self.monitor_command(&json!({ "execute": "query-block-jobs" }))?;
        let jobs = answer["return"].as_array().into_iter().flatten();
        let running = jobs.filter(|job| matches!(job["status"].as_str(), Some("created" | "running" | "paused")));
        let names = running.filter_map(|job| job["device"].as_str());
        Ok(names.filter(|name| is_backup_job(name)).map(str::to_owned).collect())
    }

    /// Bytes per second, 0 for no limit. A job that has ended meanwhile needs none.
    pub(crate) fn set_backup_job_speed(&self, job: &str, bandwidth: u64) -> Result<()> {
        let answer = self.monitor_command(&json!({
            "execute": "block-job-set-speed",
            "arguments": { "device": job, "speed": bandwidth },
        }))?;
        match &answer["error"] {
            Value::Null => Ok(()),
            _ if !self.get_backup_jobs()?.iter().any(|running| running == job) => Ok(()),
            error => Err(Error::new(
                ErrorCode::Libvirt,
                format!(
                    "{}: {}",
                    self.what("cannot set the bandwidth of the backup of"),
                    error["desc"]
                ),
            )),
        }
    }

    /// While a backup runs a write of the guest may have to wait for the destination, and then fails with it (ENOSPC); QEMU
    /// stops the guest for that. Without the backup the write goes through.
    pub(crate) fn is_stopped_by_io_error(&self) -> Result<bool> {
        self.call(&self.what("cannot read the state of"), Domain::is_paused_by_io_error)
    }
}

/// libvirt's names for the jobs of a backup.
pub(crate) fn is_backup_job(name: &str) -> bool {
    name.starts_with("backup-")
}
