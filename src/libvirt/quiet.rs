// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt prints every error on stderr unless it is given another function. A library must not, and must not silence its caller
//! either: errors are dropped on threads that are inside livedisk, and go libvirt's default way on all others.

use std::cell::Cell;
use std::os::raw::c_void;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use virt_sys as sys;

thread_local! {
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

static INSTALL: Once = Once::new();
/// How many there are, but for those of threads that never end.
static LIVING: AtomicUsize = AtomicUsize::new(0);

/// While it lives, libvirt's errors on this thread are not printed.
pub(crate) struct Quiet {
    is_counted: bool,
}

impl Quiet {
    pub(crate) fn new() -> Self {
        LIVING.fetch_add(1, Ordering::SeqCst);
        Self::made(true)
    }

    /// For a thread that never ends.
    pub(super) fn for_ever() -> Self {
        Self::made(false)
    }

    fn made(is_counted: bool) -> Self {
        INSTALL.call_once(|| {
            // SAFETY: the handler is a plain function that lives as long as the process and takes no user data.
            unsafe { sys::virSetErrorFunc(std::ptr::null_mut(), Some(handler)) }
        });
        INSIDE.with(|inside| inside.set(inside.get() + 1));
        Self { is_counted }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(inside.get() - 1));
        if self.is_counted {
            LIVING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Whether other threads than this one are inside livedisk; in a forked child, whether they were at the fork.
pub(super) fn are_others_inside() -> bool {
    LIVING.load(Ordering::SeqCst) > INSIDE.with(Cell::get) as usize
}

unsafe extern "C" fn handler(_data: *mut c_void, error: sys::virErrorPtr) {
    let inside = INSIDE.try_with(Cell::get).unwrap_or(0);
    if inside == 0 {
        // SAFETY: libvirt passes the error it is just raising, valid for this call.
        unsafe { sys::virDefaultErrorFunc(error) }
    }
}
