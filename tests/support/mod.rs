// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the tests on real guests share. Each test binary uses a part of it.
#![allow(dead_code)]

pub mod bed;
pub mod definition;
pub mod image;
pub mod loop_device;
pub mod monitor;
pub mod odd;
pub mod ordinary;
pub mod remote;
pub mod repeated;
pub mod scenario;
pub mod sealed;
pub mod watch;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use livedisk::{Error, ErrorCode, Operation, Phase, SnapshotDisk, SnapshotOptions};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One disk to one destination.
pub fn disk(target: &str, destination: impl AsRef<Path>, format: &str) -> SnapshotDisk {
    SnapshotDisk {
        target: target.into(),
        destination: destination.as_ref().to_str().unwrap().into(),
        format: Some(format.into()),
        ..SnapshotDisk::default()
    }
}

pub fn snapshot(disks: Vec<SnapshotDisk>) -> SnapshotOptions {
    SnapshotOptions {
        disks,
        ..SnapshotOptions::default()
    }
}

/// Asks again and again until it is so.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Polls until the phase is reached; an operation that ends before that is a failure.
pub fn await_phase(operation: &Operation, phase: Phase) {
    until(&format!("{phase:?}"), || {
        let now = operation.poll(Some(Duration::from_millis(100))).phase;
        assert!(
            now == phase || !now.is_final(),
            "{now:?} instead of {phase:?}: {:?}",
            operation.finish(Some(Duration::ZERO))
        );
        now == phase
    });
}

/// Polls until something was copied, and not all.
pub fn await_copying(operation: &Operation) {
    until("something is copied", || {
        let progress = operation.poll(Some(Duration::from_millis(100)));
        assert!(
            !progress.phase.is_final(),
            "{progress:?}: {:?}",
            operation.finish(Some(Duration::ZERO))
        );
        assert_ne!(progress.phase, Phase::Ready, "it was too quick");
        progress.phase == Phase::Copying && progress.bytes_done > 0
    });
}

/// The error has this code and names all of these.
pub fn must_tell(error: &Error, code: ErrorCode, parts: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(
            error.message().contains(part),
            "'{part}' is not in the message: {}",
            error.message()
        );
    }
    let message = error.message();
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

/// The processes whose command line says that they guard this one.
pub fn guards_of(agent: u32) -> Vec<u32> {
    let is_guard = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split('\0').collect();
        words[0].ends_with("livedisk-guard") && words.get(1..3) == Some(&[agent.to_string().as_str(), "detached"])
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_guard)
        .collect()
}
