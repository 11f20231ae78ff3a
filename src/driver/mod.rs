// SPDX-License-Identifier: LGPL-2.1-or-later
//! Hosts, guests and block devices in the words of OpenStack Nova's libvirt driver: [`Host`], [`Guest`], [`BlockDevice`].
//!
//! ```no_run
//! use livedisk::driver::Host;
//! use livedisk::{EventLoop, Quiesce};
//!
//! # fn main() -> livedisk::Result<()> {
//! let host = Host::open(Some("qemu:///system"), EventLoop::Own)?;
//! let guest = host.get_guest("instance-00000001")?;
//! let report = guest.live_snapshot("vda", "/var/lib/nova/snapshots/tmp/a", Some("qcow2"), Quiesce::Prefer)?;
//! println!("{:?}, frozen for {:?}", report.consistency, report.freeze);
//! guest.swap_volume("vdb", "/dev/disk/by-id/wwn-0x5000", Some(20 << 30))?;
//! # Ok(())
//! # }
//! ```
//!
//! Use [`Guest::live_snapshot`] and [`Guest::swap_volume`] for whole operations: they are guarded, recorded with the domain,
//! and found by recover after a crash. The calls of [`BlockDevice`] are what those are built from; the caller decides their
//! order. [`Guest`] and [`BlockDevice`] list Nova's known faults, and what livedisk does instead.
//!
//! Every call blocks until libvirt answers, and may be made from any thread.
#![forbid(unsafe_code)]

mod backup;
mod bitmaps;
mod block_device;
mod chain;
mod checkpoint;
mod definition;
mod failure;
mod guest;
mod host;
mod left_bitmaps;
mod monitor;
mod open_files;
mod overlay;
mod pivot;
mod stopped;
mod turns;
mod volume;

pub(crate) use backup::is_backup_job;
pub use block_device::BlockDevice;
pub(crate) use chain::{Hindrance, Job, by_name, why_not_pivoted, why_not_whole};
pub use checkpoint::{Checkpoint, CheckpointDisk};
pub(crate) use failure::code_of_reason;
pub(crate) use guest::AgentStatus;
pub use guest::Guest;
pub use host::Host;
pub(crate) use pivot::{Active, Nodes, Return};
pub(crate) use stopped::Stopped;

pub use crate::libvirt::{BlockCopy, BlockJobInfo, BlockJobType, State as PowerState};
