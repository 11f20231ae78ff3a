// SPDX-License-Identifier: LGPL-2.1-or-later
//! The freeze window. Between the freeze request and the thaw there is exactly one thing: the call that fixes the
//! point in time. Everything else was prepared before, and the thaw runs on every way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use super::types::Consistency;
use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::{Quiet, State};

/// Between two attempts to thaw a guest whose agent does not answer.
const THAW_AGAIN: Duration = Duration::from_secs(1);
/// How long the agent is given for such an attempt, in seconds.
const THAW_PATIENCE: u32 = 5;

/// What the window is to do around the fixing call.
pub(super) struct Window<'a> {
    pub(super) guest: &'a Arc<Guest>,
    pub(super) freeze: bool,
    pub(super) freeze_required: bool,
    /// Several mirrors end one by one: if no file system is frozen around them, the vCPUs are paused instead.
    pub(super) pause_unfrozen: bool,
    pub(super) limit: Duration,
}

/// A point in time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    pub(super) at: SystemTime,
    pub(super) freeze: Duration,
    pub(super) pause: Duration,
    pub(super) frozen: u32,
    pub(super) consistency: Consistency,
}

impl Window<'_> {
    /// Opens the window, runs `fix` in it with the deadline, closes it.
    pub(super) fn run(&self, fix: impl FnOnce(Instant) -> Result<()>) -> Result<Fixed> {
        if self.freeze {
            let seconds = self.limit.as_millis().div_ceil(1000);
            self.guest
                .set_agent_timeout(Some(u32::try_from(seconds).unwrap_or(u32::MAX)))?;
        }
        let guard = Guard::arm(self.guest, self.limit)?;
        let result = self.run_guarded(&guard, fix);
        drop(guard);
        if self.freeze {
            // libvirt's default; there is no call that tells what it was before.
            if let Err(error) = self.guest.set_agent_timeout(None) {
                log::warn!("{error}");
            }
        }
        result
    }

    fn run_guarded(&self, guard: &Guard, fix: impl FnOnce(Instant) -> Result<()>) -> Result<Fixed> {
        let deadline = Instant::now() + self.limit;
        let opened = Instant::now();
        let mut frozen = 0;
        if self.freeze {
            guard.frozen.store(true, Ordering::SeqCst);
            match self.guest.freeze_filesystems() {
                Ok(count) => frozen = count,
                Err(error) if self.freeze_required || guard.expired() || Instant::now() >= deadline => {
                    return Err(freeze_failed(&error, self.limit, Instant::now() >= deadline));
                }
                Err(error) => {
                    guard.thaw();
                    log::warn!("{error}; going on without, the snapshot will be crash-consistent");
                }
            }
        }
        let mut pause = Duration::ZERO;
        let mut paused_at = None;
        if self.pause_unfrozen && frozen == 0 {
            guard.paused.store(true, Ordering::SeqCst);
            paused_at = Some(Instant::now());
            self.guest.pause()?;
        }
        fix(deadline)?;
        let at = SystemTime::now();
        let in_time = !guard.expired();
        if let Some(paused_at) = paused_at {
            self.guest.resume()?;
            guard.paused.store(false, Ordering::SeqCst);
            pause = paused_at.elapsed();
        }
        let mut freeze = Duration::ZERO;
        let mut consistency = Consistency::Crash;
        if guard.frozen.load(Ordering::SeqCst) {
            let thawed = guard.thaw();
            freeze = opened.elapsed();
            if !in_time {
                return Err(limit_passed(self.guest, self.limit));
            }
            // Fewer thawed than frozen: something else thawed the rest, perhaps before the point in time.
            let whole = thawed.is_some_and(|thawed| thawed >= frozen);
            if frozen > 0 && whole && freeze <= self.limit && !guard.expired() {
                consistency = Consistency::Filesystem;
            } else {
                log::warn!(
                    "domain '{}': {frozen} file systems were frozen and {thawed:?} thawed after {freeze:?} \
                     (limit {:?}): the snapshot counts as crash-consistent",
                    self.guest.name(),
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

fn freeze_failed(error: &Error, limit: Duration, late: bool) -> Error {
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

/// Undoes freeze and pause on every way out: an early return, a panic, and, in a thread of its own, the limit.
struct Guard {
    guest: Arc<Guest>,
    frozen: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    expired: Arc<AtomicBool>,
    watch: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Guard {
    fn arm(guest: &Arc<Guest>, limit: Duration) -> Result<Self> {
        let mut guard = Self {
            guest: Arc::clone(guest),
            frozen: Arc::default(),
            paused: Arc::default(),
            expired: Arc::default(),
            watch: None,
        };
        let (sender, receiver) = channel();
        let (guest, frozen, paused, expired) = (
            Arc::clone(guest),
            Arc::clone(&guard.frozen),
            Arc::clone(&guard.paused),
            Arc::clone(&guard.expired),
        );
        let thread = thread::Builder::new()
            .name("livedisk-limit".into())
            .spawn(move || {
                let _quiet = Quiet::new();
                if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    expired.store(true, Ordering::SeqCst);
                    if paused.load(Ordering::SeqCst) {
                        log_failure(guest.resume());
                    }
                    if frozen.load(Ordering::SeqCst) {
                        log_failure(guest.thaw_filesystems().map(drop));
                    }
                }
            })
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot start a thread: {error}")))?;
        guard.watch = Some((sender, thread));
        Ok(guard)
    }

    fn expired(&self) -> bool {
        self.expired.load(Ordering::SeqCst)
    }

    /// Thaws; `None` where nobody answered and the thaw is being repeated until it is certain.
    fn thaw(&self) -> Option<u32> {
        self.frozen.store(false, Ordering::SeqCst);
        match self.guest.thaw_filesystems() {
            Ok(count) => Some(count),
            Err(error) => {
                log::error!("{error}; trying again until it is certain");
                keep_thawing(&self.guest);
                None
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Also after a freeze that failed: the request may have reached the agent and be carried out later.
        if self.paused.load(Ordering::SeqCst) {
            log_failure(self.guest.resume());
        }
        if self.frozen.load(Ordering::SeqCst) {
            self.thaw();
        }
        if let Some((sender, thread)) = self.watch.take() {
            drop(sender);
            // A thread that panicked has nothing left to do.
            let _ = thread.join();
        }
    }
}

fn log_failure(result: Result<()>) {
    if let Err(error) = result {
        log::error!("{error}");
    }
}

/// A guest whose agent hangs may freeze when it wakes, long after the request: only a thaw that was answered is certain.
fn keep_thawing(guest: &Arc<Guest>) {
    let guest = Arc::clone(guest);
    let spawned = thread::Builder::new().name("livedisk-thaw".into()).spawn(move || {
        let _quiet = Quiet::new();
        loop {
            if matches!(guest.get_power_state(), Ok(State::Off)) {
                return;
            }
            log_failure(guest.set_agent_timeout(Some(THAW_PATIENCE)));
            if guest.thaw_filesystems().is_ok() {
                log_failure(guest.set_agent_timeout(None));
                log::info!("domain '{}' is thawed", guest.name());
                return;
            }
            if let Err(error) = guest.reconnect() {
                log::debug!("{error}");
            }
            thread::sleep(THAW_AGAIN);
        }
    });
    if let Err(error) = spawned {
        log::error!("cannot start a thread to thaw again: {error}");
    }
}
