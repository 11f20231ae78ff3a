// SPDX-License-Identifier: LGPL-2.1-or-later
//! What procedures are made of.

pub(in crate::operation) mod backup;
pub(in crate::operation) mod cloning;
pub(in crate::operation) mod convergence;
pub(in crate::operation) mod offline;
pub(in crate::operation) mod throttle;
pub(in crate::operation) mod tracked;
pub(in crate::operation) mod unnamed;
pub(in crate::operation) mod window;
