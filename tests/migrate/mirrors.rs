// SPDX-License-Identifier: LGPL-2.1-or-later
//! By mirror: to the other format, to a block device, to an export, and back.

use std::fs;
use std::path::Path;

use livedisk::{ErrorCode, Method, MigrateOptions};

use crate::moving::{home, shown, to};
use crate::support::bed::{Server, is_root, run};
use crate::support::image::{LoopDevice, create};
use crate::support::{PATIENCE, await_copying, must_tell, until};
use crate::{MIB, bed, fails, mirroring, moves};

#[test]
fn mirror_to_a_block_device_and_back() {
    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    let bed = bed();
    for domain in ["a", "b"] {
        let file = bed.path("device.raw");
        let device = LoopDevice::on(&file, "32M");
        moves(&bed, domain, &to("vdb", &device.0));
        let back = to("vdb", bed.path(&format!("{domain}-from-device")));
        let clone = MigrateOptions {
            method: Method::Clone,
            ..back.clone()
        };
        fails(
            &bed,
            domain,
            &clone,
            ErrorCode::Unsupported,
            &["'vdb'", "not a file", "MIRROR"],
        );
        moves(&bed, domain, &back);
        assert!(Path::new(&device.0).exists());
        drop(device);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn mirror_to_an_nbd_export() {
    let bed = bed();
    let (file, socket) = (bed.path("export.raw"), bed.path("nbd.sock"));
    create(&file, "raw", "32M");
    let _server = Server::start(
        "qemu-nbd",
        &[
            "--persistent",
            "-f",
            "raw",
            "-x",
            "e",
            "--shared",
            "0",
            "-k",
            shown(&socket),
            shown(&file),
        ],
    );
    until("the export is there", || socket.exists());
    run("chmod", &["777", shown(&socket)]);
    let uri = format!("nbd+unix:///e?socket={}", shown(&socket));
    let before = home(&bed, "a", "vdb");
    let acknowledged = before.acknowledged();
    let options = to("vdb", &uri);
    let operation = bed.connection.migrate_disk("a", &options).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    let now = home(&bed, "a", "vdb");
    assert_eq!(now.chain, ["e"]);
    now.must_be_whole(&file, "raw", acknowledged);
    fs::remove_file(&before.chain[0]).unwrap();

    println!("and back");
    let clone = MigrateOptions {
        method: Method::Clone,
        ..to("vdb", bed.path("never"))
    };
    for (options, part) in [(&clone, "MIRROR"), (&to("vdb", &uri), "neither disk")] {
        let error = bed.connection.migrate_disk("a", options).err().unwrap();
        println!("{error}");
        must_tell(&error, ErrorCode::Unsupported, &["'vdb'", part]);
    }
    let before = home(&bed, "a", "vdb");
    let acknowledged = before.acknowledged();
    let back = MigrateOptions {
        bandwidth: 8 * MIB,
        ..to("vdb", bed.path("from-export"))
    };
    let cancelled = bed.connection.migrate_disk("a", &back).unwrap();
    await_copying(&cancelled);
    cancelled.cancel().unwrap();
    assert_eq!(home(&bed, "a", "vdb").chain, ["e"]);
    let back = MigrateOptions {
        delete_source: true,
        ..to("vdb", bed.path("from-export"))
    };
    let operation = bed.connection.migrate_disk("a", &back).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    before.must_have_moved(&back, &[], acknowledged);
    // What is not a file of this machine is not deleted.
    fs::remove_file(file).unwrap();
}

#[test]
fn mirror_to_the_other_format() {
    let bed = bed();
    moves(&bed, "a", &mirroring("vdc", bed.path("to-raw"), "raw"));
    moves(&bed, "a", &mirroring("vdc", bed.path("to-qcow2"), "qcow2"));
    let options = MigrateOptions {
        write_blocking: true,
        auto_finish: true,
        ..mirroring("vdc", bed.path("same"), "qcow2")
    };
    moves(&bed, "a", &options);
}
