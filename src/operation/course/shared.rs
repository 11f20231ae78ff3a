// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the caller's threads, the worker and the event loop share: requests in, facts from events, progress out.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{EventfdFlags, eventfd};

use crate::driver::{Guest, is_backup_job};
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::{BlockJobStatus, Event, Subscription};
use crate::operation::types::{Phase, Progress, Report};

/// What events have reported, kept until the worker asks.
#[derive(Debug, Default)]
pub(in crate::operation) struct Facts {
    /// QEMU's jobs that ended, by name, with the reason if they failed.
    qemu_ended: HashMap<String, Option<String>>,
    /// The last word of libvirt on each disk's job.
    block_jobs: HashMap<String, BlockJobStatus>,
    /// The jobs that QEMU runs for a backup: once there are any, its point in time is fixed.
    pub(in crate::operation) backup_jobs: Vec<String>,
    /// Images (`vda[4]`) that have grown beyond what was set for them.
    pub(in crate::operation) thresholds: HashSet<String>,
    /// The guest's QEMU ended.
    pub(in crate::operation) gone: bool,
}

impl Facts {
    /// How QEMU says that the disk's job of this kind (`copy`, `commit`) ended; `Some(Some(reason))` is a failure.
    pub(in crate::operation) fn qemu_end(&self, kind: &str, target: &str) -> Option<&Option<String>> {
        let prefix = format!("{kind}-{target}-");
        self.qemu_ended
            .iter()
            .find(|(job, _)| job.starts_with(&prefix))
            .map(|(_, end)| end)
    }

    pub(in crate::operation) fn block_job(&self, target: &str) -> Option<BlockJobStatus> {
        self.block_jobs.get(target).copied()
    }

    /// A new job starts on the disk: what was said of the old one is void.
    pub(in crate::operation) fn forget(&mut self, target: &str) {
        let of_disk = [format!("copy-{target}-"), format!("commit-{target}-")];
        self.qemu_ended
            .retain(|job, _| !of_disk.iter().any(|prefix| job.starts_with(prefix)));
        self.block_jobs.remove(target);
    }
}

/// What the caller wants.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::operation) struct Requests {
    pub(in crate::operation) finish: bool,
    pub(in crate::operation) cancel: bool,
    pub(in crate::operation) detach: bool,
}

/// How an operation ended.
#[derive(Debug, Clone)]
pub(in crate::operation) struct Outcome {
    pub(in crate::operation) result: Result<Report>,
    /// Nothing of it is left. A complete operation leaves its images.
    pub(in crate::operation) taken_back: bool,
    /// File systems thawed that a dead process had left frozen.
    pub(in crate::operation) thawed: u32,
}

#[derive(Debug)]
struct State {
    facts: Facts,
    requests: Requests,
    /// Counts everything that the worker has to look at.
    news: u64,
    progress: Progress,
    outcome: Option<Outcome>,
    /// Counts what a poll can show, and what polls have shown.
    published: u64,
    shown: u64,
}

#[derive(Debug)]
pub(in crate::operation) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable while `shown < published`.
    fd: OwnedFd,
    began: Instant,
}

impl Shared {
    /// Of an operation that began when `started` was.
    pub(in crate::operation) fn new(started: SystemTime) -> Result<Self> {
        let now = Instant::now();
        let since = started.elapsed().unwrap_or_default();
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot make an event descriptor: {error}")))?;
        Ok(Self {
            state: Mutex::new(State {
                facts: Facts::default(),
                requests: Requests::default(),
                news: 0,
                progress: Progress {
                    phase: Phase::Preparing,
                    step: 0,
                    step_count: 0,
                    bytes_done: 0,
                    bytes_total: 0,
                    bytes_per_second: 0,
                    elapsed: Duration::ZERO,
                    guest_write_limit: 0,
                },
                outcome: None,
                published: 0,
                shown: 0,
            }),
            changed: Condvar::new(),
            fd,
            began: now.checked_sub(since).unwrap_or(now),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `waiting` holds, up to the deadline; `None` waits for ever.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
        waiting: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        while waiting(&state) {
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state
    }

    pub(in crate::operation) fn began(&self) -> Instant {
        self.began
    }

    pub(in crate::operation) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The guest's events come here as long as the subscription lives; `None` without an event loop.
    pub(in crate::operation) fn subscribe(self: &Arc<Self>, guest: &Guest) -> Result<Option<Subscription>> {
        let shared = Arc::clone(self);
        guest.subscribe(Arc::new(move |event| shared.deliver(event)))
    }

    // From the event loop and the caller.

    pub(in crate::operation) fn deliver(&self, event: Event) {
        let mut state = self.lock();
        match event {
            Event::BlockJob { target, status } => {
                state.facts.block_jobs.insert(target, status);
            }
            Event::QemuJobEnded { job, error } => {
                state.facts.qemu_ended.insert(job, error);
            }
            Event::QemuJobRunning { job } => {
                let jobs = &mut state.facts.backup_jobs;
                if is_backup_job(&job) && !jobs.contains(&job) {
                    jobs.push(job);
                }
            }
            Event::BackupEnded => {}
            Event::BlockThreshold { image } => drop(state.facts.thresholds.insert(image)),
            Event::Lifecycle { ended } => state.facts.gone |= ended,
        }
        state.news += 1;
        self.changed.notify_all();
    }

    pub(in crate::operation) fn request(&self, set: impl FnOnce(&mut Requests)) {
        let mut state = self.lock();
        set(&mut state.requests);
        state.news += 1;
        self.changed.notify_all();
    }

    /// The progress, as soon as there is one that no poll has shown, at the latest at the deadline.
    pub(in crate::operation) fn poll(&self, deadline: Option<Instant>) -> Progress {
        let state = self.lock();
        let mut state = self.wait(state, deadline, |state| {
            state.shown == state.published && !state.progress.phase.is_final()
        });
        state.shown = state.published;
        // Not readable any more; an empty one says EAGAIN, which is as good.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        let mut progress = state.progress;
        if !progress.phase.is_final() {
            progress.elapsed = self.began.elapsed();
        }
        progress
    }

    /// The outcome, or `None` when the deadline passes first.
    pub(in crate::operation) fn outcome(&self, deadline: Option<Instant>) -> Option<Outcome> {
        let state = self.lock();
        self.wait(state, deadline, |state| state.outcome.is_none())
            .outcome
            .clone()
    }

    // From the worker.

    pub(in crate::operation) fn requests(&self) -> Requests {
        self.lock().requests
    }

    pub(in crate::operation) fn facts<T>(&self, read: impl FnOnce(&mut Facts) -> T) -> T {
        read(&mut self.lock().facts)
    }

    /// A number to pass to [`Shared::await_news`], taken before looking at the world.
    pub(in crate::operation) fn news(&self) -> u64 {
        self.lock().news
    }

    /// Waits for an event or a request that came after `known`.
    pub(in crate::operation) fn await_news(&self, known: u64, at_most: Duration) {
        let state = self.lock();
        drop(self.wait(state, Some(Instant::now() + at_most), |state| state.news == known));
    }

    /// Waits until `done` says so of the facts, whatever is requested; false when the deadline came first.
    pub(in crate::operation) fn await_window(&self, deadline: Instant, done: impl Fn(&Facts) -> bool) -> bool {
        let state = self.lock();
        let state = self.wait(state, Some(deadline), |state| !done(&state.facts));
        done(&state.facts)
    }

    /// Something that the worker has to look at.
    pub(in crate::operation) fn wake(&self) {
        self.lock().news += 1;
        self.changed.notify_all();
    }

    /// What somebody waits for has changed elsewhere.
    pub(in crate::operation) fn look_again(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done` says so of the facts, or a cancel, or the deadline.
    pub(in crate::operation) fn await_facts(&self, deadline: Instant, done: impl Fn(&Facts) -> bool) {
        let state = self.lock();
        drop(self.wait(state, Some(deadline), |state| {
            !done(&state.facts) && !state.requests.cancel
        }));
    }

    pub(in crate::operation) fn publish(&self, update: impl FnOnce(&mut Progress)) {
        let mut state = self.lock();
        let before = state.progress;
        update(&mut state.progress);
        if state.progress != before {
            state.progress.elapsed = self.began.elapsed();
            self.announce(state);
        }
    }

    pub(in crate::operation) fn conclude(&self, phase: Phase, outcome: Outcome) {
        let mut state = self.lock();
        state.progress.phase = phase;
        if phase == Phase::Done {
            state.progress.step = state.progress.step_count;
        }
        state.progress.elapsed = self.began.elapsed();
        state.outcome = Some(outcome);
        self.announce(state);
    }

    fn announce(&self, mut state: MutexGuard<'_, State>) {
        state.published += 1;
        // Only a full counter could refuse, and then it is readable anyway.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        drop(state);
        self.changed.notify_all();
    }
}
