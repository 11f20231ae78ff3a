// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is refused or fails, and leaves everything as it was.

use std::fs;
use std::path::PathBuf;

use livedisk::{CloneMethod, ErrorCode, Method, MigrateOptions};

use crate::moving::{home, shown, to};
use crate::support::bed::Bare;
use crate::support::{await_copying, must_tell};
use crate::{MIB, bed, copying, fails};

#[test]
fn refused_destinations_and_disks() {
    let bed = bed();
    let image = home(&bed, "a", "vda").chain[0].clone();
    let existing = bed.path("existing");
    fs::write(&existing, "somebody's").unwrap();
    let link = bed.path("link");
    std::os::unix::fs::symlink(bed.path("nowhere"), &link).unwrap();
    let refused = |domain: &str, options: &MigrateOptions, code, parts: &[&str]| {
        let error = bed.connection.migrate_disk(domain, options).err().unwrap();
        println!("{error}");
        must_tell(&error, code, parts);
    };
    let before = home(&bed, "a", "vda");
    for destination in [
        existing.clone(),
        link.clone(),
        PathBuf::from(&image),
        bed.path("no-such-directory/x"),
        bed.dir.clone(),
    ] {
        for method in [Method::Clone, Method::Mirror] {
            let options = MigrateOptions {
                method,
                ..to("vda", &destination)
            };
            refused("a", &options, ErrorCode::Destination, &[shown(&destination)]);
        }
    }
    before.must_be_as_before();
    assert_eq!(fs::read(&existing).unwrap(), b"somebody's");
    fs::remove_file(existing).unwrap();
    fs::remove_file(link).unwrap();

    let lost = to("vda", bed.path("new\nline"));
    refused("a", &lost, ErrorCode::InvalidArgument, &["new\\nline", "newline"]);

    let deep = bed.path(&format!("{0}/{0}/{0}/{0}/{0}", "d".repeat(250)));
    fs::create_dir_all(&deep).unwrap();
    let long = MigrateOptions {
        method: Method::Clone,
        ..to("vda", deep.join("image"))
    };
    refused("a", &long, ErrorCode::Unsupported, &["'vda'", "1023 bytes", "MIRROR"]);
    fs::remove_dir_all(bed.path(&"d".repeat(250))).unwrap();

    let free = to("vdz", bed.path("free"));
    refused("a", &free, ErrorCode::NoDisk, &["'a'", "'vdz'"]);
    refused("nobody", &free, ErrorCode::NoDomain, &["'nobody'"]);
    for method in [Method::Backup, Method::Rebase] {
        let options = MigrateOptions {
            method,
            ..to("vda", bed.path("free"))
        };
        refused("a", &options, ErrorCode::InvalidArgument, &["CLONE", "MIRROR"]);
    }
    let options = MigrateOptions {
        clone: CloneMethod::Callback,
        ..to("vda", bed.path("free"))
    };
    refused("a", &options, ErrorCode::InvalidArgument, &["CALLBACK"]);
    let options = MigrateOptions {
        format: Some("vmdk".into()),
        ..to("vda", bed.path("free"))
    };
    refused("a", &options, ErrorCode::Unsupported, &["vmdk"]);
    let options = MigrateOptions {
        method: Method::Clone,
        format: Some("raw".into()),
        ..to("vda", bed.path("free"))
    };
    refused("a", &options, ErrorCode::Unsupported, &["'vda'", "MIRROR"]);
}

#[test]
fn snapshot_metadata_is_in_the_way() {
    let bed = bed();
    let bare = bed.bare("kept", &[Bare::RAW]);
    let file = format!("vda,file={}", shown(&bed.path("kept-overlay")));
    bed.virsh(&[
        "snapshot-create-as",
        "kept",
        "s",
        "--disk-only",
        "--diskspec",
        &file,
        "--diskspec",
        "sda,snapshot=no",
    ]);
    fails(
        &bed,
        "kept",
        &to("vda", bed.path("never")),
        ErrorCode::Busy,
        &["'kept'", "1 snapshots", "snapshot-delete"],
    );
    bed.virsh(&["snapshot-delete", "kept", "s", "--metadata"]);
    drop(bare);
    fs::remove_file(bed.path("kept-overlay")).unwrap();
}

#[test]
fn another_job_is_in_the_way() {
    let bed = bed();
    let before = home(&bed, "a", "vdb");
    println!("a job of somebody else");
    let mine = bed.path("mine");
    let copy = [
        "blockcopy",
        "a",
        "vdb",
        shown(&mine),
        "--transient-job",
        "--bytes",
        "1000000",
    ];
    bed.virsh(&copy);
    let options = to("vdb", bed.path("never"));
    let error = bed.connection.migrate_disk("a", &options).err().unwrap();
    println!("{error}");
    must_tell(&error, ErrorCode::Busy, &["'a'", "'vdb'"]);
    bed.virsh(&["blockjob", "a", "vdb", "--abort"]);
    fs::remove_file(mine).unwrap();
    before.must_be_as_before();

    println!("a migration of the same disk");
    let slow = MigrateOptions {
        bandwidth: MIB,
        ..copying("vdb", bed.path("slow"))
    };
    let first = bed.connection.migrate_disk("a", &slow).unwrap();
    await_copying(&first);
    let error = bed.connection.migrate_disk("a", &options).err().unwrap();
    println!("{error}");
    must_tell(&error, ErrorCode::Busy, &["'a'"]);
    first.cancel().unwrap();
    before.must_be_as_before();
}

#[test]
fn file_system_full() {
    let bed = bed();
    let Some(file_system) = &bed.small else {
        println!("skipped: to mount a small file system takes root and a bed of one's own");
        return;
    };
    let small = &file_system.0;
    // Less than there is in any of the disks, however little their guests have written.
    assert!(file_system.resize(3));
    for (domain, method) in [("a", Method::Clone), ("b", Method::Clone), ("a", Method::Mirror)] {
        let options = MigrateOptions {
            method,
            ..to("vdb", small.join("out"))
        };
        fails(
            &bed,
            domain,
            &options,
            ErrorCode::NoSpace,
            &["No space left on device", "/out"],
        );
        assert_eq!(fs::read_dir(small).unwrap().count(), 0);
    }
    assert!(file_system.resize(6));
}
