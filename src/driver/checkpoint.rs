// SPDX-License-Identifier: LGPL-2.1-or-later
//! The checkpoints of a guest.

use std::time::SystemTime;

use super::guest::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::image;
use crate::libvirt::xml::{CheckpointXml, checkpoint_without};
use crate::libvirt::{self, Domain, JobStats, code};

/// A point in time since which a domain's disks note what changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// The checkpoint before it; `None` of the oldest.
    pub parent: Option<String>,
    /// Its point in time, in whole seconds.
    pub created: SystemTime,
    /// The disks that it covers.
    pub disks: Vec<CheckpointDisk>,
}

/// A disk that a checkpoint covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointDisk {
    /// The disk target.
    pub target: String,
    /// Bytes that have changed since, in whole clusters; `None` where that is not known: the disk cannot be copied since then,
    /// or the domain is off or busy with a job.
    pub changed_bytes: Option<u64>,
    /// Why what has changed since is not known for certain, if so.
    pub why_not: Option<String>,
}

impl Checkpoint {
    /// Bytes that have changed since on all of its disks.
    pub fn changed_bytes(&self) -> Option<u64> {
        self.disks.iter().map(|disk| disk.changed_bytes).sum()
    }

    /// Why not all of its disks can be copied from it on, if so.
    pub fn why_not(&self) -> Option<String> {
        if self.disks.is_empty() {
            return Some("the domain no longer has any of its disks".into());
        }
        let mut reasons = self.disks.iter();
        reasons.find_map(|disk| Some(format!("disk '{}': {}", disk.target, disk.why_not.as_ref()?)))
    }
}

impl Guest {
    /// Each after its parent.
    pub(crate) fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let found = self.call(&self.what("cannot list the checkpoints of"), Domain::checkpoints)?;
        self.look_at(&found)
    }

    /// The images are asked what libvirt believes of them.
    fn look_at(&self, found: &[libvirt::Checkpoint]) -> Result<Vec<Checkpoint>> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let running = self.is_active()?;
        let config = self.get_config(false)?;
        let bitmaps = self.bitmaps(&config, running)?;
        // libvirt counts under a job of its own, which would wait for the one that runs.
        let can_count = running && self.get_job_stats()? == JobStats::None;
        let mut checkpoints = Vec::new();
        for checkpoint in found {
            let Some(xml) = self.read(checkpoint, can_count)? else {
                continue;
            };
            let disks = xml.disks.into_iter().filter_map(|disk| {
                let why_not = match bitmaps.get(&disk.target)? {
                    Ok(bitmaps) => bitmaps.why_not(&disk.bitmap),
                    Err(error) => Some(error.message().to_owned()),
                };
                Some(CheckpointDisk {
                    changed_bytes: disk.changed.filter(|_| can_count && why_not.is_none()),
                    target: disk.target,
                    why_not,
                })
            });
            checkpoints.push(Checkpoint {
                disks: disks.collect(),
                name: xml.name,
                parent: xml.parent,
                created: xml.created,
            });
        }
        Ok(checkpoints)
    }

    /// `None` where it was deleted meanwhile.
    pub(super) fn read(&self, checkpoint: &libvirt::Checkpoint, size: bool) -> Result<Option<CheckpointXml>> {
        let what = self.what("cannot read a checkpoint of");
        let text = match checkpoint.xml(size) {
            Err(error) if error.code().to_raw() as i32 == code::NO_DOMAIN_CHECKPOINT => return Ok(None),
            other => other.map_err(|error| self.host().failed(&error, &what))?,
        };
        let read = CheckpointXml::parse(&text);
        read.map(Some)
            .map_err(|reason| Error::new(ErrorCode::Internal, format!("{what}: {reason}")))
    }

    /// What changed since is noted by its child alone from now on, as it was by both.
    pub(crate) fn delete_checkpoint(&self, name: &str) -> Result<()> {
        let shown = name.escape_debug();
        let what = self.what(&format!("cannot delete the checkpoint '{shown}' of"));
        let none = || {
            Error::new(
                ErrorCode::NoCheckpoint,
                format!(
                    "domain '{0}' has no checkpoint '{shown}'; see 'livedisk checkpoints {0}'",
                    self.name()
                ),
            )
        };
        let checkpoint = self.call(&what, |domain| domain.checkpoint(name))?.ok_or_else(none)?;
        let xml = self.read(&checkpoint, false)?.ok_or_else(none)?;
        let running = self.is_active()?;
        let mut bitmaps = self.bitmaps(&self.get_config(false)?, running)?;
        let (mut held, mut lost) = (Vec::new(), Vec::new());
        for disk in &xml.disks {
            let Some(found) = bitmaps.remove(&disk.target) else {
                continue;
            };
            let found =
                found.map_err(|error| Error::new(error.code(), format!("{what}: {error}; start the domain")))?;
            let holders: Vec<usize> = found.holders(&disk.bitmap).collect();
            match holders.is_empty() {
                true => lost.push(disk.target.as_str()),
                false if running => held.push(disk.target.as_str()),
                // libvirt deletes those of a running domain only.
                false => holders
                    .iter()
                    .try_for_each(|&holder| image::remove_bitmap(&found.paths[holder], &disk.bitmap))?,
            }
        }
        // libvirt deletes none where one is missing.
        if !held.is_empty() && !lost.is_empty() {
            self.forget_disks(&checkpoint, &lost, &what)?;
        }
        checkpoint
            .delete(held.is_empty())
            .map_err(|error| self.host().failed(&error, &what))
    }

    fn forget_disks(&self, checkpoint: &libvirt::Checkpoint, targets: &[&str], what: &str) -> Result<()> {
        let text = checkpoint
            .whole_xml()
            .map_err(|error| self.host().failed(&error, what))?;
        let less = checkpoint_without(&text, targets)
            .map_err(|reason| Error::new(ErrorCode::Internal, format!("{what}: {reason}")))?;
        self.call(what, |domain| domain.redefine_checkpoint(&less))
    }
}
