// SPDX-License-Identifier: LGPL-2.1-or-later
//! Backups: what they leave to the guest, and what they make.

mod destinations;
mod hanging;
mod pushed;
mod room;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;

use livedisk::{EventLoop, Method, SnapshotDisk, SnapshotOptions};

use crate::support::bed::Turn;
use crate::support::{snapshot, until};

const MIB: u64 = 1 << 20;

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2-backed:64M+raw:64M,data=16M"])
}

fn backup(disks: Vec<SnapshotDisk>) -> SnapshotOptions {
    SnapshotOptions {
        method: Method::Backup,
        ..snapshot(disks)
    }
}

fn files(directory: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(ending)).collect()
}

/// The processes that copy for the operation.
fn readers(operation: &str) -> Vec<i32> {
    let wanted = format!("LIVEDISK_OPERATION={operation}");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let copies = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    };
    pids.filter(copies).collect()
}

fn reader(bed: &Turn, domain: &str) -> i32 {
    let mut found = None;
    until("it copies", || {
        let known = bed.connection.operations(Some(domain)).unwrap();
        found = known.first().and_then(|known| readers(&known.id).first().copied());
        found.is_some()
    });
    found.unwrap()
}
