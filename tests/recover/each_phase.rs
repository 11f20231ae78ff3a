// SPDX-License-Identifier: LGPL-2.1-or-later
//! Killed in each phase of each method.

use std::fs;
use std::thread;
use std::time::Duration;

use livedisk::{Consistency, ErrorCode, Method, MigrateOptions, Recovery};

use crate::agent::{Agent, Work};
use crate::moving::{home, shown};
use crate::support::bed::{Bed, run};
use crate::support::image::edge;
use crate::support::ordinary::is_without_backup;
use crate::support::{PATIENCE, must_tell, until};
use crate::{MIB, attach, bed, migration, recover, snapshot_method};

/// What it left cannot be distinguished from somebody else's file, so it stays; all else is rolled back.
#[test]
fn a_callers_clone_that_was_killed_is_rolled_back() {
    let bed = bed();
    let out = bed.path("out");
    for what in ["called-snapshot", "called-migration"] {
        for attaching in [true, false] {
            println!("{what}, attached to: {attaching}");
            let before = bed.watch("a");
            let work = Work {
                domain: "a",
                target: "vdb",
                what,
                bandwidth: 0,
                finish: false,
            };
            let mut agent = Agent::start(&bed, work, &out);
            agent.says("cloning");
            agent.kill();
            if attaching {
                let error = attach(&bed, "a", "vdb").finish(Some(PATIENCE)).unwrap_err();
                must_tell(&error, ErrorCode::JobFailed, &[shown(&out), "ended with its process"]);
            } else {
                assert_eq!(recover(&bed, "a").taken_back(), 1);
            }
            assert_eq!(fs::read_to_string(&out).unwrap(), "half\n");
            before.must_be_as_before(&["out"]);
        }
    }
}

#[test]
fn a_snapshot_is_resumed_in_each_phase() {
    let bed = bed();
    let out = bed.path("out");
    for what in ["mirror", "backup", "quiet"] {
        let method = snapshot_method(what);
        for (word, bandwidth) in [("copying", 4 * MIB), ("Ready", 0)] {
            for daemon in [false, true] {
                println!("{what}, killed at {word}, daemon killed too: {daemon}");
                let before = bed.watch("a");
                let work = Work {
                    domain: "a",
                    target: "vdb",
                    what,
                    bandwidth,
                    finish: false,
                };
                let mut agent = Agent::start(&bed, work, &out);
                agent.says(word);
                // Before it, nobody but the process knows the point in time.
                until("the point in time is on record", || {
                    let known = bed.connection.operations(Some("a")).unwrap();
                    method == Method::Mirror || ["copying", "fixed"].contains(&known[0].mark)
                });
                let error = bed.connection.attach("a", "vdb").unwrap_err();
                must_tell(
                    &error,
                    ErrorCode::Busy,
                    &["'a'", &agent.0.id().to_string(), "started 20"],
                );
                agent.kill();
                if daemon {
                    bed.restart_daemon(true);
                }
                let operation = attach(&bed, "a", "vdb");
                let error = bed.connection.attach("a", "vdb").unwrap_err();
                must_tell(&error, ErrorCode::Busy, &[&std::process::id().to_string()]);
                let report = operation.finish(Some(PATIENCE)).unwrap();
                println!("  {report:?}");
                assert_eq!((report.method, report.consistency), (method, Consistency::Filesystem));
                assert!(report.bytes_copied > 0);
                edge(&bed, "a", "vdb", &out, "qcow2").must_be_at(&report, Duration::ZERO);
                before.must_be_as_before(&["out"]);
            }
        }
    }
}

#[test]
fn a_snapshot_is_resolved_in_each_phase() {
    let bed = bed();
    let out = bed.path("out");
    for what in ["mirror", "backup", "quiet"] {
        if what == "backup" && is_without_backup(what) {
            continue;
        }
        for (word, finish, delay) in [
            ("begun", false, 0),
            ("copying", false, 0),
            ("Ready", false, 0),
            ("finishing", true, 0),
            ("finishing", true, 30),
            ("finishing", true, 100),
        ] {
            println!("{what}, killed {delay} ms after '{word}'");
            let before = bed.watch("a");
            let bandwidth = if word == "copying" { 4 * MIB } else { 0 };
            let mut agent = Agent::start(
                &bed,
                Work {
                    domain: "a",
                    target: "vdb",
                    what,
                    bandwidth,
                    finish,
                },
                &out,
            );
            agent.says(word);
            thread::sleep(Duration::from_millis(delay));
            agent.kill();
            let dry = bed.connection.recover(Some("a"), true).unwrap();
            let recovery = recover(&bed, "a");
            let outcomes = |recovery: &Recovery| (recovery.completed(), recovery.taken_back());
            assert_eq!(outcomes(&dry), outcomes(&recovery), "{dry:?}");
            // It may have ended before it was killed.
            let ended = recovery.operations.is_empty();
            let image: &[&str] = if recovery.completed() == 1 || ended {
                &["out"]
            } else {
                &[]
            };
            if !image.is_empty() {
                run("qemu-img", &["check", "-q", "-f", "qcow2", shown(&out)]);
            }
            before.must_be_as_before(image);
        }
    }
}

#[test]
fn a_migration_is_resumed_in_each_phase() {
    let bed = bed();
    for (index, (what, word, bandwidth, finish, delay)) in [
        ("clone", "copying", 8 * MIB, false, 0),
        ("clone", "Ready", 0, false, 0),
        ("clone", "finishing", 0, true, 50),
        ("clone", "finishing", 0, true, 150),
        ("copy", "copying", 8 * MIB, false, 0),
        ("copy", "Ready", 0, false, 0),
        ("copy", "finishing", 0, true, 10),
    ]
    .into_iter()
    .enumerate()
    {
        println!("{what}, killed {delay} ms after '{word}'");
        let before = home(&bed, "a", "vdb");
        let acknowledged = before.acknowledged();
        let destination = bed.path(&format!("moved-{index}"));
        let mut agent = Agent::start(
            &bed,
            Work {
                domain: "a",
                target: "vdb",
                what,
                bandwidth,
                finish,
            },
            &destination,
        );
        agent.says(word);
        thread::sleep(Duration::from_millis(delay));
        agent.kill();
        // In the very pivot libvirtd forgets it, and then nobody can go on (docs/operations.md).
        if index % 2 == 1 && word != "finishing" {
            bed.restart_daemon(true);
        }
        match bed.connection.attach("a", "vdb") {
            Ok(operation) => println!("  {:?}", operation.finish(Some(PATIENCE)).unwrap()),
            // It was complete before it was killed.
            Err(error) if finish => must_tell(&error, ErrorCode::NoOperation, &["vdb"]),
            Err(error) => panic!("{error}"),
        }
        before.must_have_moved(&migration(what, "vdb", &destination, 0), &[], acknowledged);
        fs::remove_file(&before.chain[0]).unwrap();
    }
}

/// Whatever was killed when: the disk is where it was or where it goes, whole, and nothing else is left. With `off` the
/// guest is killed too, and then started again, before or after the recovery.
fn resolve_migration(bed: &Bed, work: Work<'_>, word: &str, delay: u64, off: Option<bool>) {
    println!("{work:?}, killed {delay} ms after '{word}', QEMU killed and started first: {off:?}");
    let before = home(bed, "a", work.target);
    let acknowledged = before.acknowledged();
    let destination = bed.path("there");
    let mut agent = Agent::start(bed, work, &destination);
    agent.says(word);
    thread::sleep(Duration::from_millis(delay));
    agent.kill();
    if let Some(first) = off {
        bed.virsh(&["destroy", "a"]);
        if first {
            bed.virsh(&["start", "a"]);
        }
    }
    let recovery = recover(bed, "a");
    if off == Some(false) {
        bed.virsh(&["start", "a"]);
    }
    if off.is_some() {
        until("the guest is up", || {
            let agent = bed.try_virsh(&["qemu-agent-command", "a", r#"{"execute":"guest-ping"}"#]);
            agent.is_ok() && !bed.virsh(&["dumpxml", "a"]).contains("'disconnected'")
        });
    }
    let moved = home(bed, "a", work.target).chain[0] == shown(&destination);
    assert!(moved || recovery.completed() == 0);
    if moved {
        before.must_have_moved(
            &migration(work.what, work.target, &destination, 0),
            &before.chain[1..],
            acknowledged,
        );
        // Back, for the next.
        let back = MigrateOptions {
            delete_source: true,
            ..migration(
                "clone",
                work.target,
                &bed.path(&format!("home-{}", destination_number())),
                0,
            )
        };
        fs::remove_file(&before.chain[0]).unwrap();
        bed.connection
            .migrate_disk("a", &back)
            .unwrap()
            .finish(Some(PATIENCE))
            .unwrap();
    } else {
        before.must_be_as_before();
    }
}

fn destination_number() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()
}

#[test]
fn a_migration_is_resolved_in_each_phase() {
    let bed = bed();
    for (what, word, bandwidth, finish, delay) in [
        ("clone", "begun", 0, false, 0),
        ("clone", "copying", 8 * MIB, false, 0),
        ("clone", "Ready", 0, false, 0),
        ("clone", "finishing", 0, true, 0),
        ("clone", "finishing", 0, true, 60),
        ("clone", "finishing", 0, true, 120),
        ("copy", "copying", 8 * MIB, false, 0),
        ("copy", "Ready", 0, false, 0),
    ] {
        resolve_migration(
            &bed,
            Work {
                domain: "a",
                target: "vda",
                what,
                bandwidth,
                finish,
            },
            word,
            delay,
            None,
        );
    }
}

#[test]
fn a_migration_is_resolved_when_its_guest_is_gone() {
    let bed = bed();
    for (what, word, bandwidth, finish, delay, started) in [
        ("clone", "copying", 8 * MIB, false, 0, false),
        ("clone", "Ready", 0, false, 0, false),
        ("clone", "Ready", 0, false, 0, true),
        ("clone", "finishing", 0, true, 100, false),
        ("clone", "finishing", 0, true, 100, true),
        ("copy", "Ready", 0, false, 0, false),
    ] {
        let work = Work {
            domain: "a",
            target: "vdb",
            what,
            bandwidth,
            finish,
        };
        resolve_migration(&bed, work, word, delay, Some(started));
    }
}
