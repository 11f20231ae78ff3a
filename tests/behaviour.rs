// SPDX-License-Identifier: LGPL-2.1-or-later
//! Runs every line of tests/behaviour/cases, which says what the words mean.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use livedisk::{
    CloneMethod, Connection, Consistency, Error, ErrorCode, EventLoop, Method, MigrateOptions, Operation, Phase,
    Quiesce, Report, SnapshotDisk, SnapshotOptions,
};
use support::bed::{Bed, run};
use support::{PATIENCE, await_phase, until};

const CASES: &str = include_str!("behaviour/cases");

enum End {
    Finish,
    Poll,
    Timeout,
    Cancel,
    Late,
}

/// What came of a call that succeeded.
#[derive(Debug, Default)]
struct Outcome {
    report: Option<Report>,
    /// Of a recovery.
    counts: HashMap<&'static str, u32>,
}

/// One line.
struct Case<'a> {
    bed: &'a Bed,
    /// Begun and dropped before the call.
    dropped: Option<&'a str>,
    call: &'a str,
    guest: &'a str,
    uri: &'a str,
    busy: bool,
    end: End,
    snapshot: SnapshotOptions,
    migrate: MigrateOptions,
}

fn method(name: &str) -> Method {
    match name {
        "auto" => Method::Auto,
        "backup" => Method::Backup,
        "mirror" => Method::Mirror,
        "rebase" => Method::Rebase,
        "clone" => Method::Clone,
        _ => panic!("unknown word: {name}"),
    }
}

fn code(name: &str) -> ErrorCode {
    match name {
        "INVALID_ARGUMENT" => ErrorCode::InvalidArgument,
        "NO_CONNECTION" => ErrorCode::NoConnection,
        "NO_DOMAIN" => ErrorCode::NoDomain,
        "NO_DISK" => ErrorCode::NoDisk,
        "BUSY" => ErrorCode::Busy,
        "UNSUPPORTED" => ErrorCode::Unsupported,
        "AGENT" => ErrorCode::Agent,
        "DESTINATION" => ErrorCode::Destination,
        "JOB_FAILED" => ErrorCode::JobFailed,
        "CANCELLED" => ErrorCode::Cancelled,
        "TIMEOUT" => ErrorCode::Timeout,
        "NO_OPERATION" => ErrorCode::NoOperation,
        "NO_CHECKPOINT" => ErrorCode::NoCheckpoint,
        _ => panic!("unknown word: {name}"),
    }
}

fn in_bed(bed: &Bed, name: &str) -> PathBuf {
    match name {
        "REL" => PathBuf::from("relative"),
        name => bed.path(&format!("behaviour-{name}")),
    }
}

/// Also where a link leads to nowhere.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn make(kind: &str, path: &Path) {
    match kind {
        "text" => fs::write(path, "dear\n"),
        "directory" => fs::create_dir(path),
        "link" => std::os::unix::fs::symlink("/no/such/file", path),
        "raw32M" => fs::File::create_new(path).and_then(|file| file.set_len(32 << 20)),
        _ => panic!("unknown word: {kind}"),
    }
    .unwrap();
}

fn must_copy(operation: &Operation) {
    until("it copies", || {
        operation.poll(Some(Duration::from_millis(100))).phase != Phase::Preparing
    });
    assert_eq!(operation.poll(Some(Duration::ZERO)).phase, Phase::Copying);
}

impl<'a> Case<'a> {
    fn new(bed: &'a Bed, calls: &'a str, guest: &'a str) -> Self {
        let (dropped, call) = calls
            .split_once('+')
            .map_or((None, calls), |(dropped, call)| (Some(dropped), call));
        Self {
            bed,
            dropped,
            call,
            guest,
            uri: "",
            busy: false,
            end: End::Finish,
            snapshot: SnapshotOptions::default(),
            migrate: MigrateOptions::default(),
        }
    }

    fn domain(&self) -> &'a str {
        match self.guest {
            "none" => "no-such-domain",
            number => self.bed.value(&format!("DOMAIN_{number}")),
        }
    }

    fn disk(&mut self, value: &str) {
        let mut parts = value.split(':');
        let mut next = || parts.next().map(str::to_owned);
        let target = next().unwrap();
        let destination = next().map_or(String::new(), |name| {
            in_bed(self.bed, &name).to_str().unwrap().to_owned()
        });
        let format = next();
        let flag = next();
        assert!(flag.as_deref().is_none_or(|flag| flag == "reuse_existing"), "{value}");
        self.migrate.target.clone_from(&target);
        self.migrate.destination.clone_from(&destination);
        self.migrate.format.clone_from(&format);
        self.snapshot.disks.push(SnapshotDisk {
            target,
            destination,
            format,
            reuse_existing: flag.is_some(),
            ..SnapshotDisk::default()
        });
    }

    fn flag(&mut self, name: &str) {
        let (snapshot, migrate) = (&mut self.snapshot, &mut self.migrate);
        *match (self.dropped.unwrap_or(self.call), name) {
            ("snapshot", "shallow") => &mut snapshot.shallow,
            ("snapshot", "auto_finish") => &mut snapshot.auto_finish,
            ("snapshot", "dry_run") => &mut snapshot.dry_run,
            ("snapshot", "verify") => &mut snapshot.verify,
            ("snapshot", "write_blocking") => &mut snapshot.write_blocking,
            ("snapshot", "full_if_needed") => &mut snapshot.full_if_needed,
            ("migrate", "auto_finish") => &mut migrate.auto_finish,
            ("migrate", "dry_run") => &mut migrate.dry_run,
            ("migrate", "verify") => &mut migrate.verify,
            ("migrate", "delete_source") => &mut migrate.delete_source,
            _ => panic!("unknown word: {name}"),
        } = true;
    }

    fn back_up(&self, value: &str) {
        let (name, image) = value.split_once(':').unwrap();
        let disk = SnapshotDisk {
            target: self.snapshot.disks[0].target.clone(),
            destination: in_bed(self.bed, image).to_str().unwrap().into(),
            ..SnapshotDisk::default()
        };
        let options = SnapshotOptions {
            disks: vec![disk],
            checkpoint: Some(name.into()),
            ..SnapshotOptions::default()
        };
        let operation = self
            .bed
            .connection
            .start_live_snapshot(self.domain(), &options)
            .unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
    }

    fn option(&mut self, word: &'a str) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "uri" => self.uri = value,
            "disk" => self.disk(value),
            "method" => {
                self.snapshot.method = method(value);
                self.migrate.method = method(value);
            }
            "quiesce" => {
                self.snapshot.quiesce = match value {
                    "prefer" => Quiesce::Prefer,
                    "require" => Quiesce::Require,
                    "none" => Quiesce::None,
                    _ => panic!("unknown word: {word}"),
                }
            }
            "clone" => {
                self.snapshot.clone = match value {
                    "auto" => CloneMethod::Auto,
                    "copy" => CloneMethod::Copy,
                    "callback" => CloneMethod::Callback,
                    _ => panic!("unknown word: {word}"),
                };
                self.migrate.clone = self.snapshot.clone;
            }
            "bandwidth" => {
                self.snapshot.bandwidth = value.parse().unwrap();
                self.migrate.bandwidth = self.snapshot.bandwidth;
            }
            "freeze_limit_ms" => self.snapshot.freeze_limit = Duration::from_millis(value.parse().unwrap()),
            "flags" => value.split(',').for_each(|name| self.flag(name)),
            "checkpoint" => self.snapshot.checkpoint = Some(value.into()),
            "since" => self.snapshot.since = Some(value.into()),
            "backing" => self.snapshot.disks[0].backing = Some(in_bed(self.bed, value).to_str().unwrap().into()),
            "before" => self.back_up(value),
            "callback" => {
                self.migrate.clone_callback = Some(match value {
                    "copy" => Arc::new(|source: &str, destination: &str| {
                        run("cp", &["--sparse=always", "--", source, destination]);
                        0
                    }),
                    "fail" => Arc::new(|_: &str, _: &str| 7),
                    _ => panic!("unknown word: {word}"),
                });
                self.snapshot.clone_callback.clone_from(&self.migrate.clone_callback);
            }
            "make" => {
                let (kind, name) = value.split_once(':').unwrap();
                make(kind, &in_bed(self.bed, name));
            }
            "busy" => self.busy = true,
            "end" => {
                self.end = match value {
                    "poll" => End::Poll,
                    "timeout" => End::Timeout,
                    "cancel" => End::Cancel,
                    "late" => End::Late,
                    _ => panic!("unknown word: {word}"),
                }
            }
            _ => panic!("unknown word: {word}"),
        }
    }

    /// A snapshot of the guest that lasts, and has begun.
    fn keep_busy(&self) -> Operation {
        let options = SnapshotOptions {
            bandwidth: 1 << 20,
            ..support::snapshot(vec![support::disk("vda", in_bed(self.bed, "busy"), "qcow2")])
        };
        let operation = self
            .bed
            .connection
            .start_live_snapshot(self.domain(), &options)
            .unwrap();
        must_copy(&operation);
        operation
    }

    fn start(&self, call: &str) -> Result<Operation, Error> {
        let connection = &self.bed.connection;
        match call {
            "snapshot" => connection.start_live_snapshot(self.domain(), &self.snapshot),
            "migrate" => connection.migrate_disk(self.domain(), &self.migrate),
            "attach" => connection.attach(self.domain(), &self.migrate.target),
            _ => panic!("unknown word: {call}"),
        }
    }

    fn call(&self) -> Result<Outcome, Error> {
        if self.call == "open" {
            return Connection::open(Some(self.uri), EventLoop::None).map(|_| Outcome::default());
        }
        let other = self.busy.then(|| self.keep_busy());
        if let Some(dropped) = self.dropped {
            must_copy(&self.start(dropped).unwrap());
        }
        let result = match self.call {
            "recover" => self.recover(),
            call => self
                .start(call)
                .and_then(|operation| self.end(&operation))
                .map(|report| Outcome {
                    report: Some(report),
                    ..Outcome::default()
                }),
        };
        if self.dropped.is_some() && !["attach", "recover"].contains(&self.call) {
            assert_eq!(self.recover().unwrap().counts["taken_back"], 1);
        }
        if let Some(other) = other {
            other.cancel().unwrap();
        }
        result
    }

    fn recover(&self) -> Result<Outcome, Error> {
        let recover = || self.bed.connection.recover(Some(self.domain()), false);
        let found = recover()?;
        let again = recover()?;
        assert_eq!(
            (again.domains(), again.completed(), again.taken_back(), again.failed()),
            (0, 0, 0, 0),
            "{again:?}"
        );
        Ok(Outcome {
            report: None,
            counts: HashMap::from([
                ("domains", found.domains()),
                ("thawed", found.thawed()),
                ("completed", found.completed()),
                ("taken_back", found.taken_back()),
                ("failed", found.failed()),
            ]),
        })
    }

    fn end(&self, operation: &Operation) -> Result<Report, Error> {
        match self.end {
            End::Timeout => {
                let result = operation.finish(Some(Duration::ZERO));
                operation.cancel().unwrap();
                return result;
            }
            End::Poll => await_phase(operation, Phase::Done),
            End::Cancel => {
                await_phase(operation, Phase::Ready);
                operation.cancel()?;
                assert_eq!(operation.poll(None).phase, Phase::Cancelled);
            }
            End::Finish | End::Late => {}
        }
        let report = operation.finish(Some(PATIENCE))?;
        assert_eq!(operation.finish(Some(Duration::ZERO))?, report);
        if matches!(self.end, End::Late) {
            operation.cancel()?;
        }
        Ok(report)
    }

    fn expect(&self, word: &str, outcome: &mut Outcome) {
        let (name, value) = word.split_once('=').unwrap();
        if let Some(count) = outcome.counts.remove(name) {
            return assert_eq!(count.to_string(), value, "{name}");
        }
        let report = || outcome.report.as_ref().unwrap();
        match name {
            "method" => assert_eq!(report().method, method(value)),
            "consistency" => assert_eq!(report().consistency.name(), value),
            "disks" => assert_eq!(report().disk_count.to_string(), value),
            "full" => assert_eq!(report().full_disks.to_string(), value),
            "forget" => self.bed.connection.delete_checkpoint(self.domain(), value).unwrap(),
            "frozen" => {
                assert!(["yes", "no"].contains(&value), "unknown word: {word}");
                assert_eq!(!report().freeze.is_zero(), value == "yes");
                assert_eq!(report().filesystems_frozen > 0, value == "yes");
            }
            "image" => {
                let (name, format) = value.split_once(':').unwrap();
                let path = in_bed(self.bed, name);
                let records = [path.to_str().unwrap(), "--format", format, "--json"];
                let found = run(self.bed.value("RECORDS"), &records);
                let found: serde_json::Value = serde_json::from_str(&found).unwrap();
                assert!(
                    report().consistency == Consistency::Crash || found["fs_clean"] == true,
                    "{found}"
                );
                fs::remove_file(path).unwrap();
            }
            "there" => assert!(exists(&in_bed(self.bed, value)), "{value} is gone"),
            "gone" => assert!(!exists(&in_bed(self.bed, value)), "{value} is there"),
            _ => panic!("unknown word: {word}"),
        }
    }
}

fn run_line(bed: &Bed, line: &str) {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    println!("{}", words.next().unwrap());
    let mut case = Case::new(bed, words.next().unwrap(), words.next().unwrap());
    words
        .by_ref()
        .take_while(|word| *word != "->")
        .for_each(|word| case.option(word));
    let expected = words.next().unwrap();
    let result = case.call();
    let mut outcome = match (expected, result) {
        ("ok", Ok(outcome)) => outcome,
        ("fails", Err(error)) => {
            println!("  {error}");
            support::must_tell(&error, code(words.next().unwrap()), &[]);
            Outcome::default()
        }
        (_, result) => panic!("expected {expected}, not {result:?}"),
    };
    words.for_each(|word| case.expect(word, &mut outcome));
    assert!(outcome.counts.values().all(|count| *count == 0), "{outcome:?}");
    if case.guest != "none" {
        let left = bed.connection.operations(Some(case.domain())).unwrap();
        assert!(left.is_empty(), "{left:?}");
        bed.must_write(case.domain());
    }
}

/// Those of ctests/bed.
const GUESTS: [&str; 2] = [
    "name=with-agent,disks=qcow2-backed:64M+raw:32M",
    "name=without-agent,disks=qcow2:32M,agent=no",
];

#[test]
fn every_case_as_an_ordinary_user() {
    support::ordinary::run_tests(&["every_case"], &GUESTS);
}

#[test]
fn every_case() {
    let bed = support::bed::turn(EventLoop::Own, &GUESTS);
    let lines: Vec<_> = CASES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(!lines.is_empty());
    for line in lines {
        let takes_backup = line.contains("method=backup") || line.contains(" checkpoint=");
        let needs_backup = takes_backup && (line.contains("-> ok") || line.contains("-> fails CANCELLED"));
        if !needs_backup || !support::ordinary::is_without_backup(line) {
            run_line(&bed, line);
        }
    }
}
