// SPDX-License-Identifier: LGPL-2.1-or-later
//! A real guest's disk moves under its writer, or stays as it was.

mod clones;
mod encrypted;
mod interrupted;
mod mirrors;
#[path = "../moving/mod.rs"]
mod moving;
mod properties;
mod refused;
#[path = "../support/mod.rs"]
mod support;
mod volumes;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use livedisk::{CloneMethod, ErrorCode, EventLoop, Method, MigrateOptions, Phase};

use crate::moving::{home, shown, to};
use crate::support::bed::{Bed, Turn, run};
use crate::support::{PATIENCE, must_tell};

const MIB: u64 = 1 << 20;

/// `a`, and `b`, which is transient.
fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &[
            "name=a,disks=qcow2-backed:64M+raw:32M+qcow2:32M,data=8M,agent=no",
            "name=b,disks=qcow2-backed:32M+raw:32M,data=4M,persistent=no,agent=no",
        ],
    )
}

/// Migrates, expects success, checks everything, and removes the old image.
fn moves(bed: &Bed, domain: &str, options: &MigrateOptions) {
    let before = home(bed, domain, &options.target);
    let acknowledged = before.acknowledged();
    let operation = bed.connection.migrate_disk(domain, options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    println!("{domain} {} to {}: {report:?}", options.target, options.destination);
    assert_eq!(report.disk_count, 1);
    assert_ne!(report.method, Method::Auto);
    assert_eq!(operation.poll(None).phase, Phase::Done);
    let below = match report.method {
        Method::Clone => before.chain[1..].to_vec(),
        _ => Vec::new(),
    };
    before.must_have_moved(options, &below, acknowledged);
    if options.delete_source {
        assert!(!Path::new(&before.chain[0]).exists());
    } else if before.is_file() {
        fs::remove_file(&before.chain[0]).unwrap();
    }
}

/// It must fail, at the start or later, and leave everything as it was.
fn fails(bed: &Bed, domain: &str, options: &MigrateOptions, code: ErrorCode, parts: &[&str]) {
    let before = home(bed, domain, &options.target);
    let started = bed.connection.migrate_disk(domain, options);
    let error = started
        .and_then(|operation| operation.finish(Some(PATIENCE)))
        .unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
    before.must_be_as_before();
}

fn copying(target: &str, destination: impl AsRef<Path>) -> MigrateOptions {
    MigrateOptions {
        method: Method::Clone,
        clone: CloneMethod::Copy,
        ..to(target, destination)
    }
}

fn mirroring(target: &str, destination: impl AsRef<Path>, format: &str) -> MigrateOptions {
    MigrateOptions {
        method: Method::Mirror,
        format: Some(format.into()),
        ..to(target, destination)
    }
}

fn calling(
    target: &str,
    destination: impl AsRef<Path>,
    callback: impl Fn(&str, &str) -> i32 + Send + Sync + 'static,
) -> MigrateOptions {
    MigrateOptions {
        method: Method::Clone,
        clone: CloneMethod::Callback,
        clone_callback: Some(Arc::new(callback)),
        ..to(target, destination)
    }
}

/// A directory of its own below the bed's, which QEMU's user gets into.
fn directory(bed: &Bed, name: &str) -> PathBuf {
    let path = bed.path(name);
    let _ = fs::create_dir(&path);
    run("chmod", &["755", shown(&path)]);
    path
}
