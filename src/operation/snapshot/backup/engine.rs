// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the snapshot by a pull backup. What comes when is `next`'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Backed, Copy};
use super::seen::{Observed, Read, SeenBackup};
use crate::driver::{Guest, code_of_reason};
use crate::error::{Error, Result};
use crate::libvirt::State;
use crate::operation::course::procedure::Ties;
use crate::operation::course::shared::Shared;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::backup::checkpoint::{Checkpoint, NewCheckpoint};
use crate::operation::parts::backup::export::{self, Begun, Export, Server};
use crate::operation::parts::backup::job::Job;
use crate::operation::parts::backup::pushed::Pushed;
use crate::operation::parts::left::Left;
use crate::operation::parts::window::Fixed;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::{Plan, Request};
use crate::operation::state::Mark;

/// What the record keeps for whoever resumes the operation.
#[derive(Serialize, Deserialize)]
struct Details {
    request: Request,
    fixed: Option<Fixed>,
    /// Copied and to be copied, of each disk.
    bytes: Vec<(u64, u64)>,
    /// The disks that are copied.
    #[serde(default)]
    copied: Vec<bool>,
}

pub(in crate::operation) struct Engine {
    pub(super) plan: Plan,
    pub(super) ties: Ties,
    pub(super) disks: Vec<Backed>,
    pub(super) job: Job,
    /// It is made at the point in time.
    checkpoint: Option<NewCheckpoint>,
    pub(super) fixed: Option<Fixed>,
    /// The record says of each disk that is copied that it is.
    noted: bool,
    verified: bool,
    pub(super) left: Left,
}

/// The state before the first step.
pub(super) fn at_start(plan: &Plan) -> Observed {
    let taken = plan.disks.iter().map(PlannedDisk::is_taken);
    Observed {
        finish: plan.auto_finish,
        checkpoint: match plan.checkpoint {
            Some(_) => Checkpoint::Missing,
            None => Checkpoint::Unwanted,
        },
        ..Observed::at_start(taken.collect())
    }
}

fn new_checkpoint(plan: &Plan, operation: &str) -> Option<NewCheckpoint> {
    let noted = plan.disks.iter().filter(|disk| disk.changes.noted);
    let noted = noted.map(|disk| disk.target.clone()).collect();
    let name = plan.checkpoint.as_deref()?;
    Some(NewCheckpoint::new(name, operation, noted))
}

impl Engine {
    /// The record of an operation that is begun.
    pub(super) fn first_record(plan: &Plan) -> Result<Record> {
        let disks = plan.disks.iter();
        let disks = disks.map(|disk| RecordedDisk::new(&disk.target, &disk.destination, &disk.format));
        let details = Details {
            request: plan.request.clone(),
            fixed: None,
            bytes: Vec::new(),
            copied: Vec::new(),
        };
        Record::new(Kind::Snapshot, plan.method, disks.collect(), &details)
    }

    pub(super) fn at_rest(plan: Plan, ties: Ties) -> Self {
        let id = ties.journal.read().id;
        let disks: Vec<_> = plan
            .disks
            .iter()
            .map(|disk| Backed::new(disk, plan.compress, &id))
            .collect();
        let places = plan
            .disks
            .iter()
            .zip(&disks)
            .filter_map(|(planned, disk)| disk.place(planned));
        let server = Server::of(plan.server.as_deref().unwrap_or_default(), &id);
        Self {
            job: Job::new(&id, server, places.collect()),
            checkpoint: new_checkpoint(&plan, &id),
            disks,
            plan,
            ties,
            fixed: None,
            noted: true,
            verified: false,
            left: Left::default(),
        }
    }

    /// As its record and the world show it.
    pub(super) fn found(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Observed)> {
        let record = journal.read();
        let details: Details = record.details()?;
        let ties = Ties::new(guest, journal, shared)?;
        let mut engine = Self::at_rest(Plan::found(guest, details.request), ties);
        engine.fixed = details.fixed;
        for (index, recorded) in record.disks.iter().enumerate() {
            engine.disks[index].image.find(Some(recorded), record.mark);
            if let Some(bytes) = details.bytes.get(index) {
                engine.disks[index].bytes = *bytes;
            }
            if details.copied.get(index) == Some(&true) {
                engine.disks[index].copy = Copy::Done;
            }
        }
        engine.left = Left::found(&record, engine.plan.freezes(), engine.plan.pauses());
        if engine.plan.server.is_none() {
            let destinations = engine.plan.disks.iter().map(|disk| disk.destination.clone());
            engine.job.pushed = Some(Pushed::new(destinations.collect(), record.live));
            engine.see_pushed();
            if record.mark != Mark::Fixed && engine.ties.journal.is_owned() {
                engine.ties.journal.write(|record| {
                    record.back = Some("livedisk 0.1 began it, and its kind of backup is not begun any more".into());
                    Ok(())
                })?;
            }
        }
        let seen = at_start(&engine.plan);
        Ok((engine, seen))
    }

    pub(super) fn look(&mut self) -> Result<Observed> {
        let ended: Vec<_> = (0..self.disks.len())
            .filter(|index| self.disks[*index].look())
            .collect();
        self.noted &= ended.is_empty();
        let mut alive = self.plan.guest.get_power_state()? != State::Off;
        let mark = self.ties.journal.mark();
        let mut stopped = false;
        if alive && matches!(mark, Mark::Fixing | Mark::Fixed) {
            match self.observe_job(&ended) {
                Ok(seen) => stopped = seen,
                Err(error) => {
                    // A guest that goes away between two calls makes the second one fail.
                    alive = self.plan.guest.get_power_state()? != State::Off;
                    if alive {
                        return Err(error);
                    }
                }
            }
        }
        if !alive {
            self.job.export = Export::None;
        }
        let checkpoint = match &mut self.checkpoint {
            None => Checkpoint::Unwanted,
            Some(new) if matches!(mark, Mark::Fixing | Mark::Fixed) => new.observe(&self.plan.guest)?,
            Some(_) => Checkpoint::Missing,
        };
        Ok(Observed {
            alive,
            mark,
            // The window itself undoes its freeze, and repeats in the background what could not be made certain.
            thawed: !self.left.frozen,
            fixed: self.fixed.is_some(),
            finish: self.plan.auto_finish || self.ties.shared.requests().finish,
            noted: self.noted,
            verified: self.verified,
            backup: SeenBackup {
                server: self.plan.server.is_some() && self.job.server.is_there(),
                export: self.job.export,
                full: self.job.is_full(&self.ties.shared),
                broken: self.job.broken,
                stopped: alive && stopped,
            },
            checkpoint,
            taken: self.plan.disks.iter().map(PlannedDisk::is_taken).collect(),
            images: self.disks.iter().map(|disk| disk.image.seen()).collect(),
            scratches: self.disks.iter().map(Backed::scratch_image).collect(),
            reads: self.disks.iter().map(Backed::seen).collect(),
        })
    }

    fn id(&self) -> String {
        self.ties.journal.read().id
    }

    /// Whether QEMU stopped the guest. `ended` are the disks whose readers have just ended.
    fn observe_job(&mut self, ended: &[usize]) -> Result<bool> {
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
    fn see_pushed(&mut self) {
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
        let details = Details {
            request: self.plan.request.clone(),
            fixed: self.fixed,
            bytes: self.disks.iter().map(|disk| disk.bytes).collect(),
            copied: self.disks.iter().map(Backed::is_copied).collect(),
        };
        let made = self.disks.iter().map(|disk| disk.image.made());
        self.ties.journal.note(mark, made, &details)?;
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
