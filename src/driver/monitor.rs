// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt has no call for, asked of QEMU itself.

use serde_json::{Value, json};

use super::guest::Guest;
use crate::error::{Error, ErrorCode, Result};

impl Guest {
    /// Whether QEMU, which knows better than libvirt, has this image as the active layer of a disk.
    pub(crate) fn has_active_layer(&self, image: &str) -> Result<bool> {
        let answer = self.monitor_command(&json!({ "execute": "query-block" }))?;
        let disks = answer["return"].as_array().into_iter().flatten();
        let mut files = disks.filter_map(|disk| disk["inserted"]["file"].as_str());
        Ok(files.any(|file| file == image))
    }

    /// A QMP command (virDomainQemuMonitorCommand).
    pub(super) fn monitor_command(&self, command: &Value) -> Result<Value> {
        let text = self.call(&self.what("QMP failed on"), |domain| {
            domain.monitor_command(&command.to_string())
        })?;
        serde_json::from_str(&text).map_err(|error| {
            Error::new(
                ErrorCode::Internal,
                format!("QEMU's answer on domain '{}' is no JSON: {error}", self.name()),
            )
        })
    }
}
