// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt has no call for, asked of QEMU itself.

use serde_json::{Value, json};

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
                format!("QEMU's answer for domain '{}' is not JSON: {error}", self.name()),
            )
        })
    }

    /// The list that QEMU answers with.
    pub(super) fn ask(&self, question: &str) -> Result<Vec<Value>> {
        let mut answer = self.monitor_command(&json!({ "execute": question }))?;
        match answer["return"].take() {
            Value::Array(list) => Ok(list),
            _ => Err(self.refused(question, &answer)),
        }
    }

    /// Something that is to be done.
    pub(super) fn command(&self, command: &Value) -> Result<()> {
        let answer = self.monitor_command(command)?;
        if answer["return"].is_null() {
            return Err(self.refused(&command["execute"].to_string(), &answer));
        }
        Ok(())
    }

    /// The nodes that devices have.
    pub(super) fn roots(&self) -> Result<Vec<String>> {
        let devices = self.ask("query-block")?;
        let roots = devices
            .iter()
            .filter_map(|device| device["inserted"]["node-name"].as_str());
        Ok(roots.map(str::to_owned).collect())
    }

    /// As query-jobs reports it, also when it has ended.
    pub(super) fn job(&self, id: &str) -> Result<Option<Value>> {
        Ok(self.ask("query-jobs")?.into_iter().find(|job| job["id"] == id))
    }

    /// A job that has ended, if it is still there.
    pub(super) fn dismiss(&self, job: &str) -> Result<()> {
        match self.job(job)? {
            Some(_) => self.command(&json!({ "execute": "job-dismiss", "arguments": { "id": job } })),
            None => Ok(()),
        }
    }

    /// The nodes of an image.
    pub(super) fn close(&self, mut nodes: Vec<String>) -> Result<()> {
        // The format layer before what it lies on.
        nodes.sort_by_key(|node| (!node.ends_with("-format"), !node.ends_with("-slice-sto")));
        nodes.iter().try_for_each(|node| {
            self.command(&json!({ "execute": "blockdev-del", "arguments": { "node-name": node } }))
        })
    }

    fn refused(&self, command: &str, answer: &Value) -> Error {
        Error::new(
            ErrorCode::JobFailed,
            format!(
                "QEMU of domain '{}' refuses {command}: {}",
                self.name(),
                answer["error"]["desc"].as_str().unwrap_or("without a reason")
            ),
        )
    }
}

/// Of an image's nodes: one without a format layer has its storage layer alone, and maybe a slice of that.
pub(super) fn uppermost(nodes: &[String]) -> Option<&String> {
    let named = |end: &str| nodes.iter().find(|node| node.ends_with(end));
    named("-format").or_else(|| named("-slice-sto")).or(nodes.first())
}
