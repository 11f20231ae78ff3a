// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where an image may not go.

use std::fs;
use std::path::Path;

use livedisk::{ErrorCode, Method, SnapshotDisk};

use crate::support::bed::{Bare, is_root, run};
use crate::support::image::{create, create_overlay};
use crate::support::scenario::{self, METHODS};
use crate::support::{PATIENCE, disk, snapshot};
use crate::{bed, fails, one, refused, with};

#[test]
fn what_stands_at_the_destination() {
    let bed = bed();
    let before = bed.watch("a");
    let stands = bed.path("stands");
    let elsewhere = bed.path("elsewhere");
    let source = Path::new(bed.of_guest("a", "IMAGE vda"));
    let backing = Path::new(bed.of_guest("a", "BASE vda"));
    let other = Path::new(bed.of_guest("a", "IMAGE vdb"));
    type Make<'a> = &'a dyn Fn();
    let cases: [(&str, Make, bool); 8] = [
        ("exists", &|| fs::write(&stands, "dear").unwrap(), false),
        ("is a directory", &|| fs::create_dir(&stands).unwrap(), true),
        (
            "symbolic link",
            &|| {
                fs::write(&elsewhere, "dear").unwrap();
                std::os::unix::fs::symlink(&elsewhere, &stands).unwrap();
            },
            true,
        ),
        (
            "symbolic link",
            &|| std::os::unix::fs::symlink("/no/such/file", &stands).unwrap(),
            true,
        ),
        ("FIFO", &|| drop(run("mkfifo", &[stands.to_str().unwrap()])), true),
        ("this very guest", &|| fs::hard_link(source, &stands).unwrap(), true),
        ("this very guest", &|| fs::hard_link(backing, &stands).unwrap(), true),
        ("this very guest", &|| fs::hard_link(other, &stands).unwrap(), true),
    ];
    for (why, make, also_reused) in cases {
        make();
        for (method, reuse_existing) in [(Method::Mirror, false), (Method::Mirror, true), (Method::Backup, true)] {
            if reuse_existing && !also_reused {
                continue;
            }
            let mut options = with(method, &one(&stands));
            options.disks[0].reuse_existing = reuse_existing;
            refused(&bed, "a", &options, ErrorCode::Destination, &["/stands'", why]);
        }
        let kind = fs::symlink_metadata(&stands).unwrap().file_type();
        if why == "exists" {
            assert_eq!(fs::read(&stands).unwrap(), b"dear");
        }
        if kind.is_dir() {
            fs::remove_dir(&stands).unwrap();
        } else {
            fs::remove_file(&stands).unwrap();
        }
        let _ = fs::remove_file(&elsewhere);
    }
    for image in [source, backing, other] {
        for reuse_existing in [false, true] {
            let mut options = one(image);
            options.disks[0].reuse_existing = reuse_existing;
            refused(&bed, "a", &options, ErrorCode::Destination, &["this very guest"]);
        }
    }
    before.must_be_as_before(&[]);
}

#[test]
fn names_that_are_none() {
    let bed = bed();
    let before = bed.watch("a");
    let in_bed = |name: &str| bed.path(name).to_str().unwrap().to_owned();
    for (destination, code, part) in [
        (in_bed(&"x".repeat(4096)), ErrorCode::Destination, "xxx"),
        (in_bed(&"x".repeat(256)), ErrorCode::Destination, "xxx"),
        (
            in_bed("no such directory/out"),
            ErrorCode::Destination,
            "no such directory",
        ),
        (in_bed("bell\u{7}"), ErrorCode::InvalidArgument, "control character"),
        (
            in_bed("escape\u{1b}[2J"),
            ErrorCode::InvalidArgument,
            "control character",
        ),
        (in_bed("slash/"), ErrorCode::InvalidArgument, "slash"),
        ("relative".into(), ErrorCode::InvalidArgument, "absolute"),
        (String::new(), ErrorCode::InvalidArgument, "empty"),
        ("/dev/null".into(), ErrorCode::Destination, "/dev/null"),
    ] {
        let mut options = one("");
        options.disks[0].destination = destination;
        for method in METHODS {
            fails(&bed, "a", &with(method, &options), code, &[part]);
        }
    }
    before.must_be_as_before(&[]);
}

#[test]
fn file_system_full_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::file_system_full(&bed, method));
}

#[test]
fn image_of_another_size_or_kind() {
    let bed = bed();
    let before = bed.watch("a");
    let image = bed.path("mine");
    let base = bed.path("base");
    create(&base, "qcow2", "64M");
    let reused = |method, format: &str| {
        let mut options = with(method, &snapshot(vec![disk("vda", &image, format)]));
        options.disks[0].reuse_existing = true;
        options
    };
    for method in METHODS {
        for format in ["qcow2", "raw"] {
            for size in ["63M", "65M"] {
                create(&image, format, size);
                fails(
                    &bed,
                    "a",
                    &reused(method, format),
                    ErrorCode::Destination,
                    &["/mine'", "size"],
                );
            }
        }
        create(&image, "raw", "64M");
        fails(&bed, "a", &reused(method, "qcow2"), ErrorCode::Destination, &["/mine'"]);
        create_overlay(&image, &base, "qcow2");
        fails(
            &bed,
            "a",
            &reused(method, "qcow2"),
            ErrorCode::Destination,
            &["/mine'", "backing file"],
        );
        fs::remove_file(&image).unwrap();
        fails(
            &bed,
            "a",
            &reused(method, "qcow2"),
            ErrorCode::Destination,
            &["/mine'", "no image"],
        );
    }
    fs::remove_file(base).unwrap();
    before.must_be_as_before(&[]);
}

#[test]
fn directory_that_qemu_may_not_enter() {
    if !is_root() {
        println!("skipped: QEMU runs as another user only where root starts it");
        return;
    }
    let bed = bed();
    let closed = bed.path("closed");
    fs::create_dir(&closed).unwrap();
    run("chmod", &["700", closed.to_str().unwrap()]);
    let before = bed.watch("a");
    for format in ["qcow2", "raw"] {
        let options = snapshot(vec![disk("vda", closed.join("out"), format)]);
        fails(
            &bed,
            "a",
            &with(Method::Mirror, &options),
            ErrorCode::Permission,
            &["'a'"],
        );
        assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
        // livedisk writes a backup's itself.
        let backup = with(Method::Backup, &options);
        let operation = bed.connection.start_live_snapshot("a", &backup).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        fs::remove_file(closed.join("out")).unwrap();
    }
    before.must_be_as_before(&[]);
    fs::remove_dir(closed).unwrap();
}

/// Another guest's disk.
#[test]
fn reuse_of_a_busy_image_is_refused_by_its_lock() {
    let bed = bed();
    let (one_guest, another) = (bed.bare("holder", &[Bare::RAW]), bed.bare("taker", &[Bare::RAW]));
    let before = bed.watch("taker");
    let options = snapshot(vec![SnapshotDisk {
        reuse_existing: true,
        ..disk("vda", &one_guest.files[0], "raw")
    }]);
    let held = fs::read(&one_guest.files[0]).unwrap();
    for method in METHODS {
        let started = bed.connection.start_live_snapshot("taker", &with(method, &options));
        let error = started
            .and_then(|operation| operation.finish(Some(PATIENCE)))
            .unwrap_err();
        println!("{error}");
        assert!(
            error.message().contains("holder-vda.img") || error.message().contains("'taker'"),
            "{error}"
        );
        assert!(
            fs::read(&one_guest.files[0]).unwrap() == held,
            "another guest's disk was written to"
        );
        before.must_be_as_before(&[]);
    }
    drop((one_guest, another));
}
