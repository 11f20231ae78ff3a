// SPDX-License-Identifier: LGPL-2.1-or-later
//! The room of scratch files ends before the backup does.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use livedisk::{ErrorCode, Operation, SnapshotOptions};

use crate::support::bed::{SmallFileSystem, Turn};
use crate::support::{PATIENCE, await_copying, disk, must_tell};
use crate::{MIB, backup, bed};

/// A backup that would take minutes, with its scratch file on the small file system.
fn begin(bed: &Turn, small: &Path) -> Operation {
    let options = SnapshotOptions {
        bandwidth: MIB / 2,
        scratch: Some(small.to_str().unwrap().into()),
        ..backup(vec![disk("vdb", bed.path("out"), "raw")])
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    await_copying(&operation);
    operation
}

fn must_fail(operation: &Operation, small: &Path) {
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    println!("{error}");
    must_tell(
        &error,
        ErrorCode::NoSpace,
        &[
            "'a'",
            "scratch file",
            small.to_str().unwrap(),
            "No space left on device",
        ],
    );
    assert_eq!(fs::read_dir(small).unwrap().count(), 0);
}

#[test]
fn a_guest_that_fills_it_is_never_paused() {
    let bed = bed();
    let Some(SmallFileSystem(small)) = &bed.small else {
        println!("skipped: to mount a small file system takes root and a bed of one's own");
        return;
    };
    let before = bed.watch("a");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let states = scope.spawn(|| {
            let mut paused = 0;
            while !over.load(Ordering::SeqCst) {
                paused += u32::from(bed.virsh(&["domstate", "a"]).trim() != "running");
            }
            paused
        });
        let operation = begin(&bed, small);
        bed.ctl("a", &["writer", "burst", "20"]);
        must_fail(&operation, small);
        bed.ctl("a", &["writer", "burst", "0"]);
        over.store(true, Ordering::SeqCst);
        assert_eq!(states.join().unwrap(), 0, "it was seen paused");
    });
    before.must_be_as_before(&[]);
}

#[test]
fn a_guest_that_was_paused_by_it_goes_on() {
    let bed = bed();
    let Some(SmallFileSystem(small)) = &bed.small else {
        println!("skipped: to mount a small file system takes root and a bed of one's own");
        return;
    };
    let before = bed.watch("a");
    let operation = begin(&bed, small);
    bed.ctl("a", &["writer", "burst", "20"]);
    // Somebody else takes all of it, at once.
    let fill = small.join("fill");
    let mut file = fs::File::create(&fill).unwrap();
    while file.write_all(&[7; 1 << 16]).is_ok() {}
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    fs::remove_file(fill).unwrap();
    must_tell(&error, ErrorCode::NoSpace, &["'a'", "scratch file"]);
    bed.ctl("a", &["writer", "burst", "0"]);
    assert_eq!(fs::read_dir(small).unwrap().count(), 0);
    before.must_be_as_before(&[]);
}

#[test]
fn where_there_is_none_nothing_begins() {
    let bed = bed();
    let Some(SmallFileSystem(small)) = &bed.small else {
        println!("skipped: to mount a small file system takes root and a bed of one's own");
        return;
    };
    let before = bed.watch("a");
    let fill = small.join("fill");
    fs::write(&fill, vec![7; 4 << 20]).unwrap();
    let options = SnapshotOptions {
        scratch: Some(small.to_str().unwrap().into()),
        ..backup(vec![disk("vdb", bed.path("out"), "raw")])
    };
    let error = bed.connection.start_live_snapshot("a", &options).map(drop).unwrap_err();
    must_tell(
        &error,
        ErrorCode::NoSpace,
        &["'vdb'", "scratch", small.to_str().unwrap()],
    );
    fs::remove_file(fill).unwrap();
    before.must_be_as_before(&[]);
}
