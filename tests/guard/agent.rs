// SPDX-License-Identifier: LGPL-2.1-or-later
//! The agent is a process of its own: this program again, as the test `agent`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{Connection, EventLoop, Method, Operation, Phase, Quiesce, SnapshotOptions};

use crate::support::bed::{Bed, run};
use crate::support::{PATIENCE, disk, guards_of, snapshot};

// The agent.

/// Obeys a line at a time: `start DOMAIN METHOD QUIESCE LIMIT_MS DESTINATION...` (answered at READY), `finish`, `opening`
/// (how many milliseconds the connection took).
#[test]
#[ignore = "the other tests start it"]
fn agent() {
    let uri = std::env::var("LIVEDISK_TEST_AGENT").unwrap();
    log::set_boxed_logger(Box::new(Warnings)).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let began = Instant::now();
    let connection = Connection::open(Some(&uri), EventLoop::Own).unwrap();
    let opening = began.elapsed();
    let mut operations = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["start", domain, method, quiesce, limit, ref destinations @ ..] => {
                start(&connection, domain, method, quiesce, limit, destinations).map(|operation| {
                    operations.push(operation);
                    "ready".to_owned()
                })
            }
            ["finish"] => {
                // All at once.
                let reports: Result<Vec<_>, _> = thread::scope(|scope| {
                    let finish = |operation: Operation| scope.spawn(move || operation.finish(None));
                    let finishing: Vec<_> = operations.drain(..).map(finish).collect();
                    finishing
                        .into_iter()
                        .map(|finishing| finishing.join().unwrap())
                        .collect()
                });
                reports.map(|reports| format!("done {reports:?}"))
            }
            ["opening"] => Ok(opening.as_millis().to_string()),
            _ => panic!("{line}"),
        };
        println!(
            "agent: {}",
            answer.unwrap_or_else(|error| format!("error {:?} {error}", error.code()))
        );
    }
}

fn start(
    connection: &Connection,
    domain: &str,
    method: &str,
    quiesce: &str,
    limit: &str,
    destinations: &[&str],
) -> livedisk::Result<Operation> {
    let disks = ["vda", "vdb"]
        .iter()
        .zip(destinations)
        .map(|(target, destination)| disk(target, destination, "raw"));
    let options = SnapshotOptions {
        method: if method == "backup" {
            Method::Backup
        } else {
            Method::Mirror
        },
        quiesce: if quiesce == "require" {
            Quiesce::Require
        } else {
            Quiesce::None
        },
        freeze_limit: Duration::from_millis(limit.parse().unwrap()),
        ..snapshot(disks.collect())
    };
    let operation = connection.start_live_snapshot(domain, &options)?;
    while !matches!(operation.poll(None).phase, Phase::Ready | Phase::Done | Phase::Failed) {}
    Ok(operation)
}

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("livedisk")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            println!("agent: log {}", record.args());
        }
    }

    fn flush(&self) {}
}

/// That process, from outside.
pub struct Agent {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    pub logged: Vec<String>,
}

impl Agent {
    pub fn new(bed: &Bed, environment: &[(&str, &str)]) -> Self {
        Self::through(Command::new(std::env::current_exe().unwrap()), &bed.uri, environment)
    }

    pub fn through(mut command: Command, uri: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = command
            .args(["--exact", "agent::agent", "--ignored", "--nocapture"])
            .env("LIVEDISK_TEST_AGENT", uri)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let (sender, answers) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once("agent: ") {
                    // Nobody may listen any more.
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            answers,
            logged: Vec::new(),
        }
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    /// The answer to that line; what was logged meanwhile is kept.
    pub fn answer(&mut self) -> String {
        loop {
            let line = self.answers.recv_timeout(PATIENCE).unwrap();
            match line.strip_prefix("log ") {
                Some(logged) => self.logged.push(logged.to_owned()),
                None => return line,
            }
        }
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// A whole snapshot.
    pub fn snapshot(&mut self, domain: &str, image: &Path) -> String {
        let image = image.to_str().unwrap();
        assert_eq!(
            self.ask(&format!("start {domain} mirror require 10000 {image}")),
            "ready"
        );
        self.ask("finish")
    }

    pub fn signal(&self, signal: &str) {
        run("bash", &["-c", &format!("kill -{signal} {}", self.child.id())]);
    }

    pub fn kill(&mut self) -> Instant {
        self.child.kill().unwrap();
        let killed = Instant::now();
        self.child.wait().unwrap();
        killed
    }

    pub fn guards(&self) -> Vec<u32> {
        guards_of(self.child.id())
    }

    pub fn guard(&self) -> u32 {
        let guards = self.guards();
        assert_eq!(guards.len(), 1, "{guards:?}");
        guards[0]
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
