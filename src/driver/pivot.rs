// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pivot of a copy, as QEMU knows of it. A libvirtd that dies between asking QEMU to pivot and recording that it did takes the
//! copy for aborted when it is back (qemuBlockJobProcessEventConcludedCopyAbort), and names the source though the guest
//! writes to the destination. So QEMU is brought back to the source, by a copy of its own that libvirt knows nothing of.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::guest::Guest;
use super::monitor::uppermost;
use crate::error::{Error, ErrorCode, Result};

/// libvirt's numbers of the images of a copy, which are in the names of QEMU's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nodes {
    /// Of the active layer that is copied.
    pub(crate) source: u32,
    /// Of the images that it is copied to, the uppermost first.
    pub(crate) destination: Vec<u32>,
}

/// What QEMU has the guest's disk on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Active {
    Source {
        /// The destination is still open, unused.
        open: bool,
    },
    Destination(Option<Return>),
    Other,
}

/// The copy back to the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Return {
    Running,
    Ready,
    Ending,
    Failed(String),
}

impl Nodes {
    pub(super) fn is_of(node: &str, index: u32) -> bool {
        node.starts_with(&format!("libvirt-{index}-"))
    }

    /// Its name in the job's distinguishes this copy from any other.
    fn job(&self) -> String {
        format!("livedisk-return-{}", self.source)
    }
}

impl Guest {
    /// Where the disk is that was copied between these, now that libvirt knows of no copy any more.
    pub(crate) fn find_active(&self, nodes: &Nodes) -> Result<Active> {
        // Before the rest: a copy back that has ended since shows in the roots.
        let job = self.job(&nodes.job())?;
        let roots = self.roots()?;
        let is_on = |index| roots.iter().any(|root| Nodes::is_of(root, index));
        if is_on(nodes.source) {
            let open = job.is_some() || !self.open_nodes(&nodes.destination)?.is_empty();
            return Ok(Active::Source { open });
        }
        match nodes.destination.first() {
            Some(&first) if is_on(first) => {}
            _ => return Ok(Active::Other),
        }
        Ok(Active::Destination(job.map(|job| match job["status"].as_str() {
            Some("ready") => Return::Ready,
            Some("created" | "running" | "paused" | "standby") => Return::Running,
            Some("concluded") => Return::Failed(job["error"].as_str().unwrap_or("without a reason").to_owned()),
            _ => Return::Ending,
        })))
    }

    /// Begins to copy to the source what the guest's disk has that it has not (`top`: in the active layer alone). From the
    /// moment that it is ready each write of the guest goes to both before it is acknowledged.
    pub(crate) fn start_return(&self, nodes: &Nodes, top: bool) -> Result<()> {
        let roots = self.roots()?;
        let destination = nodes.destination.first();
        let device = roots
            .iter()
            .find(|root| destination.is_some_and(|&index| Nodes::is_of(root, index)));
        let open = self.open_nodes(&[nodes.source])?;
        let target = uppermost(&open);
        let (Some(device), Some(target)) = (device, target) else {
            return Err(Error::new(
                ErrorCode::Internal,
                format!(
                    "QEMU of domain '{}' no longer has both images of the copy open",
                    self.name()
                ),
            ));
        };
        self.dismiss(&nodes.job())?;
        self.command(&json!({ "execute": "blockdev-mirror", "arguments": {
            "job-id": nodes.job(),
            // Its end is to be seen.
            "auto-dismiss": false,
            "device": device,
            "target": target,
            "sync": if top { "top" } else { "full" },
            "copy-mode": "write-blocking",
        }}))
    }

    /// The guest goes on with the source.
    pub(crate) fn complete_return(&self, nodes: &Nodes) -> Result<()> {
        self.command(&json!({ "execute": "job-complete", "arguments": { "id": nodes.job() } }))
    }

    /// What libvirt failed to close, since the guest was using it.
    pub(crate) fn close_destination(&self, nodes: &Nodes) -> Result<()> {
        self.dismiss(&nodes.job())?;
        // From the top of the chain down.
        nodes
            .destination
            .iter()
            .try_for_each(|&index| self.close(self.open_nodes(&[index])?))
    }

    pub(super) fn open_nodes(&self, indices: &[u32]) -> Result<Vec<String>> {
        let nodes = self.ask("query-named-block-nodes")?;
        let names = nodes.iter().filter_map(|node| node["node-name"].as_str());
        let wanted = names.filter(|name| indices.iter().any(|&index| Nodes::is_of(name, index)));
        Ok(wanted.map(str::to_owned).collect())
    }
}
