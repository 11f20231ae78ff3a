// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots. What all of them plan is here; each way to take one is a procedure of its own.

pub(super) mod backup;
pub(super) mod clone;
pub(super) mod disk;
pub(super) mod mirror;
pub(super) mod plan;
mod shallow;
mod warnings;
