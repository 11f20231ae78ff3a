// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt has no call for, asked of QEMU itself.

use serde_json::Value;

use super::guest::Guest;
use crate::error::{Error, ErrorCode, Result};

impl Guest {
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
