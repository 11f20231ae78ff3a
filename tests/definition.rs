// SPDX-License-Identifier: LGPL-2.1-or-later
//! Others change the domain's definition while an operation runs.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use livedisk::{EventLoop, Quiesce, SnapshotOptions};
use support::bed::{Bare, Turn};
use support::scenario::METHODS;
use support::{PATIENCE, disk, snapshot};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=raw:32M,data=2M"])
}

/// Each description that is set replaces the one before, in the inactive definition, all the time until an operation has ended.
#[test]
fn what_others_change_in_the_definition_meanwhile_stays() {
    let bed = bed();
    let _bare = bed.bare("described", &[Bare::RAW]);
    for method in METHODS {
        let options = SnapshotOptions {
            method,
            quiesce: Quiesce::None,
            ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
        };
        let over = AtomicBool::new(false);
        let lost: Vec<String> = thread::scope(|scope| {
            let others = scope.spawn(|| {
                let mut lost = Vec::new();
                for number in 0.. {
                    let wanted = format!("{method:?} {number}");
                    bed.virsh(&["desc", "described", "--config", "--new-desc", &wanted]);
                    thread::sleep(Duration::from_millis(5));
                    let found = bed.virsh(&["desc", "described", "--config"]);
                    if found.trim() != wanted {
                        lost.push(format!("{wanted}: {found}"));
                    }
                    if over.load(Ordering::SeqCst) {
                        println!("{method:?}: {number} times");
                        break;
                    }
                }
                lost
            });
            let operation = bed.connection.start_live_snapshot("described", &options).unwrap();
            operation.finish(Some(PATIENCE)).unwrap();
            over.store(true, Ordering::SeqCst);
            others.join().unwrap()
        });
        assert!(lost.is_empty(), "{lost:?}");
        fs::remove_file(bed.path("out")).unwrap();
    }
}
