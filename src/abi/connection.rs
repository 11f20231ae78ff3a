// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk_open, livedisk_open_from, livedisk_close, livedisk_version.

use std::ffi::{c_char, c_void};

use super::error::livedisk_error;
use super::values::{LIVEDISK_OPEN_RUN_EVENT_LOOP, LIVEDISK_OPEN_USE_EVENTS};
use super::{Handle, frame, free, input, invalid};
use crate::connection::Connection;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::EventLoop;
use crate::libvirt::{self, Quiet};

/// A connection to libvirt. Made by livedisk_open() or livedisk_open_from(), ended by livedisk_close(). Any thread.
pub struct livedisk_connection {
    handle: Handle<Connection>,
}

impl livedisk_connection {
    pub(super) fn call<R>(&self, call: impl FnOnce(&Connection) -> Result<R>) -> Result<R> {
        self.handle.call(call)
    }
}

/// livedisk's version, as "major.minor.patch".
///
/// @return text that lives as long as the library
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn livedisk_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Opens a connection (virConnectOpen).
///
/// The first open installs a libvirt error function (virSetErrorFunc), which is process-wide. It acts as libvirt's own,
/// except that it is silent about errors that livedisk handles. If you have one, install it after the first open.
///
/// @param uri    libvirt URI; NULL is libvirt's own default
/// @param flags  LIVEDISK_OPEN_RUN_EVENT_LOOP or LIVEDISK_OPEN_USE_EVENTS; with neither, livedisk polls libvirt at an
///               adaptive interval, and QEMU's reason for a failed copy may be missing. qemu:///embed needs one of them.
/// @param out    receives the connection, owned by the caller: end it with livedisk_close()
/// @param error  receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_CONNECTION (libvirt's reason is in the message: check the URI and the daemon),
///         LIVEDISK_ERR_UNSUPPORTED (in a forked child: an operation or the event loop that is asked for runs in its parent)
///
/// Any thread.
///
/// # Safety
/// `uri` is null or NUL-terminated; `out` and `error` are null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_open(
    uri: *const c_char,
    flags: u32,
    out: *mut *mut livedisk_connection,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        open(flags, out, error, |event_loop| {
            let uri = input::optional_string(uri, "uri")?;
            Connection::open(uri.as_deref(), event_loop)
        })
    }
}

/// Opens a connection over an existing virConnectPtr. livedisk takes one reference (virConnectRef) and releases it in
/// livedisk_close() or with the last operation that uses it, whichever comes later.
///
/// @param vir_connect  a virConnectPtr with write access
/// @param flags        as for livedisk_open()
/// @param out          receives the connection, owned by the caller: end it with livedisk_close()
/// @param error        receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_CONNECTION (libvirt refuses the pointer),
///         LIVEDISK_ERR_UNSUPPORTED (as for livedisk_open())
///
/// Any thread.
///
/// # Safety
/// `vir_connect` is null or a live virConnectPtr; `out` and `error` are null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_open_from(
    vir_connect: *mut c_void,
    flags: u32,
    out: *mut *mut livedisk_connection,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        open(flags, out, error, |event_loop| {
            if vir_connect.is_null() {
                return Err(invalid("vir_connect is NULL; pass a virConnectPtr"));
            }
            let _quiet = Quiet::new();
            libvirt::must_not_hang(event_loop)?;
            let connection = libvirt::Connection::from_raw(vir_connect, event_loop).map_err(|failure| {
                let message = format!("libvirt refuses the connection: {}", failure.message());
                Error::new(ErrorCode::NoConnection, message).with_libvirt_code(failure.code().to_raw() as i32)
            })?;
            Ok(Connection::from_libvirt(connection, event_loop))
        })
    }
}

/// Closes a connection. Operations that were started on it continue; they hold their own reference.
///
/// @param connection  the connection; NULL is fine
///
/// Any thread, once; no other call may use the connection at the time or later.
///
/// # Safety
/// `connection` is null or a live connection, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_close(connection: *mut livedisk_connection) {
    if !connection.is_null() {
        let _quiet = Quiet::new();
        // SAFETY: made by `open`, and given up by the caller.
        unsafe { free(connection, |connection| &connection.handle) }
    }
}

pub(super) fn must_have_room<T>(out: *mut *mut T) -> Result<()> {
    if out.is_null() {
        return Err(invalid("out is NULL; pass where to put the handle"));
    }
    Ok(())
}

/// # Safety
/// As for [`frame`]; `out` is null or writable.
unsafe fn open(
    flags: u32,
    out: *mut *mut livedisk_connection,
    error: *mut *mut livedisk_error,
    open: impl FnOnce(EventLoop) -> Result<Connection>,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        frame(error, || {
            must_have_room(out)?;
            let handle = Handle::new(open(event_loop(flags)?)?);
            out.write(Box::into_raw(Box::new(livedisk_connection { handle })));
            Ok(())
        })
    }
}

fn event_loop(flags: u32) -> Result<EventLoop> {
    let known = LIVEDISK_OPEN_RUN_EVENT_LOOP | LIVEDISK_OPEN_USE_EVENTS;
    match input::flags(flags, known, "flags")? {
        0 => Ok(EventLoop::None),
        LIVEDISK_OPEN_RUN_EVENT_LOOP => Ok(EventLoop::Own),
        LIVEDISK_OPEN_USE_EVENTS => Ok(EventLoop::Caller),
        _ => Err(invalid(
            "RUN_EVENT_LOOP and USE_EVENTS exclude each other; pass one of them",
        )),
    }
}

/// # Safety
/// `connection` is null or alive.
pub(super) unsafe fn connection<'a>(connection: *mut livedisk_connection) -> Result<&'a livedisk_connection> {
    // SAFETY: by the caller's promise.
    unsafe { connection.as_ref() }.ok_or_else(|| invalid("connection is NULL; pass one from livedisk_open()"))
}

/// A call on a domain.
///
/// # Safety
/// As for [`frame`] and [`connection`]; `domain` is null or NUL-terminated.
pub(super) unsafe fn on_domain(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    error: *mut *mut livedisk_error,
    call: impl FnOnce(&livedisk_connection, &str) -> Result<()>,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_domains(connection, domain, error, |connection, domain| {
            call(connection, domain.ok_or_else(|| input::no_string("domain"))?)
        })
    }
}

/// A call on a domain, or on all where `domain` is null.
///
/// # Safety
/// As for [`on_domain`].
pub(super) unsafe fn on_domains(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    error: *mut *mut livedisk_error,
    call: impl FnOnce(&livedisk_connection, Option<&str>) -> Result<()>,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        frame(error, || {
            let connection = self::connection(connection)?;
            let domain = input::optional_string(domain, "domain")?;
            call(connection, domain.as_deref())
        })
    }
}
