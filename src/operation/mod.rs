// SPDX-License-Identifier: LGPL-2.1-or-later
//! Operations on running guests.
//!
//! An operation is a loop of *observe*, *next* and *step*: see [`course`] for the loop, [`snapshot`] and [`migrate`] for the
//! procedures, `parts` for what they are made of.
#![forbid(unsafe_code)]

mod checkpoints;
mod course;
mod crash;
mod disks;
mod freeze;
mod migrate;
mod notice;
mod ownership;
mod parts;
mod plan;
mod snapshot;
mod state;
mod types;

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

pub(crate) use checkpoints::delete_checkpoint;
pub(crate) use crash::cancel::cancel;
pub(crate) use crash::definitions::give_back_definition;
pub use crash::recover::Recovery;
pub(crate) use crash::recover::recover;
pub use crash::recovered::{Recovered, Settlement};
pub(crate) use crash::status::operations;
pub use crash::status::{DiskStatus, OperationStatus};
pub use disks::DomainDisk;
pub(crate) use disks::disks;
pub(crate) use freeze::{freeze, thaw};
pub use types::{
    CloneCallback, CloneMethod, Consistency, Method, MigrateOptions, Phase, Progress, Quiesce, Report, SnapshotDisk,
    SnapshotOptions, Warnings,
};

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::guard;
use crate::libvirt::xml::DomainXml;
use crate::libvirt::{Quiet, State};
use course::procedure::{Procedure, words};
use course::run::{Course, Run};
use course::shared::{Outcome, Shared};
use course::worker::Worker;
use crash::resume::resume;
use notice::remarks;
use ownership::claim::Claim;
use ownership::journal::Journal;
use ownership::record::Record;
use plan::planned::{Asked, Planned};
use state::Goal;

/// An operation on a running guest. It runs by itself; this handle watches and controls it, from any thread.
///
/// Dropping it detaches: nothing is pivoted and nothing aborted. QEMU's jobs continue, and the operation's record
/// stays with the domain, so that it can be attached to or recovered.
#[derive(Debug)]
pub struct Operation {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
    domain: String,
    plan: Vec<String>,
    remarks: Vec<String>,
}

/// What it comes to in threads and handles.
struct Draft {
    shared: Arc<Shared>,
    domain: String,
    plan: Vec<String>,
    remarks: Vec<String>,
}

impl Draft {
    fn new(domain: &str, plan: Vec<String>, remarks: Vec<String>, started: SystemTime) -> Result<Self> {
        let shared = Shared::new(started)?;
        let step_count = u32::try_from(plan.len()).unwrap_or(u32::MAX);
        shared.publish(|progress| progress.step_count = step_count);
        Ok(Self::of(domain, Arc::new(shared), plan, remarks))
    }

    fn of(domain: &str, shared: Arc<Shared>, plan: Vec<String>, remarks: Vec<String>) -> Self {
        for remark in &remarks {
            log::warn!("domain '{domain}': {remark}");
        }
        Self {
            shared,
            domain: domain.to_owned(),
            plan,
            remarks,
        }
    }

    /// Reports the plan, does nothing of it, and is done.
    fn dry_run(self, method: Method, disk_count: u32) -> Operation {
        for (number, line) in self.plan.iter().enumerate() {
            log::info!("plan for domain '{}', step {}: {line}", self.domain, number + 1);
        }
        let report = Report {
            method,
            consistency: Consistency::Crash,
            filesystems_frozen: 0,
            disk_count,
            point_in_time: SystemTime::UNIX_EPOCH,
            freeze: Duration::ZERO,
            pause: Duration::ZERO,
            bytes_copied: 0,
            elapsed: Duration::ZERO,
            full_disks: 0,
            warnings: Warnings::default(),
        };
        let outcome = Outcome {
            result: Ok(report),
            taken_back: true,
            thawed: 0,
        };
        self.shared.conclude(Phase::Done, outcome);
        self.into_operation(None)
    }

    /// The claim is given up by the thread, so that the caller does not wait for that.
    fn start(self, course: Box<dyn Run>, claim: Option<Claim<Arc<Guest>>>) -> Result<Operation> {
        let worker = Worker::new(course, Arc::clone(&self.shared));
        let in_thread = Arc::clone(&self.shared);
        let worker = thread::Builder::new()
            .name("livedisk-worker".into())
            .spawn(move || {
                let _quiet = Quiet::new();
                drop(claim);
                if catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                    let error = Error::new(
                        ErrorCode::Internal,
                        "livedisk panicked; the guest was thawed; what is left is named in the domain's metadata",
                    );
                    let outcome = Outcome {
                        result: Err(error),
                        taken_back: false,
                        thawed: 0,
                    };
                    in_thread.conclude(Phase::Failed, outcome);
                }
            })
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot start a thread: {error}")))?;
        Ok(self.into_operation(Some(worker)))
    }

    fn into_operation(self, worker: Option<JoinHandle<()>>) -> Operation {
        Operation {
            shared: self.shared,
            worker,
            domain: self.domain,
            plan: self.plan,
            remarks: self.remarks,
        }
    }
}

/// The claim to the domain, if it is as it was when the plan was made: no other operation, and the disks where they
/// were. `migrated` as in [`plan::preflight::must_be_free`].
fn claim(
    guest: &Arc<Guest>,
    before: &DomainXml,
    targets: &[&str],
    migrated: Option<&str>,
) -> Result<Claim<Arc<Guest>>> {
    let claim = Claim::take(Arc::clone(guest))?;
    let now = guest.get_config(false)?;
    plan::preflight::must_be_free(guest, &now, migrated)?;
    let chain = |config: &DomainXml, target| config.disk(target).map(|disk| disk.chain.clone());
    if targets
        .iter()
        .all(|target| chain(&now, target) == chain(before, target))
    {
        return Ok(claim);
    }
    Err(Error::new(
        ErrorCode::Busy,
        format!(
            "another program changed the disks of domain '{}' just now; try again",
            guest.name()
        ),
    ))
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    // A time too far to be named is for ever.
    Instant::now().checked_add(timeout?)
}

impl Operation {
    /// Checks everything, then starts.
    pub(crate) fn start_live_snapshot(guest: Guest, options: &SnapshotOptions) -> Result<Self> {
        let guest = Arc::new(guest);
        let config = guest.get_config(false)?;
        let plan = snapshot::plan::Plan::new(&guest, &config, options)?;
        match plan.method {
            Method::Backup => Self::begin::<snapshot::backup::Engine>(plan, &config, None, options.dry_run),
            Method::Clone => Self::begin::<snapshot::clone::Engine>(plan, &config, None, options.dry_run),
            _ => Self::begin::<snapshot::mirror::Engine>(plan, &config, None, options.dry_run),
        }
    }

    /// Checks everything, then starts.
    pub(crate) fn migrate_disk(guest: Guest, options: &MigrateOptions) -> Result<Self> {
        let guest = Arc::new(guest);
        let config = guest.get_config(false)?;
        let plan = migrate::plan::Plan::new(&guest, &config, options)?;
        let migrated = Some(options.target.as_str());
        Self::begin::<migrate::Engine>(plan, &config, migrated, options.dry_run)
    }

    /// `before` is the definition that the plan was made from, `migrated` as in [`plan::preflight::must_be_free`].
    fn begin<P: Procedure>(
        plan: Planned<P::Request>,
        before: &DomainXml,
        migrated: Option<&str>,
        dry_run: bool,
    ) -> Result<Self> {
        let guest = Arc::clone(&plan.guest);
        let seen = P::at_start(&plan);
        let steps = words::<P>(&plan, &seen, Goal::Forward);
        let draft = Draft::new(guest.name(), steps, remarks(&plan.notices()), SystemTime::now())?;
        let targets = plan.targets();
        if dry_run {
            let disk_count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            return Ok(draft.dry_run(plan.method(), disk_count));
        }
        let claim = claim(&guest, before, &targets, migrated)?;
        let step_count = u32::try_from(draft.plan.len()).unwrap_or(u32::MAX);
        let course = Course::<P>::begin(plan, &claim, Arc::clone(&draft.shared), step_count)?;
        draft.start(Box::new(course), Some(claim))
    }

    /// Resumes the operation that has the disk, if no process runs it.
    pub(crate) fn attach(guest: Guest, target: &str) -> Result<Self> {
        let guest = Arc::new(guest);
        let name = guest.name();
        let claim = Claim::take(&*guest)?;
        let records: Vec<_> = Record::all(&guest)?.into_iter().collect::<Result<_>>()?;
        let has_disk = |record: &Record| record.disks.iter().any(|disk| disk.target == target);
        let record = records.into_iter().find(has_disk).ok_or_else(|| {
            Error::new(
                ErrorCode::NoOperation,
                format!(
                    "disk '{}' of domain '{name}' has no operation under way",
                    target.escape_debug()
                ),
            )
        })?;
        if !record.owner.is_dead() {
            return Err(plan::preflight::in_use(&guest, &record));
        }
        if guest.get_power_state()? == State::Off {
            return Err(Error::new(
                ErrorCode::DomainState,
                format!("domain '{name}' is off, so its operation cannot continue; let recover clean it up"),
            ));
        }
        guard::prepare(guest.host())?;
        let shared = Arc::new(Shared::new(record.started)?);
        let apart = plan::preflight::apart_if_in_use(&guest)?;
        let recorded = record.step_count;
        let journal = Journal::take_over(&apart, record, &claim)?;
        let mut course = resume(&apart, journal, &shared)?;
        course.look(Goal::Forward)?;
        let plan = course.words(Goal::Forward);
        let left = u32::try_from(plan.len()).unwrap_or(u32::MAX);
        shared.publish(|progress| {
            progress.step_count = recorded.max(left);
            progress.step = progress.step_count - left;
        });
        Draft::of(name, shared, plan, course.remarks()).start(course, None)
    }

    /// Waits until the phase changes or there is new progress, at most for `timeout` (`None`: for ever), and returns
    /// what the operation last saw. It makes no libvirt call. A final phase is returned at once.
    pub fn poll(&self, timeout: Option<Duration>) -> Progress {
        self.shared.poll(deadline(timeout))
    }

    /// Readable whenever a [`poll`](Self::poll) without waiting would show something new.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.fd()
    }

    /// Waits for READY if necessary, completes the operation and reports. Once done it gives the same report again.
    ///
    /// # Errors
    /// [`ErrorCode::Timeout`] when `timeout` passes first: the operation goes on towards its end, and `finish` may be
    /// called again. Else what made the operation fail, or [`ErrorCode::Cancelled`].
    pub fn finish(&self, timeout: Option<Duration>) -> Result<Report> {
        self.shared.request(|requests| requests.finish = true);
        match self.shared.outcome(deadline(timeout)) {
            Some(outcome) => outcome.result,
            None => Err(Error::new(
                ErrorCode::Timeout,
                format!(
                    "the operation on domain '{}' is not finished yet and continues; call finish again, or cancel",
                    self.domain
                ),
            )),
        }
    }

    /// Rolls the operation back and waits until that is done: jobs ended, guest thawed, disk chain and definition as
    /// before, files it made removed. It interrupts a waiting [`finish`](Self::finish). An operation that is cancelled
    /// or failed already is rolled back already.
    ///
    /// # Errors
    /// [`ErrorCode::NoOperation`] if it was complete before. Else what could not be rolled back.
    pub fn cancel(&self) -> Result<()> {
        self.shared.request(|requests| requests.cancel = true);
        match self.shared.outcome(None) {
            Some(Outcome { result: Ok(_), .. }) => Err(self.too_late()),
            Some(Outcome {
                result: Err(error),
                taken_back: false,
                ..
            }) => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks for what [`cancel`](Self::cancel) does, and returns at once. The phase shows when it is over, and
    /// [`finish`](Self::finish) reports how it ended.
    ///
    /// # Errors
    /// [`ErrorCode::NoOperation`] if it was complete before.
    pub fn request_cancel(&self) -> Result<()> {
        self.shared.request(|requests| requests.cancel = true);
        match self.shared.outcome(Some(Instant::now())) {
            Some(Outcome { result: Ok(_), .. }) => Err(self.too_late()),
            _ => Ok(()),
        }
    }

    fn too_late(&self) -> Error {
        Error::new(
            ErrorCode::NoOperation,
            format!(
                "the operation on domain '{}' was complete before it could be cancelled; its images are yours to remove",
                self.domain
            ),
        )
    }

    /// The steps, in words, as they were planned.
    pub fn plan(&self) -> &[String] {
        &self.plan
    }

    /// What is done otherwise than was asked for, and why, such as a disk that is copied whole although
    /// [`SnapshotOptions::since`] was asked for. The log has it too, as warnings.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.shared.request(|requests| requests.detach = true);
        if let Some(worker) = self.worker.take() {
            // It ends after the step it is in; in the freeze window that is after the thaw.
            let _ = worker.join();
        }
    }
}
