// SPDX-License-Identifier: LGPL-2.1-or-later
//! A freeze around somebody else's snapshots: thawed by any process, by the limit, by the guard, by recover.
//!
//! The process that is killed is this very program, run with the test `agent` alone.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{Connection, ErrorCode, EventLoop, Quiesce, SnapshotOptions};
use support::bed::{Bed, Turn};
use support::{PATIENCE, disk, must_tell, snapshot, until};

const LONG: Duration = Duration::from_secs(120);
/// What is promised of a guest whose agent was killed, or whose limit has passed.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &[
            "name=a,disks=raw:16M,data=2M",
            "name=dumb,disks=raw:16M,data=2M,agent=no",
        ],
    )
}

/// Not a test: what `Agent` runs.
#[test]
#[ignore = "run by the tests of this file"]
fn agent() {
    let value = |name: &str| std::env::var(format!("AGENT_{name}")).unwrap();
    let connection = Connection::open(Some(&value("URI")), EventLoop::None).unwrap();
    match connection.freeze("a", LONG) {
        Ok(count) => println!("\nfrozen {count}"),
        Err(error) => println!("\nerror {error}"),
    }
    drop(connection);
    thread::sleep(PATIENCE);
}

struct Agent(Child);

impl Agent {
    fn freeze(bed: &Bed, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["agent", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env("AGENT_URI", &bed.uri)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let said: Vec<_> = lines
            .map(Result::unwrap)
            .take_while(|line| !line.starts_with("frozen "))
            .collect();
        assert!(!said.iter().any(|line| line.starts_with("error")), "{said:?}");
        Self(child)
    }

    fn process(&self) -> String {
        format!("process {}", self.0.id())
    }
}

impl Drop for Agent {
    /// SIGKILL.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn thawed_over_another_connection() {
    let bed = bed();
    let before = bed.watch("a");
    let connection = Connection::open(Some(&bed.uri), EventLoop::None).unwrap();
    let frozen = connection.freeze("a", Duration::ZERO).unwrap();
    assert!(frozen > 0);
    drop(connection);
    assert_eq!(before.fsfreeze_status(), "frozen");

    let [held] = &bed.connection.operations(Some("a")).unwrap()[..] else {
        panic!("it is not reported");
    };
    assert_eq!((held.kind, held.orphaned, held.disks.len()), ("freeze", false, 0));
    assert_eq!(held.owner_process, std::process::id());
    let process = format!("process {}", std::process::id());
    let busy = bed.connection.freeze("a", LONG).unwrap_err();
    must_tell(&busy, ErrorCode::Busy, &["'a'", "freeze", &process, "livedisk thaw"]);
    for quiesce in [Quiesce::None, Quiesce::Prefer] {
        let options = SnapshotOptions {
            quiesce,
            ..snapshot(vec![disk("vda", bed.path("out"), "raw")])
        };
        let busy = bed.connection.start_live_snapshot("a", &options).err().unwrap();
        must_tell(&busy, ErrorCode::Busy, &["'a'", "freeze", &process]);
    }
    let recovery = bed.connection.recover(Some("a"), false).unwrap();
    assert_eq!(recovery.domains(), 0);
    let none = bed.connection.attach("a", "vda").err().unwrap();
    must_tell(&none, ErrorCode::NoOperation, &["'vda'"]);
    assert_eq!(before.fsfreeze_status(), "frozen");

    assert_eq!(bed.connection.thaw("a").unwrap(), frozen);
    must_tell(&bed.connection.thaw("a").unwrap_err(), ErrorCode::NoOperation, &["'a'"]);
    before.must_be_as_before(&[]);
}

#[test]
fn while_an_operation_runs() {
    let bed = bed();
    let before = bed.watch("a");
    let options = snapshot(vec![disk("vda", bed.path("out"), "raw")]);
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let busy = bed.connection.freeze("a", LONG).unwrap_err();
    must_tell(&busy, ErrorCode::Busy, &["'a'", "snapshot"]);
    must_tell(&bed.connection.thaw("a").unwrap_err(), ErrorCode::NoOperation, &["'a'"]);
    operation.finish(Some(PATIENCE)).unwrap();
    before.must_be_as_before(&["out"]);
}

#[test]
fn the_limit_passes() {
    let bed = bed();
    let before = bed.watch("a");
    for forgotten in [true, false] {
        let limit = Duration::from_secs(2);
        let began = Instant::now();
        bed.connection.freeze("a", limit).unwrap();
        until("it is thawed", || before.fsfreeze_status() == "thawed");
        let took = began.elapsed();
        println!("thawed after {took:?}");
        assert!(took >= limit && took < limit + 2 * LET_GO_WITHIN);
        if forgotten {
            // Whoever freezes now would be thawed with it; what is left of it is soon in no one's way.
            until("it is over", || match bed.connection.freeze("a", LONG) {
                Ok(_) => true,
                Err(busy) => {
                    must_tell(&busy, ErrorCode::Busy, &["'a'", "freeze"]);
                    false
                }
            });
            thread::sleep(2 * LET_GO_WITHIN);
            bed.connection.thaw("a").unwrap();
        } else {
            let late = bed.connection.thaw("a").unwrap_err();
            must_tell(&late, ErrorCode::Freeze, &["'a'", "thawed too early", "not consistent"]);
        }
        must_tell(&bed.connection.thaw("a").unwrap_err(), ErrorCode::NoOperation, &["'a'"]);
        // The thread that watched has ended.
        thread::sleep(2 * LET_GO_WITHIN);
        before.must_be_as_before(&[]);
    }
}

#[test]
fn killed_while_it_holds() {
    let bed = bed();
    let before = bed.watch("a");
    for recovered in [false, true] {
        let agent = Agent::freeze(&bed, &[]);
        assert_eq!(before.fsfreeze_status(), "frozen");
        let process = agent.process();
        let busy = bed.connection.freeze("a", LONG).unwrap_err();
        must_tell(&busy, ErrorCode::Busy, &[&process, "livedisk thaw"]);
        drop(agent);
        let killed = Instant::now();
        until("the guard thaws it", || before.fsfreeze_status() == "thawed");
        println!("thawed {:?} after the kill", killed.elapsed());
        assert!(killed.elapsed() < 2 * LET_GO_WITHIN);
        let busy = bed.connection.freeze("a", LONG).unwrap_err();
        must_tell(&busy, ErrorCode::Busy, &[&process, "livedisk recover"]);
        if recovered {
            let recovery = bed.connection.recover(None, false).unwrap();
            assert_eq!((recovery.taken_back(), recovery.thawed(), recovery.failed()), (1, 0, 0));
            // By now its guard thaws no other freeze.
            bed.connection.freeze("a", LONG).unwrap();
            thread::sleep(2 * LET_GO_WITHIN);
            assert!(bed.connection.thaw("a").unwrap() > 0);
        } else {
            let late = bed.connection.thaw("a").unwrap_err();
            must_tell(&late, ErrorCode::Freeze, &["'a'", "not consistent"]);
        }
        before.must_be_as_before(&[]);
    }
}

#[test]
fn killed_without_a_guard() {
    let bed = bed();
    let before = bed.watch("a");
    for recovered in [false, true] {
        drop(Agent::freeze(&bed, &[("LIVEDISK_GUARD", "/no/such/guard")]));
        thread::sleep(LET_GO_WITHIN);
        assert_eq!(before.fsfreeze_status(), "frozen");
        if recovered {
            for dry_run in [true, false] {
                let recovery = bed.connection.recover(Some("a"), dry_run).unwrap();
                assert_eq!((recovery.taken_back(), recovery.thawed(), recovery.failed()), (1, 1, 0));
                let [found] = &recovery.operations[..] else { panic!() };
                assert_eq!((found.kind, found.plan.len()), ("freeze", 2));
            }
        } else {
            // It was frozen all the time.
            assert!(bed.connection.thaw("a").unwrap() > 0);
        }
        before.must_be_as_before(&[]);
    }
}

/// The guard of a process that was thawed by another one thaws no other freeze.
#[test]
fn thawed_by_another_process() {
    let bed = bed();
    let before = bed.watch("a");
    let agent = Agent::freeze(&bed, &[]);
    assert!(bed.connection.thaw("a").unwrap() > 0);
    bed.connection.freeze("a", LONG).unwrap();
    drop(agent);
    thread::sleep(2 * LET_GO_WITHIN);
    assert_eq!(before.fsfreeze_status(), "frozen");
    bed.connection.thaw("a").unwrap();
    before.must_be_as_before(&[]);
}

#[test]
fn what_cannot_be_frozen() {
    let bed = bed();
    let (dumb, able) = (bed.watch("dumb"), bed.watch("a"));
    must_tell(
        &bed.connection.freeze("dumb", LONG).unwrap_err(),
        ErrorCode::Agent,
        &["'dumb'"],
    );
    must_tell(
        &bed.connection.freeze("nobody", LONG).unwrap_err(),
        ErrorCode::NoDomain,
        &["nobody"],
    );
    must_tell(
        &bed.connection.thaw("nobody").unwrap_err(),
        ErrorCode::NoDomain,
        &["nobody"],
    );
    bed.virsh(&["suspend", "a"]);
    let paused = bed.connection.freeze("a", LONG).unwrap_err();
    bed.virsh(&["resume", "a"]);
    must_tell(&paused, ErrorCode::DomainState, &["'a'"]);
    bed.virsh(&["domfsfreeze", "a"]);
    let frozen = bed.connection.freeze("a", LONG).unwrap_err();
    bed.virsh(&["domfsthaw", "a"]);
    must_tell(&frozen, ErrorCode::Busy, &["'a'", "not by livedisk"]);
    dumb.must_be_as_before(&[]);
    able.must_be_as_before(&[]);
}
