// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's errors as livedisk's.

use crate::error::{Error, ErrorCode};
use crate::libvirt::{self, code};

/// `what` says what failed and on what, libvirt's message says why, the code's own advice what to do.
pub(crate) fn explain(error: &libvirt::Error, what: &str) -> Error {
    let number = error.code().to_raw() as i32;
    let code = classify(number, error.message());
    let (message, advice) = (one_line(error.message()), advice(code));
    Error::new(code, format!("{what}: {message}{advice}")).with_libvirt_code(number)
}

/// libvirt hands on what others said in several lines, and what a guest's agent said to the reader of a terminal or a log.
pub(super) fn one_line(message: &str) -> String {
    let mut line = String::new();
    for character in message.trim_end().replace('\n', "; ").chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

fn classify(number: i32, message: &str) -> ErrorCode {
    match number {
        code::NO_DOMAIN => ErrorCode::NoDomain,
        code::AGENT_UNRESPONSIVE | code::AGENT_UNSYNCED | code::AGENT_COMMAND_TIMEOUT | code::AGENT_COMMAND_FAILED => {
            ErrorCode::Agent
        }
        code::BLOCK_COPY_ACTIVE | code::OPERATION_TIMEOUT => ErrorCode::Busy,
        code::OPERATION_INVALID => ErrorCode::DomainState,
        code::NO_SUPPORT | code::CONFIG_UNSUPPORTED | code::ARGUMENT_UNSUPPORTED | code::OPERATION_UNSUPPORTED => {
            ErrorCode::Unsupported
        }
        code::RPC => ErrorCode::NoConnection,
        _ => match code_of_reason(message) {
            ErrorCode::JobFailed => ErrorCode::Libvirt,
            code => code,
        },
    }
}

/// What a reason in words means; `JobFailed` where it says nothing more.
///
/// QEMU and libvirt hand the operating system's errors on as strerror(3) text only.
pub(crate) fn code_of_reason(reason: &str) -> ErrorCode {
    if reason.contains("No space left on device") || reason.contains("Disk quota exceeded") {
        ErrorCode::NoSpace
    } else if reason.contains("Permission denied") || reason.contains("Operation not permitted") {
        ErrorCode::Permission
    } else {
        ErrorCode::JobFailed
    }
}

fn advice(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::NoDomain => "; see the domains of this connection with 'virsh list --all'",
        ErrorCode::Busy => "; wait for the job that holds the domain, or end it, then try again",
        ErrorCode::Permission => "; let QEMU's user reach and write the path",
        ErrorCode::NoSpace => "; make room or name another destination",
        ErrorCode::NoConnection => "; check the URI and that the daemon runs",
        _ => "",
    }
}
