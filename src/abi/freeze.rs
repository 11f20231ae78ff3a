// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk_freeze and livedisk_thaw.

use std::ffi::c_char;
use std::time::Duration;

use super::connection::{livedisk_connection, on_domain};
use super::error::livedisk_error;
use crate::connection::Connection;
use crate::error::Result;

/// Freezes a guest's file systems while something else takes a snapshot, such as a volume service or a storage array.
/// The freeze is recorded in the domain's metadata. It ends with livedisk_thaw(), when this process dies (the guard
/// thaws the guest), or when the limit has passed, whichever comes first. The connection may be closed meanwhile.
///
/// @param connection   from livedisk_open() or livedisk_open_from()
/// @param domain       name or UUID of a running domain with a guest agent
/// @param limit_ms     milliseconds it lasts at most; 0: 10 s
/// @param filesystems  receives how many file systems were frozen; may be NULL
/// @param error        receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or, with nothing frozen,
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_BUSY (an operation or a freeze is in the way, the message says whose: wait for it or end it),
///         LIVEDISK_ERR_AGENT (no agent answers: start it in the guest),
///         LIVEDISK_ERR_FREEZE (the freeze failed or took longer than the limit and was undone, or a guard is required and
///         none can run),
///         LIVEDISK_ERR_DOMAIN_STATE (start or resume the domain),
///         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
///
/// Any thread. It blocks until the guest agent answers, limit_ms at most.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_freeze(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    limit_ms: u32,
    filesystems: *mut u32,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        counted(connection, domain, filesystems, error, |connection, domain| {
            connection.freeze(domain, Duration::from_millis(limit_ms.into()))
        })
    }
}

/// Ends a freeze that livedisk_freeze() began, in whichever process and over whichever connection.
///
/// @param connection   from livedisk_open() or livedisk_open_from()
/// @param domain       name or UUID of the domain
/// @param filesystems  receives how many file systems were thawed; may be NULL
/// @param error        receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK: the guest was frozen the whole time; or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_FREEZE (the guest was thawed too early, so a snapshot taken meanwhile is not consistent: freeze
///         and take it again; or the thaw failed: try again, the guard thaws the guest when the limit has passed),
///         LIVEDISK_ERR_NO_OPERATION (the domain has no freeze of livedisk's: it was thawed or recovered before),
///         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
///
/// Any thread. It blocks until the guest agent answers, for seconds at most.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_thaw(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    filesystems: *mut u32,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { counted(connection, domain, filesystems, error, Connection::thaw) }
}

/// Writes how many file systems it was, if that is wanted.
///
/// # Safety
/// As for [`on_domain`]; `filesystems` is null or writable.
unsafe fn counted(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    filesystems: *mut u32,
    error: *mut *mut livedisk_error,
    call: impl FnOnce(&Connection, &str) -> Result<u32>,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_domain(connection, domain, error, |connection, domain| {
            let count = connection.call(|connection| call(connection, domain))?;
            if !filesystems.is_null() {
                filesystems.write(count);
            }
            Ok(())
        })
    }
}
