// SPDX-License-Identifier: LGPL-2.1-or-later
//! The livedisk command as a process that is held, killed and waited for.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Result;

const AT: &str = "livedisk: at ";

pub struct Agent {
    child: Child,
    lines: Receiver<String>,
    /// What it wrote to standard error.
    pub said: Vec<String>,
}

/// Sends a signal to a process that may have ended.
pub fn signal(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

impl Agent {
    /// `stops` are the points at which it stops, or `list`.
    pub fn start(mut command: Command, stops: &[&str]) -> Result<Self> {
        let mut child = command
            .env("LIVEDISK_STOP_AT", stops.join(";"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let (sender, lines) = channel();
        let stderr = child.stderr.take().ok_or("no standard error")?;
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            said: Vec::new(),
        })
    }

    /// False: it ended without passing there.
    pub fn await_stop(&mut self, point: &str, limit: Duration) -> Result<bool> {
        let wanted = format!("{AT}{point}");
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = line == wanted;
                    self.said.push(line);
                    if found {
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.with_last_words(format!("not at '{point}' within {limit:?}")));
                }
            }
        }
        while !self.is_stopped() {
            if Instant::now() > deadline {
                return Err(format!("does not stop at '{point}'"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    /// `what`, and what it said last.
    pub fn with_last_words(&self, what: String) -> String {
        let last = self.said.len().saturating_sub(25);
        format!("{what}\n      {}", self.said[last..].join("\n      "))
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    pub fn signal(&self, signal: Signal) {
        self::signal(self.child.id(), signal);
    }

    /// If it has one already.
    pub fn kill_guard(&self) {
        let own = format!("livedisk-guard\0{}\0detached\0", self.child.id());
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let is_own = |command_line: &[u8]| String::from_utf8_lossy(command_line).ends_with(&own);
        for process in processes {
            let command_line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let number = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let (true, Some(number)) = (is_own(&command_line), number) {
                self::signal(number, Signal::KILL);
            }
        }
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.child.try_wait().map_err(|error| error.to_string())?;
            if status.is_some() || Instant::now() > deadline {
                // What is still in the pipe; a guard may hold it open.
                while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(50)) {
                    self.said.push(line);
                }
                return status.ok_or_else(|| format!("did not end within {limit:?}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The points that it passed.
    pub fn points(&self) -> Vec<String> {
        let points = self.said.iter().filter_map(|line| line.strip_prefix(AT));
        points.map(str::to_owned).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // One that was not certain yet would try for an hour to reach the bed, which goes.
        self.kill_guard();
    }
}
