// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pull backup: QEMU saves what the guest overwrites in a scratch file, and exports each disk as of one point in time.
//! livedisk reads the export at its own pace.

pub(in crate::operation) mod checkpoint;
pub(in crate::operation) mod export;
pub(in crate::operation) mod job;
pub(in crate::operation) mod left;
pub(in crate::operation) mod line;
pub(in crate::operation) mod pushed;
pub(in crate::operation) mod reader;
pub(in crate::operation) mod room;
pub(in crate::operation) mod scratch;
