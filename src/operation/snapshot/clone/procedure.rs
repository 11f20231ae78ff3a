// SPDX-License-Identifier: LGPL-2.1-or-later
//! The snapshot by clone as the loop sees it.

use std::sync::Arc;

use super::disk::{self, Cloning, source};
use super::engine::{Engine, Note};
use super::plan::Way;
use super::seen::Observed;
use super::step::Step;
use crate::error::{ErrorCode, Result};
use crate::operation::course::procedure::{Procedure, Ties};
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::left::Left;
use crate::operation::parts::site::Site;
use crate::operation::parts::tracked::Tracked;
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
            ..Observed::at_start(taken, plan.ways.contains(&Way::Callback))
        }
    }

    fn first_record(plan: &Plan) -> Result<(Vec<RecordedDisk>, Note)> {
        let disks = plan.disks.iter();
        let disks = disks.map(|disk| disk.recorded().with_home(&plan.guest, &source(disk).path));
        let disks = disks.collect::<Result<Vec<_>>>()?;
        let note = Note {
            fixed: None,
            disks: vec![disk::Note::default(); plan.disks.len()],
        };
        Ok((disks, note))
    }

    fn at_rest(plan: Arc<Plan>, ties: Arc<Ties>) -> Self {
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

    fn find(&mut self, record: &Record, note: Note) -> Result<Observed> {
        self.fixed = note.fixed;
        // The mark is written after the clones and their check.
        self.verified = record.mark == Mark::Fixed;
        self.left = Left::found(record, self.plan.freezes(), self.plan.pauses());
        let config = self.plan.guest.get_config(false)?;
        let disks = self.plan.disks.iter().zip(&mut self.disks);
        for ((planned, disk), known) in disks.zip(note.disks) {
            disk.find(planned, config.disk(&planned.target), known, record)?;
        }
        Ok(Self::at_start(&self.plan))
    }

    fn observe(&mut self, last: &Observed) -> Result<Observed> {
        let plan = Arc::clone(&self.plan);
        let state = plan.guest.get_power_state()?;
        let chains = plan.guest.ask_while_alive(state, || self.observe_disks())?;
        let alive = chains.is_some();
        let off = !alive && !plan.guest.is_active()?;
        let chains = match chains {
            Some(chains) => chains,
            None => {
                for disk in &mut self.disks {
                    disk.overlay.commit.lost_domain();
                    disk.brake.forget();
                }
                // What it would start from, or has been started from.
                match plan.guest.get_config(off) {
                    Ok(config) => self.classify(&config),
                    Err(error) if error.code() == ErrorCode::NoDomain => {
                        last.disks.iter().map(|disk| disk.chain).collect()
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let chains = self.look_above(chains, alive, off)?;
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
            ..Self::at_start(&self.plan)
        })
    }

    fn turn_back(&mut self) {
        // A commit that failed is tried once more.
        for disk in &mut self.disks {
            if disk.overlay.commit.failure().is_some() {
                disk.overlay.commit = Tracked::default();
            }
        }
    }

    fn bytes(&self) -> (u64, u64) {
        let commits = self.disks.iter().map(|disk| &disk.overlay.commit);
        commits.fold(self.bytes_cloned(), |(done, total), commit| {
            (done + commit.done, total + commit.total)
        })
    }

    fn report(&self) -> Option<Report> {
        let fixed = self.fixed?;
        Some(fixed.report(
            self.plan.method,
            self.plan.disks.len(),
            self.bytes_cloned().0,
            &self.ties.shared,
        ))
    }

    fn thawed(&self) -> u32 {
        self.left.thawed
    }
}
