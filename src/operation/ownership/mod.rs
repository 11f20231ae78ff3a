// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whose an operation is, and what is noted of it with the domain.

pub(in crate::operation) mod claim;
pub(in crate::operation) mod journal;
pub(in crate::operation) mod owner;
pub(in crate::operation) mod record;
pub(in crate::operation) mod request;
pub(in crate::operation) mod saved;
