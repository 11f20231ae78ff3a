// SPDX-License-Identifier: LGPL-2.1-or-later
//! An encrypted disk moves and stays encrypted, unless plain text is asked for.

use std::fs;
use std::path::Path;
use std::time::Instant;

use livedisk::{ErrorCode, Method, MigrateOptions, Operation, Phase};

use crate::moving::{disk_of, home, to};
use crate::support::bed::Bed;
use crate::support::image::must_equal;
use crate::support::sealed::Sealed;
use crate::support::{PATIENCE, await_phase, must_tell, until};
use crate::{MIB, bed, fails, mirroring, moves};

/// It has moved, encrypted as before, and holds what it held: as it runs, and when it is started from there.
fn moves_sealed(bed: &Bed, sealed: &Sealed, options: &MigrateOptions) {
    let old = home(bed, Sealed::NAME, "vda").chain[0].clone();
    let operation = start_sealed(bed, options);
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    must_be_sealed_at(bed, sealed, options);
    fs::remove_file(old).unwrap();
    bed.virsh(&["destroy", Sealed::NAME]);
    bed.virsh(&["start", Sealed::NAME]);
    must_be_sealed_at(bed, sealed, options);
}

/// Once it copies.
fn start_sealed(bed: &Bed, options: &MigrateOptions) -> Operation {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let operation = bed.connection.migrate_disk(Sealed::NAME, options).unwrap();
        let mut phase = Phase::Preparing;
        until("it copies", || {
            let progress = operation.poll(None);
            phase = progress.phase;
            progress.bytes_done > 0 || phase.is_final()
        });
        if phase != Phase::Failed {
            return operation;
        }
        let error = operation.finish(None).unwrap_err();
        // QEMU measures itself with a clock that now and then has not moved on.
        let again = error.message().contains("accurate CPU usage") && Instant::now() < give_up;
        assert!(again, "{error}");
    }
}

fn must_be_sealed_at(bed: &Bed, sealed: &Sealed, options: &MigrateOptions) {
    let format = options.format.as_deref().unwrap_or("raw");
    let path = &options.destination;
    for xml in [&["dumpxml", Sealed::NAME][..], &["dumpxml", "--inactive", Sealed::NAME]] {
        let disk = disk_of(&bed.virsh(xml), "vda");
        for part in [
            &format!("type='{format}'"),
            &format!("file='{path}'"),
            "<encryption format='luks'",
        ] {
            assert!(disk.contains(part), "{part}: {disk}");
        }
        assert!(disk.contains(Sealed::SECRET) && !disk.contains("<mirror"), "{disk}");
    }
    sealed.must_hold(Path::new(path), format);
}

#[test]
fn encrypted_disk() {
    let bed = bed();
    let sealed = Sealed::start(&bed);
    let never = bed.path("never");
    let clone = MigrateOptions {
        method: Method::Clone,
        ..to("vda", &never)
    };
    let parts = ["'vda'", "encrypted", "plain text", "MIRROR"];
    fails(&bed, Sealed::NAME, &clone, ErrorCode::Unsupported, &parts);
    let export = to("vda", "nbd://localhost/never");
    let parts = ["'vda'", "encrypted", "new file", "ALLOW_PLAINTEXT"];
    fails(&bed, Sealed::NAME, &export, ErrorCode::Unsupported, &parts);

    println!("cancelled while it copies and when READY");
    let before = home(&bed, Sealed::NAME, "vda");
    let slowly = |destination| MigrateOptions {
        bandwidth: MIB,
        ..to("vda", destination)
    };
    for phase in [Phase::Copying, Phase::Ready] {
        let operation = start_sealed(&bed, &slowly(&never));
        await_phase(&operation, phase);
        operation.cancel().unwrap();
        must_tell(
            &operation.finish(None).unwrap_err(),
            ErrorCode::Cancelled,
            &[Sealed::NAME],
        );
        before.must_be_as_before();
    }
    println!("and by recover");
    drop(start_sealed(&bed, &slowly(&never)));
    assert_eq!(
        bed.connection.recover(Some(Sealed::NAME), false).unwrap().taken_back(),
        1
    );
    before.must_be_as_before();

    println!("attached to");
    let old = &before.chain[0];
    let options = slowly(&bed.path("attached"));
    drop(start_sealed(&bed, &options));
    let operation = bed.connection.attach(Sealed::NAME, "vda").unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    must_be_sealed_at(&bed, &sealed, &options);
    fs::remove_file(old).unwrap();

    println!("to the other format and back");
    moves_sealed(&bed, &sealed, &mirroring("vda", bed.path("sealed-qcow2"), "qcow2"));
    let options = MigrateOptions {
        write_blocking: true,
        ..mirroring("vda", bed.path("sealed-raw"), "raw")
    };
    moves_sealed(&bed, &sealed, &options);

    println!("to plain text");
    let destination = bed.path("unsealed");
    let mut options = to("vda", &destination);
    options.allow_plaintext = true;
    moves(&bed, Sealed::NAME, &options);
    must_equal(&destination, "raw", &sealed.plain);
    for xml in [&["dumpxml", Sealed::NAME][..], &["dumpxml", "--inactive", Sealed::NAME]] {
        assert!(!bed.virsh(xml).contains("encryption"));
    }
    println!("it starts from there");
    bed.virsh(&["destroy", Sealed::NAME]);
    bed.virsh(&["start", Sealed::NAME]);
    drop(sealed);
    fs::remove_file(destination).unwrap();
}
