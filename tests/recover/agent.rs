// SPDX-License-Identifier: LGPL-2.1-or-later
//! The process that is killed: this very program, run with the test `agent` alone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use livedisk::{CloneMethod, Connection, EventLoop, Method, MigrateOptions, Phase, SnapshotOptions};

use crate::moving::to;
use crate::support::bed::Bed;
use crate::support::{await_phase, disk, snapshot};
use crate::{migration, snapshot_method};

/// What the process to be killed does, in words of its environment.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    pub domain: &'a str,
    pub target: &'a str,
    /// `mirror`, `backup`, `rebase` or `quiet`: a snapshot; `clone` or `copy`: a migration.
    pub what: &'a str,
    pub bandwidth: u64,
    pub finish: bool,
}

pub const MIRROR: Work<'static> = Work {
    domain: "a",
    target: "vdb",
    what: "mirror",
    bandwidth: 0,
    finish: false,
};

pub struct Agent(pub Child);

impl Agent {
    pub fn start(bed: &Bed, work: Work<'_>, destination: &Path) -> Self {
        Self::start_at(bed, work, destination, None)
    }

    /// With `go` it says that it is waiting, and begins as soon as there is such a file.
    pub fn start_at(bed: &Bed, work: Work<'_>, destination: &Path, go: Option<&Path>) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "agent::agent",
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("AGENT_URI", &bed.uri)
            .env("AGENT_DOMAIN", work.domain)
            .env("AGENT_TARGET", work.target)
            .env("AGENT_WHAT", work.what)
            .env("AGENT_BANDWIDTH", work.bandwidth.to_string())
            .env("AGENT_FINISH", work.finish.to_string())
            .env("AGENT_DESTINATION", destination)
            .envs(go.map(|go| ("AGENT_GO", go)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn says(&mut self, word: &str) {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        for line in lines {
            let line = line.unwrap();
            assert!(!line.starts_with("error"), "{line}");
            if line.ends_with(word) {
                return;
            }
        }
        panic!("the agent ended before it said '{word}'");
    }

    /// What came of its beginning: `begun`, or `error` with a reason.
    pub fn first_word(&mut self) -> String {
        let mut lines = BufReader::new(self.0.stdout.as_mut().unwrap())
            .lines()
            .map(Result::unwrap);
        lines
            .find(|line| line == "begun" || line.starts_with("error"))
            .unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(self) {}
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what `Agent` runs.
#[test]
#[ignore = "run by the tests of this file"]
fn agent() {
    let value = |name: &str| std::env::var(format!("AGENT_{name}")).unwrap();
    let connection = Connection::open(Some(&value("URI")), EventLoop::Own).unwrap();
    let (domain, target, destination) = (value("DOMAIN"), value("TARGET"), value("DESTINATION"));
    let bandwidth = value("BANDWIDTH").parse().unwrap();
    let what = value("WHAT");
    if let Some(go) = std::env::var_os("AGENT_GO") {
        println!("\nwaiting");
        while !Path::new(&go).exists() {
            std::hint::spin_loop();
        }
    }
    let started = match what.as_str() {
        "called-snapshot" => {
            let options = SnapshotOptions {
                method: Method::Clone,
                clone: CloneMethod::Callback,
                clone_callback: Some(Arc::new(never_cloned)),
                ..snapshot(vec![disk(&target, &destination, "raw")])
            };
            connection.start_live_snapshot(&domain, &options)
        }
        "called-migration" => {
            let options = MigrateOptions {
                clone: CloneMethod::Callback,
                clone_callback: Some(Arc::new(never_cloned)),
                ..to(&target, Path::new(&destination))
            };
            connection.migrate_disk(&domain, &options)
        }
        "mirror" | "backup" | "quiet" | "rebase" => {
            let options = SnapshotOptions {
                method: snapshot_method(&what),
                clone: CloneMethod::Copy,
                bandwidth,
                ..snapshot(vec![disk(&target, &destination, "qcow2")])
            };
            connection.start_live_snapshot(&domain, &options)
        }
        _ => connection.migrate_disk(&domain, &migration(&what, &target, Path::new(&destination), bandwidth)),
    };
    let operation = match started {
        Ok(operation) => operation,
        Err(error) => {
            println!("\nerror {error}");
            return;
        }
    };
    println!("\nbegun");
    if value("FINISH") == "true" {
        await_phase(&operation, Phase::Ready);
        println!("finishing");
        println!("{:?}", operation.finish(None));
    }
    loop {
        let progress = operation.poll(None);
        if progress.phase == Phase::Copying && progress.bytes_done > 0 {
            println!("copying");
        }
        println!("{:?}", progress.phase);
    }
}

/// A caller's function that begins and does not end.
fn never_cloned(_: &str, destination: &str) -> i32 {
    fs::write(destination, "half\n").unwrap();
    println!("\ncloning");
    loop {
        thread::park();
    }
}
