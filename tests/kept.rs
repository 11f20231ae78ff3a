// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest with checkpoints goes through, and its increments go on: each is compared byte for byte with the disk of the
//! paused guest. The increments are libvirt's own.

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use livedisk::{CloneMethod, ErrorCode, EventLoop, Method, MigrateOptions, Operation};
use support::bed::{Bed, Turn, run};
use support::image::{create, info};
use support::{PATIENCE, disk, must_tell, snapshot, until};

fn bed() -> Turn {
    let guest = "name=a,disks=qcow2:32M+raw:16M,data=4M,agent=no";
    let bed = support::bed::turn(EventLoop::Own, &[guest]);
    for left in bed.connection.checkpoints("a").unwrap() {
        bed.connection.delete_checkpoint("a", &left.name).unwrap();
    }
    bed
}

/// A full copy of vda, with a checkpoint at its point in time, and where the disk was first.
struct Full<'a> {
    bed: &'a Bed,
    image: PathBuf,
}

fn image_of(bed: &Bed) -> String {
    let list = bed.virsh(&["domblklist", "a"]);
    let line = list.lines().find(|line| line.trim().starts_with("vda")).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

impl<'a> Full<'a> {
    fn take(bed: &'a Bed) -> Self {
        let image = bed.path("full");
        bed.virsh(&["suspend", "a"]);
        let copied = image.to_str().unwrap();
        run(
            "qemu-img",
            &["convert", "-U", "-f", "qcow2", "-O", "qcow2", &image_of(bed), copied],
        );
        create_checkpoint(bed, "since");
        bed.virsh(&["resume", "a"]);
        Self { bed, image }
    }

    /// What has changed since, on the full copy, is the disk.
    fn must_be_followed(&self, after: &str) {
        self.bed.must_write("a");
        let increment = self.bed.path("increment");
        create(&increment, "qcow2", "32M");
        let (below, above) = (self.image.to_str().unwrap(), increment.to_str().unwrap());
        run(
            "qemu-img",
            &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, above],
        );
        self.bed.virsh(&["suspend", "a"]);
        let backup = self.bed.path("backup.xml");
        let text = format!(
            "<domainbackup mode='push'><incremental>since</incremental><disks><disk name='vda' backup='yes' type='file'>\
             <driver type='qcow2'/><target file='{above}'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>"
        );
        std::fs::write(&backup, text).unwrap();
        self.bed
            .virsh(&["backup-begin", "a", backup.to_str().unwrap(), "--reuse-external"]);
        until("the increment is complete", || {
            self.bed.virsh(&["domjobinfo", "a"]).contains("None")
        });
        println!("{after}: {}", info(&increment, "qcow2")["actual-size"]);
        run(
            "qemu-img",
            &[
                "compare",
                "-U",
                "-f",
                "qcow2",
                "-F",
                "qcow2",
                above,
                &image_of(self.bed),
            ],
        );
        self.bed.virsh(&["resume", "a"]);
        let found = self.bed.connection.checkpoints("a").unwrap();
        assert_eq!(found[0].why_not(), None, "after {after}");
        std::fs::remove_file(increment).unwrap();
        std::fs::remove_file(backup).unwrap();
    }
}

fn create_checkpoint(bed: &Bed, name: &str) {
    let path = bed.path("checkpoint.xml");
    let disks = "<disk name='vda'/><disk name='vdb' checkpoint='no'/>";
    let text = format!("<domaincheckpoint><name>{name}</name><disks>{disks}</disks></domaincheckpoint>");
    std::fs::write(&path, text).unwrap();
    bed.virsh(&["checkpoint-create", "a", path.to_str().unwrap()]);
    std::fs::remove_file(path).unwrap();
}

fn finish(operation: &Operation, method: Method) {
    let report = operation.finish(Some(PATIENCE)).unwrap();
    assert_eq!(report.method, method);
}

fn to(bed: &Bed, name: &str, method: Method) -> MigrateOptions {
    MigrateOptions {
        target: "vda".into(),
        destination: bed.path(name).to_str().unwrap().into(),
        method,
        ..MigrateOptions::default()
    }
}

#[test]
fn increments_go_on_after_snapshots_and_moves() {
    let bed = bed();
    let full = Full::take(&bed);
    bed.ctl("a", &["writer", "burst", "1"]);
    full.must_be_followed("nothing");
    for method in [Method::Mirror, Method::Clone] {
        let image = bed.path("copy");
        let options = livedisk::SnapshotOptions {
            method,
            ..snapshot(vec![disk("vda", &image, "qcow2")])
        };
        finish(&bed.connection.start_live_snapshot("a", &options).unwrap(), method);
        // It is a disk of its own.
        let found = info(&image, "qcow2");
        assert!(found["format-specific"]["data"]["bitmaps"].is_null(), "{found}");
        std::fs::remove_file(image).unwrap();
        full.must_be_followed(&format!("a snapshot by {method:?}"));
    }
    for (name, method, verify) in [
        ("mirrored", Method::Mirror, false),
        ("cloned", Method::Clone, true),
        ("again", Method::Clone, false),
    ] {
        let options = MigrateOptions {
            delete_source: true,
            verify,
            ..to(&bed, name, method)
        };
        finish(&bed.connection.migrate_disk("a", &options).unwrap(), method);
        full.must_be_followed(&format!("a move by {method:?}"));
    }
    // A function that converts loses the bitmaps.
    let convert = |source: &str, destination: &str| {
        let arguments = ["convert", "-U", "-f", "qcow2", "-O", "qcow2", source, destination];
        run("qemu-img", &arguments);
        0
    };
    let converts = MigrateOptions {
        clone: CloneMethod::Callback,
        clone_callback: Some(Arc::new(convert)),
        auto_finish: true,
        ..to(&bed, "converted", Method::Clone)
    };
    let operation = bed.connection.migrate_disk("a", &converts).unwrap();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    must_tell(&error, ErrorCode::Verify, &["'since'", "converted"]);
    assert!(!bed.path("converted").exists());
    full.must_be_followed("a move that lost the bitmaps and was rolled back");
    let cancelled = bed
        .connection
        .migrate_disk("a", &to(&bed, "never", Method::Clone))
        .unwrap();
    cancelled.cancel().unwrap();
    full.must_be_followed("a move that was rolled back");
    bed.virsh(&["destroy", "a"]);
    bed.virsh(&["start", "a"]);
    full.must_be_followed("a restart");
}

#[test]
fn a_move_that_would_break_a_checkpoint_is_refused() {
    let bed = bed();
    create_checkpoint(&bed, "one");
    let before = bed.watch("a");
    for method in [Method::Auto, Method::Mirror] {
        let options = MigrateOptions {
            format: Some("raw".into()),
            ..to(&bed, "never", method)
        };
        let error = bed.connection.migrate_disk("a", &options).unwrap_err();
        must_tell(
            &error,
            ErrorCode::Busy,
            &["'vda'", "'one'", "qcow2", "livedisk checkpoints a --delete"],
        );
    }
    before.must_be_as_before(&[]);
    // A disk that it does not cover has nothing to lose.
    let options = MigrateOptions {
        target: "vdb".into(),
        delete_source: true,
        ..to(&bed, "moved", Method::Mirror)
    };
    finish(&bed.connection.migrate_disk("a", &options).unwrap(), Method::Mirror);
    bed.connection.delete_checkpoint("a", "one").unwrap();
}

/// Bitmaps that are of no use already do not keep a disk where it is.
#[test]
fn what_is_inconsistent_moves_along() {
    for (name, method) in [("mirrored", Method::Mirror), ("cloned", Method::Clone)] {
        let bed = bed();
        create_checkpoint(&bed, "one");
        bed.virsh(&["destroy", "a"]);
        bed.virsh(&["start", "a"]);
        run("kill", &["-9", &bed.qemu_pid("a").to_string()]);
        until("libvirt has noticed", || {
            bed.virsh(&["domstate", "a"]).contains("shut off")
        });
        bed.virsh(&["start", "a"]);
        assert!(
            bed.connection.checkpoints("a").unwrap()[0]
                .why_not()
                .unwrap()
                .contains("inconsistent")
        );
        let options = MigrateOptions {
            delete_source: true,
            ..to(&bed, name, method)
        };
        finish(&bed.connection.migrate_disk("a", &options).unwrap(), method);
        assert!(bed.connection.checkpoints("a").unwrap()[0].why_not().is_some());
        let full = Full::take(&bed);
        bed.connection.delete_checkpoint("a", "one").unwrap();
        full.must_be_followed(&format!("a move by {method:?}"));
    }
}
