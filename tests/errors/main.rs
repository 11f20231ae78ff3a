// SPDX-License-Identifier: LGPL-2.1-or-later
//! What goes wrong on a real guest: the right error that names what it is about, and nothing left over.

mod agents;
mod destinations;
mod disks;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use livedisk::{Connection, ErrorCode, EventLoop, Method, Phase, Quiesce, SnapshotOptions};

use crate::support::bed::{Bare, Bed, Turn};
use crate::support::scenario::{self, METHODS};
use crate::support::{PATIENCE, await_phase, disk, must_tell, snapshot};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2-backed:64M+qcow2:64M,data=16M"])
}

/// It must be refused with that code, and the message must name each of `parts`.
fn refused(bed: &Bed, domain: &str, options: &SnapshotOptions, code: ErrorCode, parts: &[&str]) {
    let error = bed.connection.start_live_snapshot(domain, options).unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
}

/// It must fail at the start or later.
fn fails(bed: &Bed, domain: &str, options: &SnapshotOptions, code: ErrorCode, parts: &[&str]) {
    let started = bed.connection.start_live_snapshot(domain, options);
    let error = started
        .and_then(|operation| operation.finish(Some(PATIENCE)))
        .unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
}

fn one(destination: impl AsRef<Path>) -> SnapshotOptions {
    snapshot(vec![disk("vda", destination, "raw")])
}

fn with(method: Method, options: &SnapshotOptions) -> SnapshotOptions {
    SnapshotOptions {
        method,
        ..options.clone()
    }
}

#[test]
fn unknown_uri_domain_and_disk() {
    let bed = bed();
    let error = Connection::open(Some("qemu+unix:///system?socket=/no/such/socket"), EventLoop::Own)
        .err()
        .unwrap();
    must_tell(&error, ErrorCode::NoConnection, &["/no/such/socket"]);
    let error = Connection::open(Some("nonsense://"), EventLoop::Own).err().unwrap();
    must_tell(&error, ErrorCode::NoConnection, &["nonsense"]);
    let before = bed.watch("a");
    refused(
        &bed,
        "nobody",
        &one(bed.path("out")),
        ErrorCode::NoDomain,
        &["'nobody'"],
    );
    let options = snapshot(vec![disk("vdz", bed.path("out"), "raw")]);
    refused(&bed, "a", &options, ErrorCode::NoDisk, &["'a'", "'vdz'"]);
    let error = bed.connection.operations(Some("nobody")).unwrap_err();
    must_tell(&error, ErrorCode::NoDomain, &["'nobody'"]);
    before.must_be_as_before(&[]);
}

#[test]
fn domain_that_does_not_run() {
    let bed = bed();
    let bare = bed.bare("idle", &[Bare::RAW]);
    for method in METHODS {
        // With less a paused guest is taken as it stands.
        let options = SnapshotOptions {
            quiesce: Quiesce::Require,
            ..with(method, &one(bed.path("out")))
        };
        bed.virsh(&["suspend", "idle"]);
        let before = bed.watch("idle");
        refused(&bed, "idle", &options, ErrorCode::DomainState, &["'idle'", "paused"]);
        before.must_be_as_before(&[]);
        bed.virsh(&["destroy", "idle"]);
        let inactive = bed.virsh(&["dumpxml", "idle"]);
        refused(
            &bed,
            "idle",
            &options,
            ErrorCode::DomainState,
            &["'idle'", "not running"],
        );
        assert_eq!(bed.virsh(&["dumpxml", "idle"]), inactive);
        bed.virsh(&["start", "idle"]);
    }
    drop(bare);
}

#[test]
fn domain_destroyed_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::domain_goes(&bed, method, false));
}

#[test]
fn qemu_killed_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::domain_goes(&bed, method, true));
}

#[test]
fn libvirtd_restarted_in_mid_copy() {
    let bed = bed();
    for kill in [false, true] {
        METHODS
            .into_iter()
            .for_each(|method| scenario::daemon_restarts(&bed, method, kill));
    }
}

#[test]
fn another_job_is_in_the_way() {
    let bed = bed();
    let bare = bed.bare("busy", &[Bare::BIG, Bare::RAW]);
    let before = bed.watch("busy");
    let mine = bed.path("mine");
    let shown = mine.to_str().unwrap();
    let options = one(bed.path("out"));

    println!("a block job of somebody else");
    let copy = [
        "blockcopy",
        "busy",
        "vda",
        shown,
        "--transient-job",
        "--bytes",
        "1000000",
    ];
    bed.virsh(&copy);
    for method in METHODS {
        refused(
            &bed,
            "busy",
            &with(method, &options),
            ErrorCode::Busy,
            &["'busy'", "'vda'", "block job"],
        );
    }
    bed.virsh(&["blockjob", "busy", "vda", "--abort"]);
    fs::remove_file(&mine).unwrap();
    before.must_be_as_before(&[]);

    println!("a backup of somebody else");
    let xml = bed.path("backup.xml");
    let text = format!(
        "<domainbackup mode='pull'><server transport='tcp' name='127.0.0.1' port='10830'/>\
         <disks><disk name='vda' backup='yes' type='file'><scratch file='{shown}'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>"
    );
    fs::write(&xml, text).unwrap();
    bed.virsh(&["backup-begin", "busy", xml.to_str().unwrap()]);
    for method in METHODS {
        refused(
            &bed,
            "busy",
            &with(method, &options),
            ErrorCode::Busy,
            &["'busy'", "backup"],
        );
    }
    bed.virsh(&["domjobabort", "busy"]);
    fs::remove_file(&xml).unwrap();
    support::until("the backup is gone", || !mine.exists());
    before.must_be_as_before(&[]);

    println!("an operation of livedisk");
    for (first, second) in [(Method::Mirror, Method::Backup), (Method::Backup, Method::Mirror)] {
        let limited = SnapshotOptions {
            bandwidth: 1 << 20,
            ..with(first, &one(bed.path("first")))
        };
        let operation = bed.connection.start_live_snapshot("busy", &limited).unwrap();
        support::await_copying(&operation);
        let process = std::process::id().to_string();
        refused(
            &bed,
            "busy",
            &with(second, &options),
            ErrorCode::Busy,
            &["'busy'", "livedisk", &process],
        );
        operation.cancel().unwrap();
        before.must_be_as_before(&[]);
    }
    drop(bare);
}

#[test]
fn what_is_not_supported_says_so() {
    let bed = bed();
    let before = bed.watch("a");
    let options = one(bed.path("out"));
    for (checkpoint, since) in [(Some("now".to_owned()), None), (None, Some("then".to_owned()))] {
        let options = SnapshotOptions {
            checkpoint,
            since,
            ..with(Method::Mirror, &options)
        };
        refused(
            &bed,
            "a",
            &options,
            ErrorCode::Unsupported,
            &["checkpoint and since", "use BACKUP"],
        );
    }
    let mixed = SnapshotOptions {
        compress: true,
        shallow: true,
        ..options.clone()
    };
    refused(&bed, "a", &mixed, ErrorCode::Unsupported, &["SHALLOW and BACKUP"]);
    before.must_be_as_before(&[]);
}

/// The mirror of a READY operation is ended by somebody else.
#[test]
fn a_job_that_vanished_is_no_success() {
    let bed = bed();
    let bare = bed.bare("robbed", &[Bare::RAW]);
    let before = bed.watch("robbed");
    let operation = bed
        .connection
        .start_live_snapshot("robbed", &one(bed.path("out")))
        .unwrap();
    await_phase(&operation, Phase::Ready);
    bed.virsh(&["blockjob", "robbed", "vda", "--abort"]);
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    println!("{error}");
    must_tell(&error, ErrorCode::JobFailed, &["'robbed'", "'vda'"]);
    before.must_be_as_before(&[]);
    drop(bare);
}

#[test]
fn a_finish_in_a_hurry() {
    let bed = bed();
    let bare = bed.bare("slow", &[Bare::BIG]);
    let before = bed.watch("slow");
    let options = SnapshotOptions {
        method: Method::Backup,
        bandwidth: 64 << 20,
        ..one(bed.path("out"))
    };
    let operation = bed.connection.start_live_snapshot("slow", &options).unwrap();
    let error = operation.finish(Some(Duration::from_millis(100))).unwrap_err();
    must_tell(&error, ErrorCode::Timeout, &["finish again"]);
    operation.finish(Some(PATIENCE)).unwrap();
    before.must_be_as_before(&["out"]);
    drop(bare);
}
