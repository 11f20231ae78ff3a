// SPDX-License-Identifier: LGPL-2.1-or-later
//! Processes that run operations are killed; others resume the operations, or clean up what they left.

mod agent;
mod each_phase;
#[path = "../moving/mod.rs"]
mod moving;
mod owners;
#[path = "../support/mod.rs"]
mod support;
mod undefined;
mod unseen;

use std::path::Path;
use std::time::SystemTime;

use livedisk::{CloneMethod, EventLoop, Method, MigrateOptions, Operation, Recovery};

use crate::moving::to;
use crate::support::bed::{Bed, Turn};

const MIB: u64 = 1 << 20;

const GUESTS: [&str; 1] = ["name=a,disks=qcow2-backed:64M+raw:32M,data=8M"];

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &GUESTS)
}

/// What a job writes to belongs to QEMU's user then, and is not theirs to open.
#[test]
fn as_an_ordinary_user() {
    let tests = [
        "each_phase::a_snapshot_is_resolved_in_each_phase",
        "each_phase::a_migration_is_resolved_in_each_phase",
    ];
    support::ordinary::run_tests(&tests, &GUESTS);
}

/// `quiet` is the clone of a quiet base.
fn snapshot_method(what: &str) -> Method {
    match what {
        "mirror" => Method::Mirror,
        "backup" => Method::Backup,
        "rebase" => Method::Rebase,
        _ => Method::Clone,
    }
}

fn migration(what: &str, target: &str, destination: &Path, bandwidth: u64) -> MigrateOptions {
    MigrateOptions {
        method: if what == "clone" { Method::Clone } else { Method::Mirror },
        clone: CloneMethod::Copy,
        bandwidth,
        ..to(target, destination)
    }
}

fn recover(bed: &Bed, domain: &str) -> Recovery {
    let recovery = bed.connection.recover(Some(domain), false).unwrap();
    for operation in &recovery.operations {
        println!(
            "  recover: {} by {:?} at {}: {:?}",
            operation.kind, operation.method, operation.mark, operation.settlement
        );
    }
    assert_eq!(recovery.failed(), 0, "{recovery:?}");
    assert_eq!(
        bed.connection.recover(Some(domain), false).unwrap().operations,
        [],
        "once more"
    );
    recovery
}

/// Of the domain's one operation.
fn namespace(bed: &Bed, domain: &str) -> String {
    const NAMESPACE: &str = "urn:livedisk:operation:";
    let xml = bed.virsh(&["dumpxml", domain]);
    let (_, rest) = xml.split_once(NAMESPACE).unwrap();
    format!("{NAMESPACE}{}", rest.split_once(['"', '\'']).unwrap().0)
}

/// The record now says that a process of another host owns the operation until then.
fn give_to_another_host(bed: &Bed, lease: SystemTime) {
    rewrite_record(bed, "a", |record| {
        for (name, value) in [
            ("host", "elsewhere".into()),
            ("machine", "another".into()),
            ("boot", "another".into()),
            ("lease", serde_json::to_value(lease).unwrap()),
        ] {
            assert!(!record["owner"][name].take().is_null(), "{name}");
            record["owner"][name] = value;
        }
    });
}

/// Changes the record of the domain's one operation in both definitions.
fn rewrite_record(bed: &Bed, domain: &str, change: impl Fn(&mut serde_json::Value)) {
    let uri = namespace(bed, domain);
    for definition in ["--live", "--config"] {
        let element = bed.virsh(&["metadata", domain, &uri, definition]);
        let (start, end) = (element.find('{').unwrap(), element.rfind('}').unwrap() + 1);
        let mut record = serde_json::from_str(&element[start..end]).unwrap();
        change(&mut record);
        let element = format!("{}{record}{}", &element[..start], &element[end..]);
        bed.virsh(&[
            "metadata", domain, &uri, "--key", "livedisk", "--set", &element, definition,
        ]);
    }
}

fn attach(bed: &Bed, domain: &str, target: &str) -> Operation {
    bed.connection.attach(domain, target).unwrap()
}
