// SPDX-License-Identifier: LGPL-2.1-or-later
//! QEMU's monitor, which takes anybody's commands while libvirtd is dead.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, String>;

/// Ends a job of this kind and dismisses it while libvirtd is dead; `pid_file` is libvirtd's. Whoever starts libvirtd again has
/// one that never hears of it.
pub fn end_unseen(pid_file: &Path, domain: &str, kind: &str, end: &str) -> Result<()> {
    let text = std::fs::read_to_string(pid_file).map_err(|error| error.to_string())?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{}: '{text}'", pid_file.display()))?;
    kill_process(pid, Signal::KILL).map_err(|error| error.to_string())?;
    let mut monitor = Monitor::of_guest(&pid_file.with_file_name("lib/qemu"), domain)?;
    let jobs = monitor.jobs()?;
    let job = jobs.iter().find(|job| job["type"] == kind);
    let id = &job.ok_or_else(|| format!("there is no {kind}"))?["id"];
    monitor.command(&json!({ "execute": end, "arguments": { "id": id } }))?;
    while monitor
        .jobs()?
        .iter()
        .any(|job| &job["id"] == id && job["status"] != "concluded")
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    monitor
        .command(&json!({ "execute": "job-dismiss", "arguments": { "id": id } }))
        .map(drop)
}

struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// `state` is where libvirt keeps its guests' sockets.
    fn of_guest(state: &Path, domain: &str) -> Result<Self> {
        let entries = std::fs::read_dir(state).map_err(|error| format!("{}: {error}", state.display()))?;
        let sockets = entries.flatten().map(|entry| entry.path());
        let mut sockets = sockets
            .filter(|path| path.to_string_lossy().ends_with(&format!("-{domain}")))
            .map(|path| path.join("monitor.sock"));
        // Those of instances that are gone refuse.
        let stream = sockets.find_map(|socket| UnixStream::connect(socket).ok());
        let stream = stream.ok_or("nothing answers at the monitor's socket")?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .map_err(|error| error.to_string())?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.command(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }

    fn jobs(&mut self) -> Result<Vec<Value>> {
        match self.command(&json!({ "execute": "query-jobs" }))? {
            Value::Array(jobs) => Ok(jobs),
            other => Err(format!("query-jobs: {other}")),
        }
    }

    fn command(&mut self, command: &Value) -> Result<Value> {
        let failed = |error: std::io::Error| format!("{command}: {error}");
        writeln!(self.0.get_mut(), "{command}").map_err(failed)?;
        // Past the greeting and events.
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).map_err(failed)? == 0 {
                return Err(format!("{command}: QEMU hung up"));
            }
            let mut answer: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
            if !answer["error"].is_null() {
                return Err(format!("{command}: {}", answer["error"]));
            }
            if !answer["return"].is_null() {
                return Ok(answer["return"].take());
            }
        }
    }
}
