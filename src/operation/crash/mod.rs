// SPDX-License-Identifier: LGPL-2.1-or-later
//! After a crash: what is left, and its end.

pub(in crate::operation) mod cancel;
pub(in crate::operation) mod definitions;
pub(in crate::operation) mod recover;
pub(in crate::operation) mod recovered;
pub(in crate::operation) mod resume;
pub(in crate::operation) mod status;
