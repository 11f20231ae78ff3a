// SPDX-License-Identifier: LGPL-2.1-or-later
//! A snapshot by mirrors is an image and a mirror of each disk, and one window. This connects them. What comes when is
//! `next`'s.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::disk::{Contents, Look, Mirrored};
use super::seen::Rest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::BlockJobStatus;
use crate::operation::course::procedure::Ties;
use crate::operation::course::shared::Facts;
use crate::operation::parts::definition::{Definition, defined_again};
use crate::operation::parts::left::Left;
use crate::operation::parts::tracked::End;
use crate::operation::parts::window::{Fixed, domain_gone};
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Mark;
use crate::operation::types::Consistency;

pub(in crate::operation) struct Engine {
    pub(super) plan: Arc<Plan>,
    pub(super) ties: Arc<Ties>,
    pub(super) disks: Vec<Mirrored>,
    pub(super) fixed: Option<Fixed>,
    pub(super) rest: Rest,
    pub(super) definition: Definition,
    /// The guest's write requests just before the point in time, to know whether contents can be compared.
    pub(super) writes: Vec<i64>,
    pub(super) left: Left,
}

/// What the record keeps for whoever resumes the operation.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::operation) struct Note {
    pub(super) fixed: Option<Fixed>,
    /// Copied and to be copied, of each job.
    pub(super) bytes: Vec<(u64, u64)>,
}

impl Engine {
    // Observing.

    pub(super) fn observe_mirrors(&mut self) -> Result<()> {
        if !self.disks.iter().any(|disk| disk.mirror.job.is_under_way()) {
            return Ok(());
        }
        let config = self.plan.guest.get_config(false)?;
        let mut disks = self.plan.disks.iter().zip(&mut self.disks);
        disks.try_for_each(|(planned, disk)| disk.observe(planned, config.disk(&planned.target), self.fixed.is_some()))
    }

    // Stepping.

    pub(super) fn write_record(&mut self, mark: Mark) -> Result<()> {
        let jobs = self.disks.iter().map(|disk| &disk.mirror.job);
        let note = Note {
            fixed: self.fixed,
            bytes: jobs.map(|job| (job.done, job.total)).collect(),
        };
        let made = self.disks.iter().map(|disk| disk.image.made());
        self.ties.note(mark, made, &self.plan.request, note)
    }

    pub(super) fn remove_record(&self) -> Result<()> {
        let images = self.plan.disks.iter().map(|disk| disk.destination.as_written());
        self.ties.journal.remove(&images.collect::<Vec<_>>())
    }

    pub(super) fn make_image(&mut self, index: usize) -> Result<()> {
        self.disks[index].image.prepare()?;
        if self.disks[index].image.made().is_some() {
            self.write_record(Mark::Begun)?;
        }
        self.disks[index].image.publish()
    }

    pub(super) fn start_copy(&mut self, index: usize) -> Result<()> {
        self.disks[index].start_copy(&self.plan, index).map_err(|error| {
            // libvirt says of which call it is that it refuses, and not why.
            if self.plan.undefine && self.definition.stands() {
                defined_again(&self.plan.guest)
            } else {
                error
            }
        })
    }

    pub(super) fn lift_limit(&mut self) -> Result<()> {
        self.disks.iter_mut().try_for_each(|disk| disk.mirror.lift_limit())
    }

    pub(super) fn fix_point(&mut self) -> Result<()> {
        // Before the window: a write after it would pass for one that the image has.
        let devices = self.disks.iter().map(|disk| disk.site.device());
        self.writes = devices
            .map(|device| device.get_write_requests())
            .collect::<Result<_>>()
            .unwrap_or_default();
        self.disks.iter_mut().try_for_each(|disk| disk.mirror.prepare_end())?;
        let window = self.plan.window(&self.ties.shared);
        // QEMU flushes a mirror's destination when it ends: the less is left to write out then, the shorter the freeze.
        for output in self.disks.iter().filter_map(|disk| disk.image.output.as_ref()) {
            output.write_out();
        }
        let held = self.ties.journal.hold();
        let fixed = window.run(|deadline| self.end_mirrors(deadline))?;
        drop(held);
        for disk in &mut self.disks {
            disk.mirror.job.ask(End::Abort);
        }
        self.fixed = Some(fixed);
        Ok(())
    }

    /// All are asked to end before any is waited for. The end is QEMU's own event where there is one: libvirt's comes
    /// later, and the guest is frozen meanwhile.
    fn end_mirrors(&self, deadline: Instant) -> Result<()> {
        self.disks.iter().try_for_each(|disk| disk.mirror.end())?;
        let ended = |facts: &Facts, target: &str| {
            let of_libvirt = facts.block_job(target);
            facts.qemu_end("copy", target).is_some()
                || matches!(of_libvirt, Some(BlockJobStatus::Canceled | BlockJobStatus::Completed))
        };
        if self.ties.has_events() {
            self.ties.shared.await_facts(deadline, |facts| {
                facts.gone || self.disks.iter().all(|disk| ended(facts, &disk.site.target))
            });
        } else {
            self.wait_without_events(deadline)?;
        }
        // Its thaw would be waited for in vain.
        if self.ties.shared.facts(|facts| facts.gone) {
            return Err(domain_gone(&self.plan.guest));
        }
        if self.ties.shared.requests().cancel {
            return Err(Error::new(ErrorCode::Cancelled, "cancelled"));
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorCode::Freeze,
                format!(
                    "the mirrors of domain '{}' did not end within the freeze limit of {:?}; the guest was released; \
                     try again when it is less busy, or with a higher limit",
                    self.plan.guest.name(),
                    self.plan.freeze_limit
                ),
            ));
        }
        Ok(())
    }

    /// Each question takes its time in the daemon, which is all the pause there should be.
    fn wait_without_events(&self, deadline: Instant) -> Result<()> {
        for disk in &self.disks {
            while disk.site.device().get_job_info()?.is_some() && Instant::now() < deadline {
                if self.ties.shared.requests().cancel {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn flatten(&mut self) -> Result<()> {
        // One after the other, where the mirrors shared it.
        let bandwidth = self.plan.bandwidth * self.disks.len() as u64;
        for (planned, disk) in self.plan.disks.iter().zip(&mut self.disks) {
            if self.plan.flattens(planned) {
                disk.flatten(bandwidth)?;
            }
        }
        self.rest = Rest::Verify;
        Ok(())
    }

    pub(super) fn verify(&mut self) -> Result<()> {
        // Without events nobody saw how the last step ended, so the image itself has to say.
        let is_unseen = !self.ties.has_events() || self.writes.is_empty();
        let is_frozen = |fixed: Fixed| fixed.consistency == Consistency::Filesystem;
        let is_flushed = self.plan.paused || self.fixed.is_some_and(is_frozen);
        for (index, disk) in self.disks.iter().enumerate() {
            let contents = match (self.plan.verify, is_flushed) {
                (false, _) => Contents::NotAskedFor,
                (true, false) => Contents::NotFlushed,
                (true, true) => Contents::Flushed(self.writes.get(index).copied()),
            };
            let check = self.plan.verify || is_unseen;
            disk.verify(&self.plan.disks[index], &Look { check, contents })?;
        }
        self.rest = Rest::Nothing;
        Ok(())
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
        must_be_read::<Details<Request, Note>>(include_str!("../../ownership/records/snapshot-mirror.json"));
        must_be_read::<Details<Request, Note>>(include_str!("../../ownership/records/snapshot-rebase.json"));
    }
}
