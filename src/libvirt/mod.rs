// SPDX-License-Identifier: LGPL-2.1-or-later
//! Safe wrappers over `virt` and `virt-sys`: the calls livedisk needs and the XML that goes with them.
//!
//! Nothing here knows what an operation is. With `abi` it is the only place with `unsafe`.
#![allow(unsafe_code)]

mod checkpoint;
mod connection;
mod domain;
mod events;
mod fork;
mod image_lock;
mod io_tune;
mod params;
mod process;
mod quiet;
mod rebase;
mod stats;
mod volume;
pub(crate) mod xml;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use connection::Connection;
pub use connection::EventLoop;
pub(crate) use domain::Domain;
pub use domain::{BlockCopy, BlockJobInfo, BlockJobType, State};
pub(crate) use events::{BlockJobStatus, Event, Subscription};
pub(crate) use fork::must_not_hang;
pub(crate) use image_lock::{LOCK_BYTES, is_locked_as_image};
pub(crate) use io_tune::IoTune;
pub(crate) use process::{ignore_requests_to_end, keep_descriptors};
pub(crate) use quiet::Quiet;
pub(crate) use rebase::RebaseCopy;
pub(crate) use stats::{BackupEnd, JobStats};
pub(crate) use virt::error::Error;
pub(crate) use volume::VolumeInfo;

/// The `virErrorNumber`s that livedisk distinguishes.
pub(crate) mod code {
    pub(crate) const NO_SUPPORT: i32 = 3;
    pub(crate) const INVALID_ARG: i32 = 8;
    pub(crate) const RPC: i32 = 39;
    pub(crate) const NO_DOMAIN: i32 = 42;
    pub(crate) const NO_STORAGE_POOL: i32 = 49;
    pub(crate) const NO_STORAGE_VOL: i32 = 50;
    pub(crate) const OPERATION_INVALID: i32 = 55;
    pub(crate) const CONFIG_UNSUPPORTED: i32 = 67;
    pub(crate) const OPERATION_TIMEOUT: i32 = 68;
    pub(crate) const ARGUMENT_UNSUPPORTED: i32 = 74;
    pub(crate) const NO_DOMAIN_METADATA: i32 = 80;
    pub(crate) const BLOCK_COPY_ACTIVE: i32 = 83;
    pub(crate) const OPERATION_UNSUPPORTED: i32 = 84;
    pub(crate) const AGENT_UNRESPONSIVE: i32 = 86;
    pub(crate) const AGENT_UNSYNCED: i32 = 97;
    pub(crate) const NO_DOMAIN_CHECKPOINT: i32 = 103;
    pub(crate) const NO_DOMAIN_BACKUP: i32 = 104;
    pub(crate) const AGENT_COMMAND_TIMEOUT: i32 = 112;
    pub(crate) const AGENT_COMMAND_FAILED: i32 = 113;
}
