// SPDX-License-Identifier: LGPL-2.1-or-later
//! What every procedure asks before it begins.

pub(in crate::operation) mod planned;
pub(in crate::operation) mod preflight;
pub(in crate::operation) mod room;
