// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the procedure: it observes what is, and carries out one step. What comes when is `snapshot::next`'s.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::disk::PlannedDisk;
use super::plan::{Plan, Request};
use super::{Failure, Observed, Step, describe, model, next, phase, turn};
use crate::driver::{BlockDevice, Guest, code_of_reason};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Made, Output, Place};
use crate::libvirt::xml::{DomainXml, copy_destination};
use crate::libvirt::{BlockCopy, BlockJobStatus, State};
use crate::operation::course::procedure::{Procedure, Ties, Turn};
use crate::operation::course::shared::{Facts, Shared};
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::tracked::{End, Tracked, is_drained};
use crate::operation::parts::window::{Fixed, Window};
use crate::operation::plan::preflight::{is_at, staging};
use crate::operation::state::{Goal, Image, Job, Mark, Remedy};
use crate::operation::types::{Consistency, Method, Phase, Report};

/// A file system with less room than this is full: QEMU writes up to a MiB at once.
const FULL: u64 = 2 << 20;
/// In strerror(3)'s words, as QEMU says it.
const FAILED: &str = "libvirt says that it failed, and not why";
const NO_ROOM: &str = "No space left on device";

pub(in crate::operation) struct Engine {
    plan: Plan,
    ties: Ties,
    outputs: Vec<Option<Output>>,
    jobs: Vec<Tracked>,
    fixed: Option<Fixed>,
    limited: bool,
    verified: bool,
    /// The guest's write requests just before the point in time, to know whether contents can be compared.
    writes: Vec<i64>,
    /// A process died with the freeze window open, or nearly so.
    left: Left,
    /// File systems thawed that such a process had left frozen.
    thawed: u32,
}

/// What a process that died in the freeze window may have left of it.
#[derive(Debug, Default)]
struct Left {
    frozen: bool,
    paused: bool,
}

/// What the record keeps for the process that resumes the operation.
#[derive(Serialize, Deserialize)]
struct Details {
    request: Request,
    fixed: Option<Fixed>,
    /// Copied and to be copied, of each job.
    bytes: Vec<(u64, u64)>,
}

fn internal(reason: String) -> Error {
    Error::new(ErrorCode::Internal, reason)
}

/// The state before the first step.
fn at_start(plan: &Plan) -> Observed {
    let disks = plan.disks.len();
    Observed {
        alive: true,
        mark: Mark::Absent,
        thawed: true,
        resumed: true,
        fixed: false,
        finish: plan.auto_finish,
        limited: plan.bandwidth > 0,
        verified: false,
        images: vec![Image::Missing; disks],
        jobs: vec![Job::NotStarted; disks],
    }
}

impl Engine {
    fn at_rest(plan: Plan, ties: Ties) -> Self {
        Self {
            outputs: plan.disks.iter().map(|_| None).collect(),
            jobs: plan.disks.iter().map(|_| Tracked::default()).collect(),
            limited: at_start(&plan).limited,
            plan,
            ties,
            fixed: None,
            verified: false,
            writes: Vec::new(),
            left: Left::default(),
            thawed: 0,
        }
    }

    /// An image of the caller's that was not yet copied to is prepared again.
    fn find_output(&self, index: usize, recorded: &RecordedDisk, mark: Mark) -> Option<Output> {
        let disk = &self.plan.disks[index];
        let made = match &disk.destination {
            Destination::Path(path) if disk.place == Place::Free => {
                Some(Made::find_staged(recorded.made.as_ref(), path, &self.staging(index))?)
            }
            _ if mark == Mark::Begun => return None,
            _ => None,
        };
        Output::reopen(&disk.destination, &disk.place, &disk.format, made)
    }

    fn staging(&self, index: usize) -> String {
        let disk = &self.plan.disks[index];
        staging(&disk.destination, &self.ties.journal.read().id, &disk.target)
    }

    /// Our mirrors are those onto our destinations. After the point in time the record says that they ended well.
    fn find_mirrors(&mut self, mark: Mark) -> Result<()> {
        let config = self.plan.guest.get_config(false)?;
        for (disk, job) in self.plan.disks.iter().zip(&mut self.jobs) {
            let mirror = config.disk(&disk.target).and_then(|disk| disk.mirror.as_ref());
            let runs = mirror.is_some_and(|mirror| mirror.job == "copy" && is_at(&disk.destination, &mirror.source));
            let (done, total) = (job.done, job.total);
            *job = Tracked::found(runs);
            (job.done, job.total) = (done, total);
            match (mark, runs) {
                (Mark::Fixed, true) => job.ask(End::Abort),
                (Mark::Fixed, false) => job.complete(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Copied and to be copied, over all disks.
    fn bytes_of_jobs(&self) -> (u64, u64) {
        self.jobs
            .iter()
            .fold((0, 0), |(done, total), job| (done + job.done, total + job.total))
    }

    fn device(&self, index: usize) -> BlockDevice<'_> {
        self.plan.guest.get_block_device(&self.plan.disks[index].target)
    }

    // Observing.

    fn observe_jobs(&mut self) -> Result<()> {
        if !self.jobs.iter().any(Tracked::is_started) {
            return Ok(());
        }
        let config = self.plan.guest.get_config(false)?;
        (0..self.jobs.len()).try_for_each(|index| self.observe_mirror(index, &config))
    }

    fn observe_mirror(&mut self, index: usize, config: &DomainXml) -> Result<()> {
        if !self.jobs[index].is_started() || self.jobs[index].is_over() {
            return Ok(());
        }
        let target = self.plan.disks[index].target.clone();
        let info = self.device(index).get_job_info()?;
        let mirror = config.disk(&target).and_then(|disk| disk.mirror.as_ref());
        let gone = info.is_none() && mirror.is_some() && self.ties.journal.libvirtd_may_have_died();
        if self.jobs[index].is_dead(gone) {
            return Err(self.device(index).dead_job());
        }
        let at = self.ties.shared.began().elapsed();
        let ready = mirror.is_some_and(|mirror| mirror.ready);
        let (qemu, libvirt) = self
            .ties
            .shared
            .facts(|facts| (facts.qemu_end("copy", &target).cloned(), facts.block_job(&target)));
        let reason = qemu.flatten();
        let job = &mut self.jobs[index];
        if (info.is_some() || mirror.is_some()) && reason.is_none() {
            job.runs(info, ready, at, |sample| !is_drained(sample.remainder()));
            return Ok(());
        }
        let reason = match libvirt {
            Some(BlockJobStatus::Failed) if !job.is_restarting() => reason.or_else(|| Some(FAILED.into())),
            _ => reason,
        };
        if reason.is_none() && self.fixed.is_some() && job.is_aborting() {
            job.complete();
        } else {
            job.vanished(reason);
        }
        if self.jobs[index].failure().is_some() {
            self.blame_full_file_system(index);
        }
        Ok(())
    }

    /// Without QEMU's event the reason is not known; a destination without any room left is one.
    fn blame_full_file_system(&mut self, index: usize) {
        let full = self.is_file_system_full(index);
        let job = &mut self.jobs[index];
        let untold = job
            .failure()
            .is_some_and(|reason| code_of_reason(reason) == ErrorCode::JobFailed);
        if untold && full {
            job.fail(NO_ROOM);
        }
    }

    fn is_file_system_full(&self, index: usize) -> bool {
        let disk = &self.plan.disks[index];
        let Destination::Path(path) = &disk.destination else {
            return false;
        };
        let directory = std::path::Path::new(path).parent().unwrap_or(std::path::Path::new("/"));
        !disk.place.is_device()
            && rustix::fs::statvfs(directory).is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) < FULL)
    }

    fn job(&self, index: usize, finish: bool) -> Job {
        let job = &self.jobs[index];
        let may_block = self.plan.write_blocking && !job.write_blocking;
        job.copy_job(Remedy::choose(self.limited, may_block, false), finish)
    }

    // Stepping.

    fn write_record(&mut self, mark: Mark) -> Result<()> {
        let details = Details {
            request: self.plan.request.clone(),
            fixed: self.fixed,
            bytes: self.jobs.iter().map(|job| (job.done, job.total)).collect(),
        };
        let outputs = &self.outputs;
        self.ties.journal.write(|record| {
            record.mark = mark;
            for (disk, output) in record.disks.iter_mut().zip(outputs) {
                disk.made = output.as_ref().and_then(|output| output.made().cloned());
            }
            record.set_details(&details)
        })
    }

    fn remove_record(&mut self) -> Result<()> {
        let images = self.plan.disks.iter().map(|disk| disk.destination.as_written());
        self.ties.journal.remove(&images.collect::<Vec<_>>())
    }

    /// What a process that died may have left frozen. Where its freeze never came, there is nothing to thaw.
    fn thaw(&mut self) -> Result<()> {
        self.thawed = self.plan.guest.thaw_left()?;
        self.left.frozen = false;
        Ok(())
    }

    fn make_image(&mut self, index: usize) -> Result<()> {
        self.remove_image(index)?;
        let disk = &self.plan.disks[index];
        let output = Output::prepare(
            &disk.destination,
            &disk.place,
            &disk.format,
            disk.size,
            disk.backing.as_ref(),
            disk.reuse,
            &self.staging(index),
        )?;
        if let Some((source, _)) = &disk.source {
            output.give_as(source);
        }
        let made = output.made().is_some();
        self.outputs[index] = Some(output);
        if made {
            // Known by its inode before it has its name.
            self.write_record(Mark::Begun)?;
            self.outputs[index].as_mut().map_or(Ok(()), Output::publish)?;
        }
        Ok(())
    }

    fn remove_image(&mut self, index: usize) -> Result<()> {
        if let Some(output) = &mut self.outputs[index] {
            output.remove()?;
        }
        self.outputs[index] = None;
        Ok(())
    }

    fn start_copy(&mut self, index: usize) -> Result<()> {
        let disk = &self.plan.disks[index];
        let xml = copy_destination(&disk.libvirt_target(), &disk.format, None).map_err(internal)?;
        let write_blocking = self.jobs[index].write_blocking;
        self.ties.shared.facts(|facts| facts.forget(&disk.target));
        let shown = disk.destination.shown();
        let copy = BlockCopy {
            destination: &shown,
            destination_xml: &xml,
            bandwidth: if self.limited { self.plan.bandwidth } else { 0 },
            shallow: self.plan.shallow,
            reuse_existing: true,
            write_blocking,
        };
        let started = self.device(index).copy(&copy);
        // A call that was cut off may have begun the job all the same; the record says that it is ours.
        let cut_off = matches!(&started, Err(error) if error.code() == ErrorCode::NoConnection);
        self.jobs[index].begin(started.is_ok() || cut_off);
        started
    }

    fn lift_limit(&mut self) -> Result<()> {
        for index in 0..self.jobs.len() {
            log::info!("disk '{}': lifting our bandwidth limit", self.plan.disks[index].target);
            self.device(index).set_job_speed(0)?;
            self.jobs[index].watch_anew();
        }
        self.limited = false;
        Ok(())
    }

    fn restart_write_blocking(&mut self, index: usize) -> Result<()> {
        log::warn!(
            "disk '{}': the mirror does not catch up; starting it again in write-blocking mode, which slows the guest",
            self.plan.disks[index].target
        );
        self.abort_job(index)?;
        self.jobs[index].ask(End::Restart);
        self.jobs[index].watch_anew();
        Ok(())
    }

    fn abort_job(&mut self, index: usize) -> Result<()> {
        let aborted = self.device(index).abort_job();
        if aborted.is_ok() {
            self.jobs[index].ask(End::Abort);
        }
        aborted
    }

    fn fix_point(&mut self) -> Result<()> {
        // Before the window: a write after it would pass for one that the image has.
        self.writes = (0..self.plan.disks.len())
            .map(|index| self.device(index).get_write_requests())
            .collect::<Result<_>>()
            .unwrap_or_default();
        let plan = &self.plan;
        let window = Window {
            guest: &plan.guest,
            shared: &self.ties.shared,
            backup: false,
            freeze: plan.freeze && !plan.paused,
            freeze_required: plan.freeze_required,
            pause_unfrozen: self.pauses_unfrozen(),
            limit: plan.freeze_limit,
        };
        // QEMU flushes a mirror's destination when it ends: the less is left to write out then, the shorter the freeze.
        for output in self.outputs.iter().flatten() {
            output.write_out();
        }
        let held = self.ties.journal.hold();
        let fixed = window.run(|deadline| self.end_mirrors(deadline))?;
        drop(held);
        for job in &mut self.jobs {
            job.ask(End::Abort);
        }
        self.fixed = Some(fixed);
        Ok(())
    }

    /// Several mirrors end one by one.
    fn pauses_unfrozen(&self) -> bool {
        self.plan.disks.len() > 1 && !self.plan.paused
    }

    /// All are asked to end before any is waited for. The end is QEMU's own event where there is one: libvirt's comes
    /// later, and the guest is frozen meanwhile.
    fn end_mirrors(&self, deadline: Instant) -> Result<()> {
        for index in 0..self.plan.disks.len() {
            self.device(index).abort_job()?;
        }
        let ended = |facts: &Facts, disk: &PlannedDisk| {
            facts.qemu_end("copy", &disk.target).is_some()
                || facts.block_job(&disk.target) == Some(BlockJobStatus::Canceled)
        };
        if self.ties.subscription.is_some() {
            self.ties.shared.await_facts(deadline, |facts| {
                facts.gone || self.plan.disks.iter().all(|disk| ended(facts, disk))
            });
        } else {
            self.wait_without_events(deadline)?;
        }
        // Its thaw would be waited for in vain.
        if self.ties.shared.facts(|facts| facts.gone) {
            return Err(self.explain(Failure::DomainGone));
        }
        if self.ties.shared.requests().cancel {
            return Err(Error::new(ErrorCode::Cancelled, "cancelled"));
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorCode::Freeze,
                format!(
                    "the mirrors of domain '{}' did not end within the freeze limit of {:?}; the guest was let go; \
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
        for index in 0..self.plan.disks.len() {
            while self.device(index).get_job_info()?.is_some() && Instant::now() < deadline {
                if self.ties.shared.requests().cancel {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        for (index, disk) in self.plan.disks.iter().enumerate() {
            let Some(output) = &self.outputs[index] else {
                return Err(internal(format!("disk '{}' has no image to verify", disk.target)));
            };
            output.must_be_in_place()?;
            output.sync()?;
            output.must_have_size(disk.size)?;
            // Without events it was not observed how the last step ended, so the image itself has to say.
            let unseen = self.ties.subscription.is_none() || self.writes.is_empty();
            if let Some(file) = output.file()
                && (self.plan.verify || unseen)
            {
                image::check(file, output.format(), &disk.destination.shown())?;
            }
            if self.plan.verify {
                self.compare(index, output)?;
            }
        }
        self.verified = true;
        Ok(())
    }

    /// Contents can be compared where the guest wrote nothing since, and where QEMU has written its own metadata out:
    /// a freeze and a pause both see to that.
    fn compare(&self, index: usize, output: &Output) -> Result<()> {
        let disk = &self.plan.disks[index];
        let flushed = self.plan.paused
            || self
                .fixed
                .is_some_and(|fixed| fixed.consistency == Consistency::Filesystem);
        let (false, Some(file), true) = (disk.layers.is_empty(), output.file(), flushed) else {
            log::info!("disk '{}': contents are not compared, the guest runs", disk.target);
            return Ok(());
        };
        let shown = disk.destination.shown();
        let equal = image::compare_with_live(&disk.layers, file, output.format(), &shown);
        let quiet = self.device(index).get_write_requests().ok() == self.writes.get(index).copied();
        match equal {
            _ if !quiet => {
                log::info!(
                    "disk '{}': contents are not compared, the guest has written since",
                    disk.target
                );
                Ok(())
            }
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(
                ErrorCode::Verify,
                format!(
                    "the image '{shown}' differs from disk '{}' although the guest wrote nothing",
                    disk.target
                ),
            )),
            Err(error) => Err(error),
        }
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
        seen.mark == Mark::Fixed && seen.jobs.iter().all(|job| *job == Job::Completed)
    }

    fn begin(plan: Plan, claim: &Claim<'_>, shared: Arc<Shared>) -> Result<Self> {
        let disks = plan.disks.iter();
        let disks = disks.map(|disk| RecordedDisk::new(&disk.target, &disk.destination, &disk.format));
        let details = Details {
            request: plan.request.clone(),
            fixed: None,
            bytes: Vec::new(),
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
            engine.outputs[index] = engine.find_output(index, recorded, record.mark);
        }
        if record.live && record.mark == Mark::Fixing {
            engine.left = Left {
                frozen: engine.plan.freeze && !engine.plan.paused,
                paused: engine.pauses_unfrozen(),
            };
        }
        for (job, (done, total)) in engine.jobs.iter_mut().zip(details.bytes) {
            (job.done, job.total) = (done, total);
        }
        engine.find_mirrors(record.mark)?;
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
        let state = self.plan.guest.get_power_state()?;
        self.left.paused &= state == State::Paused;
        let mut alive = state != State::Off;
        if alive && let Err(error) = self.observe_jobs() {
            // A guest that goes away between two calls makes the second one fail.
            alive = self.plan.guest.get_power_state()? != State::Off;
            if alive {
                return Err(error);
            }
        }
        if !alive {
            for job in &mut self.jobs {
                job.lost_domain();
            }
        }
        let finish = self.plan.auto_finish || self.ties.shared.requests().finish;
        Ok(Observed {
            alive,
            mark: self.ties.journal.mark(),
            // The window itself undoes its freeze and its pause, and repeats in the background what could not be made
            // certain.
            thawed: !self.left.frozen,
            resumed: !self.left.paused,
            fixed: self.fixed.is_some(),
            finish,
            limited: self.limited,
            verified: self.verified,
            images: self.outputs.iter().map(|output| Image::of(output.as_ref())).collect(),
            jobs: (0..self.jobs.len()).map(|index| self.job(index, finish)).collect(),
        })
    }

    fn perform(&mut self, step: Step, _seen: &Observed) -> Result<()> {
        match step {
            Step::WriteRecord(mark) => self.write_record(mark),
            Step::MakeImage(index) => self.make_image(index),
            Step::StartCopy(index) => self.start_copy(index),
            Step::LiftLimit => self.lift_limit(),
            Step::RestartWriteBlocking(index) => self.restart_write_blocking(index),
            Step::FixPoint => self.fix_point(),
            Step::Verify => self.verify(),
            Step::AbortJob(index) => self.abort_job(index),
            Step::RemoveImage(index) => self.remove_image(index),
            Step::RemoveRecord => self.remove_record(),
            Step::Thaw => self.thaw(),
            Step::Resume => self.plan.guest.resume(),
            Step::AwaitJobs | Step::AwaitFinish | Step::Fail(_) | Step::Done => Ok(()),
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        let name = self.plan.guest.name();
        match failure {
            Failure::DomainGone => Error::new(
                ErrorCode::DomainState,
                format!(
                    "domain '{name}' was shut off, destroyed or restarted during the operation; start again when it runs"
                ),
            ),
            Failure::Job(index) => {
                let reason = self.jobs[index].failure().unwrap_or("no reason is known");
                let code = code_of_reason(reason);
                let advice = match code {
                    ErrorCode::NoSpace => "make room or name another destination",
                    ErrorCode::Permission => "let QEMU's user write there",
                    _ => "see QEMU's log of the domain",
                };
                Error::new(
                    code,
                    format!(
                        "the copy of disk '{}' of domain '{name}' to '{}' failed: {reason}; {advice}",
                        self.plan.disks[index].target,
                        self.plan.disks[index].destination.shown()
                    ),
                )
            }
            Failure::NotConverging(index) => {
                let rates = self.jobs[index].rates().unwrap_or_default();
                Error::new(
                    ErrorCode::JobFailed,
                    format!(
                        "the copy of disk '{}' of domain '{name}' does not catch up: the guest dirties {} KiB/s and {} KiB/s \
                         are copied; ask for WRITE_BLOCKING, for BACKUP, or try again when the guest writes less",
                        self.plan.disks[index].target,
                        rates.dirtied >> 10,
                        rates.copied >> 10
                    ),
                )
            }
            Failure::OutcomeUnknown => Error::new(
                ErrorCode::JobFailed,
                format!(
                    "how the copy of domain '{name}' ended was not observed, so it cannot be relied on; copy again"
                ),
            ),
        }
    }

    fn bytes(&self) -> (u64, u64) {
        self.bytes_of_jobs()
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
            bytes_copied: self
                .plan
                .disks
                .iter()
                .zip(&self.jobs)
                .map(|(disk, job)| disk.copied(job.done))
                .sum(),
            elapsed: self.ties.shared.began().elapsed(),
            full_disks: 0,
        })
    }

    fn thawed(&self) -> u32 {
        self.thawed
    }
}
