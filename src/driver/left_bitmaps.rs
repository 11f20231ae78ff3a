// SPDX-License-Identifier: LGPL-2.1-or-later
//! What there is of a checkpoint that a call may have made halfway: libvirt makes the bitmaps first, and one that dies then
//! has never heard of the checkpoint when it is back.

use serde_json::{Value, json};

use super::guest::Guest;
use super::pivot::Nodes;
use crate::error::{Error, ErrorCode, Result};
use crate::image;
use crate::libvirt::xml::Disk;

impl Guest {
    /// The description of the checkpoint of this name; `None` where there is no such checkpoint.
    pub(crate) fn describe_checkpoint(&self, name: &str) -> Result<Option<String>> {
        let what = self.what("cannot look for a checkpoint of");
        let found = match self.call(&what, |domain| domain.checkpoint(name)) {
            // A transient domain takes its checkpoints with it.
            Err(error) if error.code() == ErrorCode::NoDomain => return Ok(None),
            found => found?,
        };
        let Some(checkpoint) = found else { return Ok(None) };
        let read = self.read(&checkpoint, false)?;
        Ok(read.map(|xml| xml.description.unwrap_or_default()))
    }

    /// The disks that have a bitmap of this name, of these.
    pub(crate) fn disks_with_bitmap(&self, name: &str, targets: &[&str]) -> Result<Vec<String>> {
        let config = match self.get_config(false) {
            Err(error) if error.code() == ErrorCode::NoDomain => return Ok(Vec::new()),
            config => config?,
        };
        let bitmaps = self.bitmaps(&config, self.is_active()?)?;
        let of_these = bitmaps
            .into_iter()
            .filter(|(target, _)| targets.contains(&target.as_str()));
        let mut found = Vec::new();
        for (target, bitmaps) in of_these {
            if bitmaps?.holders(name).next().is_some() {
                found.push(target);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes the bitmaps of this name from these disks, which belong to no checkpoint.
    pub(crate) fn remove_bitmaps(&self, name: &str, targets: &[&str]) -> Result<()> {
        let config = self.get_config(false)?;
        let disks = config.disks.iter();
        let disks = disks.filter(|disk| targets.contains(&disk.target.as_str()));
        if self.is_active()? {
            let nodes = self.ask("query-named-block-nodes")?;
            let holders: Vec<_> = disks.flat_map(|disk| holders(disk, name, &nodes)).collect();
            return holders.into_iter().try_for_each(|node| {
                let arguments = json!({ "node": node, "name": name });
                self.command(&json!({ "execute": "block-dirty-bitmap-remove", "arguments": arguments }))
            });
        }
        let mut bitmaps = self.bitmaps(&config, false)?;
        for disk in disks {
            let Some(found) = bitmaps.remove(&disk.target) else {
                continue;
            };
            let found = found.map_err(|error| Error::new(error.code(), format!("{error}; start the domain")))?;
            for holder in found.holders(name) {
                image::remove_bitmap(&found.paths[holder], name)?;
            }
        }
        Ok(())
    }
}

/// The nodes of the disk that have a bitmap of this name.
fn holders<'a>(disk: &'a Disk, name: &'a str, nodes: &'a [Value]) -> impl Iterator<Item = &'a str> + 'a {
    let indices = disk.chain.iter().filter_map(|layer| layer.index);
    indices.flat_map(move |index| {
        nodes.iter().filter_map(move |node| {
            let node_name = node["node-name"].as_str()?;
            let mut bitmaps = node["dirty-bitmaps"].as_array()?.iter();
            let has = Nodes::is_of(node_name, index) && bitmaps.any(|bitmap| bitmap["name"] == name);
            has.then_some(node_name)
        })
    })
}
