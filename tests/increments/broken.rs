// SPDX-License-Identifier: LGPL-2.1-or-later
//! Checkpoints that cannot be used, and what is refused before anything begins.

use livedisk::{ErrorCode, Method, SnapshotOptions};

use crate::series::{Series, bed};
use crate::support::bed::{Bed, run};
use crate::support::image::create;
use crate::support::{PATIENCE, must_tell, until};

fn kill_qemu(bed: &Bed) {
    run("kill", &["-9", &bed.qemu_pid("a").to_string()]);
    until("libvirt has noticed", || {
        bed.virsh(&["domstate", "a"]).contains("shut off")
    });
    bed.virsh(&["start", "a"]);
}

fn refused(bed: &Bed, options: &SnapshotOptions, code: ErrorCode, parts: &[&str]) {
    let before = bed.watch("a");
    let error = bed.connection.start_live_snapshot("a", options).unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
    before.must_be_as_before(&[]);
}

#[test]
fn a_killed_qemu_takes_the_checkpoint_with_it_and_a_full_copy_says_why() {
    let bed = bed();
    let mut series = Series::new(&bed, &["vda", "vdb"]);
    series.take("full", |_| {});
    series.take("monday", |_| {});
    // Only now bitmaps are in the image, which are inconsistent when QEMU is killed.
    bed.virsh(&["destroy", "a"]);
    bed.virsh(&["start", "a"]);
    bed.must_write("a");
    kill_qemu(&bed);
    bed.must_write("a");
    let options = series.options("tuesday");
    refused(
        &bed,
        &options,
        ErrorCode::Checkpoint,
        &["'monday'", "'vda'", "inconsistent", "FULL_IF_NEEDED", "take a full"],
    );
    let report = series.take("tuesday", |options| options.full_if_needed = true);
    assert_eq!(report.full_disks, 2);
    let report = series.take("wednesday", |_| {});
    assert_eq!(report.full_disks, 1);
    series.must_be_right();
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let bed = bed();
    let mut series = Series::new(&bed, &["vda"]);
    series.take("full", |_| {});
    let options = series.options("next");
    let with = |change: &dyn Fn(&mut SnapshotOptions)| {
        let mut options = options.clone();
        change(&mut options);
        options
    };
    let livedisk = "livedisk checkpoints a";
    refused(
        &bed,
        &with(&|wanted| wanted.since = Some("never".into())),
        ErrorCode::NoCheckpoint,
        &["'never'", livedisk],
    );
    refused(
        &bed,
        &with(&|wanted| wanted.checkpoint = Some("full".into())),
        ErrorCode::Busy,
        &["'full'", "already", "--delete"],
    );
    for name in ["", ".", "a/b", "a\nb", &"x".repeat(251)] {
        let named = with(&|wanted| wanted.checkpoint = Some(name.into()));
        refused(&bed, &named, ErrorCode::InvalidArgument, &["checkpoint", "name"]);
    }
    let raw = with(&|wanted| wanted.disks[0].format = Some("raw".into()));
    refused(
        &bed,
        &raw,
        ErrorCode::Unsupported,
        &["'vda'", "qcow2", "leave since out"],
    );
    let reused = bed.path("reused");
    create(&reused, "qcow2", "48M");
    let reuse = with(&|wanted| {
        wanted.disks[0].destination = reused.to_str().unwrap().into();
        wanted.disks[0].reuse_existing = true;
    });
    refused(&bed, &reuse, ErrorCode::Unsupported, &["'vda'", "REUSE_EXISTING"]);
    std::fs::remove_file(&reused).unwrap();
    let image = bed.of_guest("a", "IMAGE vda").to_owned();
    let ours = with(&|wanted| wanted.disks[0].backing = Some(image.clone()));
    let error = bed.connection.start_live_snapshot("a", &ours).unwrap_err();
    println!("{error}");
    assert!(
        [ErrorCode::Destination, ErrorCode::Io].contains(&error.code()),
        "{error}"
    );
    let gone = with(&|wanted| wanted.disks[0].backing = Some("/no/such/image".into()));
    refused(
        &bed,
        &gone,
        ErrorCode::Destination,
        &["'vda'", "/no/such/image", "does not exist"],
    );
    let foreign = with(&|wanted| wanted.disks[0].backing = Some("/etc/passwd".into()));
    refused(&bed, &foreign, ErrorCode::Destination, &["'vda'", "not a qcow2 image"]);
    let unasked = with(&|wanted| wanted.since = None);
    refused(
        &bed,
        &unasked,
        ErrorCode::InvalidArgument,
        &["backing of disk 'vda'", "since"],
    );
    let mirror = with(&|wanted| wanted.method = Method::Mirror);
    refused(&bed, &mirror, ErrorCode::Unsupported, &["BACKUP"]);
    // A disk that keeps no bitmap, alone.
    let mut alone = Series::new(&bed, &["vdb"]).options("alone");
    alone.disks[0].backing = None;
    refused(&bed, &alone, ErrorCode::Unsupported, &["'alone'", "qcow2"]);
    series.take("next", |_| {});
    series.must_be_right();
}

#[test]
fn an_increment_without_backing_holds_what_changed_and_auto_takes_backup() {
    let bed = bed();
    let mut series = Series::new(&bed, &["vda"]);
    series.take("full", |options| options.method = Method::Auto);
    let report = series.take("next", |options| {
        options.method = Method::Auto;
        options.disks[0].backing = None;
    });
    assert_eq!((report.method, report.full_disks), (Method::Backup, 0));
    let (full, next) = (bed.path("full-vda.qcow2"), bed.path("next-vda.qcow2"));
    let (full, next) = (full.to_str().unwrap(), next.to_str().unwrap());
    run(
        "qemu-img",
        &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", full, next],
    );
    series.must_be_right();
}

/// A bitmap of somebody else's is neither taken for ours nor removed.
#[test]
fn a_bitmap_of_that_name_is_left_alone() {
    let bed = bed();
    let series = Series::new(&bed, &["vda"]);
    let question = r#"{"execute":"query-block"}"#;
    let answer: serde_json::Value = serde_json::from_str(&bed.virsh(&["qemu-monitor-command", "a", question])).unwrap();
    let node = answer["return"][0]["inserted"]["node-name"]
        .as_str()
        .unwrap()
        .to_owned();
    let command = |name: &str| {
        let command = serde_json::json!({ "execute": name, "arguments": { "node": node, "name": "theirs" } });
        bed.virsh(&["qemu-monitor-command", "a", &command.to_string()]);
    };
    command("block-dirty-bitmap-add");
    let options = series.options("theirs");
    refused(&bed, &options, ErrorCode::Busy, &["'vda'", "'theirs'", "no checkpoint"]);
    command("block-dirty-bitmap-remove");
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    bed.connection.delete_checkpoint("a", "theirs").unwrap();
    std::fs::remove_file(bed.path("theirs-vda.qcow2")).unwrap();
}
