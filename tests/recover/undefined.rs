// SPDX-License-Identifier: LGPL-2.1-or-later
//! A process is killed while REBASE has its domain undefined.

use std::thread;
use std::time::{Duration, Instant};

use livedisk::EventLoop;
use livedisk::driver::{Guest, Host};

use crate::agent::{Agent, MIRROR, Work};
use crate::support::bed::{Bed, run};
use crate::support::{PATIENCE, guards_of, until};
use crate::{bed, recover};

const REBASE: Work<'static> = Work {
    what: "rebase",
    ..MIRROR
};
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(2);

fn guest(bed: &Bed) -> Guest {
    let host = Host::open(Some(&bed.uri), EventLoop::None).unwrap();
    host.get_guest("a").unwrap()
}

fn is_defined(guest: &Guest) -> bool {
    guest.has_persistent_configuration().unwrap()
}

fn signal(signal: &str, process: u32) {
    run("bash", &["-c", &format!("kill -{signal} {process}")]);
}

/// A process that stands still, with the domain undefined.
fn stopped_while_undefined(bed: &Bed, guest: &Guest) -> Agent {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let mut agent = Agent::start(bed, REBASE, &bed.path("out"));
        let seen = Instant::now();
        while is_defined(guest) && seen.elapsed() < PATIENCE {}
        signal("STOP", agent.0.id());
        // libvirt may be at a call of its still.
        thread::sleep(Duration::from_millis(200));
        if !is_defined(guest) {
            return agent;
        }
        println!("too late; once more");
        signal("CONT", agent.0.id());
        agent.says("begun");
        agent.kill();
        until("it is defined", || is_defined(guest));
        recover(bed, "a");
    }
    panic!("the domain was never seen undefined");
}

#[test]
fn the_guard_defines_it_again() {
    let bed = bed();
    let before = bed.watch("a");
    let guest = guest(&bed);
    let agent = stopped_while_undefined(&bed, &guest);
    agent.kill();
    let killed = Instant::now();
    until("the guard has defined it again", || is_defined(&guest));
    println!("defined {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < GIVEN_BACK_WITHIN);
    assert_eq!(recover(&bed, "a").taken_back(), 1);
    before.must_be_as_before(&[]);
}

#[test]
fn without_a_guard_recover_does() {
    let bed = bed();
    let before = bed.watch("a");
    let guest = guest(&bed);
    let agent = stopped_while_undefined(&bed, &guest);
    let guards = guards_of(agent.0.id());
    assert_eq!(guards.len(), 1);
    signal("KILL", guards[0]);
    agent.kill();
    thread::sleep(GIVEN_BACK_WITHIN);
    assert!(!is_defined(&guest));
    assert_eq!(recover(&bed, "a").taken_back(), 1);
    before.must_be_as_before(&[]);
}
