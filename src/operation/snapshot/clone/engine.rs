// SPDX-License-Identifier: LGPL-2.1-or-later
//! A snapshot by clone is an overlay, an image and a clone of each disk, and one window. This connects them. What comes when
//! is `next`'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{self, Cloning};
use super::seen::Chain;
use crate::error::Result;
use crate::libvirt::xml::DomainXml;
use crate::operation::course::procedure::Ties;
use crate::operation::parts::left::Left;
use crate::operation::parts::overlay::snapshot_xml;
use crate::operation::parts::throttle::{Braked, Throttles};
use crate::operation::parts::window::Fixed;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Mark;

/// What the record keeps for the process that resumes the operation.
#[derive(Serialize, Deserialize)]
pub(in crate::operation) struct Note {
    pub(super) fixed: Option<Fixed>,
    pub(super) disks: Vec<disk::Note>,
}

pub(in crate::operation) struct Engine {
    pub(super) plan: Arc<Plan>,
    pub(super) ties: Arc<Ties>,
    pub(super) disks: Vec<Cloning>,
    pub(super) fixed: Option<Fixed>,
    pub(super) verified: bool,
    pub(super) left: Left,
}

impl Engine {
    // Observing.

    pub(super) fn classify(&self, config: &DomainXml) -> Vec<Chain> {
        let disks = self.plan.disks.iter().zip(&self.disks);
        disks
            .map(|(planned, disk)| disk.classify(planned, config.disk(&planned.target)))
            .collect()
    }

    pub(super) fn observe_disks(&mut self) -> Result<Vec<Chain>> {
        let config = self.plan.guest.get_config(false)?;
        let chains = self.classify(&config);
        for ((planned, disk), chain) in self.plan.disks.iter().zip(&mut self.disks).zip(&chains) {
            match chain {
                Chain::Overlay => disk.observe_commit(config.disk(&planned.target))?,
                Chain::Source if disk.overlay.commit.is_pivoting() => disk.overlay.commit.complete(),
                _ => {}
            }
        }
        Ok(chains)
    }

    /// Where it was not observed what became of the snapshot, the guest may be on the overlays.
    pub(super) fn look_above(&mut self, mut chains: Vec<Chain>, alive: bool, off: bool) -> Result<Vec<Chain>> {
        let mut unnamed = Vec::new();
        for (index, (disk, chain)) in self.disks.iter_mut().zip(&chains).enumerate() {
            if *chain == Chain::Overlay {
                disk.overlay.snapshot_was_seen(true);
            }
            if *chain == Chain::Source && disk.overlay.is_unnamed(alive, off)? {
                unnamed.push(index);
            }
        }
        if !unnamed.is_empty() {
            // What libvirt was just noting as QEMU was asked it has noted now.
            chains = self.classify(&self.plan.guest.get_config(off)?);
        }
        for index in unnamed {
            if chains[index] == Chain::Source {
                chains[index] = Chain::Unnamed;
            }
        }
        Ok(chains)
    }

    // Stepping.

    pub(super) fn write_record(&mut self, mark: Mark) -> Result<()> {
        let note = Note {
            fixed: self.fixed,
            disks: self.disks.iter().map(Cloning::note).collect(),
        };
        let made = self.disks.iter().map(|disk| disk.image.made());
        self.ties.note(mark, made, &self.plan.request, note)
    }

    pub(super) fn remove_record(&self) -> Result<()> {
        let overlays = self.disks.iter().map(|disk| disk.overlay.path());
        self.ties.journal.remove(&overlays.collect::<Vec<_>>())
    }

    /// Before the guest is touched, so that a destination that cannot be written to never reaches it.
    pub(super) fn make_image(&mut self, index: usize) -> Result<()> {
        self.disks[index].image.prepare()?;
        self.write_record(Mark::Begun)?;
        self.disks[index].image.publish()
    }

    pub(super) fn make_overlay(&mut self, index: usize) -> Result<()> {
        let disk = &mut self.disks[index];
        disk.remove_overlay(&self.plan.disks[index])?;
        disk.overlay.make()
    }

    pub(super) fn fix_point(&mut self) -> Result<()> {
        let fixed = self.take_snapshot();
        for disk in &mut self.disks {
            disk.overlay.snapshot_was_seen(fixed.is_ok());
        }
        self.fixed = Some(fixed?);
        Ok(())
    }

    fn take_snapshot(&self) -> Result<Fixed> {
        let plan = &self.plan;
        let xml = snapshot_xml(self.disks.iter().map(|disk| &disk.overlay), &plan.other_disks)?;
        let held = self.ties.journal.hold();
        let fixed = plan
            .window(&self.ties.shared)
            .run(|_deadline| plan.guest.snapshot(&xml))?;
        drop(held);
        Ok(fixed)
    }

    pub(super) fn clone_disk(&mut self, index: usize) -> Result<()> {
        let before = self.bytes_cloned();
        self.disks[index].clone(&self.plan, before)
    }

    pub(super) fn bytes_cloned(&self) -> (u64, u64) {
        let progress = self.disks.iter().map(|disk| disk.progress);
        progress.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    pub(super) fn verify(&mut self) -> Result<()> {
        for (planned, disk) in self.plan.disks.iter().zip(&self.disks) {
            disk.verify(planned, self.plan.verify)?;
        }
        self.verified = true;
        Ok(())
    }
}

impl Throttles for Engine {
    fn braked(&mut self) -> Vec<Braked<'_>> {
        let disks = self.disks.iter_mut();
        let braked = disks.map(|disk| Braked {
            brake: &mut disk.brake,
            jobs: vec![&mut disk.overlay.commit],
        });
        braked.collect()
    }

    fn record_throttle(&mut self) -> Result<()> {
        self.write_record(self.ties.journal.mark())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::course::procedure::Details;
    use crate::operation::ownership::record::must_be_read;
    use crate::operation::snapshot::plan::Request;

    #[test]
    fn records_of_release_0_2_are_read() {
        must_be_read::<Details<Request, Note>>(include_str!("../../ownership/records/snapshot-clone.json"));
        must_be_read::<Details<Request, Note>>(include_str!("../../ownership/records/snapshot-clone-throttled.json"));
    }
}
