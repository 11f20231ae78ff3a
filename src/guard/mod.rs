// SPDX-License-Identifier: LGPL-2.1-or-later
//! The guard: a process of its own that lets a guest go when the one that froze it dies or hangs.
//!
//! The library ([`client`]) starts one for each connection URI, before the first freeze, and keeps it as long as the
//! process lives. The guard ([`process`]) has a libvirt connection of its own and one socket to the library. A freeze
//! window is armed before the freeze request and cleared after the thaw; what is armed when the socket closes, when
//! the library's process ends or when the freeze limit passes, the guard undoes until that is certain. A definition that an
//! operation takes away from libvirt for a moment is kept in the same way: when the process ends, the guard gives it back.
//!
//! With the embedded driver, which belongs to one process at a time, the guard opens the same root once that process is
//! gone, so there a process that merely hangs is not guarded.
#![forbid(unsafe_code)]

mod client;
mod find;
mod process;

use serde::{Deserialize, Serialize};

pub(crate) use client::{Armed, arm, keep, prepare};
pub(crate) use process::main;

use crate::driver::Stopped;

/// The longest message.
const MESSAGE_SIZE: usize = 16 << 10;

/// What the library asks, one message each. An answer has the question's number.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    number: u64,
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
enum What {
    /// Be sure to have a connection.
    Connect { version: String, uri: String },
    /// A window is about to be opened; it is known by the question's number.
    Arm {
        uuid: String,
        id: Option<u32>,
        limit_ms: u64,
        stopped: Stopped,
    },
    /// This operation is about to take its domain's definition away, which was saved; that is known by the question's number.
    Keep { operation: String },
    /// That window is closed, or that definition is back. Not answered.
    Clear { window: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    number: u64,
    /// Why not.
    refused: Option<String>,
}
