// SPDX-License-Identifier: LGPL-2.1-or-later
//! Cancelled, beside another, or without libvirtd for a while.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{CloneMethod, ErrorCode, Method, MigrateOptions, Phase};

use crate::moving::{copy_of, home, to};
use crate::support::image::log_of;
use crate::support::{PATIENCE, await_copying, await_phase, must_tell, until};
use crate::{MIB, bed, calling, copying, mirroring};

#[test]
fn cancel_while_the_callback_runs() {
    let bed = bed();
    let before = home(&bed, "a", "vda");
    let running = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&running);
    let options = calling("vda", bed.path("never"), move |source, destination| {
        seen.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_secs(1));
        copy_of(source, destination)
    });
    let operation = bed.connection.migrate_disk("a", &options).unwrap();
    until("the callback runs", || running.load(Ordering::SeqCst));
    operation.cancel().unwrap();
    must_tell(&operation.finish(None).unwrap_err(), ErrorCode::Cancelled, &["'a'"]);
    before.must_be_as_before();
}

#[test]
fn cancel_while_cloning_and_when_ready() {
    let bed = bed();
    for (domain, target) in [("a", "vdb"), ("b", "vdb"), ("a", "vda")] {
        let before = home(&bed, domain, target);
        for method in [Method::Clone, Method::Mirror] {
            for phase in [Phase::Preparing, Phase::Copying, Phase::Ready] {
                if target == "vda" && phase == Phase::Copying {
                    // There is too little in the overlay to be caught.
                    continue;
                }
                println!("{domain} {target} {method:?} {phase:?}");
                let options = MigrateOptions {
                    method,
                    clone: CloneMethod::Copy,
                    bandwidth: if phase == Phase::Copying { MIB } else { 0 },
                    ..to(target, bed.path("never"))
                };
                let operation = bed.connection.migrate_disk(domain, &options).unwrap();
                match phase {
                    Phase::Copying => await_copying(&operation),
                    Phase::Ready => await_phase(&operation, phase),
                    _ => {}
                }
                let began = Instant::now();
                operation.cancel().unwrap();
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
                assert_eq!(operation.poll(None).phase, Phase::Cancelled);
                must_tell(&operation.finish(None).unwrap_err(), ErrorCode::Cancelled, &[domain]);
                before.must_be_as_before();
            }
        }
    }
}

#[test]
fn cancel_after_the_pivot_completes() {
    let bed = bed();
    let mut late = false;
    for attempt in 0..4 {
        let before = home(&bed, "a", "vda");
        let acknowledged = before.acknowledged();
        // What the guest writes meanwhile makes the commit take its time.
        let options = calling("vda", bed.path(&format!("after-{attempt}")), |source, destination| {
            thread::sleep(Duration::from_secs(2));
            copy_of(source, destination)
        });
        bed.ctl("a", &["writer", "burst", "20"]);
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        await_phase(&operation, Phase::Ready);
        bed.ctl("a", &["writer", "burst", "0"]);
        let (finished, cancelled) = thread::scope(|scope| {
            let finishing = scope.spawn(|| operation.finish(Some(PATIENCE)));
            until("it is moved", || {
                let list = bed.virsh(&["domblklist", "a"]);
                !list.contains("-source.qcow2")
            });
            let cancelled = operation.cancel();
            (finishing.join().unwrap(), cancelled)
        });
        println!("{finished:?} {cancelled:?}");
        finished.unwrap();
        let error = cancelled.unwrap_err();
        late |= error.code() == ErrorCode::NoOperation;
        assert_eq!(error.code(), ErrorCode::NoOperation);
        before.must_have_moved(&options, &before.chain[1..], acknowledged);
        fs::remove_file(&before.chain[0]).unwrap();
    }
    assert!(late);
}

#[test]
fn two_disks_at_once() {
    let bed = bed();
    let before = ["vdb", "vdc"].map(|target| home(&bed, "a", target));
    let options = [
        MigrateOptions {
            bandwidth: 4 * MIB,
            ..copying("vdb", bed.path("first-of-two"))
        },
        mirroring("vdc", bed.path("second-of-two"), "qcow2"),
    ];
    let started = |count| bed.connection.operations(Some("a")).unwrap().len() == count;
    let operations = [1, 2].map(|count| {
        let operation = bed.connection.migrate_disk("a", &options[count - 1]).unwrap();
        until("it is noted", || started(count));
        operation
    });
    let busy = bed.connection.migrate_disk("a", &options[0]).err().unwrap();
    must_tell(&busy, ErrorCode::Busy, &["'a'", "wait for it, or cancel it"]);
    let last = log_of(&bed, "a").last().unwrap().sequence;
    for operation in operations.iter().rev() {
        println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
    }
    for (before, options) in before.iter().zip(&options) {
        let now = home(&bed, "a", &options.target);
        assert_eq!(now.chain, std::slice::from_ref(&options.destination));
        now.must_be_whole(
            Path::new(&options.destination),
            &now.format,
            last.min(now.acknowledged() - 1),
        );
        fs::remove_file(&before.chain[0]).unwrap();
    }
    assert!(bed.connection.operations(Some("a")).unwrap().is_empty());
    assert!(!bed.virsh(&["dumpxml", "--inactive", "a"]).contains("urn:livedisk"));
}

#[test]
fn libvirtd_restarted_in_mid_copy() {
    let bed = bed();
    for (index, (method, kill)) in [
        (Method::Clone, true),
        (Method::Clone, false),
        (Method::Mirror, true),
        (Method::Mirror, false),
    ]
    .into_iter()
    .enumerate()
    {
        println!("{method:?}, SIGKILL: {kill}");
        let before = home(&bed, "a", "vdb");
        let acknowledged = before.acknowledged();
        let options = MigrateOptions {
            method,
            clone: CloneMethod::Copy,
            bandwidth: 4 * MIB,
            auto_finish: true,
            ..to("vdb", bed.path(&format!("restarted-{index}")))
        };
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        await_copying(&operation);
        bed.restart_daemon(kill);
        assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, method);
        before.must_have_moved(&options, &[], acknowledged);
        fs::remove_file(&before.chain[0]).unwrap();
    }
}
