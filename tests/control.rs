// SPDX-License-Identifier: LGPL-2.1-or-later
//! A cancel that does not wait.

mod support;

use std::time::{Duration, Instant};

use livedisk::{ErrorCode, EventLoop, Phase, SnapshotOptions};
use support::bed::{Bare, Turn};
use support::{PATIENCE, await_copying, disk, must_tell, snapshot, until};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=raw:32M,data=2M"])
}

#[test]
fn a_cancel_that_is_asked_for_is_not_waited_for() {
    let bed = bed();
    let bare = bed.bare("slow", &[Bare::BIG]);
    let before = bed.watch("slow");
    let options = SnapshotOptions {
        bandwidth: 1 << 20,
        ..snapshot(vec![disk("vda", bed.path("out"), "raw")])
    };
    let operation = bed.connection.start_live_snapshot("slow", &options).unwrap();
    await_copying(&operation);
    let asked = Instant::now();
    operation.request_cancel().unwrap();
    assert!(asked.elapsed() < Duration::from_millis(100));
    operation.request_cancel().unwrap();
    until("it is cancelled", || {
        let phase = operation.poll(Some(Duration::from_millis(100))).phase;
        assert!(!matches!(phase, Phase::Done | Phase::Failed), "{phase:?}");
        phase == Phase::Cancelled
    });
    must_tell(
        &operation.finish(Some(PATIENCE)).unwrap_err(),
        ErrorCode::Cancelled,
        &["'slow'"],
    );
    operation.request_cancel().unwrap();
    before.must_be_as_before(&[]);

    let options = SnapshotOptions {
        bandwidth: 0,
        ..options
    };
    let operation = bed.connection.start_live_snapshot("slow", &options).unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    must_tell(
        &operation.request_cancel().unwrap_err(),
        ErrorCode::NoOperation,
        &["'slow'", "complete"],
    );
    before.must_be_as_before(&["out"]);
    drop(bare);
}
