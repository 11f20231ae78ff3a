// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest that writes faster than its mirror copies.

mod support;

use std::time::{Duration, Instant};

use livedisk::{ErrorCode, EventLoop, Phase, SnapshotOptions};
use support::bed::{Bed, Server, Turn, run};
use support::image::edge;
use support::{PATIENCE, await_phase, disk, must_tell, snapshot, until};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2:64M,data=8M"])
}

const NEVER_ENDLESS: Duration = Duration::from_secs(120);

/// An export in memory that takes `rate` bits a second.
fn slow_export(bed: &Bed, rate: &str) -> (Server, String) {
    let socket = bed.path("slow.sock");
    let shown = socket.to_str().unwrap();
    let rate = format!("rate={rate}");
    let server = Server::start(
        "nbdkit",
        &["-f", "-U", shown, "--filter=rate", "memory", "size=64M", &rate],
    );
    until("the export answers", || socket.exists());
    run("chmod", &["777", shown]);
    (server, format!("nbd+unix:///?socket={shown}"))
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
