// SPDX-License-Identifier: LGPL-2.1-or-later
//! An operation that may be started, or is resumed: of what its record keeps, and of what only a process has.

use std::ops::Deref;
use std::sync::Arc;

use crate::driver::Guest;
use crate::operation::notice::Notice;
use crate::operation::types::{CloneCallback, Method};

/// What was asked for, of whichever kind the operation is.
pub(crate) trait Asked {
    fn method(&self) -> Method;

    /// The disks.
    fn targets(&self) -> Vec<&str>;

    /// What is done otherwise than the caller may think, as far as it is known beforehand.
    fn notices(&self) -> Vec<Notice>;
}

pub(crate) struct Planned<Request> {
    pub(crate) guest: Arc<Guest>,
    /// No other process has it.
    pub(crate) clone_callback: Option<CloneCallback>,
    pub(crate) request: Request,
}

impl<Request> Planned<Request> {
    /// As a record has it, whose process is gone and its function with it.
    pub(in crate::operation) fn found(guest: &Arc<Guest>, request: Request) -> Self {
        Self {
            guest: Arc::clone(guest),
            clone_callback: None,
            request,
        }
    }
}

impl<Request> Deref for Planned<Request> {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}
