// SPDX-License-Identifier: LGPL-2.1-or-later
//! The driver shim, in Nova's words: [`Host`], [`Guest`], [`BlockDevice`], with Nova's known faults fixed. A job that
//! vanished is an error and no success; ready is the mirror's `ready='yes'` and never `cur == end`.
#![forbid(unsafe_code)]

mod backup;
mod block_device;
mod chain;
mod failure;
mod guest;
mod host;
mod monitor;
mod open_files;
mod overlay;
mod pivot;
mod stopped;
mod volume;

pub(crate) use backup::is_backup_job;
pub(crate) use block_device::BlockDevice;
pub(crate) use chain::{Hindrance, Job, why_not_pivoted};
pub(crate) use failure::code_of_reason;
pub(crate) use guest::{AgentStatus, Guest};
pub(crate) use host::Host;
pub(crate) use pivot::{Active, Nodes, Return};
pub(crate) use stopped::Stopped;
