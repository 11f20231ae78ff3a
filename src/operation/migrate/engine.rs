// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the migration. What comes when is `next`'s.

use std::ffi::CString;
use std::sync::Arc;
use std::time::SystemTime;

use super::plan::Plan;
use super::{Chain, Failure, Observed, Step, model, next, phase};
use crate::driver::{BlockDevice, Guest, code_of_reason};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Identity, Made, Output, Place};
use crate::libvirt::xml::{Disk, Target, copy_destination, external_snapshot, overlay_destination};
use crate::libvirt::{BlockJobType, Copy, State, Subscription};
use crate::operation::cloning;

use crate::operation::preflight::{beside, libvirt_target};
use crate::operation::procedure::{Procedure, Turn};
use crate::operation::record::{Kind, Record, RecordedDisk};
use crate::operation::shared::Shared;
use crate::operation::state::{Goal, Image, Job, Mark, Remedy};
use crate::operation::throttle::Brake;
use crate::operation::tracked::{Tracked, does_not_catch_up};
use crate::operation::types::{CloneMethod, Consistency, Method, Phase, Report};

/// A copy with no more than this left counts as drained: it is pivoted to at once.
const DRAINED: u64 = 4 << 20;

pub(in crate::operation) struct Engine {
    plan: Plan,
    shared: Arc<Shared>,
    subscription: Option<Subscription>,
    record: Record,
    overlay_path: String,
    destination_overlay_path: String,
    overlay: Option<Made>,
    destination_overlay: Option<Made>,
    /// B, made by a clone.
    clone: Option<Made>,
    /// B, made for a full copy.
    output: Option<Output>,
    cloned: bool,
    clone_progress: (u64, u64),
    copy: Tracked,
    commit: Tracked,
    write_blocking: bool,
    limited: bool,
    brake: Brake,
    verified: bool,
    source_deleted: bool,
    moved_at: Option<SystemTime>,
    seen: Observed,
    goal: Goal,
    step: Step,
}

fn internal(reason: String) -> Error {
    Error::new(ErrorCode::Internal, reason)
}

/// The state before the first step.
pub(in crate::operation) fn at_start(plan: &Plan) -> Observed {
    Observed {
        method: plan.method,
        alive: true,
        mark: Mark::Absent,
        chain: Chain::Source,
        overlay: Image::Missing,
        destination: Image::Missing,
        cloned: false,
        destination_overlay: Image::Missing,
        copy: Job::NotStarted,
        commit: Job::NotStarted,
        limited: plan.bandwidth > 0,
        throttled: false,
        finish: plan.auto_finish,
        verify: plan.verify,
        delete_source: plan.delete_source,
        source_deleted: false,
    }
}

impl Engine {
    pub(in crate::operation) fn new(plan: Plan, shared: Arc<Shared>) -> Result<Self> {
        let disk = RecordedDisk {
            target: plan.target.clone(),
            destination: plan.destination.as_written().to_owned(),
            format: plan.format.clone(),
            made: None,
            throttled: None,
            overlay: None,
        };
        let record = Record::new(Kind::Migration, plan.method, plan.had_metadata, vec![disk])?;
        let mut engine = Self {
            overlay_path: beside(&plan.source.0, &record.id, "source"),
            destination_overlay_path: beside(plan.destination_path(), &record.id, "destination"),
            seen: at_start(&plan),
            goal: Goal::Forward,
            step: Step::AwaitJobs,
            limited: plan.bandwidth > 0,
            brake: Brake::default(),
            subscription: None,
            overlay: None,
            destination_overlay: None,
            clone: None,
            output: None,
            cloned: false,
            clone_progress: (0, 0),
            copy: Tracked::default(),
            commit: Tracked::default(),
            write_blocking: false,
            verified: false,
            source_deleted: false,
            moved_at: None,
            plan,
            shared,
            record,
        };
        engine.subscribe()?;
        Ok(engine)
    }

    fn subscribe(&mut self) -> Result<()> {
        // Dropped first: the callbacks of a dead connection must not outlive it.
        self.subscription = None;
        self.subscription = self.shared.subscribe(&self.plan.guest)?;
        Ok(())
    }

    fn device(&self) -> BlockDevice<'_> {
        self.plan.guest.get_block_device(&self.plan.target)
    }

    // Observing.

    fn observe(&mut self) -> Result<Observed> {
        let finish = self.plan.auto_finish || self.shared.requests().finish;
        let mut alive = self.plan.guest.get_power_state()? != State::Off;
        let mut chain = Ok(Chain::Foreign);
        if alive {
            chain = self.observe_disk(finish);
            if chain.is_err() {
                // A guest that goes away between two calls makes the second one fail.
                alive = self.plan.guest.get_power_state()? != State::Off;
            }
        }
        if !alive {
            self.brake.forget();
            for job in [&mut self.copy, &mut self.commit] {
                job.lost_domain();
            }
            // What it would start from.
            chain = match self.plan.guest.get_config(true) {
                Ok(config) => Ok(self.classify(config.disk(&self.plan.target))),
                Err(error) if error.code() == ErrorCode::NoDomain => Ok(self.seen.chain),
                Err(error) => Err(error),
            };
        }
        let chain = chain?;
        let made = |made: &Option<Made>| if made.is_some() { Image::Made } else { Image::Missing };
        let destination = match &self.output {
            Some(output) if output.made().is_some() => Image::Made,
            Some(_) => Image::Taken,
            None => made(&self.clone),
        };
        Ok(Observed {
            alive,
            mark: self.record.mark,
            chain,
            overlay: made(&self.overlay),
            destination,
            cloned: self.cloned,
            destination_overlay: made(&self.destination_overlay),
            copy: self.copy_job(finish),
            commit: self.commit.commit_job(self.brake.can_be_tightened()),
            limited: self.limited,
            throttled: self.brake.is_on(),
            finish,
            verify: self.plan.verify && !self.verified,
            source_deleted: self.source_deleted,
            ..at_start(&self.plan)
        })
    }

    fn classify(&self, disk: Option<&Disk>) -> Chain {
        let Some(disk) = disk else { return Chain::Foreign };
        let path = |index: usize| disk.chain.get(index).and_then(|layer| layer.source.path());
        let (source, destination) = (self.plan.source.0.as_str(), self.plan.destination_path());
        match (path(0), path(1)) {
            (Some(active), below) if active == self.overlay_path => match below {
                Some(below) if below == source => Chain::Overlay,
                _ => Chain::Foreign,
            },
            (Some(active), below) if active == self.destination_overlay_path => match below {
                Some(below) if below == destination => Chain::Moved,
                _ => Chain::Foreign,
            },
            (Some(active), _) if active == source => Chain::Source,
            (Some(active), _) if active == destination => Chain::Destination,
            (None, _) if destination.is_empty() => Chain::Destination,
            _ => Chain::Foreign,
        }
    }

    fn observe_disk(&mut self, finish: bool) -> Result<Chain> {
        let config = self.plan.guest.get_config(false)?;
        let disk = config.disk(&self.plan.target);
        let chain = self.classify(disk);
        if !self.copy.started && !self.commit.started {
            return Ok(chain);
        }
        let info = self.device().get_job_info()?;
        let mirror = disk.and_then(|disk| disk.mirror.clone());
        let kind = match (info, mirror.as_ref().map(|mirror| mirror.job.as_str())) {
            (Some(info), _) if info.kind == BlockJobType::ActiveCommit => Some(Which::Commit),
            (None, Some("active-commit")) => Some(Which::Commit),
            (None, None) => None,
            _ => Some(Which::Copy),
        };
        let at = self.shared.began().elapsed();
        let target = self.plan.target.clone();
        let ends = self.shared.facts(|facts| {
            (
                facts.qemu_end("copy", &target).cloned(),
                facts.qemu_end("commit", &target).cloned(),
            )
        });
        for (which, tracked, end) in [
            (Which::Copy, &mut self.copy, ends.0),
            (Which::Commit, &mut self.commit, ends.1),
        ] {
            if !tracked.started {
                continue;
            }
            if kind == Some(which) {
                let ready = mirror.as_ref().is_some_and(|mirror| mirror.ready);
                tracked.runs(info, ready, at, |sample| match which {
                    // Whoever waits at READY needs no more than that.
                    Which::Copy => sample.remainder() > DRAINED && (finish || !ready),
                    Which::Commit => sample.remainder() > 0,
                });
            } else if chain == self.seen.chain {
                tracked.vanished(end);
            }
        }
        // Behind its pivot a commit on the other side of the point of no return may be started.
        if chain != self.seen.chain {
            self.commit = Tracked::default();
        }
        Ok(chain)
    }

    fn copy_job(&self, finish: bool) -> Job {
        if self.copy.rates.is_some() {
            let may_block = self.plan.write_blocking && !self.write_blocking;
            let may_throttle = self.plan.method == Method::Clone && self.brake.can_be_tightened();
            let remedy = Remedy::choose(self.limited, may_block, may_throttle);
            if !self.copy.ending || (self.copy.pivoting && remedy == Remedy::Throttle) {
                return Job::Stuck(remedy);
            }
        }
        let drained = self.copy.total.saturating_sub(self.copy.done) <= DRAINED;
        match self.copy.job() {
            Job::Ready if finish && !drained => Job::Running,
            other => other,
        }
    }

    // Stepping.

    fn perform(&mut self, step: Step) -> Result<()> {
        match step {
            Step::WriteRecord(mark) => self.write_record(mark),
            Step::MakeOverlay => {
                let (source, format) = &self.plan.source;
                make_overlay(&self.plan, &self.overlay_path, (source, format), &mut self.overlay)
            }
            Step::TakeSnapshot => self.take_snapshot(),
            Step::Clone => self.clone_base().map_err(|error| self.about_disk(&error)),
            Step::Verify => self.verify().map_err(|error| self.about_disk(&error)),
            Step::MakeDestination => self.make_destination(),
            Step::MakeDestinationOverlay => {
                if !self.plan.volumes {
                    // libvirt makes it an overlay.
                    self.destination_overlay = Some(Made::create(&self.destination_overlay_path)?.0);
                    return Ok(());
                }
                let (plan, path) = (&self.plan, &self.destination_overlay_path);
                let backing = (plan.destination_path(), plan.format.as_str());
                make_overlay(plan, path, backing, &mut self.destination_overlay)
            }
            Step::StartCopy => self.start_copy(),
            Step::LiftLimit => {
                self.device().set_job_speed(0)?;
                self.limited = false;
                self.copy.watch_anew();
                Ok(())
            }
            Step::RestartWriteBlocking => {
                self.device().abort_job()?;
                self.write_blocking = true;
                self.copy = Tracked {
                    started: true,
                    ending: true,
                    restarting: true,
                    ..Tracked::default()
                };
                Ok(())
            }
            Step::StartCommit => self.start_commit(),
            Step::PivotCopy => self.pivot_copy(),
            Step::PivotCommit => {
                self.device().pivot()?;
                self.commit.pivots();
                Ok(())
            }
            Step::AbortCopy => {
                self.device().abort_job()?;
                self.copy.ending = true;
                Ok(())
            }
            Step::AbortCommit => {
                self.device().abort_job()?;
                self.commit.give_up("commit");
                Ok(())
            }
            Step::Throttle => self.throttle(),
            Step::Unthrottle => self.unthrottle(),
            Step::RemoveOverlay => remove(&self.plan, &mut self.overlay),
            Step::RemoveDestinationOverlay => remove(&self.plan, &mut self.destination_overlay),
            Step::RemoveDestination => self.remove_destination(),
            Step::DeleteSource => self.delete_source(),
            Step::RemoveRecord => self.remove_record(),
            Step::AwaitJobs | Step::AwaitFinish | Step::Fail(_) | Step::Done => Ok(()),
        }
    }

    fn throttle(&mut self) -> Result<()> {
        let rates = self.copy.rates.or(self.commit.rates).unwrap_or_default();
        let mut brake = std::mem::take(&mut self.brake);
        let guest = Arc::clone(&self.plan.guest);
        let target = self.plan.target.clone();
        let tightened = brake.tighten(&guest, &target, rates, |before| {
            self.record.disks[0].throttled = Some(before);
            self.write_record(self.record.mark)
        });
        self.brake = brake;
        self.tell_throttle();
        tightened?;
        self.copy.watch_anew();
        self.commit.watch_anew();
        Ok(())
    }

    fn unthrottle(&mut self) -> Result<()> {
        self.brake.release()?;
        self.tell_throttle();
        self.record.disks[0].throttled = None;
        self.write_record(self.record.mark)
    }

    fn tell_throttle(&self) {
        let limit = self.brake.limit();
        self.shared.publish(|progress| progress.guest_write_limit = limit);
    }

    fn write_record(&mut self, mark: Mark) -> Result<()> {
        let mut record = self.record.clone();
        record.mark = mark;
        let made = self.clone.clone().or_else(|| self.output.as_ref()?.made().cloned());
        record.disks[0].made = made;
        self.plan
            .guest
            .set_metadata(&record.namespace(), Some(&record.to_xml()?))?;
        self.record = record;
        Ok(())
    }

    fn remove_record(&mut self) -> Result<()> {
        self.plan
            .guest
            .remove_metadata(&self.record.namespace(), self.record.had_metadata)?;
        self.record.mark = Mark::Absent;
        Ok(())
    }

    fn take_snapshot(&mut self) -> Result<()> {
        let overlay = [(self.plan.target.as_str(), self.overlay_path.as_str())];
        let xml = external_snapshot(&overlay, &self.plan.other_disks).map_err(internal)?;
        let xml = CString::new(xml).map_err(|error| internal(error.to_string()))?;
        self.plan.guest.snapshot(&xml)
    }

    fn clone_base(&mut self) -> Result<()> {
        remove(&self.plan, &mut self.clone)?;
        let path = self.plan.destination_path().to_owned();
        if self.plan.volumes {
            return self.clone_volume(&path);
        }
        let shown = self.plan.destination.shown();
        let (how, source) = (self.plan.clone, self.plan.source.0.as_str());
        let file = if how == CloneMethod::Callback {
            cloning::call_back(self.plan.clone_callback.as_ref(), source, &path, &mut self.clone)?
        } else {
            let (made, file) = Made::create(&path)?;
            self.clone = Some(made);
            let mut watch = cloning::watch(&self.shared, (0, 0), &mut self.clone_progress);
            cloning::clone_into(how, source, &file, &shown, self.plan.bandwidth, &mut watch)?;
            file
        };
        if let (Some((backing, format)), "qcow2") = (self.plan.below.first(), self.plan.format.as_str()) {
            image::rebase_relative(&file, (backing, format), &path)?;
        }
        if let Some(made) = &self.clone {
            made.sync(&file)?;
        }
        self.cloned = true;
        Ok(())
    }

    fn clone_volume(&mut self, path: &str) -> Result<()> {
        let plan = &self.plan;
        let (source, format) = (plan.source.0.as_str(), plan.format.as_str());
        let backing = plan
            .below
            .first()
            .map(|(path, format)| (path.as_str(), format.as_str()));
        let host = plan.guest.host();
        host.clone_volume((source, format), plan.size, path, backing)?;
        self.clone = Some(Made::volume(path));
        // A pool guesses formats, and a guest may have written another one's header into its raw disk since the last look.
        plan.must_be_volume(source)?;
        plan.must_be_volume(path)?;
        self.cloned = true;
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        let shown = self.plan.destination.shown();
        let (_, file) = Made::adopt(self.plan.destination_path())?;
        let (source, format) = (&self.plan.source.0, self.plan.format.as_str());
        if !image::compare_with_live((source, format), &file, format, &shown)? {
            return Err(Error::new(
                ErrorCode::Verify,
                format!(
                    "the clone '{shown}' differs from '{}'; see the storage, or the function that made it",
                    source.escape_debug()
                ),
            ));
        }
        self.verified = true;
        Ok(())
    }

    fn make_destination(&mut self) -> Result<()> {
        let plan = &self.plan;
        self.output = Some(Output::prepare(
            &plan.destination,
            &plan.place,
            &plan.format,
            plan.size,
            None,
            false,
        )?);
        Ok(())
    }

    fn start_copy(&mut self) -> Result<()> {
        let plan = &self.plan;
        let clone = plan.method == Method::Clone;
        let xml = if clone {
            let mut chain = vec![(plan.destination_path().to_owned(), plan.format.clone())];
            chain.extend(plan.below.iter().cloned());
            overlay_destination(&self.destination_overlay_path, &chain)
        } else {
            copy_destination(&target_of(plan), &plan.format)
        };
        let xml = xml.map_err(internal)?;
        self.shared.facts(|facts| facts.forget(&plan.target));
        let copy = Copy {
            target: &plan.target,
            destination_xml: &xml,
            bandwidth: if self.limited { plan.bandwidth } else { 0 },
            shallow: clone,
            reuse: !clone || plan.volumes,
            synchronous_writes: self.write_blocking,
        };
        let started = self.device().copy(&copy, &plan.destination.shown());
        let cut_off = matches!(&started, Err(error) if error.code() == ErrorCode::NoConnection);
        self.copy = Tracked {
            started: started.is_ok() || cut_off,
            ..Tracked::default()
        };
        started
    }

    fn start_commit(&mut self) -> Result<()> {
        self.shared.facts(|facts| facts.forget(&self.plan.target));
        self.device().commit()?;
        self.commit = Tracked::begun();
        Ok(())
    }

    /// The last moment at which a file that was removed or replaced can be noticed without harm.
    fn pivot_copy(&mut self) -> Result<()> {
        for made in [&self.clone, &self.destination_overlay].into_iter().flatten() {
            if !is_in_place(&self.plan, made) {
                return Err(Error::new(
                    ErrorCode::Destination,
                    format!(
                        "'{}' was removed or replaced during the migration; migrate again",
                        made.path.escape_debug()
                    ),
                ));
            }
        }
        if let Some(output) = &self.output {
            output.must_be_in_place()?;
        }
        self.moved_at = Some(SystemTime::now());
        self.device().pivot()?;
        self.copy.pivots();
        Ok(())
    }

    fn remove_destination(&mut self) -> Result<()> {
        if let Some(output) = &mut self.output {
            output.remove()?;
        }
        self.output = None;
        self.cloned = false;
        remove(&self.plan, &mut self.clone)
    }

    fn delete_source(&mut self) -> Result<()> {
        let path = &self.plan.source.0;
        if self.plan.volumes {
            self.plan.guest.host().remove_volume(path)?;
            self.source_deleted = true;
            return Ok(());
        }
        let unchanged = self.plan.source_identity.is_some() && Identity::of_path(path) == self.plan.source_identity;
        if unchanged && matches!(self.plan.source_identity, Some(Identity::File { .. })) {
            image::remove_source(path)?;
        } else {
            log::warn!(
                "'{}' is not the file any more that the disk was on, or no file; it stays",
                path.escape_debug()
            );
        }
        self.source_deleted = true;
        Ok(())
    }

    /// The same error, told of this disk.
    fn about_disk(&self, error: &Error) -> Error {
        let (target, name) = (&self.plan.target, self.plan.guest.name());
        let message = format!("disk '{target}' of domain '{name}': {}", error.message());
        Error::new(error.code(), message).with_libvirt_code(error.libvirt_code())
    }

    fn explain(&self, failure: Failure) -> Error {
        let what = format!("disk '{}' of domain '{}'", self.plan.target, self.plan.guest.name());
        let shown = self.plan.destination.shown();
        match failure {
            Failure::DomainGone => Error::new(
                ErrorCode::DomainState,
                format!(
                    "{what}: the domain was shut off, destroyed or restarted during the migration; what is left is named in its metadata"
                ),
            ),
            Failure::Copy | Failure::Commit => {
                let tracked = if failure == Failure::Copy {
                    &self.copy
                } else {
                    &self.commit
                };
                let reason = tracked.failure.as_deref().unwrap_or("nobody saw how it ended");
                let job = if failure == Failure::Copy {
                    "copy to"
                } else {
                    "active commit on the way to"
                };
                Error::new(
                    code_of_reason(reason),
                    format!("{what}: the {job} '{shown}' failed: {reason}; see QEMU's log of the domain"),
                )
            }
            Failure::NotConverging => {
                let reason = does_not_catch_up("copy", self.copy.rates.unwrap_or_default());
                Error::new(
                    ErrorCode::JobFailed,
                    format!("{what}: {reason}; ask for WRITE_BLOCKING, or try again when the guest writes less"),
                )
            }
            Failure::ForeignChain => Error::new(
                ErrorCode::Busy,
                format!("{what}: somebody else changed its backing chain during the migration; see 'virsh dumpxml'"),
            ),
        }
    }
}

/// Which of the two jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Copy,
    Commit,
}

/// Of qcow2, on an image that QEMU has open. It is in `made` also when only half made.
fn make_overlay(plan: &Plan, path: &str, backing: (&str, &str), made: &mut Option<Made>) -> Result<()> {
    if !plan.volumes {
        return image::make_overlay(path, plan.size, backing, made);
    }
    plan.guest.host().create_overlay_volume(path, plan.size, backing)?;
    *made = Some(Made::volume(path));
    Ok(())
}

fn is_in_place(plan: &Plan, made: &Made) -> bool {
    if !plan.volumes {
        return made.is_in_place();
    }
    let found = plan.guest.host().find_volume(&made.path);
    found.is_ok_and(|found| found.is_some())
}

fn remove(plan: &Plan, made: &mut Option<Made>) -> Result<()> {
    match made {
        Some(volume) if plan.volumes => plan.guest.host().remove_volume(&volume.path)?,
        Some(file) => file.remove()?,
        None => {}
    }
    *made = None;
    Ok(())
}

fn target_of(plan: &Plan) -> Target {
    libvirt_target(&plan.destination, plan.place == Place::Device)
}

impl Procedure for Engine {
    fn look(&mut self, goal: Goal) -> Result<Turn> {
        self.seen = self.observe()?;
        self.goal = goal;
        self.step = next(&self.seen, goal);
        log::debug!("{goal:?}: {:?} from {:?}", self.step, self.seen);
        Ok(match self.step {
            Step::Done => Turn::Done,
            Step::Fail(failure) => Turn::Fail(self.explain(failure)),
            Step::AwaitJobs => Turn::AwaitJobs,
            Step::AwaitFinish => Turn::AwaitFinish,
            _ => Turn::Act,
        })
    }

    fn act(&mut self) -> Result<()> {
        self.perform(self.step)
    }

    fn step(&self) -> &dyn std::fmt::Debug {
        &self.step
    }

    fn phase(&self) -> Phase {
        phase(&self.seen, self.goal, self.step)
    }

    fn steps_left(&self) -> usize {
        model::plan(&self.seen, self.goal).len()
    }

    fn bytes(&self) -> (u64, u64) {
        let (done, total) = self.clone_progress;
        (
            done + self.copy.done + self.commit.done,
            total + self.copy.total + self.commit.total,
        )
    }

    fn passed_no_return(&self) -> bool {
        self.seen.passed_no_return()
    }

    fn report(&self) -> Option<Report> {
        Some(Report {
            method: self.plan.method,
            consistency: Consistency::Crash,
            filesystems_frozen: 0,
            disk_count: 1,
            point_in_time: self.moved_at?,
            freeze: std::time::Duration::ZERO,
            pause: std::time::Duration::ZERO,
            bytes_copied: self.bytes().0,
            elapsed: self.shared.began().elapsed(),
        })
    }

    fn reconnect(&mut self) -> Result<()> {
        self.plan.guest.reconnect()?;
        self.subscribe()
    }

    fn has_events(&self) -> bool {
        self.subscription.is_some()
    }

    fn guest(&self) -> &Guest {
        &self.plan.guest
    }
}
