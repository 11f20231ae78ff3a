// SPDX-License-Identifier: LGPL-2.1-or-later
//! Cancel in each phase takes everything back; to drop an operation takes nothing back.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use livedisk::{ErrorCode, EventLoop, Method, Phase, SnapshotOptions};
use support::bed::{Bare, Turn};
use support::scenario::{self, METHODS};
use support::{PATIENCE, await_copying, await_phase, disk, must_tell, snapshot, until};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2-backed:64M+raw:64M,data=8M"])
}

#[test]
fn while_finish_waits() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::cancel_while_finish_waits(&bed, method));
}

#[test]
fn in_each_phase() {
    let bed = bed();
    let slow = bed.bare("slow", &[Bare::BIG, Bare::BIG]);
    let (before, slow_before) = (bed.watch("a"), bed.watch("slow"));
    for method in METHODS {
        for (domain, before, phase) in [
            ("a", &before, Phase::Preparing),
            ("slow", &slow_before, Phase::Copying),
            ("a", &before, Phase::Ready),
        ] {
            println!("{method:?} {phase:?}");
            let options = SnapshotOptions {
                method,
                bandwidth: if phase == Phase::Copying { 1 << 20 } else { 0 },
                ..snapshot(vec![
                    disk("vda", bed.path("one"), "raw"),
                    disk("vdb", bed.path("two"), "qcow2"),
                ])
            };
            let operation = bed.connection.start_live_snapshot(domain, &options).unwrap();
            match phase {
                Phase::Copying => await_copying(&operation),
                Phase::Ready => await_phase(&operation, phase),
                _ => (),
            }
            operation.cancel().unwrap();
            assert_eq!(operation.poll(None).phase, Phase::Cancelled);
            let error = operation.finish(None).unwrap_err();
            must_tell(&error, ErrorCode::Cancelled, &[&format!("'{domain}'")]);
            before.must_be_as_before(&[]);
        }
    }
    drop(slow);
}

/// Whoever wins: either the images are there and whole, or all is rolled back.
#[test]
fn racing_finish() {
    let bed = bed();
    let before = bed.watch("a");
    let mut outcomes = Vec::new();
    for (index, delay) in [0, 2, 5, 10, 20, 40, 80, 160, 320, 640].into_iter().enumerate() {
        let options = SnapshotOptions {
            method: METHODS[index % 2],
            ..snapshot(vec![
                disk("vda", bed.path("one"), "qcow2"),
                disk("vdb", bed.path("two"), "qcow2"),
            ])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        await_phase(&operation, Phase::Ready);
        let (finished, cancelled) = thread::scope(|scope| {
            let finishing = scope.spawn(|| operation.finish(Some(PATIENCE)));
            thread::sleep(Duration::from_millis(delay));
            let cancelled = operation.cancel();
            (finishing.join().unwrap(), cancelled)
        });
        outcomes.push((delay, finished.is_ok()));
        match finished {
            Ok(_) => {
                must_tell(&cancelled.unwrap_err(), ErrorCode::NoOperation, &[]);
                for image in ["one", "two"] {
                    support::bed::run(
                        "qemu-img",
                        &["check", "-q", "-f", "qcow2", bed.path(image).to_str().unwrap()],
                    );
                }
                before.must_be_as_before(&["one", "two"]);
            }
            Err(error) => {
                must_tell(&error, ErrorCode::Cancelled, &["'a'"]);
                cancelled.unwrap();
                before.must_be_as_before(&[]);
            }
        }
    }
    println!("{outcomes:?}");
}

#[test]
fn a_dropped_operation_goes_on_and_can_be_recovered() {
    let bed = bed();
    let bare = bed.bare("left", &[Bare::BIG]);
    for method in METHODS {
        println!("{method:?}");
        let before = bed.watch("left");
        let out = bed.path("out");
        let options = SnapshotOptions {
            method,
            bandwidth: 1 << 20,
            ..snapshot(vec![disk("vda", &out, "raw")])
        };
        let operation = bed.connection.start_live_snapshot("left", &options).unwrap();
        await_copying(&operation);
        drop(operation);

        let known = bed.connection.operations(Some("left")).unwrap();
        assert_eq!(known.len(), 1);
        let known = &known[0];
        assert_eq!((known.domain.as_str(), known.method), ("left", method));
        assert_eq!(known.owner_process, std::process::id());
        assert!(known.orphaned, "its process has let go of it");
        assert_eq!(known.disks[0].destination, out.to_str().unwrap());
        assert!(out.exists());
        let error = bed.connection.start_live_snapshot("left", &options).unwrap_err();
        must_tell(&error, ErrorCode::Busy, &["'left'", &known.id]);

        assert!(known.disks[0].progress.is_some());
        let recovery = bed.connection.recover(Some("left"), false).unwrap();
        assert_eq!((recovery.domains(), recovery.taken_back()), (1, 1), "{recovery:?}");
        before.must_be_as_before(&[]);
    }
    drop(bare);
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

#[test]
fn progress_goes_on_after_an_attach() {
    let bed = bed();
    let _bare = bed.bare("slow", &[Bare::BIG]);
    let before = bed.watch("slow");
    // A backup's reader went with its process, and a new one begins again.
    let options = SnapshotOptions {
        method: Method::Mirror,
        bandwidth: 1 << 20,
        ..snapshot(vec![disk("vda", bed.path("out"), "raw")])
    };
    let operation = bed.connection.start_live_snapshot("slow", &options).unwrap();
    await_copying(&operation);
    let seen = operation.poll(Some(Duration::ZERO));
    assert!(seen.step > 0 && seen.step_count > seen.step, "{seen:?}");
    drop(operation);
    let attached = bed.connection.attach("slow", "vda").unwrap();
    let now = attached.poll(Some(Duration::ZERO));
    assert_eq!(now.step_count, seen.step_count);
    assert!(now.step >= seen.step, "{seen:?}, then {now:?}");
    attached.cancel().unwrap();
    before.must_be_as_before(&[]);
}
