// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest that writes faster than its mirror copies.

mod moving;
mod support;

use std::time::{Duration, Instant};

use livedisk::{CloneMethod, ErrorCode, EventLoop, Method, MigrateOptions, Operation, Phase, SnapshotOptions};
use moving::{home, to};
use support::bed::{Bed, Server, Turn};
use support::image::edge;
use support::repeated::Repeated;
use support::{PATIENCE, await_phase, disk, must_tell, snapshot, until};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2:64M,data=8M"])
}

const NEVER_ENDLESS: Duration = Duration::from_secs(120);

/// An export in memory that takes `rate` bits a second.
fn slow_export(bed: &Bed, rate: &str) -> (Server, String) {
    let socket = bed.path("slow.sock");
    let rate = format!("rate={rate}");
    let server = Server::nbdkit(&socket, &["--filter=rate", "memory", "size=64M", &rate]);
    (server, format!("nbd+unix:///?socket={}", socket.display()))
}

#[test]
fn our_own_limit_is_lifted() {
    let bed = bed();
    let before = bed.watch("a");
    bed.ctl("a", &["writer", "burst", "16"]);
    let options = SnapshotOptions {
        bandwidth: 1 << 20,
        ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
    };
    let began = Instant::now();
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    await_phase(&operation, Phase::Ready);
    println!("READY after {:?}", began.elapsed());
    let report = operation.finish(Some(PATIENCE)).unwrap();
    bed.ctl("a", &["writer", "burst", "0"]);
    println!("{report:?}");
    edge(&bed, "a", "vda", &bed.path("out"), "qcow2").must_be_at(&report, Duration::ZERO);
    before.must_be_as_before(&["out"]);
}

#[test]
fn a_destination_that_is_too_slow_ends_in_an_error_with_the_rates() {
    let bed = bed();
    let (server, uri) = slow_export(&bed, "8M");
    let before = bed.watch("a");
    bed.ctl("a", &["writer", "burst", "16"]);
    let began = Instant::now();
    let operation = bed
        .connection
        .start_live_snapshot("a", &snapshot(vec![disk("vda", &uri, "raw")]))
        .unwrap();
    let error = operation.finish(Some(NEVER_ENDLESS)).unwrap_err();
    println!("{error} after {:?}", began.elapsed());
    must_tell(
        &error,
        ErrorCode::JobFailed,
        &["'vda'", "'a'", "KiB/s", "WRITE_BLOCKING"],
    );
    bed.ctl("a", &["writer", "burst", "0"]);
    before.must_be_as_before(&[]);
    drop(server);
    std::fs::remove_file(bed.path("slow.sock")).unwrap();
}

#[test]
fn write_blocking_converges() {
    let bed = bed();
    let (server, uri) = slow_export(&bed, "32M");
    let before = bed.watch("a");
    bed.ctl("a", &["writer", "burst", "16"]);
    let options = SnapshotOptions {
        write_blocking: true,
        ..snapshot(vec![disk("vda", &uri, "raw")])
    };
    let began = Instant::now();
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let report = operation.finish(Some(NEVER_ENDLESS)).unwrap();
    println!("{report:?} after {:?}", began.elapsed());
    bed.ctl("a", &["writer", "burst", "0"]);
    before.must_be_as_before(&[]);
    drop(server);
    std::fs::remove_file(bed.path("slow.sock")).unwrap();
}

/// Keeps every block job of a disk slow, as slow storage would, until it is dropped.
fn brake(bed: &Bed, domain: &str, target: &str, bytes_per_second: u64) -> Repeated {
    let command = format!("blockjob {domain} {target} --bandwidth {bytes_per_second} --bytes");
    Repeated::start(bed, &command, Duration::from_millis(10))
}

fn limits(bed: &Bed, target: &str) -> String {
    bed.virsh(&["blkdeviotune", "a", target])
}

fn await_throttle(operation: &Operation, bed: &Bed, own: &str) {
    let mut limit = 0;
    until("the guest is throttled", || {
        limit = operation.poll(Some(Duration::from_millis(100))).guest_write_limit;
        limit > 0
    });
    let now = limits(bed, "vda");
    assert!(now.contains(&format!(": {limit}\n")), "{limit}: {now}");
    assert_ne!(now, own);
}

#[test]
#[ignore = "an emulated guest does not always write faster than its copy; run it on a quiet machine: cargo test --test heavy -- --ignored"]
fn a_migration_throttles_its_guest_and_restores_its_limits() {
    let bed = bed();
    let own = [
        "--total-bytes-sec",
        "200000000",
        "--total-bytes-sec-max",
        "300000000",
        "--total-bytes-sec-max-length",
        "3",
    ];
    bed.virsh(&[&["blkdeviotune", "a", "vda", "--live"][..], &own].concat());
    let own = limits(&bed, "vda");
    let before = home(&bed, "a", "vda");
    let options = MigrateOptions {
        method: Method::Clone,
        clone: CloneMethod::Copy,
        auto_finish: true,
        ..to("vda", bed.path("moved"))
    };
    bed.ctl("a", &["writer", "burst", "40", "vda"]);
    let brake = brake(&bed, "a", "vda", 6 << 20);

    println!("the copy, then, cancelled, the commit");
    let operation = bed.connection.migrate_disk("a", &options).unwrap();
    await_throttle(&operation, &bed, &own);
    operation.cancel().unwrap();
    assert_eq!(limits(&bed, "vda"), own);
    before.must_be_as_before();

    println!("to the end");
    let acknowledged = before.acknowledged();
    let began = Instant::now();
    let operation = bed.connection.migrate_disk("a", &options).unwrap();
    await_throttle(&operation, &bed, &own);
    let report = operation.finish(Some(NEVER_ENDLESS)).unwrap();
    println!("{report:?} after {:?}", began.elapsed());
    assert_eq!(operation.poll(None).guest_write_limit, 0);
    drop(brake);
    bed.ctl("a", &["writer", "burst", "0"]);
    assert_eq!(limits(&bed, "vda"), own);
    before.must_have_moved(&options, &before.chain[1..], acknowledged);
}
