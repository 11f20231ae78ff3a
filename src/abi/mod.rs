// SPDX-License-Identifier: LGPL-2.1-or-later
//! The C boundary: it checks what comes in, copies it into owned values, calls the Rust API and maps the outcome.
//! Nothing else happens here, and nowhere else does anything of this.
#![allow(unsafe_code)]
#![allow(non_camel_case_types)]

mod checkpoints;
mod connection;
mod error;
mod freeze;
mod input;
mod list;
mod log;
mod names;
mod operation;
mod output;
mod start;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{mem, process};

use crate::error::{Error, ErrorCode, Result};
use error::{deliver, livedisk_error};

/// What a handle holds, whether a panic happened on it, and the process that made it.
struct Handle<T> {
    value: T,
    broken: AtomicBool,
    process: u32,
}

impl<T> Handle<T> {
    fn new(value: T) -> Self {
        Self {
            value,
            broken: AtomicBool::new(false),
            process: process::id(),
        }
    }

    /// Not in a forked child, which lacks its threads.
    fn is_of_this_process(&self) -> bool {
        self.process == process::id()
    }

    /// Runs a call on the handle. After a panic it refuses, because its state is unknown.
    fn call<R>(&self, call: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        if !self.is_of_this_process() {
            return Err(invalid(format!(
                "this handle was made in process {}, from which this one was forked; open a connection here",
                self.process
            )));
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(internal(
                "this handle is unusable since livedisk panicked on it; free it",
            ));
        }
        catch_unwind(AssertUnwindSafe(|| call(&self.value))).unwrap_or_else(|_| {
            self.broken.store(true, Ordering::SeqCst);
            Err(internal("livedisk panicked; free this handle and report the fault"))
        })
    }
}

/// Frees a handle. In a forked child it leaves alone what is the parent's: a connection's socket, an operation's threads.
///
/// # Safety
/// `handle` was made by `Box::into_raw`, and is given up.
unsafe fn free<H, T>(handle: *mut H, of: impl FnOnce(&H) -> &Handle<T>) {
    // SAFETY: by the caller's promise.
    let handle = unsafe { Box::from_raw(handle) };
    if !of(&handle).is_of_this_process() {
        mem::forget(handle);
    }
}

fn internal(message: &str) -> Error {
    Error::new(ErrorCode::Internal, message)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

/// The frame of every call: no panic crosses it, and a failure is reported by code and, where wanted, by object.
///
/// # Safety
/// `error` is null or writable.
unsafe fn frame(error: *mut *mut livedisk_error, call: impl FnOnce() -> Result<()>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(internal("livedisk panicked; please report the fault")));
    match result {
        Ok(()) => values::LIVEDISK_OK,
        // SAFETY: by the caller's promise.
        Err(failure) => unsafe { deliver(failure, error) },
    }
}

/// The caller's function that receives each `what`.
fn wanted<F>(each: Option<F>, what: &str) -> Result<F> {
    each.ok_or_else(|| invalid(format!("each is NULL; pass the function that receives each {what}")))
}

/// Passes each of `all` to the caller's callback, which may end the listing.
fn pass_each<T>(all: Vec<T>, mut pass: impl FnMut(T) -> Result<i32>) -> Result<()> {
    for one in all {
        if pass(one)? != 0 {
            return Err(Error::new(ErrorCode::Cancelled, "the callback ended the listing"));
        }
    }
    Ok(())
}

/// A part of the package's version.
const fn number(digits: &str) -> i32 {
    let (digits, mut number, mut index) = (digits.as_bytes(), 0, 0);
    while index < digits.len() {
        number = number * 10 + (digits[index] - b'0') as i32;
        index += 1;
    }
    number
}
const _: () = assert!(
    values::LIVEDISK_VERSION_NUMBER
        == number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
            + number(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
            + number(env!("CARGO_PKG_VERSION_PATCH"))
);
