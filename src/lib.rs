// SPDX-License-Identifier: LGPL-2.1-or-later
//! Live snapshots and live storage migration of running libvirt/QEMU guests.
//!
//! Open a [`Connection`]. [`Connection::start_live_snapshot`] and [`Connection::migrate_disk`] return an [`Operation`] as soon
//! as it runs. Complete it with [`Operation::finish`], or roll it back with [`Operation::cancel`].
//!
//! ```no_run
//! use livedisk::{Connection, EventLoop, SnapshotDisk, SnapshotOptions};
//!
//! # fn main() -> livedisk::Result<()> {
//! let connection = Connection::open(Some("qemu:///system"), EventLoop::Own)?;
//! let options = SnapshotOptions {
//!     disks: vec![SnapshotDisk {
//!         target: "vda".into(),
//!         destination: "/backup/guest.qcow2".into(),
//!         ..SnapshotDisk::default()
//!     }],
//!     ..SnapshotOptions::default()
//! };
//! let operation = connection.start_live_snapshot("guest", &options)?;
//! let report = operation.finish(None)?;
//! println!("{:?}, frozen for {:?}", report.consistency, report.freeze);
//! # Ok(())
//! # }
//! ```
//!
//! An operation outlives its process. [`Connection::attach`] resumes it, and [`Connection::recover`] cleans up after
//! processes that died. The C API is this API, call by call; see `include/livedisk.h`.
#![deny(unsafe_code)]
#![deny(missing_docs)]

mod abi;
mod connection;
pub mod driver;
mod error;
mod guard;
mod image;
mod libvirt;
mod nova;
mod operation;

pub use connection::Connection;
pub use driver::{Checkpoint, CheckpointDisk};
pub use error::{Error, ErrorCode, Result};
pub use libvirt::EventLoop;
pub use operation::{
    CloneCallback, CloneMethod, Consistency, DiskStatus, DomainDisk, Method, MigrateOptions, Operation,
    OperationStatus, Phase, Progress, Quiesce, Recovered, Recovery, Report, Settlement, SnapshotDisk, SnapshotOptions,
    Warnings,
};

/// The program `livedisk-guard`.
#[doc(hidden)]
pub fn guard_main() -> std::process::ExitCode {
    guard::main(operation::give_back_definition)
}

/// livedisk's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
