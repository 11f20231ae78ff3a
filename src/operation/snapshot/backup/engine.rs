// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the snapshot by a pull backup. What comes when is `next`'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Backed, Copy};
use super::seen::Read;
use crate::driver::code_of_reason;
use crate::error::{Error, Result};
use crate::operation::course::procedure::Ties;
use crate::operation::parts::backup::checkpoint::{Checkpoint, NewCheckpoint};
use crate::operation::parts::backup::export::{self, Begun};
use crate::operation::parts::backup::job::Job;
use crate::operation::parts::left::Left;
use crate::operation::parts::window::Fixed;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Mark;

/// What the record keeps for whoever resumes the operation.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::operation) struct Note {
    pub(super) fixed: Option<Fixed>,
    /// Copied and to be copied, of each disk.
    pub(super) bytes: Vec<(u64, u64)>,
    /// The disks that are copied.
    #[serde(default)]
    pub(super) copied: Vec<bool>,
}

pub(in crate::operation) struct Engine {
    pub(super) plan: Arc<Plan>,
    pub(super) ties: Arc<Ties>,
    pub(super) disks: Vec<Backed>,
    pub(super) job: Job,
    /// It is made at the point in time.
    pub(super) checkpoint: Option<NewCheckpoint>,
    pub(super) fixed: Option<Fixed>,
    /// The record says of each disk that is copied that it is.
    pub(super) noted: bool,
    pub(super) verified: bool,
    pub(super) left: Left,
}

impl Engine {
    fn id(&self) -> String {
        self.ties.journal.read().id
    }

    /// Whether QEMU stopped the guest. `ended` are the disks whose readers have just ended.
    pub(super) fn observe_job(&mut self, ended: &[usize]) -> Result<bool> {
        let guest = Arc::clone(&self.plan.guest);
        let watch = self.fixed.is_some() && !self.disks.iter().all(Backed::is_copied);
        let may_be_dead = self.ties.journal.libvirtd_may_have_died();
        self.job.observe(&guest, &self.ties.shared, may_be_dead, watch)?;
        if !ended.is_empty() && !self.job.is_intact(&guest, may_be_dead)? {
            for index in ended {
                self.disks[*index].stop_reading();
            }
            self.job.broken = true;
        }
        self.see_pushed();
        Ok(!self.plan.paused && self.job.has_stopped(&guest)?)
    }

    /// QEMU itself copies all disks at once.
    pub(super) fn see_pushed(&mut self) {
        let (Some(pushed), Some(_)) = (&self.job.pushed, self.fixed) else {
            return;
        };
        let name = self.plan.guest.name();
        for disk in &mut self.disks {
            disk.copy = match &pushed.end {
                _ if pushed.is_given_up => Copy::Waiting { fresh: false },
                None => Copy::Reading(None),
                Some(Ok(())) => Copy::Done,
                Some(Err(why)) => Copy::Failed(Error::new(
                    code_of_reason(why),
                    format!("the backup of domain '{name}', which livedisk 0.1 began, failed: {why}"),
                )),
            };
        }
        if let Some(first) = self.disks.first_mut() {
            first.bytes = pushed.bytes;
        }
    }

    pub(super) fn write_record(&mut self, mark: Mark) -> Result<()> {
        let note = Note {
            fixed: self.fixed,
            bytes: self.disks.iter().map(|disk| disk.bytes).collect(),
            copied: self.disks.iter().map(Backed::is_copied).collect(),
        };
        let made = self.disks.iter().map(|disk| disk.image.made());
        self.ties.note(mark, made, &self.plan.request, note)?;
        self.noted = true;
        Ok(())
    }

    pub(super) fn make_image(&mut self, index: usize) -> Result<()> {
        self.disks[index].prepare_image()?;
        if self.disks[index].image.made().is_some() {
            self.write_record(Mark::Begun)?;
        }
        self.disks[index].image.publish()
    }

    pub(super) fn fix_point(&mut self) -> Result<()> {
        let plan = &self.plan;
        let disks = plan.disks.iter().zip(&self.disks);
        let disks = disks.map(|(planned, disk)| Begun {
            target: &planned.target,
            scratch: disk.scratch_path(),
            since: planned.changes.since.as_deref(),
        });
        let disks: Vec<_> = disks.collect();
        let xml = export::to_begin(&self.job.server, &disks, &plan.other_disks)?;
        let checkpoint = match &mut self.checkpoint {
            None => None,
            Some(new) => {
                // Until the call returns nobody knows.
                new.note(None);
                let whole = plan.disks.iter().filter(|disk| !disk.changes.noted);
                let whole = whole.map(|disk| &disk.target).chain(&plan.other_disks);
                Some(new.to_begin(&whole.map(String::as_str).collect::<Vec<_>>())?)
            }
        };
        let held = self.ties.journal.hold();
        let fixed = plan
            .window(&self.ties.shared)
            .run(|_deadline| plan.guest.begin_backup(&xml, checkpoint.as_deref()))?;
        drop(held);
        if let Some(new) = &mut self.checkpoint {
            new.note(Some(Checkpoint::Made));
        }
        self.fixed = Some(fixed);
        Ok(())
    }

    pub(super) fn remove_checkpoint(&mut self) -> Result<()> {
        let guest = &self.plan.guest;
        self.checkpoint.as_mut().map_or(Ok(()), |new| new.remove(guest))
    }

    pub(super) fn start_reader(&mut self, index: usize) -> Result<()> {
        let (id, line) = (self.id(), self.job.line());
        let (planned, shared) = (&self.plan.disks[index], &self.ties.shared);
        self.disks[index].start_reader(planned, &self.plan.request, id, line, shared)
    }

    pub(super) fn stop_reader(&mut self) -> Result<()> {
        self.job.end_reading()?;
        let reading = self.disks.iter_mut().filter(|disk| disk.seen() == Read::Reading);
        reading.for_each(Backed::stop_reading);
        Ok(())
    }

    pub(super) fn verify(&mut self) -> Result<()> {
        let mut disks = self.plan.disks.iter().zip(&self.disks);
        disks.try_for_each(|(planned, disk)| disk.verify(planned))?;
        self.verified = true;
        Ok(())
    }

    pub(super) fn remove_record(&self) -> Result<()> {
        let scratches: Vec<_> = self.disks.iter().map(Backed::scratch_path).collect();
        self.ties.journal.remove(&scratches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::course::procedure::Details;
    use crate::operation::ownership::record::must_be_read;
    use crate::operation::snapshot::plan::Request;

    #[test]
    fn records_of_releases_0_1_and_0_2_are_read() {
        must_be_read::<Details<Request, Note>>(include_str!("../../ownership/records/snapshot-backup-0.1.json"));
        must_be_read::<Details<Request, Note>>(include_str!("../../ownership/records/snapshot-backup.json"));
    }
}
