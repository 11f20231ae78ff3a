// SPDX-License-Identifier: LGPL-2.1-or-later
//! The library's side: one guard for each connection URI, started when it is first needed.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::{Answer, MESSAGE_SIZE, Question, What, find};
use crate::driver::{Guest, Host, Stopped};
use crate::error::{Error, ErrorCode, Result};

/// How long the guard may take to answer; it asks its libvirt before.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is watched over, and what may become of it without a guard.
const FREEZE: [&str; 2] = ["freeze", "the guest stays frozen"];
const DEFINITION: [&str; 2] = ["definition", "the domain stays undefined until it is recovered"];

static GUARDS: Mutex<BTreeMap<String, Arc<Guard>>> = Mutex::new(BTreeMap::new());

/// A window or a definition that the guard watches, until this is dropped.
pub(crate) struct Armed {
    guard: Arc<Guard>,
    window: u64,
}

/// LIVEDISK_GUARD_REQUIRED, set to anything but 0.
fn is_required() -> bool {
    std::env::var_os("LIVEDISK_GUARD_REQUIRED").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Starts the guard of this host, before anything else is. That there is none fails where one is required.
pub(crate) fn prepare(host: &Host) -> Result<()> {
    let uri = host.uri();
    match ask(uri, || connect(uri)) {
        Err(reason) if is_required() => Err(cannot_guard(FREEZE, &reason)),
        Err(reason) => {
            log::debug!("{reason}");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// The guard is ready when this returns: from then on it lets the guest go when we are gone, or when the limit passes.
/// That there is none is a warning where none is required.
pub(crate) fn arm(guest: &Guest, stopped: Stopped, limit: Duration) -> Result<Option<Armed>> {
    let question = || What::Arm {
        uuid: guest.uuid().to_owned(),
        id: guest.id(),
        limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        stopped,
    };
    watch(guest, FREEZE, question)
}

/// The guard is ready when this returns: from then on it gives back what this operation has saved and taken away, when we are
/// gone. That there is none is a warning where none is required.
pub(crate) fn keep(guest: &Guest, operation: &str) -> Result<Option<Armed>> {
    let question = || What::Keep {
        operation: operation.to_owned(),
    };
    watch(guest, DEFINITION, question)
}

fn watch(guest: &Guest, what: [&str; 2], question: impl Fn() -> What) -> Result<Option<Armed>> {
    match ask(guest.host().uri(), question) {
        Ok((guard, window)) => Ok(Some(Armed { guard, window })),
        Err(reason) if is_required() => Err(cannot_guard(what, &reason)),
        Err(reason) => {
            log::warn!("domain '{}': {}", guest.name(), cannot_guard(what, &reason));
            Ok(None)
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let cleared = self.guard.send(&Question {
            number: 0,
            what: What::Clear { window: self.window },
        });
        if let Err(error) = cleared {
            log::warn!("the guard ended while it was needed: {error}");
        }
    }
}

fn connect(uri: &str) -> What {
    What::Connect {
        version: crate::VERSION.to_owned(),
        uri: uri.to_owned(),
    }
}

fn cannot_guard([what, risk]: [&str; 2], reason: &str) -> Error {
    Error::new(
        ErrorCode::Freeze,
        format!("no guard watches over the {what}: {reason}; if this process dies, {risk}"),
    )
}

enum Failure {
    /// The guard cannot do it.
    Refused(String),
    /// There is no guard any more.
    Gone(String),
}

impl Failure {
    fn reason(self) -> String {
        match self {
            Self::Refused(reason) | Self::Gone(reason) => reason,
        }
    }
}

/// Asks the guard of this URI, a new one where there is none or where it has gone.
fn ask(uri: &str, question: impl Fn() -> What) -> std::result::Result<(Arc<Guard>, u64), String> {
    let mut guards = lock(&GUARDS);
    if let Some(guard) = guards.get(uri) {
        match guard.ask(question()) {
            Ok(number) => return Ok((Arc::clone(guard), number)),
            Err(Failure::Refused(reason)) => return Err(reason),
            Err(Failure::Gone(reason)) => log::info!("starting another guard: {reason}"),
        }
        guards.remove(uri);
    }
    let guard = Arc::new(Guard::start(uri)?);
    let number = guard.ask(question()).map_err(Failure::reason)?;
    guards.insert(uri.to_owned(), Arc::clone(&guard));
    Ok((guard, number))
}

struct Guard {
    /// Keeps messages apart, and closes when we are gone, however that comes.
    socket: OwnedFd,
    /// The last question's number.
    asked: Mutex<u64>,
}

impl Guard {
    fn start(uri: &str) -> std::result::Result<Self, String> {
        let program = find::program()?;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| format!("cannot make a socket: {error}"))?;
        // Without anything that needs a fork this is posix_spawn. The process ends as soon as it has started the real
        // guard, which so is no child of the caller's.
        let mut child = Command::new(&program)
            .arg(std::process::id().to_string())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start '{}': {error}", program.display()))?;
        let guard = Self {
            socket,
            asked: Mutex::new(0),
        };
        let answer = guard.ask(connect(uri));
        if answer.is_err() {
            // It has ended by itself, or is no guard and never would.
            let _ = child.kill();
        }
        // A caller that ignores SIGCHLD has it reaped already.
        let _ = child.wait();
        answer
            .map(|_| guard)
            .map_err(|failure| format!("'{}': {}", program.display(), failure.reason()))
    }

    /// The question's number, once the answer is that it is so.
    fn ask(&self, what: What) -> std::result::Result<u64, Failure> {
        let mut asked = lock(&self.asked);
        *asked += 1;
        let number = *asked;
        let gone = |error: Errno| Failure::Gone(format!("the guard is gone: {error}"));
        self.send(&Question { number, what }).map_err(gone)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.receive(deadline).map_err(gone)?;
            match answer {
                Answer { number: other, .. } if other != number => {}
                Answer { refused: None, .. } => return Ok(number),
                Answer { refused: Some(why), .. } => return Err(Failure::Refused(why)),
            }
        }
    }

    fn send(&self, question: &Question) -> std::result::Result<(), Errno> {
        let text = serde_json::to_vec(question).map_err(|_| Errno::INVAL)?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        retry_on_intr(|| send(&self.socket, &text, flags)).map(drop)
    }

    fn receive(&self, deadline: Instant) -> std::result::Result<Answer, Errno> {
        let mut text = vec![0; MESSAGE_SIZE];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
            let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut watched, Some(&timeout)) {
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
                Ok(0) => return Err(Errno::TIMEDOUT),
                Ok(_) => {}
            }
            let (_, length) = retry_on_intr(|| recv(&self.socket, text.as_mut_slice(), RecvFlags::DONTWAIT))?;
            if length == 0 {
                return Err(Errno::CONNRESET);
            }
            return serde_json::from_slice(&text[..length]).map_err(|_| Errno::BADMSG);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
