// SPDX-License-Identifier: LGPL-2.1-or-later
//! The freeze window. Between the freeze request and the thaw there is exactly one thing: the call that fixes the
//! point in time. Everything else was prepared before, and the thaw runs on every way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::driver::{Guest, Stopped};
use crate::error::{Error, ErrorCode, Result};
use crate::guard;
use crate::libvirt::{Quiet, State};
use crate::operation::course::faults;
use crate::operation::course::shared::Shared;
use crate::operation::types::{Consistency, Method, Report, Warnings};

pub(in crate::operation) const FROZEN: Stopped = Stopped {
    frozen: true,
    paused: false,
};
const PAUSED: Stopped = Stopped {
    frozen: false,
    paused: true,
};

/// One for each way to stop a guest: a thaw may have to be repeated long after the window, when who pauses the guest is
/// somebody else.
struct Guards {
    freeze: Option<Arc<guard::Armed>>,
    pause: Option<guard::Armed>,
}

/// What the window is to do around the fixing call.
pub(in crate::operation) struct Window<'a> {
    pub(in crate::operation) guest: &'a Arc<Guest>,
    pub(in crate::operation) shared: &'a Arc<Shared>,
    pub(in crate::operation) freeze: bool,
    pub(in crate::operation) freeze_required: bool,
    /// Several mirrors end one by one: if no file system is frozen around them, the vCPUs are paused instead.
    pub(in crate::operation) pause_unfrozen: bool,
    /// The fixing call begins a backup. QEMU's jobs run some time before libvirt's call returns, and then the guest can
    /// be thawed.
    pub(in crate::operation) backup: bool,
    pub(in crate::operation) limit: Duration,
}

/// A point in time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::operation) struct Fixed {
    pub(in crate::operation) at: SystemTime,
    pub(in crate::operation) freeze: Duration,
    pub(in crate::operation) pause: Duration,
    pub(in crate::operation) frozen: u32,
    pub(in crate::operation) consistency: Consistency,
}

impl Fixed {
    /// Of a snapshot that is complete.
    pub(in crate::operation) fn report(
        self,
        method: Method,
        disks: usize,
        bytes_copied: u64,
        shared: &Shared,
    ) -> Report {
        Report {
            method,
            consistency: self.consistency,
            filesystems_frozen: self.frozen,
            disk_count: u32::try_from(disks).unwrap_or(u32::MAX),
            point_in_time: self.at,
            freeze: self.freeze,
            pause: self.pause,
            bytes_copied,
            elapsed: shared.began().elapsed(),
            full_disks: 0,
            warnings: Warnings::default(),
        }
    }
}

impl Window<'_> {
    /// Opens the window, runs `fix` in it with the deadline, closes it.
    pub(in crate::operation) fn run(&self, fix: impl FnOnce(Instant) -> Result<()>) -> Result<Fixed> {
        let _turn = self.guest.host().stop_one();
        let guards = self.guards()?;
        if self.freeze {
            let seconds = self.limit.as_millis().div_ceil(1000);
            self.guest
                .set_agent_timeout(Some(u32::try_from(seconds).unwrap_or(u32::MAX)))?;
        }
        let watch = Watch::start(self, guards)?;
        let result = self.run_watched(&watch, fix);
        let undo = Arc::clone(&watch.undo);
        drop(watch);
        // A thaw that is being repeated has a timeout of its own: to reset it would wait for the attempt under way, and
        // leave the next one without any.
        let thawing = undo.thaw.get().is_some_and(|thaw| thaw.count.is_none());
        if self.freeze && !thawing {
            // libvirt's default; there is no call that returns what it was before.
            if let Err(error) = self.guest.set_agent_timeout(None) {
                log::warn!("{error}");
            }
        }
        result
    }

    /// None where there is nothing to guard, or no guard.
    fn guards(&self) -> Result<Guards> {
        let arm = |stopped: Stopped| guard::arm(self.guest, stopped, self.limit);
        let (frozen, paused) = (self.freeze.then_some(FROZEN), self.pause_unfrozen.then_some(PAUSED));
        Ok(Guards {
            freeze: frozen.map(arm).transpose()?.flatten().map(Arc::new),
            pause: paused.map(arm).transpose()?.flatten(),
        })
    }

    fn run_watched(&self, watch: &Watch, fix: impl FnOnce(Instant) -> Result<()>) -> Result<Fixed> {
        let undo = &watch.undo;
        let opened = Instant::now();
        let deadline = opened + self.limit;
        let mut frozen = 0;
        if self.freeze {
            undo.frozen.store(true, Ordering::SeqCst);
            match self.guest.fs_freeze() {
                Ok(count) => frozen = count,
                Err(error) => {
                    undo.thaw();
                    let late = Instant::now() >= deadline;
                    if self.freeze_required || late {
                        return Err(freeze_failed(&error, self.limit, late));
                    }
                    log::warn!("{error}; continuing without a freeze, so the snapshot will be crash-consistent");
                }
            }
        }
        let mut pause = Duration::ZERO;
        let mut paused_at = None;
        // One that somebody else paused is theirs to resume.
        if self.pause_unfrozen && frozen == 0 && self.guest.get_power_state()? != State::Paused {
            undo.paused.store(true, Ordering::SeqCst);
            paused_at = Some(Instant::now());
            self.guest.pause()?;
        }
        // Every write that was acknowledged to the guest by now is in the image; with a freeze nothing is written until the thaw.
        let at = SystemTime::now();
        faults::point("frozen in", &format_args!("FixPoint"));
        fix(deadline)?;
        faults::point("fixed in", &format_args!("FixPoint"));
        let late = undo.expired.load(Ordering::SeqCst);
        if let Some(paused_at) = paused_at {
            self.guest.resume()?;
            undo.paused.store(false, Ordering::SeqCst);
            pause = paused_at.elapsed();
        }
        let mut freeze = Duration::ZERO;
        let mut consistency = Consistency::Crash;
        if self.freeze {
            let thaw = undo.thaw();
            if late {
                return Err(limit_passed(self.guest, self.limit));
            }
            freeze = thaw.answered.duration_since(opened);
            // Fewer thawed than frozen: something else thawed the rest, perhaps before the point in time.
            let whole = thaw.count.is_some_and(|count| count >= frozen);
            if frozen > 0 && whole && freeze <= self.limit {
                consistency = Consistency::Filesystem;
            } else {
                log::warn!(
                    "domain '{}': {frozen} file systems were frozen and {:?} thawed after {freeze:?} (limit {:?}): \
                     the snapshot counts as crash-consistent",
                    self.guest.name(),
                    thaw.count,
                    self.limit
                );
            }
        }
        Ok(Fixed {
            at,
            freeze,
            pause,
            frozen,
            consistency,
        })
    }
}

/// Its thaw would be waited for in vain, and its jobs with it.
pub(in crate::operation) fn domain_gone(guest: &Guest) -> Error {
    Error::new(
        ErrorCode::DomainState,
        format!(
            "domain '{}' was shut off, destroyed or restarted during the operation; start again when it runs",
            guest.name()
        ),
    )
}

pub(in crate::operation) fn freeze_failed(error: &Error, limit: Duration, late: bool) -> Error {
    let late = if late {
        format!(" within the limit of {limit:?}")
    } else {
        String::new()
    };
    Error::new(
        ErrorCode::Freeze,
        format!(
            "{}{late}; see the guest agent and its freeze hooks in the guest, then try again",
            error.message()
        ),
    )
    .with_libvirt_code(error.libvirt_code())
}

fn limit_passed(guest: &Guest, limit: Duration) -> Error {
    Error::new(
        ErrorCode::Freeze,
        format!(
            "the file systems of domain '{}' were frozen for the whole limit of {limit:?} before the point in time was \
             fixed; they were thawed; try again when the guest is less busy, or with a higher limit",
            guest.name()
        ),
    )
}

/// What a thaw came to.
#[derive(Debug, Clone, Copy)]
struct Thaw {
    answered: Instant,
    /// `None` where the agent did not answer and the thaw is being repeated until it is certain.
    count: Option<u32>,
}

/// What is to be undone, by whichever thread comes to it first.
struct Undo {
    guest: Arc<Guest>,
    /// Given up when nothing is left to be undone.
    guard: Option<Arc<guard::Armed>>,
    frozen: AtomicBool,
    paused: AtomicBool,
    expired: AtomicBool,
    /// The window is closed and the watch may end.
    closed: AtomicBool,
    thaw: OnceLock<Thaw>,
}

impl Undo {
    /// Thaws, once: also after a freeze that failed, because the request may have reached the agent all the same.
    fn thaw(&self) -> Thaw {
        *self.thaw.get_or_init(|| {
            let count = match self.guest.fs_thaw() {
                Ok(count) => Some(count),
                Err(error) => {
                    log::error!("{error}; trying again until it is certain");
                    keep_thawing(&self.guest, self.guard.clone());
                    None
                }
            };
            Thaw {
                answered: Instant::now(),
                count,
            }
        })
    }

    fn all(&self) {
        if self.paused.swap(false, Ordering::SeqCst)
            && let Err(error) = self.guest.resume()
        {
            log::error!("{error}");
        }
        if self.frozen.load(Ordering::SeqCst) {
            self.thaw();
        }
    }
}

/// Undoes freeze and pause on every way out of the window: an early return, a panic, and, in a thread of its own, the
/// limit. The guard does where this process cannot.
struct Watch {
    undo: Arc<Undo>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Given up last.
    _pause_guard: Option<guard::Armed>,
}

impl Watch {
    fn start(window: &Window<'_>, guards: Guards) -> Result<Self> {
        let undo = Arc::new(Undo {
            guest: Arc::clone(window.guest),
            guard: guards.freeze,
            frozen: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            thaw: OnceLock::new(),
        });
        let shared = Arc::clone(window.shared);
        shared.facts(|facts| facts.backup_jobs.clear());
        let deadline = Instant::now() + window.limit;
        let thread = watch(&undo, &shared, deadline, window.backup)?;
        Ok(Self {
            undo,
            shared,
            thread: Some(thread),
            _pause_guard: guards.pause,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.undo.all();
        self.undo.closed.store(true, Ordering::SeqCst);
        self.shared.look_again();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to do.
            let _ = thread.join();
        }
    }
}

/// Undoes everything when the limit has passed, and already when a backup's point in time is fixed.
fn watch(undo: &Arc<Undo>, shared: &Arc<Shared>, deadline: Instant, backup: bool) -> Result<JoinHandle<()>> {
    let (undo, shared) = (Arc::clone(undo), Arc::clone(shared));
    spawn("livedisk-window", move || {
        let closed = || undo.closed.load(Ordering::SeqCst);
        let fixed = shared.await_window(deadline, |facts| closed() || (backup && !facts.backup_jobs.is_empty()));
        if !closed() {
            undo.expired.store(!fixed, Ordering::SeqCst);
            undo.all();
        }
    })
}

pub(in crate::operation) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let quietly = move || {
        let _quiet = Quiet::new();
        work();
    };
    thread::Builder::new()
        .name(name.into())
        .spawn(quietly)
        .map_err(|error| Error::new(ErrorCode::Io, format!("cannot start a thread: {error}")))
}

/// Over a connection of its own, because others would wait for each attempt.
pub(in crate::operation) fn keep_thawing(guest: &Arc<Guest>, guard: Option<Arc<guard::Armed>>) {
    let shared = Arc::clone(guest);
    let spawned = spawn("livedisk-thaw", move || {
        let guest = shared.apart().map(Arc::new).unwrap_or_else(|error| {
            log::debug!("{error}; thawing over the shared connection");
            shared
        });
        guest.let_go_until_certain(FROZEN);
        drop(guard);
    });
    if let Err(error) = spawned {
        log::error!("{error}; the guest is not thawed again");
    }
}
