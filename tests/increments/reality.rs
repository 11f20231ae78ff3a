// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest goes through between its increments.

use std::fs::File;

use livedisk::{ErrorCode, Method, MigrateOptions, Quiesce, SnapshotOptions};

use crate::series::{Series, bed, bitmaps};
use crate::support::bed::{Bed, run};
use crate::support::{PATIENCE, await_copying, disk, must_tell, snapshot};

fn restart(bed: &Bed) {
    bed.virsh(&["destroy", "a"]);
    bed.virsh(&["start", "a"]);
}

fn move_to(bed: &Bed, name: &str, method: Method) {
    let options = MigrateOptions {
        target: "vda".into(),
        destination: bed.path(name).to_str().unwrap().into(),
        method,
        delete_source: true,
        auto_finish: true,
        ..MigrateOptions::default()
    };
    let operation = bed.connection.migrate_disk("a", &options).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, method);
}

fn copy(bed: &Bed, method: Method) {
    let image = bed.path("copy");
    let options = SnapshotOptions {
        method,
        quiesce: Quiesce::None,
        ..snapshot(vec![disk("vda", &image, "qcow2")])
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, method);
    std::fs::remove_file(image).unwrap();
}

/// Of the guest's disk, past what its file system has.
fn write_past_the_end(bed: &Bed) {
    let question = r#"{"execute":"query-block"}"#;
    let answer: serde_json::Value = serde_json::from_str(&bed.virsh(&["qemu-monitor-command", "a", question])).unwrap();
    let devices = answer["return"].as_array().unwrap();
    let of_disk = |device: &&serde_json::Value| {
        device["qdev"]
            .as_str()
            .is_some_and(|name| name.contains("virtio-disk0"))
    };
    let device = devices.iter().find(of_disk).unwrap();
    let node = device["inserted"]["node-name"].as_str().unwrap();
    let command = format!("qemu-io {node} \"write -P 77 50M 300k\"");
    let said = bed.virsh(&["qemu-monitor-command", "--hmp", "a", &command]);
    assert!(said.contains("wrote 307200/307200"), "{said}");
}

/// It would take minutes.
fn cancel(series: &Series<'_>) {
    let options = SnapshotOptions {
        bandwidth: 100 << 10,
        ..series.options("cancelled")
    };
    let operation = series.bed.connection.start_live_snapshot("a", &options).unwrap();
    await_copying(&operation);
    operation.cancel().unwrap();
}

/// Its destination is full.
fn fail(series: &Series<'_>) {
    let bed = series.bed;
    let Some(small) = &bed.small else {
        println!("skipped: to mount a small file system takes root and a bed of one's own");
        return;
    };
    let filler = small.0.join("filler");
    File::create(&filler).unwrap();
    run("fallocate", &["-l", "5700K", filler.to_str().unwrap()]);
    let mut options = series.options("failed");
    options.disks.truncate(1);
    options.disks[0].destination = small.0.join("out").to_str().unwrap().into();
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    println!("{error}");
    must_tell(&error, ErrorCode::NoSpace, &["'a'", "No space left on device", "/out"]);
    std::fs::remove_file(filler).unwrap();
    assert_eq!(std::fs::read_dir(&small.0).unwrap().count(), 0);
}

fn names(bed: &Bed) -> Vec<String> {
    let found = bed.connection.checkpoints("a").unwrap();
    found.into_iter().map(|found| found.name).collect()
}

#[test]
fn one_full_backup_and_eight_increments_survive_reality() {
    let bed = bed();
    let mut series = Series::new(&bed, &["vda", "vdb"]);
    bed.ctl("a", &["writer", "burst", "1"]);
    series.take("full", |_| {});
    let day = |series: &mut Series<'_>, name: &str, between: &dyn Fn(&Series<'_>)| {
        bed.must_write("a");
        between(series);
        println!("after {name}");
        series.must_have_no_bitmaps_but_of_checkpoints();
        let report = series.take(name, |options| options.compress = name == "compressed");
        // The raw disk alone.
        assert_eq!(report.full_disks, 1);
    };
    day(&mut series, "restarted", &|_| restart(&bed));
    bed.ctl("a", &["writer", "burst", "1"]);
    day(&mut series, "mirrored", &|_| {
        move_to(&bed, "moved-a.qcow2", Method::Mirror)
    });
    day(&mut series, "cloned", &|_| {
        move_to(&bed, "moved-b.qcow2", Method::Clone)
    });
    day(&mut series, "copied", &|_| {
        copy(&bed, Method::Mirror);
        copy(&bed, Method::Clone);
    });
    day(&mut series, "resized", &|_| {
        bed.virsh(&["blockresize", "a", "vda", "56M"]);
        write_past_the_end(&bed);
    });
    day(&mut series, "deleted", &|_| {
        bed.connection.delete_checkpoint("a", "mirrored").unwrap();
        bed.connection.delete_checkpoint("a", "full").unwrap();
    });
    let before = names(&bed);
    day(&mut series, "cancelled-before", &|series| {
        cancel(series);
        assert_eq!(names(&bed), before);
    });
    let before = names(&bed);
    day(&mut series, "compressed", &|series| {
        fail(series);
        assert_eq!(names(&bed), before);
    });
    series.must_be_right();
    restart(&bed);
    assert!(
        bed.connection
            .checkpoints("a")
            .unwrap()
            .iter()
            .all(|found| found.why_not().is_none())
    );
    // The disk is where it moved to.
    for left in names(&bed) {
        bed.connection.delete_checkpoint("a", &left).unwrap();
    }
    assert_eq!(bitmaps(&bed), [""; 0]);
}
