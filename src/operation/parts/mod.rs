// SPDX-License-Identifier: LGPL-2.1-or-later
//! What procedures are made of.

pub(in crate::operation) mod backup;
pub(in crate::operation) mod clone;
pub(in crate::operation) mod convergence;
pub(in crate::operation) mod definition;
pub(in crate::operation) mod image;
pub(in crate::operation) mod left;
pub(in crate::operation) mod mirror;
pub(in crate::operation) mod offline;
pub(in crate::operation) mod overlay;
pub(in crate::operation) mod pivot;
pub(in crate::operation) mod site;
pub(in crate::operation) mod throttle;
pub(in crate::operation) mod tracked;
pub(in crate::operation) mod window;
