// SPDX-License-Identifier: LGPL-2.1-or-later
//! The log callback. Without one livedisk is silent.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

use super::error::livedisk_error;
use super::{frame, input, invalid};
use crate::error::{Error, ErrorCode, Result};

/// Receives one log line: UTF-8 without a newline, valid for the call only.
pub type livedisk_log_callback = Option<unsafe extern "C" fn(level: i32, message: *const c_char, data: *mut c_void)>;

struct Sink {
    callback: unsafe extern "C" fn(i32, *const c_char, *mut c_void),
    data: *mut c_void,
}

// SAFETY: livedisk_set_log demands that callback and data may be used from any thread.
unsafe impl Send for Sink {}

/// Locked over each callback, so that none runs any more when it has been replaced.
fn sink() -> MutexGuard<'static, Option<Sink>> {
    static SINK: Mutex<Option<Sink>> = Mutex::new(None);
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // A callback that calls livedisk must not wait for itself.
        if IN_CALLBACK.get() {
            return;
        }
        let text = record.args().to_string().replace(['\n', '\0'], " ");
        let Ok(text) = CString::new(text) else { return };
        if let Some(sink) = &*sink() {
            IN_CALLBACK.set(true);
            // SAFETY: the callback was given for this; the text is terminated and lives until it returns.
            unsafe { (sink.callback)(record.level() as i32 - 1, text.as_ptr(), sink.data) }
            IN_CALLBACK.set(false);
        }
    }

    fn flush(&self) {}
}

/// Sets the callback that receives log lines, for the whole process. It replaces the previous one.
///
/// When the call returns, the previous callback is not running and will not be called again. Callbacks come one at a
/// time, from any thread, including livedisk's own. A callback must not block for long. Calls to livedisk made within
/// it log nothing.
///
/// @param callback  the function, NULL for none
/// @param level     LIVEDISK_LOG_LEVEL_*: this and everything more urgent
/// @param data      passed to the callback as it is; it must be usable from any thread
/// @param error     receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (unknown level: correct it; called from within the callback: call it elsewhere),
///         LIVEDISK_ERR_INTERNAL (the process has another logger of the Rust crate `log`)
///
/// Any thread.
///
/// # Safety
/// `callback` and `data` stay usable from any thread until they are replaced; `error` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_set_log(
    callback: livedisk_log_callback,
    level: i32,
    data: *mut c_void,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { frame(error, || set(callback, level, data)) }
}

fn set(callback: livedisk_log_callback, level: i32, data: *mut c_void) -> Result<()> {
    const LEVELS: [LevelFilter; 5] = [
        LevelFilter::Error,
        LevelFilter::Warn,
        LevelFilter::Info,
        LevelFilter::Debug,
        LevelFilter::Trace,
    ];
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let level = input::value(level, &LEVELS, "level")?;
    if IN_CALLBACK.get() {
        return Err(invalid(
            "livedisk_set_log was called from within a log callback; call it from elsewhere",
        ));
    }
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed {
        log::set_logger(&Logger).map_err(|_| {
            Error::new(
                ErrorCode::Internal,
                "this process has another logger of the Rust crate log; use that one",
            )
        })?;
        *installed = true;
    }
    let mut sink = sink();
    log::set_max_level(if callback.is_some() { level } else { LevelFilter::Off });
    *sink = callback.map(|callback| Sink { callback, data });
    Ok(())
}
