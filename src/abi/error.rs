// SPDX-License-Identifier: LGPL-2.1-or-later
//! Errors as objects that the caller owns. There is no error state per thread, because a goroutine changes threads.

use std::ffi::{CStr, CString, c_char};

use crate::error::Error;

/// Why a call failed. Owned by the caller that received it; free it with livedisk_error_free(). Immutable, so it may be read
/// from any thread.
pub struct livedisk_error {
    code: i32,
    message: CString,
    libvirt_code: i32,
}

/// The code, and the object where there is room for it.
///
/// # Safety
/// `error` is null or writable.
pub(super) unsafe fn deliver(failure: Error, error: *mut *mut livedisk_error) -> i32 {
    let code = failure.code() as i32;
    if !error.is_null() {
        let object = Box::new(livedisk_error {
            code,
            // A NUL cannot come from libvirt or the file system; if it did, the text up to it would still be reported.
            message: CString::new(failure.message().replace('\0', " ")).unwrap_or_default(),
            libvirt_code: failure.libvirt_code(),
        });
        // SAFETY: not null, and writable by the caller's promise.
        unsafe { error.write(Box::into_raw(object)) }
    }
    code
}

/// The error's code, one of `LIVEDISK_ERR_*`; the same number that the call returned.
///
/// @param error  the error; NULL is no error
/// @return the code, LIVEDISK_OK for NULL
///
/// Any thread.
///
/// # Safety
/// `error` is null or a live error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_error_code(error: *const livedisk_error) -> i32 {
    // SAFETY: null or alive by the caller's promise.
    unsafe { error.as_ref() }.map_or(super::values::LIVEDISK_OK, |error| error.code)
}

/// One line of UTF-8: what failed, on which domain, disk or path, why, and what to do.
///
/// @param error  the error; NULL is no error
/// @return text that lives as long as the error; never NULL, empty for NULL
///
/// Any thread.
///
/// # Safety
/// `error` is null or a live error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_error_message(error: *const livedisk_error) -> *const c_char {
    const NOTHING: &CStr = c"";
    // SAFETY: null or alive by the caller's promise.
    unsafe { error.as_ref() }.map_or(NOTHING.as_ptr(), |error| error.message.as_ptr())
}

/// libvirt's own virErrorNumber that caused the error.
///
/// @param error  the error; NULL is no error
/// @return the number, 0 if libvirt did not fail
///
/// Any thread.
///
/// # Safety
/// `error` is null or a live error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_error_libvirt_code(error: *const livedisk_error) -> i32 {
    // SAFETY: null or alive by the caller's promise.
    unsafe { error.as_ref() }.map_or(0, |error| error.libvirt_code)
}

/// Frees an error. Its message is invalid from then on.
///
/// @param error  the error; NULL is fine
///
/// Any thread, once.
///
/// # Safety
/// `error` is null or a live error, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_error_free(error: *mut livedisk_error) {
    if !error.is_null() {
        // SAFETY: made by `deliver`, and given up by the caller.
        drop(unsafe { Box::from_raw(error) });
    }
}
