// SPDX-License-Identifier: LGPL-2.1-or-later
//! The guest has no agent, or one that hangs, or somebody else froze it.

use std::time::Duration;

use livedisk::{Consistency, ErrorCode, Quiesce};

use crate::support::PATIENCE;
use crate::support::bed::Bare;
use crate::support::scenario::{self, METHODS};
use crate::{bed, one, refused, with};

#[test]
fn no_agent() {
    let bed = bed();
    let bare = bed.bare("mute", &[Bare::RAW]);
    let before = bed.watch("mute");
    for method in METHODS {
        let mut options = with(method, &one(bed.path("out")));
        options.quiesce = Quiesce::Require;
        refused(&bed, "mute", &options, ErrorCode::Agent, &["'mute'", "channel"]);
        before.must_be_as_before(&[]);
        options.quiesce = Quiesce::Prefer;
        let operation = bed.connection.start_live_snapshot("mute", &options).unwrap();
        assert_eq!(
            operation.finish(Some(PATIENCE)).unwrap().consistency,
            Consistency::Crash
        );
        before.must_be_as_before(&["out"]);
    }
    drop(bare);
}

#[test]
fn agent_that_hangs_from_the_start() {
    let bed = bed();
    let before = bed.watch("a");
    bed.ctl("a", &["agent", "stop"]);
    let mut options = one(bed.path("out"));
    options.quiesce = Quiesce::Require;
    refused(&bed, "a", &options, ErrorCode::Agent, &["'a'"]);
    options.quiesce = Quiesce::Prefer;
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    assert_eq!(
        (report.consistency, report.freeze),
        (Consistency::Crash, Duration::ZERO)
    );
    bed.ctl("a", &["agent", "cont"]);
    before.must_be_as_before(&["out"]);
}

#[test]
fn agent_that_hangs_in_the_window() {
    let bed = bed();
    scenario::agent_hangs_in_the_window(&bed, Quiesce::Require);
    scenario::agent_hangs_in_the_window(&bed, Quiesce::Prefer);
}

#[test]
fn frozen_by_somebody_else() {
    let bed = bed();
    let before = bed.watch("a");
    bed.virsh(&["domfsfreeze", "a"]);
    refused(&bed, "a", &one(bed.path("out")), ErrorCode::Busy, &["'a'", "frozen"]);
    assert_eq!(before.fsfreeze_status(), "frozen", "their freeze is theirs");
    bed.virsh(&["domfsthaw", "a"]);
    before.must_be_as_before(&[]);
}
