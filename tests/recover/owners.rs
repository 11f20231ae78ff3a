// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who owns an operation: races, leases, and operations without an owner.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use livedisk::{Connection, ErrorCode, EventLoop, Quiesce, Settlement, SnapshotOptions};

use crate::agent::{Agent, MIRROR, Work};
use crate::moving::shown;
use crate::support::bed::{Bare, run};
use crate::support::{disk, must_tell, snapshot, until};
use crate::{MIB, attach, bed, give_to_another_host, namespace, recover};

#[test]
fn one_of_many_wins() {
    let bed = bed();
    let bare = bed.bare("wanted", &[Bare::RAW]);
    let before = bed.watch("wanted");
    let me = std::process::id().to_string();
    let began = Instant::now();
    for _ in 0..10 {
        let options: Vec<_> = (0..4)
            .map(|number| SnapshotOptions {
                quiesce: Quiesce::None,
                ..snapshot(vec![disk("vda", bed.path(&format!("out-{number}")), "raw")])
            })
            .collect();
        let started: Vec<_> = thread::scope(|scope| {
            let start = |options| {
                let connection = Connection::open(Some(&bed.uri), EventLoop::Own).unwrap();
                connection.start_live_snapshot("wanted", options)
            };
            let racing: Vec<_> = options
                .iter()
                .map(|options| scope.spawn(move || start(options)))
                .collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won = started.iter().filter(|started| started.is_ok()).count();
        assert_eq!(won, 1, "{started:?}");
        for error in started.iter().filter_map(|started| started.as_ref().err()) {
            must_tell(error, ErrorCode::Busy, &["'wanted'", &me, "started 20"]);
        }
        let alone = bed.connection.recover(Some("wanted"), false).unwrap();
        assert_eq!(alone.operations[0].settlement, Settlement::LeftAlone);
        assert_eq!(alone.domains(), 0);
        started
            .into_iter()
            .flatten()
            .for_each(|operation| operation.cancel().unwrap());
        before.must_be_as_before(&[]);
    }
    println!("10 races of 4 in {:?}", began.elapsed());
    drop(bare);
}

/// As above, but of processes: each is an owner of its own.
#[test]
fn one_of_two_processes_wins() {
    let bed = bed();
    let bare = bed.bare("wanted", &[Bare::RAW]);
    let before = bed.watch("wanted");
    let (go, began) = (bed.path("go"), Instant::now());
    for _ in 0..10 {
        let work = Work {
            domain: "wanted",
            target: "vda",
            ..MIRROR
        };
        let mut agents: Vec<_> = ["out-0", "out-1"]
            .map(|out| Agent::start_at(&bed, work, &bed.path(out), Some(&go)))
            .into();
        agents.iter_mut().for_each(|agent| agent.says("waiting"));
        fs::write(&go, "").unwrap();
        let said: Vec<_> = agents.iter_mut().map(Agent::first_word).collect();
        fs::remove_file(&go).unwrap();
        let winner = said.iter().position(|line| line == "begun");
        let winner = winner.unwrap_or_else(|| panic!("nobody won: {said:?}"));
        let (owner, refusal) = (agents[winner].0.id(), &said[1 - winner]);
        let program = fs::read_to_string(format!("/proc/{owner}/comm")).unwrap();
        let owner = format!("'{}' (process {owner} on host ", program.trim());
        for part in ["error ", "'wanted'", &owner, ", started 20"] {
            assert!(refusal.contains(part), "'{part}' is not in: {refusal}");
        }
        agents.into_iter().for_each(Agent::kill);
        assert_eq!(recover(&bed, "wanted").taken_back(), 1);
        before.must_be_as_before(&[]);
    }
    println!("10 races of 2 processes in {:?}", began.elapsed());
    drop(bare);
}

/// The record of a dead process, as if it were another host's: that cannot be looked at, and so its lease counts.
#[test]
fn another_hosts_lease_is_respected_until_it_ends() {
    let bed = bed();
    let before = bed.watch("a");
    let work = Work {
        bandwidth: 4 * MIB,
        ..MIRROR
    };
    let mut agent = Agent::start(&bed, work, &bed.path("out"));
    agent.says("copying");
    agent.kill();
    give_to_another_host(&bed, SystemTime::now() + Duration::from_secs(30));
    let out = disk("vda", bed.path("other"), "qcow2");
    for error in [
        bed.connection.attach("a", "vdb").unwrap_err(),
        bed.connection
            .start_live_snapshot("a", &snapshot(vec![out]))
            .unwrap_err(),
    ] {
        must_tell(&error, ErrorCode::Busy, &["'a'", "on host elsewhere", "started 20"]);
    }
    let alone = bed.connection.recover(Some("a"), false).unwrap();
    assert_eq!(alone.operations[0].settlement, Settlement::LeftAlone);
    assert!(bed.virsh(&["dumpxml", "a"]).contains("<mirror"), "its job runs on");
    assert!(!bed.connection.operations(Some("a")).unwrap()[0].orphaned);

    give_to_another_host(&bed, SystemTime::now() - Duration::from_secs(1));
    assert_eq!(recover(&bed, "a").taken_back(), 1);
    before.must_be_as_before(&[]);
}

/// It has slept past its lease, and so it could be taken over.
#[test]
#[ignore = "takes as long as a lease"]
fn who_was_taken_over_leaves_it_alone() {
    let bed = bed();
    let before = bed.watch("a");
    let mut agent = Agent::start(&bed, MIRROR, &bed.path("out"));
    agent.says("Ready");
    let signal = |name: &str| run("bash", &["-c", &format!("kill -{name} {}", agent.0.id())]);
    signal("STOP");
    give_to_another_host(&bed, SystemTime::now() + Duration::from_secs(90));
    let record = || bed.virsh(&["metadata", "a", &namespace(&bed, "a"), "--live"]);
    let theirs = record();
    thread::sleep(Duration::from_secs(61));
    signal("CONT");
    agent.says("Failed");
    assert_eq!(record(), theirs);
    assert!(bed.virsh(&["dumpxml", "a"]).contains("<mirror"), "their job runs on");
    agent.kill();
    give_to_another_host(&bed, SystemTime::now() - Duration::from_secs(1));
    assert_eq!(recover(&bed, "a").taken_back(), 1);
    before.must_be_as_before(&[]);
}

#[test]
fn what_was_let_go_of_is_resumed() {
    let bed = bed();
    let before = bed.watch("a");
    let error = bed.connection.attach("a", "vdb").unwrap_err();
    must_tell(&error, ErrorCode::NoOperation, &["'vdb'", "'a'"]);
    let options = SnapshotOptions {
        bandwidth: 4 * MIB,
        ..snapshot(vec![disk("vdb", bed.path("out"), "qcow2")])
    };
    let mut operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    for _ in 0..3 {
        drop(operation);
        assert!(bed.connection.operations(Some("a")).unwrap()[0].orphaned);
        operation = attach(&bed, "a", "vdb");
    }
    operation.cancel().unwrap();
    before.must_be_as_before(&[]);
}

/// A process that died between its operation's end and that of its claim left the claim alone.
#[test]
fn a_dead_claim_without_an_operation_goes() {
    let bed = bed();
    let before = bed.watch("a");
    let claim = [
        "--uri",
        "urn:livedisk:claim:0",
        "--key",
        "livedisk",
        "--set",
        "<claim>nobody</claim>",
    ];
    bed.virsh(&[&["metadata", "a", "--live"], claim.as_slice()].concat());
    assert!(bed.virsh(&["dumpxml", "a"]).contains("urn:livedisk"));
    assert_eq!(bed.connection.recover(Some("a"), true).unwrap().operations, []);
    assert!(bed.virsh(&["dumpxml", "a"]).contains("urn:livedisk"));
    assert_eq!(bed.connection.recover(Some("a"), false).unwrap().operations, []);
    before.must_be_as_before(&[]);
}

#[test]
fn a_foreign_job_is_let_be() {
    let bed = bed();
    let bare = bed.bare("theirs", &[Bare::BIG]);
    let out = bed.path("foreign");
    bed.virsh(&[
        "blockcopy",
        "theirs",
        "vda",
        shown(&out),
        "--format",
        "raw",
        "--transient-job",
        "--bandwidth",
        "1",
    ]);
    let options = snapshot(vec![disk("vda", bed.path("out"), "raw")]);
    let error = bed.connection.start_live_snapshot("theirs", &options).unwrap_err();
    must_tell(&error, ErrorCode::Busy, &["'theirs'"]);
    assert_eq!(bed.connection.recover(Some("theirs"), false).unwrap().operations, []);
    assert!(bed.virsh(&["dumpxml", "theirs"]).contains("<mirror"));
    bed.virsh(&["blockjob", "theirs", "vda", "--abort"]);
    until("the job is gone", || {
        !bed.virsh(&["dumpxml", "theirs"]).contains("<mirror")
    });
    fs::remove_file(out).unwrap();
    drop(bare);
}
