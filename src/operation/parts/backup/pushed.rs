// SPDX-License-Identifier: LGPL-2.1-or-later
//! A backup of release 0.1, in push mode: QEMU itself writes its images. It is only seen to its end.

use super::export::Export;
use crate::driver::Guest;
use crate::error::Result;
use crate::image::Destination;
use crate::libvirt::JobStats;
use crate::operation::plan::preflight::is_at;

/// What is known of it.
pub(in crate::operation) struct Pushed {
    destinations: Vec<Destination>,
    pub(in crate::operation) bytes: (u64, u64),
    /// Nobody waits for it any more.
    pub(in crate::operation) is_given_up: bool,
    /// It ended, and its images are whole; or why they are not.
    pub(in crate::operation) end: Option<std::result::Result<(), String>>,
}

impl Pushed {
    /// `live`: the domain was not restarted since.
    pub(in crate::operation) fn new(destinations: Vec<Destination>, live: bool) -> Self {
        let lost = || Err("the domain was shut off, destroyed or restarted".into());
        Self {
            destinations,
            bytes: (0, 0),
            is_given_up: false,
            end: (!live).then(lost),
        }
    }

    /// `before` is what was seen last.
    pub(in crate::operation) fn observe(&mut self, guest: &Guest, before: Export) -> Result<Export> {
        if self.end.is_some() {
            return Ok(Export::None);
        }
        if let JobStats::Backup(running) = guest.get_job_stats()? {
            self.bytes = (running.done, running.total);
            let disks = guest.get_backup()?.unwrap_or_default();
            let is_ours = |at: &Destination| disks.iter().any(|disk| is_at(at, &disk.writes_to));
            return Ok(match before {
                Export::None if self.destinations.iter().all(is_ours) => Export::Running,
                before => before,
            });
        }
        self.end = Some(match guest.get_last_backup()? {
            Some(end) if end.success => Ok(()),
            Some(end) if !end.message.is_empty() => Err(end.message),
            Some(_) => Err("libvirt reports that it failed, but not why".into()),
            None => Err("it vanished, and libvirt no longer knows how it ended".into()),
        });
        Ok(Export::None)
    }
}
