// SPDX-License-Identifier: LGPL-2.1-or-later
//! The snapshot by mirrors as the loop sees it.

use std::sync::Arc;

use super::disk::Mirrored;
use super::engine::{Engine, Note};
use super::seen::{Observed, Rest};
use super::step::Step;
use crate::error::Result;
use crate::libvirt::State;
use crate::operation::course::procedure::{Procedure, Ties};
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::definition::Definition;
use crate::operation::parts::left::Left;
use crate::operation::parts::site::Site;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::{Plan, Request};
use crate::operation::state::Stored;
use crate::operation::types::Report;

impl Procedure for Engine {
    const KIND: Kind = Kind::Snapshot;
    type Request = Request;
    type Observed = Observed;
    type Step = Step;
    type Note = Note;

    fn at_start(plan: &Plan) -> Observed {
        let taken = plan.disks.iter().map(PlannedDisk::is_taken);
        let rest = if plan.disks.iter().any(|disk| plan.flattens(disk)) {
            Rest::Flatten
        } else {
            Rest::Verify
        };
        let stored = plan.undefine.then_some(Stored::Stands);
        Observed {
            finish: plan.auto_finish,
            ..Observed::at_start(taken.collect(), plan.bandwidth > 0, rest, stored)
        }
    }

    fn first_record(plan: &Plan) -> Result<(Vec<RecordedDisk>, Note)> {
        Ok((plan.disks.iter().map(PlannedDisk::recorded).collect(), Note::default()))
    }

    fn at_rest(plan: Arc<Plan>, ties: Arc<Ties>) -> Self {
        let id = ties.journal.read().id;
        let disk = |(index, planned): (usize, &PlannedDisk)| {
            let site = Site::new(&plan.guest, &ties, index, &planned.target);
            Mirrored::new(&site, &plan, &id)
        };
        Self {
            disks: plan.disks.iter().enumerate().map(disk).collect(),
            fixed: None,
            rest: Self::at_start(&plan).rest,
            definition: Definition::new(&plan.guest, &ties),
            writes: Vec::new(),
            left: Left::default(),
            plan,
            ties,
        }
    }

    fn find(&mut self, record: &Record, note: Note) -> Result<Observed> {
        self.fixed = note.fixed;
        self.left = Left::found(record, self.plan.freezes(), self.plan.pauses());
        if self.plan.undefine {
            self.definition.find()?;
        }
        let config = self.plan.guest.get_config(false)?;
        let disks = self.plan.disks.iter().zip(&mut self.disks).enumerate();
        for (index, (planned, disk)) in disks {
            let bytes = note.bytes.get(index).copied().unwrap_or_default();
            disk.find(planned, config.disk(&planned.target), bytes, record);
        }
        Ok(Self::at_start(&self.plan))
    }

    fn observe(&mut self, _last: &Observed) -> Result<Observed> {
        let plan = Arc::clone(&self.plan);
        let state = plan.guest.get_power_state()?;
        self.left.paused &= state == State::Paused;
        let asked = plan.guest.ask_while_alive(state, || self.observe_mirrors())?;
        let alive = asked.is_some();
        if !alive {
            self.disks.iter_mut().for_each(|disk| disk.mirror.job.lost_domain());
        }
        let stored = match self.plan.undefine {
            true => self.definition.seen()?,
            false => None,
        };
        let finish = self.plan.auto_finish || self.ties.shared.requests().finish;
        Ok(Observed {
            alive,
            mark: self.ties.journal.mark(),
            thawed: !self.left.frozen,
            resumed: !self.left.paused,
            fixed: self.fixed.is_some(),
            finish,
            limited: self.disks.iter().any(|disk| disk.mirror.limited),
            rest: self.rest,
            stored,
            images: self.disks.iter().map(|disk| disk.image.seen()).collect(),
            jobs: self.disks.iter().map(|disk| disk.mirror.seen(false, finish)).collect(),
            ..Self::at_start(&self.plan)
        })
    }

    fn bytes(&self) -> (u64, u64) {
        let disks = self.disks.iter().map(Mirrored::bytes);
        disks.fold((0, 0), |(done, total), disk| (done + disk.0, total + disk.1))
    }

    fn report(&self) -> Option<Report> {
        let fixed = self.fixed?;
        let disks = self.plan.disks.iter().zip(&self.disks);
        let copied = disks.map(|(planned, disk)| planned.copied(disk.mirror.job.done)).sum();
        Some(fixed.report(self.plan.method, self.plan.disks.len(), copied, &self.ties.shared))
    }

    fn thawed(&self) -> u32 {
        self.left.thawed
    }
}
