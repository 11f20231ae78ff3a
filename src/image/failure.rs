// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is said of a file that cannot be used, and with which code.

use crate::error::{Error, ErrorCode};

pub(super) fn refused(shown: &str, why: &str) -> Error {
    Error::new(ErrorCode::Destination, format!("destination '{shown}': {why}"))
}

pub(super) fn cannot(shown: &str, what: &str, error: impl Into<std::io::Error>) -> Error {
    let error: std::io::Error = error.into();
    let code = match error.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::ResourceBusy => ErrorCode::Destination,
        kind => ErrorCode::of_io(kind),
    };
    Error::new(code, format!("cannot {what} '{shown}': {error}"))
}
