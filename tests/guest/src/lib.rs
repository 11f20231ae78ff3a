// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the guest's writer and the tools on the host agree on: the format of a record and of a line of the writer's log.
#![forbid(unsafe_code)]

pub mod log;
pub mod record;
