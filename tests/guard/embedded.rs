// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's embedded driver.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::LET_GO_WITHIN;
use crate::agent::Agent;
use crate::support::bed::run;
use crate::support::until;
use crate::window::{Export, longest_silence};

/// Its guests outlive the process that had it open, and only when that is gone can another open it.
#[test]
fn killed_with_the_embedded_driver() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/embedded");
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    print!(
        "{}",
        run(
            script,
            &[
                own,
                "--exact",
                "embedded::on_the_embedded_driver",
                "--ignored",
                "--nocapture"
            ]
        )
    );
}

#[test]
#[ignore = "the one above starts it"]
fn on_the_embedded_driver() {
    let value = |name: &str| std::env::var(format!("LIVEDISK_TEST_{name}")).unwrap();
    let (uri, domain, log) = (value("URI"), value("DOMAIN_1"), value("WRITER_1"));
    let export = Export::new(Path::new(&value("DIR")), "one");
    let mut agent = Agent::through(Command::new(std::env::current_exe().unwrap()), &uri, &[]);
    let opening = Duration::from_millis(agent.ask("opening").parse().unwrap());
    // The driver that was just opened does not know the guest's agent at once.
    until("the guest's agent is known", || {
        let answer = agent.ask(&format!("start {domain} mirror require 60000 {}", export.uri));
        assert!(answer == "ready" || answer.starts_with("error Agent"), "{answer}");
        answer == "ready"
    });
    export.pause();
    agent.tell("finish");
    until("it is frozen", || {
        let written = fs::metadata(&log).unwrap().modified().unwrap();
        written.elapsed().is_ok_and(|silence| silence > LET_GO_WITHIN)
    });
    let silence = longest_silence(&log, agent.kill());
    println!("silent for {silence:?} from the kill on; to open the driver took the agent {opening:?}");
    // The guard has to open it first. That is quick, but where the machine is busy it takes its time.
    assert!(silence < LET_GO_WITHIN + opening);
    export.resume();
    until("the guard has ended", || agent.guards().is_empty());
    assert!(
        longest_silence(&log, Instant::now()) < LET_GO_WITHIN,
        "it lives on without the guard"
    );
}
