// SPDX-License-Identifier: LGPL-2.1-or-later
//! The guard's own process.

use std::collections::HashMap;
use std::io;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Pid, PidfdFlags, pidfd_open, setsid};
use rustix::stdio::stdin;

use super::{Answer, MESSAGE_SIZE, Question, What};
use crate::driver::{Guest, Host, Stopped};
use crate::error::Result;
use crate::libvirt::{EventLoop, ignore_requests_to_end, keep_descriptors};

/// Between two attempts to open the embedded driver's root.
const OPEN_AGAIN: Duration = Duration::from_millis(20);

/// Between two attempts to give a definition back, and how long libvirt may be away before that is given up: it is saved, and
/// recover finds it.
const GIVE_BACK_AGAIN: Duration = Duration::from_millis(250);
const GIVE_BACK_FOR: Duration = Duration::from_secs(600);
/// How long an agent takes at most that is about to end.
const ENDING: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

const USAGE: &str = "livedisk-guard: thaws a guest that a dead process left frozen; livedisk starts it";

/// Gives back the definition that this operation has taken away from libvirt.
type GiveBack = fn(&Arc<Host>, &str) -> Result<()>;

/// `livedisk-guard PID`, with a socket to that process as standard input.
pub(crate) fn main(give_back: GiveBack) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [agent] if agent.parse::<u32>().is_ok() => detach(agent),
        [agent, "detached"] => {
            Process::new(agent, give_back).run();
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Starts the guard anew, adopted by init, in a session of its own, with nothing open but the socket.
fn detach(agent: &str) -> io::Result<()> {
    keep_descriptors();
    ignore_requests_to_end();
    setsid()?;
    std::env::set_current_dir("/")?;
    Command::new(std::env::current_exe()?)
        .args([agent, "detached"])
        .spawn()?;
    Ok(())
}

/// A window that is armed.
struct Window {
    uuid: String,
    id: Option<u32>,
    stopped: Stopped,
    /// None where nothing can be done while the agent lives.
    deadline: Option<Instant>,
    /// None as long as there is no connection.
    guest: Option<Guest>,
}

struct Process {
    /// Readable when the agent has ended, also where a process that it forked keeps the socket open.
    agent: Option<OwnedFd>,
    uri: String,
    host: Option<Arc<Host>>,
    armed: HashMap<u64, Window>,
    /// The operations that have taken a definition away.
    kept: HashMap<u64, String>,
    give_back: GiveBack,
    releasing: Vec<JoinHandle<()>>,
}

impl Process {
    fn new(agent: &str, give_back: GiveBack) -> Self {
        let pid = agent.parse().ok().and_then(Pid::from_raw);
        Self {
            agent: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            uri: String::new(),
            host: None,
            armed: HashMap::new(),
            kept: HashMap::new(),
            give_back,
            releasing: Vec::new(),
        }
    }

    fn run(mut self) {
        loop {
            let deadline = self.armed.values().filter_map(|window| window.deadline).min();
            let agent_ended = self.wait(deadline);
            // Before the end is acted on: what was sent last may have been that the guest is thawed.
            let socket_closed = self.read_all();
            if agent_ended || socket_closed {
                break;
            }
            let now = Instant::now();
            let late = |window: &Window| window.deadline.is_some_and(|deadline| deadline <= now);
            let numbers: Vec<u64> = self
                .armed
                .iter()
                .filter(|(_, window)| late(window))
                .map(|(number, _)| *number)
                .collect();
            for window in numbers
                .iter()
                .filter_map(|number| self.armed.remove(number))
                .collect::<Vec<_>>()
            {
                self.let_go(window);
            }
        }
        self.release_all();
    }

    /// Until there is something to read, the agent has ended (true), or the deadline.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let socket = stdin();
        let mut watched = vec![PollFd::new(&socket, PollFlags::IN)];
        watched.extend(
            self.agent
                .as_ref()
                .map(|agent| PollFd::from_borrowed_fd(agent.as_fd(), PollFlags::IN)),
        );
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let count = poll(&mut watched, timeout.as_ref()).unwrap_or(0);
        count > 0 && watched.get(1).is_some_and(|agent| !agent.revents().is_empty())
    }

    /// True when the socket is closed.
    fn read_all(&mut self) -> bool {
        let mut text = vec![0; MESSAGE_SIZE];
        loop {
            match retry_on_intr(|| recv(stdin(), text.as_mut_slice(), RecvFlags::DONTWAIT)) {
                Err(Errno::AGAIN) => return false,
                Err(_) | Ok((_, 0)) => return true,
                Ok((_, length)) => match serde_json::from_slice(&text[..length]) {
                    Ok(question) => self.answer(question),
                    Err(_) => return true,
                },
            }
        }
    }

    fn answer(&mut self, question: Question) {
        let result = match question.what {
            What::Clear { window } => {
                self.armed.remove(&window);
                self.kept.remove(&window);
                return;
            }
            What::Keep { operation } => {
                self.kept.insert(question.number, operation);
                Ok(())
            }
            What::Connect { version, uri } => self.connect(&version, uri),
            What::Arm {
                uuid,
                id,
                limit_ms,
                stopped,
            } => {
                let window = Window {
                    uuid,
                    id,
                    stopped,
                    deadline: Instant::now().checked_add(Duration::from_millis(limit_ms)),
                    guest: None,
                };
                self.arm(question.number, window)
            }
        };
        let answer = Answer {
            number: question.number,
            refused: result.err(),
        };
        if let Ok(text) = serde_json::to_vec(&answer) {
            // Who does not listen any more is seen to be gone at the next read.
            let _ = retry_on_intr(|| send(stdin(), &text, SendFlags::NOSIGNAL));
        }
    }

    fn is_embedded(&self) -> bool {
        self.uri.starts_with("qemu:///embed")
    }

    fn connect(&mut self, version: &str, uri: String) -> std::result::Result<(), String> {
        if version != crate::VERSION {
            return Err(format!("it is version {}, the library {version}", crate::VERSION));
        }
        self.uri = uri;
        if self.host.is_none() && !self.is_embedded() {
            let host = Host::open(Some(&self.uri), EventLoop::None).map_err(|error| error.to_string())?;
            self.host = Some(host);
        }
        Ok(())
    }

    fn arm(&mut self, number: u64, mut window: Window) -> std::result::Result<(), String> {
        match &self.host {
            None => window.deadline = None,
            Some(host) => {
                // Once more where the daemon was restarted meanwhile.
                let found = host
                    .get_guest_by_uuid(&window.uuid)
                    .or_else(|_| host.get_guest_by_uuid(&window.uuid));
                let guest = found.map_err(|error| error.to_string())?;
                if guest.id() != window.id {
                    return Err(format!("domain '{}' is another instance", guest.name()));
                }
                window.guest = Some(guest);
            }
        }
        self.armed.insert(number, window);
        Ok(())
    }

    fn let_go(&mut self, window: Window) {
        if let Some(guest) = window.guest {
            self.releasing
                .push(thread::spawn(move || guest.let_go_until_certain(window.stopped)));
        }
    }

    /// The agent is gone.
    fn release_all(mut self) {
        if self.is_embedded() && !(self.armed.is_empty() && self.kept.is_empty()) {
            let host = self.open_embedded();
            for window in self.armed.values_mut() {
                window.guest = host
                    .get_guest_by_uuid(&window.uuid)
                    .ok()
                    .filter(|guest| guest.id() == window.id);
            }
            self.host = Some(host);
        }
        for (_, window) in std::mem::take(&mut self.armed) {
            self.let_go(window);
        }
        if let Some(host) = self.host.as_ref().filter(|_| !self.kept.is_empty()) {
            self.await_end();
            for (_, operation) in std::mem::take(&mut self.kept) {
                let (host, give_back) = (Arc::clone(host), self.give_back);
                self.releasing.push(thread::spawn(move || {
                    give_back_until_certain(&host, &operation, give_back)
                }));
            }
        }
        for releasing in self.releasing.drain(..) {
            // A thread that panicked is no reason to leave the others alone.
            let _ = releasing.join();
        }
        if let Some(host) = self.host.filter(|_| self.uri.starts_with("qemu:///embed")) {
            host.await_taking_up();
        }
    }

    /// The socket closes before the agent has ended, and as long as that lives its operations are its own.
    fn await_end(&self) {
        if let Some(agent) = &self.agent {
            let mut watched = [PollFd::from_borrowed_fd(agent.as_fd(), PollFlags::IN)];
            // It is certain to end, or it has made another program of itself.
            let _ = retry_on_intr(|| poll(&mut watched, Some(&ENDING)));
        }
    }

    /// Until no other process has the root.
    fn open_embedded(&self) -> Arc<Host> {
        loop {
            match Host::open(Some(&self.uri), EventLoop::Own) {
                Ok(host) => return host,
                Err(_) => thread::sleep(OPEN_AGAIN),
            }
        }
    }
}

fn give_back_until_certain(host: &Arc<Host>, operation: &str, give_back: GiveBack) {
    let began = Instant::now();
    while let Err(error) = give_back(host, operation) {
        log::debug!("{error}");
        if began.elapsed() > GIVE_BACK_FOR {
            return;
        }
        thread::sleep(GIVE_BACK_AGAIN);
    }
}
