// SPDX-License-Identifier: LGPL-2.1-or-later
//! The loop of every operation: observe, next, step; what its threads share; the points at which a test can hold it.

pub(in crate::operation) mod faults;
pub(in crate::operation) mod held;
pub(in crate::operation) mod modelled;
pub(in crate::operation) mod procedure;
#[cfg(test)]
pub(in crate::operation) mod reachable;
pub(in crate::operation) mod run;
pub(in crate::operation) mod shared;
pub(in crate::operation) mod worker;
