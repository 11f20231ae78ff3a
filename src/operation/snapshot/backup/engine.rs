// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the snapshot by a pull backup. What comes when is `next`'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Backed, Copy};
use super::{Failure, Observed, Read, Step, describe, explain, model, next, phase, turn};
use crate::driver::{Guest, code_of_reason};
use crate::error::{Error, Result};
use crate::image::Output;
use crate::libvirt::State;
use crate::operation::course::procedure::{Procedure, Ties, Turn};
use crate::operation::course::shared::Shared;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::backup::export::{self, Export, Server};
use crate::operation::parts::backup::job::Job;
use crate::operation::parts::backup::pushed::Pushed;
use crate::operation::parts::window::{Fixed, Window};
use crate::operation::snapshot::plan::{Plan, Request};
use crate::operation::state::{Goal, Image, Mark};
use crate::operation::types::{Method, Phase, Report};

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
    plan: Plan,
    ties: Ties,
    pub(super) disks: Vec<Backed>,
    pub(super) job: Job,
    fixed: Option<Fixed>,
    /// The record says of each disk that is copied that it is.
    noted: bool,
    verified: bool,
    /// A process died with the freeze window open, or nearly so.
    left_frozen: bool,
    /// File systems thawed that such a process had left frozen.
    thawed: u32,
}

fn at_start(plan: &Plan) -> Observed {
    let disks = plan.disks.len();
    Observed {
        alive: true,
        mark: Mark::Absent,
        thawed: true,
        stopped: false,
        fixed: false,
        finish: plan.auto_finish,
        noted: true,
        verified: false,
        full: false,
        server: false,
        export: Export::None,
        broken: false,
        images: vec![Image::Missing; disks],
        scratches: vec![Image::Missing; disks],
        reads: vec![Read::Waiting; disks],
    }
}

impl Engine {
    fn at_rest(plan: Plan, ties: Ties) -> Self {
        let id = ties.journal.read().id;
        let disks: Vec<_> = plan.disks.iter().map(|disk| Backed::new(disk, &id)).collect();
        let places = plan
            .disks
            .iter()
            .zip(&disks)
            .filter_map(|(planned, disk)| disk.place(planned));
        let server = Server::of(plan.server.as_deref().unwrap_or_default(), &id);
        Self {
            job: Job::new(&id, server, places.collect()),
            disks,
            plan,
            ties,
            fixed: None,
            noted: true,
            verified: false,
            left_frozen: false,
            thawed: 0,
        }
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

    fn write_record(&mut self, mark: Mark) -> Result<()> {
        let details = Details {
            request: self.plan.request.clone(),
            fixed: self.fixed,
            bytes: self.disks.iter().map(|disk| disk.bytes).collect(),
            copied: self.disks.iter().map(Backed::is_copied).collect(),
        };
        let disks = &self.disks;
        self.ties.journal.write(|record| {
            record.mark = mark;
            for (recorded, disk) in record.disks.iter_mut().zip(disks) {
                recorded.made = disk.output.as_ref().and_then(|output| output.made().cloned());
            }
            record.set_details(&details)
        })?;
        self.noted = true;
        Ok(())
    }

    fn make_image(&mut self, index: usize) -> Result<()> {
        let id = self.id();
        self.disks[index].make_image(&self.plan.disks[index], &self.plan.request, &id)?;
        if self.disks[index].image().is_ours() {
            // Known by its inode before it has its name.
            self.write_record(Mark::Begun)?;
            self.disks[index].output.as_mut().map_or(Ok(()), Output::publish)?;
        }
        Ok(())
    }

    fn fix_point(&mut self) -> Result<()> {
        let plan = &self.plan;
        let disks = plan.disks.iter().zip(&self.disks);
        let disks: Vec<_> = disks
            .map(|(planned, disk)| (planned.target.as_str(), disk.scratch_path()))
            .collect();
        let xml = export::to_begin(&self.job.server, &disks, &plan.other_disks)?;
        let window = Window {
            guest: &plan.guest,
            shared: &self.ties.shared,
            backup: true,
            freeze: plan.freeze && !plan.paused,
            freeze_required: plan.freeze_required,
            // QEMU's transaction gives all disks one point in time by itself.
            pause_unfrozen: false,
            limit: plan.freeze_limit,
        };
        let held = self.ties.journal.hold();
        let fixed = window.run(|_deadline| plan.guest.begin_backup(&xml))?;
        drop(held);
        self.fixed = Some(fixed);
        Ok(())
    }

    fn start_reader(&mut self, index: usize) -> Result<()> {
        let (id, line) = (self.id(), self.job.line());
        let (planned, shared) = (&self.plan.disks[index], &self.ties.shared);
        self.disks[index].start_reader(planned, &self.plan.request, id, line, shared)
    }

    fn stop_reader(&mut self) -> Result<()> {
        self.job.end_reading()?;
        let reading = self.disks.iter_mut().filter(|disk| disk.seen() == Read::Reading);
        reading.for_each(Backed::stop_reading);
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        let mut disks = self.plan.disks.iter().zip(&self.disks);
        disks.try_for_each(|(planned, disk)| disk.verify(planned))?;
        self.verified = true;
        Ok(())
    }

    fn remove_record(&mut self) -> Result<()> {
        let scratches: Vec<_> = self.disks.iter().map(Backed::scratch_path).collect();
        self.ties.journal.remove(&scratches)
    }
}

impl Procedure for Engine {
    type Plan = Plan;
    type Observed = Observed;
    type Step = Step;
    type Failure = Failure;

    fn method(plan: &Plan) -> Method {
        plan.method
    }

    fn targets(plan: &Plan) -> Vec<&str> {
        plan.targets()
    }

    fn guest(plan: &Plan) -> &Arc<Guest> {
        &plan.guest
    }

    fn at_start(plan: &Plan) -> Observed {
        at_start(plan)
    }

    fn next(seen: &Observed, goal: Goal) -> Step {
        next(seen, goal)
    }

    fn turn(step: Step) -> Turn<Failure> {
        turn(step)
    }

    fn steps(plan: &Plan, seen: &Observed, goal: Goal) -> Vec<Step> {
        model::plan(seen, goal, &plan.taken())
    }

    fn describe(plan: &Plan, step: Step) -> String {
        describe::step(step, plan)
    }

    fn phase(seen: &Observed, goal: Goal, step: Step) -> Phase {
        phase(seen, goal, step)
    }

    fn passed_no_return(_seen: &Observed) -> bool {
        false
    }

    fn is_settled_forward(seen: &Observed) -> bool {
        seen.mark == Mark::Fixed && seen.reads.iter().all(|read| *read == Read::Done)
    }

    fn begin(plan: Plan, claim: &Claim<'_>, shared: Arc<Shared>) -> Result<Self> {
        let disks = plan.disks.iter();
        let disks = disks.map(|disk| RecordedDisk::new(&disk.target, &disk.destination, &disk.format));
        let details = Details {
            request: plan.request.clone(),
            fixed: None,
            bytes: Vec::new(),
            copied: Vec::new(),
        };
        let record = Record::new(Kind::Snapshot, plan.method, disks.collect(), &details)?;
        let journal = Journal::begin(&plan.guest, record, claim)?;
        let ties = Ties::new(&plan.guest, journal, shared)?;
        Ok(Self::at_rest(plan, ties))
    }

    fn resume(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Observed)> {
        let record = journal.read();
        let details: Details = record.details()?;
        let ties = Ties::new(guest, journal, shared)?;
        let mut engine = Self::at_rest(Plan::found(guest, details.request), ties);
        engine.fixed = details.fixed;
        for (index, recorded) in record.disks.iter().enumerate() {
            engine.disks[index].find(&engine.plan.disks[index], recorded, &record.id, record.mark);
            if let Some(bytes) = details.bytes.get(index) {
                engine.disks[index].bytes = *bytes;
            }
            if details.copied.get(index) == Some(&true) {
                engine.disks[index].copy = Copy::Done;
            }
        }
        engine.left_frozen = record.live && record.mark == Mark::Fixing && engine.plan.freeze && !engine.plan.paused;
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

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn ties(&self) -> &Ties {
        &self.ties
    }

    fn ties_mut(&mut self) -> &mut Ties {
        &mut self.ties
    }

    fn observe(&mut self, _last: &Observed) -> Result<Observed> {
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
        Ok(Observed {
            alive,
            mark,
            // The window itself undoes its freeze, and repeats in the background what could not be made certain.
            thawed: !self.left_frozen,
            stopped: alive && stopped,
            fixed: self.fixed.is_some(),
            finish: self.plan.auto_finish || self.ties.shared.requests().finish,
            noted: self.noted,
            verified: self.verified,
            full: self.job.is_full(&self.ties.shared),
            server: self.plan.server.is_some() && self.job.server.is_there(),
            export: self.job.export,
            broken: self.job.broken,
            images: self.disks.iter().map(Backed::image).collect(),
            scratches: self.disks.iter().map(Backed::scratch_image).collect(),
            reads: self.disks.iter().map(Backed::seen).collect(),
        })
    }

    fn perform(&mut self, step: Step, _seen: &Observed) -> Result<()> {
        match step {
            Step::WriteRecord(mark) => self.write_record(mark),
            Step::NoteRead => self.write_record(Mark::Fixed),
            Step::MakeImage(index) => self.make_image(index),
            Step::MakeScratch(index) => self.disks[index].make_scratch(&self.plan.disks[index]),
            Step::MakeServer => self.job.server.make(&self.plan.guest),
            Step::FixPoint => self.fix_point(),
            Step::StartReader(index) => self.start_reader(index),
            Step::StopReader => self.stop_reader(),
            Step::EndBackup => self.job.end(&self.plan.guest),
            Step::RemoveScratch(index) => self.disks[index].remove_scratch(),
            Step::RemoveServer => self.job.server.remove(),
            Step::Verify => self.verify(),
            Step::RemoveImage(index) => self.disks[index].remove_image(),
            Step::RemoveRecord => self.remove_record(),
            Step::Thaw => {
                self.thawed = self.plan.guest.thaw_left()?;
                self.left_frozen = false;
                Ok(())
            }
            Step::Resume => self.job.resume(&self.plan.guest),
            Step::AwaitJobs | Step::AwaitFinish | Step::Fail(_) | Step::Done => Ok(()),
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        explain::failure(self, failure)
    }

    fn bytes(&self) -> (u64, u64) {
        self.disks.iter().fold((0, 0), |(done, total), disk| {
            (done + disk.bytes.0, total + disk.bytes.1)
        })
    }

    fn report(&self) -> Option<Report> {
        let fixed = self.fixed?;
        Some(Report {
            method: self.plan.method,
            consistency: fixed.consistency,
            filesystems_frozen: fixed.frozen,
            disk_count: self.plan.disk_count(),
            point_in_time: fixed.at,
            freeze: fixed.freeze,
            pause: fixed.pause,
            bytes_copied: self.bytes().0,
            elapsed: self.ties.shared.began().elapsed(),
            full_disks: 0,
        })
    }

    fn thawed(&self) -> u32 {
        self.thawed
    }
}
