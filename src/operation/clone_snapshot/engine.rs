// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the snapshot by clone. What comes when is `next`'s.

use std::ffi::CString;
use std::sync::Arc;

use super::plan::Way;
use super::{Chain, Failure, Observed, SeenDisk, Step, model, next, phase};
use crate::driver::{BlockDevice, Guest, code_of_reason};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Made, Output};
use crate::libvirt::xml::{DomainXml, external_snapshot};
use crate::libvirt::{State, Subscription};
use crate::operation::cloning;
use crate::operation::preflight::beside;
use crate::operation::procedure::{Procedure, Turn};
use crate::operation::record::{Kind, Record, RecordedDisk};
use crate::operation::shared::Shared;
use crate::operation::snapshot::plan::{Plan, PlannedDisk};
use crate::operation::state::{Goal, Image, Job, Mark};
use crate::operation::throttle::Brake;
use crate::operation::tracked::Tracked;
use crate::operation::types::{Method, Phase, Report};
use crate::operation::window::{Fixed, Window};

/// What is known of one disk.
#[derive(Default)]
struct Cloning {
    overlay_path: String,
    /// A'.
    overlay: Option<Made>,
    output: Option<Output>,
    cloned: bool,
    progress: (u64, u64),
    commit: Tracked,
    brake: Brake,
}

pub(in crate::operation) struct Engine {
    plan: Plan,
    shared: Arc<Shared>,
    subscription: Option<Subscription>,
    record: Record,
    disks: Vec<Cloning>,
    fixed: Option<Fixed>,
    verified: bool,
    /// What was seen and decided last.
    seen: Observed,
    goal: Goal,
    step: Step,
}

fn internal(reason: String) -> Error {
    Error::new(ErrorCode::Internal, reason)
}

/// The state before the first step.
pub(in crate::operation) fn at_start(plan: &Plan) -> Observed {
    let disk = SeenDisk {
        chain: Chain::Source,
        overlay: Image::Missing,
        destination: Image::Missing,
        cloned: false,
        commit: Job::NotStarted,
        throttled: false,
    };
    Observed {
        alive: true,
        mark: Mark::Absent,
        fixed: false,
        verified: false,
        finish: plan.auto_finish,
        by_callback: plan.ways.contains(&Way::Callback),
        disks: vec![disk; plan.disks.len()],
    }
}

impl Engine {
    pub(in crate::operation) fn new(plan: Plan, shared: Arc<Shared>) -> Result<Self> {
        let disks = plan.disks.iter().map(|disk| RecordedDisk {
            target: disk.target.clone(),
            destination: disk.destination.as_written().to_owned(),
            format: disk.format.clone(),
            made: None,
            throttled: None,
            overlay: None,
        });
        let record = Record::new(Kind::Snapshot, plan.method, plan.had_metadata, disks.collect())?;
        let disks = plan.disks.iter().map(|disk| Cloning {
            overlay_path: beside(source(disk).0, &record.id, &disk.target),
            ..Cloning::default()
        });
        let mut engine = Self {
            disks: disks.collect(),
            seen: at_start(&plan),
            goal: Goal::Forward,
            step: Step::AwaitJobs,
            subscription: None,
            fixed: None,
            verified: false,
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

    fn device(&self, index: usize) -> BlockDevice<'_> {
        self.plan.guest.get_block_device(&self.plan.disks[index].target)
    }

    // Observing.

    fn observe(&mut self) -> Result<Observed> {
        let mut alive = self.plan.guest.get_power_state()? != State::Off;
        let mut chains = Ok(Vec::new());
        if alive {
            chains = self.observe_disks();
            if chains.is_err() {
                // A guest that goes away between two calls makes the second one fail.
                alive = self.plan.guest.get_power_state()? != State::Off;
            }
        }
        if !alive {
            for disk in &mut self.disks {
                disk.commit.lost_domain();
                disk.brake.forget();
            }
            // What it would start from.
            chains = match self.plan.guest.get_config(true) {
                Ok(config) => Ok(self.classify(&config)),
                Err(error) if error.code() == ErrorCode::NoDomain => {
                    Ok(self.seen.disks.iter().map(|disk| disk.chain).collect())
                }
                Err(error) => Err(error),
            };
        }
        let disks = self.disks.iter().zip(chains?).map(|(disk, chain)| SeenDisk {
            chain,
            overlay: if disk.overlay.is_some() {
                Image::Made
            } else {
                Image::Missing
            },
            destination: match &disk.output {
                None => Image::Missing,
                Some(output) if output.made().is_some() => Image::Made,
                Some(_) => Image::Taken,
            },
            cloned: disk.cloned,
            commit: disk.commit.commit_job(disk.brake.can_be_tightened()),
            throttled: disk.brake.is_on(),
        });
        Ok(Observed {
            alive,
            mark: self.record.mark,
            fixed: self.fixed.is_some(),
            verified: self.verified,
            finish: self.plan.auto_finish || self.shared.requests().finish,
            disks: disks.collect(),
            ..at_start(&self.plan)
        })
    }

    fn classify(&self, config: &DomainXml) -> Vec<Chain> {
        let disks = self.plan.disks.iter().zip(&self.disks);
        disks
            .map(|(planned, disk)| {
                let chain = config.disk(&planned.target).map(|found| &found.chain);
                let path = |index: usize| {
                    chain
                        .and_then(|chain| chain.get(index))
                        .and_then(|layer| layer.source.path())
                };
                match (path(0), path(1)) {
                    (Some(active), _) if active == source(planned).0 => Chain::Source,
                    // The inactive definition may name no more than the overlay.
                    (Some(active), below) if active == disk.overlay_path => match below {
                        Some(below) if below != source(planned).0 => Chain::Foreign,
                        _ => Chain::Overlay,
                    },
                    _ => Chain::Foreign,
                }
            })
            .collect()
    }

    fn observe_disks(&mut self) -> Result<Vec<Chain>> {
        let config = self.plan.guest.get_config(false)?;
        let chains = self.classify(&config);
        for (index, chain) in chains.iter().enumerate() {
            if !self.disks[index].commit.started || *chain != Chain::Overlay {
                continue;
            }
            let target = self.plan.disks[index].target.clone();
            let info = self.device(index).get_job_info()?;
            let mirror = config.disk(&target).and_then(|disk| disk.mirror.as_ref());
            let commit = &mut self.disks[index].commit;
            if info.is_some() || mirror.is_some() {
                let ready = mirror.is_some_and(|mirror| mirror.ready);
                let at = self.shared.began().elapsed();
                commit.runs(info, ready, at, |sample| sample.remainder() > 0);
            } else {
                let end = self.shared.facts(|facts| facts.qemu_end("commit", &target).cloned());
                commit.vanished(end);
            }
        }
        Ok(chains)
    }

    // Stepping.

    fn perform(&mut self, step: Step) -> Result<()> {
        match step {
            Step::WriteRecord(mark) => self.write_record(mark),
            Step::MakeImage(index) => self.make_image(index),
            Step::MakeOverlay(index) => self.make_overlay(index),
            Step::FixPoint => self.fix_point(),
            Step::Clone(index) => self.clone_disk(index).map_err(|error| {
                let (target, name) = (&self.plan.disks[index].target, self.plan.guest.name());
                let message = format!("disk '{target}' of domain '{name}': {}", error.message());
                Error::new(error.code(), message)
            }),
            Step::Verify => self.verify(),
            Step::StartCommit(index) => self.start_commit(index),
            Step::PivotCommit(index) => {
                self.device(index).pivot()?;
                self.disks[index].commit.pivots();
                Ok(())
            }
            Step::AbortCommit(index) => {
                self.device(index).abort_job()?;
                self.disks[index].commit.give_up("commit");
                Ok(())
            }
            Step::Throttle(index) => self.throttle(index),
            Step::Unthrottle(index) => self.unthrottle(index),
            Step::RemoveOverlay(index) => {
                if let Some(overlay) = &self.disks[index].overlay {
                    overlay.remove()?;
                }
                self.disks[index].overlay = None;
                Ok(())
            }
            Step::RemoveImage(index) => {
                if let Some(output) = &mut self.disks[index].output {
                    output.remove()?;
                }
                (self.disks[index].output, self.disks[index].cloned) = (None, false);
                Ok(())
            }
            Step::RemoveRecord => self.remove_record(),
            Step::AwaitJobs | Step::AwaitFinish | Step::Fail(_) | Step::Done => Ok(()),
        }
    }

    fn write_record(&mut self, mark: Mark) -> Result<()> {
        let mut record = self.record.clone();
        record.mark = mark;
        for (recorded, disk) in record.disks.iter_mut().zip(&self.disks) {
            recorded.made = disk.output.as_ref().and_then(Output::made).cloned();
            recorded.overlay = disk.overlay.clone();
        }
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

    /// Before the guest is touched, so that a destination that cannot be written to never reaches it.
    fn make_image(&mut self, index: usize) -> Result<()> {
        let disk = &self.plan.disks[index];
        self.disks[index].output = Some(match self.plan.ways[index] {
            Way::File => Output::open(&disk.destination, &disk.place, &disk.format)?,
            Way::Content | Way::Callback => Output::prepare(
                &disk.destination,
                &disk.place,
                &disk.format,
                disk.size,
                disk.backing.as_ref(),
                disk.reuse,
            )?,
        });
        Ok(())
    }

    fn make_overlay(&mut self, index: usize) -> Result<()> {
        let planned = &self.plan.disks[index];
        let disk = &mut self.disks[index];
        image::make_overlay(&disk.overlay_path, planned.size, source(planned), &mut disk.overlay)
    }

    fn fix_point(&mut self) -> Result<()> {
        let plan = &self.plan;
        let overlays: Vec<_> = plan
            .disks
            .iter()
            .zip(&self.disks)
            .map(|(planned, disk)| (planned.target.as_str(), disk.overlay_path.as_str()))
            .collect();
        let xml = external_snapshot(&overlays, &plan.other_disks).map_err(internal)?;
        let xml = CString::new(xml).map_err(|error| internal(error.to_string()))?;
        let window = Window {
            guest: &plan.guest,
            shared: &self.shared,
            backup: false,
            freeze: plan.freeze && !plan.paused,
            freeze_required: plan.freeze_required,
            // QEMU's transaction gives all disks one point in time by itself.
            pause_unfrozen: false,
            limit: plan.freeze_limit,
        };
        self.fixed = Some(window.run(|_deadline| plan.guest.snapshot(&xml))?);
        Ok(())
    }

    fn clone_disk(&mut self, index: usize) -> Result<()> {
        let before = self.disks.iter().fold((0, 0), |(done, total), disk| {
            (done + disk.progress.0, total + disk.progress.1)
        });
        let disk = &mut self.disks[index];
        let planned = &self.plan.disks[index];
        let (source, shown) = (source(planned), planned.destination.shown());
        let mut watch = cloning::watch(&self.shared, before, &mut disk.progress);
        match (self.plan.ways[index], &mut disk.output) {
            (Way::Callback, output) => {
                let destination = planned.destination.as_written();
                let callback = self.plan.clone_callback.as_ref();
                let result = callback.map(|callback| callback(source.0, destination));
                let adopted = Output::adopt(&planned.destination, &planned.place, &planned.format);
                let held = adopted.and_then(|adopted| {
                    // Whatever the function left is ours to take back, also after a failure.
                    output.insert(adopted).must_hold(planned.size, planned.backing.as_ref())
                });
                cloning::must_have_cloned(result, destination, held)?;
            }
            (Way::Content, Some(output)) => {
                let cloned = output.write_chain(&planned.layers, self.plan.bandwidth, &mut watch)?;
                cloning::finished(cloned)?;
            }
            (Way::File, Some(output)) => {
                let Some(file) = output.file() else {
                    return Err(internal(format!("'{shown}' is no file to clone to")));
                };
                cloning::clone_into(self.plan.clone, source.0, file, &shown, self.plan.bandwidth, &mut watch)?;
                if let Some(backing) = &planned.backing {
                    image::rebase_relative(file, (&backing.path, &backing.format), planned.destination.as_written())?;
                }
            }
            (_, None) => return Err(internal(format!("there is no '{shown}' to clone to"))),
        }
        if let Some(output) = &disk.output {
            output.sync()?;
        }
        disk.cloned = true;
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        for (planned, disk) in self.plan.disks.iter().zip(&self.disks) {
            let shown = planned.destination.shown();
            let Some(output) = &disk.output else {
                return Err(internal(format!("disk '{}' has no image to verify", planned.target)));
            };
            output.must_be_in_place()?;
            output.must_have_size(planned.size)?;
            if !self.plan.verify {
                continue;
            }
            if let Some(file) = output.file() {
                image::check(file, output.format(), &shown)?;
            }
            if !output.equals_chain(&planned.layers)? {
                return Err(Error::new(
                    ErrorCode::Verify,
                    format!(
                        "the clone '{shown}' differs from disk '{}' of domain '{}'; see the storage, or the function that \
                         made it",
                        planned.target,
                        self.plan.guest.name()
                    ),
                ));
            }
        }
        self.verified = true;
        Ok(())
    }

    fn start_commit(&mut self, index: usize) -> Result<()> {
        let target = &self.plan.disks[index].target;
        self.shared.facts(|facts| facts.forget(target));
        self.device(index).commit()?;
        self.disks[index].commit = Tracked::begun();
        Ok(())
    }

    fn throttle(&mut self, index: usize) -> Result<()> {
        let rates = self.disks[index].commit.rates.unwrap_or_default();
        let mut brake = std::mem::take(&mut self.disks[index].brake);
        let guest = Arc::clone(&self.plan.guest);
        let target = self.plan.disks[index].target.clone();
        let tightened = brake.tighten(&guest, &target, rates, |before| {
            self.record.disks[index].throttled = Some(before);
            self.write_record(self.record.mark)
        });
        self.disks[index].brake = brake;
        self.tell_throttle();
        tightened?;
        self.disks[index].commit.watch_anew();
        Ok(())
    }

    fn unthrottle(&mut self, index: usize) -> Result<()> {
        self.disks[index].brake.release()?;
        self.tell_throttle();
        self.record.disks[index].throttled = None;
        self.write_record(self.record.mark)
    }

    /// The tightest of the disks'.
    fn tell_throttle(&self) {
        let limits = self.disks.iter().map(|disk| disk.brake.limit());
        let limit = limits.filter(|limit| *limit > 0).min().unwrap_or(0);
        self.shared.publish(|progress| progress.guest_write_limit = limit);
    }

    // Telling.

    fn explain(&self, failure: Failure) -> Error {
        let name = self.plan.guest.name();
        let disk = |index: usize| format!("disk '{}' of domain '{name}'", self.plan.disks[index].target);
        match failure {
            Failure::DomainGone => Error::new(
                ErrorCode::DomainState,
                format!(
                    "domain '{name}' was shut off, destroyed or restarted during the operation; what it wrote since the \
                     snapshot lies in overlays that it starts from, named in its metadata"
                ),
            ),
            Failure::Commit(index) => {
                let reason = self.disks[index].commit.failure.as_deref();
                let reason = reason.unwrap_or("no reason is known");
                Error::new(
                    code_of_reason(reason),
                    format!(
                        "{}: the active commit of its overlay into '{}' failed: {reason}; the guest goes on with the \
                         overlay; mend the storage and commit it (virsh blockcommit --active --pivot)",
                        disk(index),
                        source(&self.plan.disks[index]).0.escape_debug()
                    ),
                )
            }
            Failure::ForeignChain(index) => Error::new(
                ErrorCode::Busy,
                format!(
                    "{}: somebody else changed its backing chain during the snapshot; see 'virsh dumpxml'",
                    disk(index)
                ),
            ),
            Failure::OutcomeUnknown => Error::new(
                ErrorCode::JobFailed,
                format!(
                    "nobody saw when the snapshot of domain '{name}' was taken, so it cannot be relied on; take another"
                ),
            ),
        }
    }
}

/// Path and format of the guest's own image. A disk without is refused beforehand.
fn source(disk: &PlannedDisk) -> (&str, &str) {
    disk.source
        .as_ref()
        .map_or(("", ""), |(path, format)| (path.as_str(), format.as_str()))
}

impl Procedure for Engine {
    fn look(&mut self, goal: Goal) -> Result<Turn> {
        if (self.goal, goal) == (Goal::Forward, Goal::Back) {
            // A commit that failed is tried once more.
            for disk in self.disks.iter_mut().filter(|disk| disk.commit.failure.is_some()) {
                disk.commit = Tracked::default();
            }
        }
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
        model::plan(&self.seen, self.goal, &self.plan.taken()).len()
    }

    fn bytes(&self) -> (u64, u64) {
        self.disks.iter().fold((0, 0), |(done, total), disk| {
            (
                done + disk.progress.0 + disk.commit.done,
                total + disk.progress.1 + disk.commit.total,
            )
        })
    }

    /// The guest comes home either way.
    fn passed_no_return(&self) -> bool {
        false
    }

    fn report(&self) -> Option<Report> {
        let fixed = self.fixed?;
        Some(Report {
            method: Method::Clone,
            consistency: fixed.consistency,
            filesystems_frozen: fixed.frozen,
            disk_count: self.plan.disk_count(),
            point_in_time: fixed.at,
            freeze: fixed.freeze,
            pause: fixed.pause,
            bytes_copied: self.disks.iter().map(|disk| disk.progress.0).sum(),
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
