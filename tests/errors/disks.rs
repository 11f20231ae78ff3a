// SPDX-License-Identifier: LGPL-2.1-or-later
//! Disks, and lists of them, that are not snapshotted or not as they are.

use std::fs;

use livedisk::ErrorCode;

use crate::support::bed::Bare;
use crate::support::image::must_equal;
use crate::support::scenario::METHODS;
use crate::support::sealed::Sealed;
use crate::support::{PATIENCE, disk, snapshot};
use crate::{bed, fails, one, refused, with};

#[test]
fn lists_of_disks_that_make_no_sense() {
    let bed = bed();
    let before = bed.watch("a");
    refused(
        &bed,
        "a",
        &snapshot(Vec::new()),
        ErrorCode::InvalidArgument,
        &["no disk"],
    );
    let twice = snapshot(vec![
        disk("vda", bed.path("one"), "raw"),
        disk("vda", bed.path("two"), "raw"),
    ]);
    refused(&bed, "a", &twice, ErrorCode::InvalidArgument, &["'vda'", "twice"]);
    let out = bed.path("out");
    let same = snapshot(vec![disk("vda", &out, "raw"), disk("vdb", &out, "raw")]);
    refused(
        &bed,
        "a",
        &same,
        ErrorCode::InvalidArgument,
        &["'vda'", "'vdb'", "/out'"],
    );
    // The same file by another name is the same file.
    let detour = bed.dir.join("../").join(bed.dir.file_name().unwrap()).join("out");
    let same = snapshot(vec![disk("vda", &out, "raw"), disk("vdb", &detour, "raw")]);
    fails(&bed, "a", &same, ErrorCode::Destination, &["/out'"]);
    let mut odd = one(&out);
    odd.disks[0].format = Some("vmdk".into());
    refused(&bed, "a", &odd, ErrorCode::Unsupported, &["'vda'", "vmdk"]);
    before.must_be_as_before(&[]);
}

/// Each kind of disk as a disk of a domain of its own.
#[test]
fn odd_disks() {
    let bed = bed();
    for (what, extra, code) in [
        ("read-only", "<readonly/>", None),
        ("shareable", "<shareable/>", Some(ErrorCode::Unsupported)),
        ("transient", "<transient/>", Some(ErrorCode::Unsupported)),
    ] {
        let bare = bed.bare("odd", &[Bare { extra, ..Bare::RAW }]);
        let before = bed.watch("odd");
        for method in METHODS {
            println!("{what} {method:?}");
            let mut options = with(method, &one(bed.path("out")));
            options.disks[0].format = Some("qcow2".into());
            match code {
                Some(code) => {
                    refused(&bed, "odd", &options, code, &["'odd'", "'vda'", what]);
                    before.must_be_as_before(&[]);
                }
                None => {
                    let operation = bed.connection.start_live_snapshot("odd", &options).unwrap();
                    operation.finish(Some(PATIENCE)).unwrap();
                    must_equal(&bed.path("out"), "qcow2", &bare.files[0]);
                    before.must_be_as_before(&["out"]);
                }
            }
            let empty = with(method, &snapshot(vec![disk("sda", bed.path("out"), "raw")]));
            refused(&bed, "odd", &empty, ErrorCode::NoDisk, &["'odd'", "'sda'", "empty"]);
        }
        drop(bare);
        // libvirt's overlay of a transient disk.
        for entry in fs::read_dir(&bed.dir).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().contains(".TRANSIENT") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn encrypted_disk() {
    let bed = bed();
    let sealed = Sealed::start(&bed);
    let before = bed.watch(Sealed::NAME);
    for method in METHODS {
        for format in ["raw", "qcow2"] {
            let mut options = with(method, &snapshot(vec![disk("vda", bed.path("out"), format)]));
            refused(
                &bed,
                Sealed::NAME,
                &options,
                ErrorCode::Unsupported,
                &["'vda'", "encrypted", "ALLOW_PLAINTEXT"],
            );
            options.disks[0].allow_plaintext = true;
            let operation = bed.connection.start_live_snapshot(Sealed::NAME, &options).unwrap();
            operation.finish(Some(PATIENCE)).unwrap();
            must_equal(&bed.path("out"), format, &sealed.plain);
            before.must_be_as_before(&["out"]);
        }
    }
}
