// SPDX-License-Identifier: LGPL-2.1-or-later
//! A snapshot by clone is an overlay, an image and a clone of each disk, and one window. This connects them. What comes when
//! is `next`'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Cloning, Note, source};
use super::plan::Way;
use super::seen::{Chain, Observed};
use crate::driver::Guest;
use crate::error::{ErrorCode, Result};
use crate::libvirt::State;
use crate::libvirt::xml::DomainXml;
use crate::operation::course::procedure::Ties;
use crate::operation::course::shared::Shared;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::left::Left;
use crate::operation::parts::overlay::snapshot_xml;
use crate::operation::parts::site::Site;
use crate::operation::parts::window::Fixed;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::{Plan, Request};
use crate::operation::state::Mark;

/// What the record keeps for the process that resumes the operation.
#[derive(Serialize, Deserialize)]
struct Details {
    request: Request,
    fixed: Option<Fixed>,
    disks: Vec<Note>,
}

pub(in crate::operation) struct Engine {
    pub(super) plan: Plan,
    pub(super) ties: Ties,
    pub(super) disks: Vec<Cloning>,
    pub(super) fixed: Option<Fixed>,
    verified: bool,
    pub(super) left: Left,
}

/// The state before the first step.
pub(super) fn at_start(plan: &Plan) -> Observed {
    let taken = plan.disks.iter().map(PlannedDisk::is_taken);
    Observed {
        finish: plan.auto_finish,
        ..Observed::at_start(taken, plan.ways.contains(&Way::Callback))
    }
}

impl Engine {
    /// The record of an operation that is begun.
    pub(super) fn first_record(plan: &Plan) -> Result<Record> {
        let disks = plan.disks.iter().map(|disk| {
            RecordedDisk::new(&disk.target, &disk.destination, &disk.format).with_home(&plan.guest, &source(disk).path)
        });
        let disks = disks.collect::<Result<Vec<_>>>()?;
        let details = Details {
            request: plan.request.clone(),
            fixed: None,
            disks: vec![Note::default(); plan.disks.len()],
        };
        Record::new(Kind::Snapshot, plan.method, disks, &details)
    }

    pub(super) fn at_rest(plan: Plan, ties: Ties) -> Self {
        let id = ties.journal.read().id;
        let disk = |(index, planned): (usize, &PlannedDisk)| {
            let site = Site::new(&plan.guest, &ties, index, &planned.target);
            Cloning::new(&site, &plan, &id)
        };
        Self {
            disks: plan.disks.iter().enumerate().map(disk).collect(),
            fixed: None,
            verified: false,
            left: Left::default(),
            plan,
            ties,
        }
    }

    /// As its record and the world show it.
    pub(super) fn found(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Observed)> {
        let record = journal.read();
        let details: Details = record.details()?;
        let ties = Ties::new(guest, journal, shared)?;
        let mut engine = Self::at_rest(Plan::found(guest, details.request), ties);
        engine.fixed = details.fixed;
        // The mark is written after the clones and their check.
        engine.verified = record.mark == Mark::Fixed;
        engine.left = Left::found(&record, engine.plan.freezes(), engine.plan.pauses());
        let config = guest.get_config(false)?;
        let disks = engine.plan.disks.iter().zip(&mut engine.disks);
        for ((planned, disk), known) in disks.zip(details.disks) {
            disk.find(planned, config.disk(&planned.target), known, &record)?;
        }
        let seen = at_start(&engine.plan);
        Ok((engine, seen))
    }

    // Observing.

    fn classify(&self, config: &DomainXml) -> Vec<Chain> {
        let disks = self.plan.disks.iter().zip(&self.disks);
        disks
            .map(|(planned, disk)| disk.classify(planned, config.disk(&planned.target)))
            .collect()
    }

    fn observe_disks(&mut self) -> Result<Vec<Chain>> {
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
    fn look_above(&mut self, mut chains: Vec<Chain>, alive: bool, off: bool) -> Result<Vec<Chain>> {
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

    pub(super) fn look(&mut self, last: &Observed) -> Result<Observed> {
        let mut alive = self.plan.guest.get_power_state()? != State::Off;
        let mut chains = Ok(Vec::new());
        if alive {
            chains = self.observe_disks();
            if chains.is_err() {
                // A guest that goes away between two calls makes the second one fail.
                alive = self.plan.guest.get_power_state()? != State::Off;
            }
        }
        let off = !alive && !self.plan.guest.is_active()?;
        if !alive {
            for disk in &mut self.disks {
                disk.overlay.commit.lost_domain();
                disk.brake.forget();
            }
            // What it would start from, or has been started from.
            chains = match self.plan.guest.get_config(off) {
                Ok(config) => Ok(self.classify(&config)),
                Err(error) if error.code() == ErrorCode::NoDomain => {
                    Ok(last.disks.iter().map(|disk| disk.chain).collect())
                }
                Err(error) => Err(error),
            };
        }
        let chains = self.look_above(chains?, alive, off)?;
        let disks = self.disks.iter().zip(&self.plan.disks).zip(chains);
        Ok(Observed {
            alive,
            off,
            thawed: !self.left.frozen,
            mark: self.ties.journal.mark(),
            fixed: self.fixed.is_some(),
            verified: self.verified,
            finish: self.plan.auto_finish || self.ties.shared.requests().finish,
            disks: disks
                .map(|((disk, planned), chain)| disk.seen(planned, chain))
                .collect(),
            ..at_start(&self.plan)
        })
    }

    // Stepping.

    pub(super) fn write_record(&mut self, mark: Mark) -> Result<()> {
        let details = Details {
            request: self.plan.request.clone(),
            fixed: self.fixed,
            disks: self.disks.iter().map(Cloning::note).collect(),
        };
        let made = self.disks.iter().map(|disk| disk.image.made());
        self.ties.journal.note(mark, made, &details)
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

    pub(super) fn throttle(&mut self, index: usize) -> Result<()> {
        if self.disks[index].brake.look()? {
            self.write_record(self.ties.journal.mark())?;
        }
        let disk = &mut self.disks[index];
        let rates = disk.overlay.commit.rates().unwrap_or_default();
        let tightened = disk.brake.tighten(rates);
        self.publish_throttle();
        tightened?;
        self.disks[index].overlay.commit.watch_anew();
        Ok(())
    }

    pub(super) fn unthrottle(&mut self, index: usize) -> Result<()> {
        self.disks[index].brake.release()?;
        self.publish_throttle();
        self.write_record(self.ties.journal.mark())
    }

    /// The tightest of the disks'.
    fn publish_throttle(&self) {
        let limits = self.disks.iter().map(|disk| disk.brake.limit());
        let limit = limits.filter(|limit| *limit > 0).min().unwrap_or(0);
        self.ties.shared.publish(|progress| progress.guest_write_limit = limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::ownership::record::must_be_read;

    #[test]
    fn records_of_release_0_2_are_read() {
        must_be_read::<Details>(include_str!("../../ownership/records/snapshot-clone.json"));
    }
}
