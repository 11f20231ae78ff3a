// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the snapshot by clone. What comes when is `next`'s.

use std::ffi::CString;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::plan::Way;
use super::{Chain, Failure, Observed, SeenDisk, Step, describe, model, next, phase, turn};
use crate::driver::{BlockDevice, Guest, code_of_reason};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Made, Output, Place};
use crate::libvirt::xml::{DomainXml, external_snapshot};
use crate::libvirt::{IoTune, State};
use crate::operation::course::procedure::{Procedure, Ties, Turn};
use crate::operation::course::shared::Shared;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::cloning;
use crate::operation::parts::offline;
use crate::operation::parts::throttle::Brake;
use crate::operation::parts::tracked::{End, Tracked};
use crate::operation::parts::unnamed::Unnamed;
use crate::operation::parts::window::{Fixed, Window};
use crate::operation::plan::preflight::{beside, staging};
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::{Plan, Request};
use crate::operation::state::{Goal, Image, Job, Mark};
use crate::operation::types::{Method, Phase, Report};

/// What is known of one disk.
#[derive(Default)]
struct Cloning {
    overlay_path: String,
    /// A'.
    overlay: Option<Made>,
    /// A process that died left A', and nobody uses it.
    stale: bool,
    /// Nobody saw what became of the snapshot that was asked for.
    unseen_snapshot: bool,
    output: Option<Output>,
    cloned: bool,
    progress: (u64, u64),
    commit: Tracked,
    brake: Brake,
}

/// What the record keeps for whoever takes the operation up.
#[derive(Serialize, Deserialize)]
struct Details {
    request: Request,
    fixed: Option<Fixed>,
    disks: Vec<DiskDetails>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct DiskDetails {
    /// Copied and to be copied, by the clone.
    progress: (u64, u64),
    /// The disk is throttled, and these limits are its own.
    throttled: Option<IoTune>,
}

pub(in crate::operation) struct Engine {
    plan: Plan,
    ties: Ties,
    disks: Vec<Cloning>,
    fixed: Option<Fixed>,
    verified: bool,
    /// A process died with the freeze window open, or nearly so.
    left_frozen: bool,
    /// File systems thawed that such a process had left frozen.
    thawed: u32,
}

fn internal(reason: String) -> Error {
    Error::new(ErrorCode::Internal, reason)
}

/// The state before the first step.
fn at_start(plan: &Plan) -> Observed {
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
        off: false,
        thawed: true,
        mark: Mark::Absent,
        fixed: false,
        verified: false,
        finish: plan.auto_finish,
        by_callback: plan.ways.contains(&Way::Callback),
        disks: vec![disk; plan.disks.len()],
    }
}

impl Engine {
    fn find_disk(&mut self, index: usize, recorded: &RecordedDisk, known: DiskDetails, record: &Record) {
        let planned = &self.plan.disks[index];
        let made = match &planned.destination {
            Destination::Path(path) if planned.place == Place::Free => {
                Made::find_staged(recorded.made.as_ref(), path, &self.staging(index))
            }
            _ => None,
        };
        let is_there = made.is_some() || (planned.place != Place::Free && record.mark != Mark::Begun);
        let output = is_there.then(|| Output::reopen(&planned.destination, &planned.place, &planned.format, made));
        let brake = match known.throttled {
            Some(before) if record.live && self.ties.journal.is_owned() => {
                Brake::found(&self.plan.guest, &planned.target, before)
            }
            _ => Brake::default(),
        };
        let disk = &mut self.disks[index];
        disk.overlay = Made::find(&disk.overlay_path);
        disk.cloned = record.mark == Mark::Fixed;
        disk.progress = known.progress;
        (disk.output, disk.brake) = (output.flatten(), brake);
    }

    fn at_rest(plan: Plan, ties: Ties) -> Self {
        let id = ties.journal.read().id;
        let disks = plan.disks.iter().map(|disk| Cloning {
            overlay_path: beside(source(disk).0, &id, &disk.target),
            ..Cloning::default()
        });
        Self {
            disks: disks.collect(),
            fixed: None,
            verified: false,
            left_frozen: false,
            thawed: 0,
            plan,
            ties,
        }
    }

    fn staging(&self, index: usize) -> String {
        let disk = &self.plan.disks[index];
        staging(&disk.destination, &self.ties.journal.read().id, &disk.target)
    }

    fn device(&self, index: usize) -> BlockDevice<'_> {
        self.plan.guest.get_block_device(&self.plan.disks[index].target)
    }

    // Observing.

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

    /// Where nobody saw what became of the snapshot, the guest may be on the overlays.
    fn look_above(&mut self, mut chains: Vec<Chain>, alive: bool, off: bool) -> Result<Vec<Chain>> {
        let mut unnamed = Vec::new();
        for (index, chain) in chains.iter().enumerate() {
            let disk = &mut self.disks[index];
            disk.unseen_snapshot &= *chain != Chain::Overlay;
            if !disk.unseen_snapshot || *chain != Chain::Source || disk.overlay.is_none() {
                continue;
            }
            if self.unnamed(index).holds_last_writes(alive, off)? {
                unnamed.push(index);
            }
        }
        if !unnamed.is_empty() {
            // What libvirt was just noting as QEMU was asked it has noted now.
            chains = self.classify(&self.plan.guest.get_config(off)?);
        }
        for index in unnamed {
            if chains[index] == Chain::Source {
                chains[index] = Chain::Unnamed;
            }
        }
        Ok(chains)
    }

    fn unnamed(&self, index: usize) -> Unnamed<'_> {
        let planned = &self.plan.disks[index];
        Unnamed {
            guest: &self.plan.guest,
            target: &planned.target,
            overlay: &self.disks[index].overlay_path,
            base: source(planned).0,
        }
    }

    fn observe_disks(&mut self) -> Result<Vec<Chain>> {
        let config = self.plan.guest.get_config(false)?;
        let chains = self.classify(&config);
        for (index, chain) in chains.iter().enumerate() {
            let commit = &mut self.disks[index].commit;
            if *chain == Chain::Source && commit.is_pivoting() {
                commit.complete();
            }
            if !commit.is_started() || *chain != Chain::Overlay {
                continue;
            }
            let target = self.plan.disks[index].target.clone();
            let info = self.device(index).get_job_info()?;
            let mirror = config.disk(&target).and_then(|disk| disk.mirror.as_ref());
            let gone = info.is_none() && mirror.is_some() && self.ties.journal.libvirtd_may_have_died();
            if self.disks[index].commit.is_dead(gone) {
                return Err(self.device(index).dead_job());
            }
            let commit = &mut self.disks[index].commit;
            if info.is_some() || mirror.is_some() {
                let ready = mirror.is_some_and(|mirror| mirror.ready);
                let at = self.ties.shared.began().elapsed();
                commit.runs(info, ready, at, |sample| sample.remainder() > 0);
            } else {
                let end = self
                    .ties
                    .shared
                    .facts(|facts| facts.qemu_end("commit", &target).cloned());
                commit.vanished(end.flatten());
            }
        }
        Ok(chains)
    }

    // Stepping.

    fn write_record(&mut self, mark: Mark) -> Result<()> {
        let disks = self.disks.iter().map(|disk| DiskDetails {
            progress: disk.progress,
            throttled: disk.brake.before().cloned(),
        });
        let details = Details {
            request: self.plan.request.clone(),
            fixed: self.fixed,
            disks: disks.collect(),
        };
        let disks = &self.disks;
        self.ties.journal.write(|record| {
            record.mark = mark;
            for (recorded, disk) in record.disks.iter_mut().zip(disks) {
                recorded.made = disk.output.as_ref().and_then(Output::made).cloned();
            }
            record.set_details(&details)
        })
    }

    fn remove_record(&mut self) -> Result<()> {
        let overlays = self.disks.iter().map(|disk| disk.overlay_path.as_str());
        self.ties.journal.remove(&overlays.collect::<Vec<_>>())
    }

    fn remove_image(&mut self, index: usize) -> Result<()> {
        if let Some(output) = &mut self.disks[index].output {
            output.remove()?;
        }
        (self.disks[index].output, self.disks[index].cloned) = (None, false);
        Ok(())
    }

    fn remove_overlay(&mut self, index: usize) -> Result<()> {
        let record = self.ties.journal.read();
        let (recorded, base) = (record.disk(index)?, source(&self.plan.disks[index]));
        let overlay = &self.disks[index].overlay_path;
        offline::name_base(&self.plan.guest, recorded, overlay, base, recorded.home.as_deref())?;
        if let Some(overlay) = &self.disks[index].overlay {
            overlay.remove()?;
        }
        (self.disks[index].overlay, self.disks[index].stale) = (None, false);
        Ok(())
    }

    /// Before the guest is touched, so that a destination that cannot be written to never reaches it.
    fn make_image(&mut self, index: usize) -> Result<()> {
        self.remove_image(index)?;
        let (disk, staging) = (&self.plan.disks[index], self.staging(index));
        let output = match self.plan.ways[index] {
            Way::File => Output::open(&disk.destination, &disk.place, &disk.format, &staging)?,
            Way::Content | Way::Callback => Output::prepare(
                &disk.destination,
                &disk.place,
                &disk.format,
                disk.size,
                disk.backing.as_ref(),
                disk.reuse,
                &staging,
            )?,
        };
        output.give_as(source(disk).0);
        self.disks[index].output = Some(output);
        // Known by its inode before it has its name.
        self.write_record(Mark::Begun)?;
        self.disks[index].output.as_mut().map_or(Ok(()), Output::publish)
    }

    fn merge_overlay(&mut self, index: usize, alive: bool) -> Result<()> {
        self.unnamed(index).merge(alive)?;
        let disk = &mut self.disks[index];
        (disk.unseen_snapshot, disk.stale) = (false, true);
        Ok(())
    }

    fn make_overlay(&mut self, index: usize) -> Result<()> {
        self.remove_overlay(index)?;
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
            shared: &self.ties.shared,
            backup: false,
            freeze: plan.freeze && !plan.paused,
            freeze_required: plan.freeze_required,
            // QEMU's transaction gives all disks one point in time by itself.
            pause_unfrozen: false,
            limit: plan.freeze_limit,
        };
        let held = self.ties.journal.hold();
        let fixed = window.run(|_deadline| plan.guest.snapshot(&xml))?;
        drop(held);
        self.fixed = Some(fixed);
        Ok(())
    }

    /// The names may have been given to other files since the plan was made.
    fn must_read_what_qemu_has(&self, index: usize) -> Result<()> {
        let (guest, planned) = (&self.plan.guest, &self.plan.disks[index]);
        let paths: Vec<_> = planned.layers.iter().map(|(path, _)| path.as_str()).collect();
        let what = format!("disk '{}' of domain '{}'", planned.target, guest.name());
        guest.must_have(&paths, &what)
    }

    fn clone_disk(&mut self, index: usize) -> Result<()> {
        self.must_read_what_qemu_has(index)?;
        let before = self.disks.iter().fold((0, 0), |(done, total), disk| {
            (done + disk.progress.0, total + disk.progress.1)
        });
        let disk = &mut self.disks[index];
        let planned = &self.plan.disks[index];
        let (source, shown) = (source(planned), planned.destination.shown());
        let mut watch = cloning::watch(&self.ties.shared, before, &mut disk.progress);
        match (self.plan.ways[index], &mut disk.output) {
            (Way::Callback, output) => {
                let destination = planned.destination.as_written();
                let callback = cloning::of_caller(self.plan.clone_callback.as_ref(), destination)?;
                let result = callback(source.0, destination);
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
                if planned.format == "qcow2" {
                    let backing = planned.backing.as_ref();
                    let backing = backing.map(|backing| (backing.path.as_str(), backing.format.as_str()));
                    image::name_backing(file, backing, planned.destination.as_written())?;
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
        for (index, (planned, disk)) in self.plan.disks.iter().zip(&self.disks).enumerate() {
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
            self.must_read_what_qemu_has(index)?;
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
        self.ties.shared.facts(|facts| facts.forget(target));
        self.device(index).commit(None, None)?;
        self.disks[index].commit = Tracked::found(true);
        Ok(())
    }

    fn throttle(&mut self, index: usize) -> Result<()> {
        let rates = self.disks[index].commit.rates().unwrap_or_default();
        let device = self.plan.guest.get_block_device(&self.plan.disks[index].target);
        if self.disks[index].brake.look(&device)? {
            self.write_record(self.ties.journal.mark())?;
        }
        let (guest, target) = (&self.plan.guest, &self.plan.disks[index].target);
        let tightened = self.disks[index].brake.tighten(guest, target, rates);
        self.tell_throttle();
        tightened?;
        self.disks[index].commit.watch_anew();
        Ok(())
    }

    fn unthrottle(&mut self, index: usize) -> Result<()> {
        self.disks[index].brake.release()?;
        self.tell_throttle();
        self.write_record(self.ties.journal.mark())
    }

    /// The tightest of the disks'.
    fn tell_throttle(&self) {
        let limits = self.disks.iter().map(|disk| disk.brake.limit());
        let limit = limits.filter(|limit| *limit > 0).min().unwrap_or(0);
        self.ties.shared.publish(|progress| progress.guest_write_limit = limit);
    }

    // Telling.
}

/// Path and format of the guest's own image. A disk without is refused beforehand.
fn source(disk: &PlannedDisk) -> (&str, &str) {
    disk.source
        .as_ref()
        .map_or(("", ""), |(path, format)| (path.as_str(), format.as_str()))
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
        seen.mark == Mark::Fixed
    }

    fn begin(plan: Plan, claim: &Claim<'_>, shared: Arc<Shared>) -> Result<Self> {
        let disks = plan.disks.iter().map(|disk| {
            RecordedDisk::new(&disk.target, &disk.destination, &disk.format).with_home(&plan.guest, source(disk).0)
        });
        let disks = disks.collect::<Result<Vec<_>>>()?;
        let details = Details {
            request: plan.request.clone(),
            fixed: None,
            disks: vec![DiskDetails::default(); plan.disks.len()],
        };
        let record = Record::new(Kind::Snapshot, plan.method, disks, &details)?;
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
        // The mark is written behind the clones and their check.
        engine.verified = record.mark == Mark::Fixed;
        engine.left_frozen = record.live && record.mark == Mark::Fixing && engine.plan.freeze && !engine.plan.paused;
        let config = guest.get_config(false)?;
        let chains = engine.classify(&config);
        for (index, (recorded, known)) in record.disks.iter().zip(details.disks).enumerate() {
            engine.find_disk(index, recorded, known, &record);
            let found = config.disk(&recorded.target).and_then(|disk| disk.mirror.as_ref());
            let disk = &mut engine.disks[index];
            let commits = found.is_some_and(|mirror| mirror.job == "active-commit");
            disk.commit = Tracked::found(commits && chains[index] == Chain::Overlay);
            disk.stale = chains[index] == Chain::Source && record.mark == Mark::Begun;
            let is_before = matches!(record.mark, Mark::Begun | Mark::Fixing) && record.back.is_none();
            let is_made = engine.disks[index].overlay.is_some();
            engine.disks[index].unseen_snapshot = is_before || is_made && engine.unnamed(index).is_open()?;
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

    fn observe(&mut self, last: &Observed) -> Result<Observed> {
        let mut alive = self.plan.guest.get_power_state()? != State::Off;
        let mut chains = Ok(Vec::new());
        if alive {
            chains = self.observe_disks();
            if chains.is_err() {
                // A guest that goes away between two calls makes the second one fail.
                alive = self.plan.guest.get_power_state()? != State::Off;
            }
        }
        let off = !alive && !self.plan.guest.is_active()?;
        if !alive {
            for disk in &mut self.disks {
                disk.commit.lost_domain();
                disk.brake.forget();
            }
            // What it would start from, or has been started from.
            chains = match self.plan.guest.get_config(off) {
                Ok(config) => Ok(self.classify(&config)),
                Err(error) if error.code() == ErrorCode::NoDomain => {
                    Ok(last.disks.iter().map(|disk| disk.chain).collect())
                }
                Err(error) => Err(error),
            };
        }
        let chains = self.look_above(chains?, alive, off)?;
        let disks = self.disks.iter().zip(chains).map(|(disk, chain)| SeenDisk {
            chain,
            overlay: match disk.overlay {
                None => Image::Missing,
                Some(_) if disk.stale => Image::Half,
                Some(_) => Image::Made,
            },
            destination: Image::of(disk.output.as_ref()),
            cloned: disk.cloned,
            commit: disk.commit.commit_job(disk.brake.can_be_tightened()),
            throttled: disk.brake.is_on(),
        });
        Ok(Observed {
            alive,
            off,
            thawed: !self.left_frozen,
            mark: self.ties.journal.mark(),
            fixed: self.fixed.is_some(),
            verified: self.verified,
            finish: self.plan.auto_finish || self.ties.shared.requests().finish,
            disks: disks.collect(),
            ..at_start(&self.plan)
        })
    }

    fn perform(&mut self, step: Step, seen: &Observed) -> Result<()> {
        match step {
            Step::WriteRecord(mark) => self.write_record(mark),
            Step::MakeImage(index) => self.make_image(index),
            Step::MakeOverlay(index) => self.make_overlay(index),
            Step::Thaw => {
                self.thawed = self.plan.guest.thaw_left()?;
                self.left_frozen = false;
                Ok(())
            }
            Step::FixPoint => {
                let fixed = self.fix_point();
                for disk in &mut self.disks {
                    disk.unseen_snapshot = fixed.is_err();
                }
                fixed
            }
            Step::MergeOverlay(index) => self.merge_overlay(index, seen.alive),
            Step::Clone(index) => self.clone_disk(index).map_err(|error| {
                let (target, name) = (&self.plan.disks[index].target, self.plan.guest.name());
                let message = format!("disk '{target}' of domain '{name}': {}", error.message());
                Error::new(error.code(), message)
            }),
            Step::Verify => self.verify(),
            Step::StartCommit(index) => self.start_commit(index),
            Step::PivotCommit(index) => {
                self.ties.journal.note_pivot(index)?;
                self.device(index).pivot()?;
                self.disks[index].commit.ask(End::Pivot);
                Ok(())
            }
            Step::CommitOffline(index) => {
                let overlay = &self.disks[index].overlay_path;
                let record = self.ties.journal.read();
                let recorded = record.disk(index)?;
                let base = source(&self.plan.disks[index]);
                offline::commit(&self.plan.guest, recorded, overlay, base, recorded.home.as_deref())
            }
            Step::AbortCommit(index) => {
                self.device(index).abort_job()?;
                self.disks[index].commit.give_up("commit");
                Ok(())
            }
            Step::Throttle(index) => self.throttle(index),
            Step::Unthrottle(index) => self.unthrottle(index),
            Step::RemoveOverlay(index) => self.remove_overlay(index),
            Step::RemoveImage(index) => self.remove_image(index),
            Step::RemoveRecord => self.remove_record(),
            Step::AwaitJobs | Step::AwaitFinish | Step::Fail(_) | Step::Done => Ok(()),
        }
    }

    fn turn_back(&mut self) {
        // A commit that failed is tried once more.
        for disk in self.disks.iter_mut().filter(|disk| disk.commit.failure().is_some()) {
            disk.commit = Tracked::default();
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        let name = self.plan.guest.name();
        let disk = |index: usize| format!("disk '{}' of domain '{name}'", self.plan.disks[index].target);
        match failure {
            Failure::DomainGone => Error::new(
                ErrorCode::DomainState,
                format!(
                    "domain '{name}' was shut off, destroyed or restarted during the operation; start again when it runs"
                ),
            ),
            Failure::Restarted => Error::new(
                ErrorCode::DomainState,
                format!(
                    "domain '{name}' was restarted during the operation and runs on overlays with what it wrote since; let \
                     recover bring it back to its own images (livedisk recover)"
                ),
            ),
            Failure::Commit(index) => {
                let reason = self.disks[index].commit.failure();
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

    fn bytes(&self) -> (u64, u64) {
        self.disks.iter().fold((0, 0), |(done, total), disk| {
            (
                done + disk.progress.0 + disk.commit.done,
                total + disk.progress.1 + disk.commit.total,
            )
        })
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
            elapsed: self.ties.shared.began().elapsed(),
            full_disks: 0,
        })
    }

    fn thawed(&self) -> u32 {
        self.thawed
    }
}
