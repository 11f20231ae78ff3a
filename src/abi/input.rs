// SPDX-License-Identifier: LGPL-2.1-or-later
//! What comes in: strings, flags, timeouts, and structs that travel with their size.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::time::Duration;

use super::invalid;
use crate::error::{Error, Result};

/// A struct of the header that callers fill in.
///
/// # Safety
/// All-zero bytes are a valid value, and `ENDS` are the offsets after each field.
pub(super) unsafe trait Input: Copy {
    const NAME: &'static str;
    const ENDS: &'static [usize];
}

/// Declares a struct of the header together with the ends of its fields.
macro_rules! input {
    ($name:ident, $($field:ident: $kind:ty),+ $(,)?) => {
        // SAFETY: the struct holds integers, pointers and optional function pointers only, all of which may be zero.
        unsafe impl $crate::abi::input::Input for $name {
            const NAME: &'static str = stringify!($name);
            const ENDS: &'static [usize] =
                &[$(std::mem::offset_of!($name, $field) + std::mem::size_of::<$kind>()),+];
        }
    };
}
pub(super) use input;

/// Copies a struct of `size` bytes, as openat2(2) does: a short one is extended with zeros, and what a longer one has
/// after the end must be zero.
///
/// # Safety
/// `pointer` is null or points to `size` readable bytes.
pub(super) unsafe fn read<T: Input>(pointer: *const T, size: usize, what: &str) -> Result<T> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is NULL; pass a struct {}", T::NAME)));
    }
    let known = size_of::<T>();
    let bytes = pointer.cast::<u8>();
    // A field that the end cuts can only be extended if it is zero: half a pointer leads anywhere.
    let whole = T::ENDS.iter().copied().filter(|end| *end <= size).max().unwrap_or(0);
    for offset in whole..size.min(known) {
        // SAFETY: offset < size, readable by the caller's promise.
        if unsafe { bytes.add(offset).read() } != 0 {
            return Err(invalid(format!(
                "{what}: {size} bytes end within a field of struct {} that is set; pass its sizeof",
                T::NAME
            )));
        }
    }
    for offset in known..size {
        // SAFETY: offset < size, readable by the caller's promise.
        if unsafe { bytes.add(offset).read() } != 0 {
            return Err(invalid(format!(
                "{what}: byte {offset} is set, and this livedisk knows {known} bytes of struct {}; leave it zero",
                T::NAME
            )));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both sides hold at least the smaller size; all-zero bytes are valid, and only whole fields and zeros are copied over.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast::<u8>(), size.min(known));
        Ok(value.assume_init())
    }
}

/// # Safety
/// `text` is null or NUL-terminated.
pub(super) unsafe fn string(text: *const c_char, what: &str) -> Result<String> {
    // SAFETY: by the caller's promise.
    unsafe { optional_string(text, what) }?.ok_or_else(|| no_string(what))
}

pub(super) fn no_string(what: &str) -> Error {
    invalid(format!("{what} is NULL; pass a string"))
}

/// # Safety
/// `text` is null or NUL-terminated.
pub(super) unsafe fn optional_string(text: *const c_char, what: &str) -> Result<Option<String>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, and terminated by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(error) => Err(invalid(format!(
            "{what} is not UTF-8 at byte {}; pass UTF-8",
            error.valid_up_to()
        ))),
    }
}

pub(super) fn flags(flags: u32, known: u32, what: &str) -> Result<u32> {
    match flags & !known {
        0 => Ok(flags),
        unknown => Err(invalid(format!("{what}: unknown bits {unknown:#x}; leave them zero"))),
    }
}

pub(super) fn zero(is_zero: bool, what: &str) -> Result<()> {
    if is_zero {
        Ok(())
    } else {
        Err(invalid(format!("{what} is reserved; leave it zero")))
    }
}

/// -1 is for ever.
pub(super) fn timeout(milliseconds: i32) -> Result<Option<Duration>> {
    match milliseconds {
        -1 => Ok(None),
        0.. => Ok(Some(Duration::from_millis(milliseconds.unsigned_abs().into()))),
        _ => Err(invalid(format!(
            "timeout_ms is {milliseconds}; pass milliseconds, 0 not to wait, or -1 to wait for ever"
        ))),
    }
}

/// A value of an enumeration: `known` in the order of their numbers.
pub(super) fn value<T: Copy>(number: i32, known: &[T], what: &str) -> Result<T> {
    usize::try_from(number)
        .ok()
        .and_then(|index| known.get(index).copied())
        .ok_or_else(|| invalid(format!("{what} is {number}; pass 0 to {}", known.len() - 1)))
}
