// SPDX-License-Identifier: LGPL-2.1-or-later
//! Jobs whose end libvirtd did not live to see.

use livedisk::{ErrorCode, Method, Settlement, SnapshotOptions};

use crate::support::bed::Bare;
use crate::support::definition::plain;
use crate::support::{PATIENCE, await_copying, disk, must_tell, snapshot};
use crate::{MIB, bed, migration, recover};

/// libvirt says of it for ever that it runs.
#[test]
fn a_backup_whose_end_libvirtd_did_not_live_to_see_is_given_up() {
    let bed = bed();
    let bare = bed.bare("unseen", &[Bare::BIG]);
    let before = bed.watch("unseen");
    let options = SnapshotOptions {
        method: Method::Backup,
        bandwidth: MIB,
        ..snapshot(vec![disk("vda", bed.path("out"), "raw")])
    };
    let operation = bed.connection.start_live_snapshot("unseen", &options).unwrap();
    await_copying(&operation);
    bed.end_unseen("unseen", "backup", "job-cancel");
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    must_tell(&error, ErrorCode::JobFailed, &["'unseen'", "libvirtd died meanwhile"]);
    before.must_be_as_before(&[]);
    drop(bare);
}

/// libvirt shows it as running for ever, and refuses to start, end or pivot anything on the disk.
#[test]
fn a_mirror_whose_end_libvirtd_did_not_live_to_see_is_resolved_when_the_domain_is_off() {
    let bed = bed();
    let bare = bed.bare("unseen", &[Bare::BIG]);
    let inactive = || plain(&bed.virsh(&["dumpxml", "--inactive", "unseen"]));
    let before = inactive();
    let out = bed.path("out");
    let taken = SnapshotOptions {
        method: Method::Mirror,
        bandwidth: MIB,
        ..snapshot(vec![disk("vda", &out, "raw")])
    };
    let moved = migration("copy", "vda", &out, MIB);
    for (what, start) in [
        (
            "snapshot",
            &(|| bed.connection.start_live_snapshot("unseen", &taken)) as &dyn Fn() -> _,
        ),
        ("migration", &|| bed.connection.migrate_disk("unseen", &moved)),
    ] {
        println!("{what}");
        let operation = start().unwrap();
        await_copying(&operation);
        bed.end_unseen("unseen", "mirror", "job-cancel");
        let parts = ["'vda'", "'unseen'", "libvirtd died", "shut it off", "livedisk recover"];
        let error = operation.finish(Some(PATIENCE)).unwrap_err();
        must_tell(&error, ErrorCode::JobFailed, &parts);
        drop(operation);
        let recovery = bed.connection.recover(Some("unseen"), false).unwrap();
        let Settlement::Failed(error) = &recovery.operations[0].settlement else {
            panic!("{recovery:?}");
        };
        assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
        bed.virsh(&["destroy", "unseen"]);
        assert_eq!(recover(&bed, "unseen").taken_back(), 1);
        assert_eq!(inactive(), before);
        assert!(!out.exists());
        bed.virsh(&["start", "unseen"]);
    }
    drop(bare);
}
