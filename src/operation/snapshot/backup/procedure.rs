// SPDX-License-Identifier: LGPL-2.1-or-later
//! The snapshot by backup as the loop sees it.

use std::sync::Arc;

use super::disk::{Backed, Copy};
use super::engine::{Engine, Note};
use super::seen::{Observed, SeenBackup};
use super::step::Step;
use crate::error::Result;
use crate::operation::course::procedure::{Procedure, Ties};
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::backup::checkpoint::{Checkpoint, NewCheckpoint};
use crate::operation::parts::backup::export::{Export, Server};
use crate::operation::parts::backup::job::Job;
use crate::operation::parts::backup::pushed::Pushed;
use crate::operation::parts::left::Left;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::{Plan, Request};
use crate::operation::state::Mark;
use crate::operation::types::Report;

impl Procedure for Engine {
    const KIND: Kind = Kind::Snapshot;
    type Request = Request;
    type Observed = Observed;
    type Step = Step;
    type Note = Note;

    fn at_start(plan: &Plan) -> Observed {
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

    fn first_record(plan: &Plan) -> Result<(Vec<RecordedDisk>, Note)> {
        Ok((plan.disks.iter().map(PlannedDisk::recorded).collect(), Note::default()))
    }

    fn at_rest(plan: Arc<Plan>, ties: Arc<Ties>) -> Self {
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

    fn find(&mut self, record: &Record, note: Note) -> Result<Observed> {
        self.fixed = note.fixed;
        for (index, recorded) in record.disks.iter().enumerate() {
            self.disks[index].image.find(Some(recorded), record.mark);
            if let Some(bytes) = note.bytes.get(index) {
                self.disks[index].bytes = *bytes;
            }
            if note.copied.get(index) == Some(&true) {
                self.disks[index].copy = Copy::Done;
            }
        }
        self.left = Left::found(record, self.plan.freezes(), self.plan.pauses());
        if self.plan.server.is_none() {
            let destinations = self.plan.disks.iter().map(|disk| disk.destination.clone());
            self.job.pushed = Some(Pushed::new(destinations.collect(), record.live));
            self.see_pushed();
            if record.mark != Mark::Fixed && self.ties.journal.is_owned() {
                self.ties.journal.write(|record| {
                    record.back =
                        Some("livedisk 0.1 began it, and later releases do not make that kind of backup".into());
                    Ok(())
                })?;
            }
        }
        Ok(Self::at_start(&self.plan))
    }

    fn observe(&mut self, _last: &Observed) -> Result<Observed> {
        let ended: Vec<_> = (0..self.disks.len())
            .filter(|index| self.disks[*index].look())
            .collect();
        self.noted &= ended.is_empty();
        let plan = Arc::clone(&self.plan);
        let state = plan.guest.get_power_state()?;
        let mark = self.ties.journal.mark();
        let stopped = plan.guest.ask_while_alive(state, || match mark {
            Mark::Fixing | Mark::Fixed => self.observe_job(&ended),
            _ => Ok(false),
        })?;
        let alive = stopped.is_some();
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
                stopped: stopped == Some(true),
            },
            checkpoint,
            taken: self.plan.disks.iter().map(PlannedDisk::is_taken).collect(),
            images: self.disks.iter().map(|disk| disk.image.seen()).collect(),
            scratches: self.disks.iter().map(Backed::scratch_image).collect(),
            reads: self.disks.iter().map(Backed::seen).collect(),
        })
    }

    fn bytes(&self) -> (u64, u64) {
        self.disks.iter().fold((0, 0), |(done, total), disk| {
            (done + disk.bytes.0, total + disk.bytes.1)
        })
    }

    fn report(&self) -> Option<Report> {
        let (fixed, disks) = (self.fixed?, self.plan.disks.len());
        Some(fixed.report(self.plan.method, disks, self.bytes().0, &self.ties.shared))
    }

    fn thawed(&self) -> u32 {
        self.left.thawed
    }
}

fn new_checkpoint(plan: &Plan, operation: &str) -> Option<NewCheckpoint> {
    let noted = plan.disks.iter().filter(|disk| disk.changes.noted);
    let noted = noted.map(|disk| disk.target.clone()).collect();
    let name = plan.checkpoint.as_deref()?;
    Some(NewCheckpoint::new(name, operation, noted))
}
