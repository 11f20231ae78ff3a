// SPDX-License-Identifier: LGPL-2.1-or-later
//! Without libvirt's event loop: a binary of its own, because there is one loop a process.

mod support;

use livedisk::{EventLoop, Quiesce};
use support::bed::Turn;
use support::scenario::{self, METHODS};

fn bed() -> Turn {
    support::bed::turn(
        EventLoop::None,
        &["name=a,disks=qcow2-backed:64M+qcow2:64M+raw:64M,data=16M"],
    )
}

#[test]
fn every_format() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::every_format(&bed, method));
}

#[test]
fn one_point_in_time_without_a_freeze() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::one_point_unfrozen(&bed, "a", Quiesce::None, method));
}

#[test]
fn the_domain_goes_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::domain_goes(&bed, method, true));
    METHODS
        .into_iter()
        .for_each(|method| scenario::domain_goes(&bed, method, false));
}

#[test]
fn libvirtd_restarted_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::daemon_restarts(&bed, method, true));
}

#[test]
fn file_system_full_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::file_system_full(&bed, method));
}

#[test]
fn agent_that_hangs_in_the_window() {
    scenario::agent_hangs_in_the_window(&bed(), Quiesce::Require);
}

#[test]
fn cancel_while_finish_waits() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::cancel_while_finish_waits(&bed, method));
}
