// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk_phase_name, livedisk_method_name, livedisk_error_name.

use std::ffi::c_char;

use super::values::*;

/// The name of a phase in lower case, as the command prints it, such as "copying".
///
/// @param phase  LIVEDISK_PHASE_*
/// @return text that lives as long as the library; "unknown" for a number that this library does not know, never NULL
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn livedisk_phase_name(phase: i32) -> *const c_char {
    let name = match phase {
        LIVEDISK_PHASE_PREPARING => c"preparing",
        LIVEDISK_PHASE_COPYING => c"copying",
        LIVEDISK_PHASE_READY => c"ready",
        LIVEDISK_PHASE_FINISHING => c"finishing",
        LIVEDISK_PHASE_DONE => c"done",
        LIVEDISK_PHASE_CANCELLED => c"cancelled",
        LIVEDISK_PHASE_FAILED => c"failed",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// The name of a method in lower case, as the command takes and prints it, such as "mirror".
///
/// @param method  LIVEDISK_METHOD_*
/// @return text that lives as long as the library; "unknown" for a number that this library does not know, never NULL
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn livedisk_method_name(method: i32) -> *const c_char {
    let name = match method {
        LIVEDISK_METHOD_AUTO => c"auto",
        LIVEDISK_METHOD_BACKUP => c"backup",
        LIVEDISK_METHOD_MIRROR => c"mirror",
        LIVEDISK_METHOD_REBASE => c"rebase",
        LIVEDISK_METHOD_CLONE => c"clone",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// The name of an error code without LIVEDISK_ERR_, such as "NO_SPACE".
///
/// @param code  LIVEDISK_OK, which is "OK", or LIVEDISK_ERR_*
/// @return text that lives as long as the library; "unknown" for a number that this library does not know, never NULL
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn livedisk_error_name(code: i32) -> *const c_char {
    let name = match code {
        LIVEDISK_OK => c"OK",
        LIVEDISK_ERR_INVALID_ARGUMENT => c"INVALID_ARGUMENT",
        LIVEDISK_ERR_NO_CONNECTION => c"NO_CONNECTION",
        LIVEDISK_ERR_NO_DOMAIN => c"NO_DOMAIN",
        LIVEDISK_ERR_NO_DISK => c"NO_DISK",
        LIVEDISK_ERR_DOMAIN_STATE => c"DOMAIN_STATE",
        LIVEDISK_ERR_BUSY => c"BUSY",
        LIVEDISK_ERR_UNSUPPORTED => c"UNSUPPORTED",
        LIVEDISK_ERR_AGENT => c"AGENT",
        LIVEDISK_ERR_FREEZE => c"FREEZE",
        LIVEDISK_ERR_DESTINATION => c"DESTINATION",
        LIVEDISK_ERR_NO_SPACE => c"NO_SPACE",
        LIVEDISK_ERR_PERMISSION => c"PERMISSION",
        LIVEDISK_ERR_JOB_FAILED => c"JOB_FAILED",
        LIVEDISK_ERR_CANCELLED => c"CANCELLED",
        LIVEDISK_ERR_TIMEOUT => c"TIMEOUT",
        LIVEDISK_ERR_NO_OPERATION => c"NO_OPERATION",
        LIVEDISK_ERR_VERIFY => c"VERIFY",
        LIVEDISK_ERR_LIBVIRT => c"LIBVIRT",
        LIVEDISK_ERR_IO => c"IO",
        LIVEDISK_ERR_INTERNAL => c"INTERNAL",
        LIVEDISK_ERR_CHECKPOINT => c"CHECKPOINT",
        LIVEDISK_ERR_NO_CHECKPOINT => c"NO_CHECKPOINT",
        _ => c"unknown",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::error::ErrorCode;
    use crate::operation::{Method, Phase};

    /// What the call says to each number from `from` up or down is what Rust says, until both know no more.
    fn must_agree(call: extern "C" fn(i32) -> *const c_char, rust: &[(i32, &str)]) {
        let name = |number| {
            // SAFETY: the call returns text that lives for ever.
            unsafe { CStr::from_ptr(call(number)) }.to_str().unwrap()
        };
        let known: Vec<_> = (-100..100).map(|number| (number, name(number))).collect();
        let known: Vec<_> = known.into_iter().filter(|(_, name)| *name != "unknown").collect();
        assert_eq!(known, rust);
        assert_eq!((name(i32::MIN), name(i32::MAX)), ("unknown", "unknown"));
    }

    #[test]
    fn names_are_those_of_rust() {
        let phases = [
            Phase::Preparing,
            Phase::Copying,
            Phase::Ready,
            Phase::Finishing,
            Phase::Done,
            Phase::Cancelled,
            Phase::Failed,
        ];
        must_agree(livedisk_phase_name, &phases.map(|phase| (phase as i32, phase.name())));
        let methods = [
            Method::Auto,
            Method::Backup,
            Method::Mirror,
            Method::Rebase,
            Method::Clone,
        ];
        must_agree(
            livedisk_method_name,
            &methods.map(|method| (method as i32, method.name())),
        );
        let codes = [
            ErrorCode::NoCheckpoint,
            ErrorCode::Checkpoint,
            ErrorCode::Internal,
            ErrorCode::Io,
            ErrorCode::Libvirt,
            ErrorCode::Verify,
            ErrorCode::NoOperation,
            ErrorCode::Timeout,
            ErrorCode::Cancelled,
            ErrorCode::JobFailed,
            ErrorCode::Permission,
            ErrorCode::NoSpace,
            ErrorCode::Destination,
            ErrorCode::Freeze,
            ErrorCode::Agent,
            ErrorCode::Unsupported,
            ErrorCode::Busy,
            ErrorCode::DomainState,
            ErrorCode::NoDisk,
            ErrorCode::NoDomain,
            ErrorCode::NoConnection,
            ErrorCode::InvalidArgument,
        ];
        let mut names = codes.map(|code| (code as i32, code.name())).to_vec();
        names.push((0, "OK"));
        must_agree(livedisk_error_name, &names);
    }
}
