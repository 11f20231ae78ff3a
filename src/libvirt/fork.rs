// SPDX-License-Identifier: LGPL-2.1-or-later
//! A forked child has its parent's memory and none of its threads: a lock that one of them held is never released there.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::EventLoop;
use super::quiet::are_others_inside;
use crate::error::{Error, ErrorCode, Result};

/// The process that opened a connection last.
static OPENED_BY: AtomicU32 = AtomicU32::new(0);
/// The process whose thread runs libvirt's event loop for us.
static LOOP_OF: AtomicU32 = AtomicU32::new(0);

/// That libvirt's event loop runs in this process.
pub(super) fn note_event_loop() {
    LOOP_OF.store(process::id(), Ordering::SeqCst);
}

/// A connection may be opened, unless libvirt could wait for ever in this process.
pub(crate) fn must_not_hang(event_loop: EventLoop) -> Result<()> {
    let this = process::id();
    let refused = |message| Err(Error::new(ErrorCode::Unsupported, message));
    let parent = LOOP_OF.load(Ordering::SeqCst);
    if event_loop == EventLoop::Own && ![0, this].contains(&parent) {
        return refused(format!(
            "libvirt's event loop runs in process {parent}, from which this one was forked, and cannot be started again \
             here; open without RUN_EVENT_LOOP, or execute a program after the fork"
        ));
    }
    let parent = OPENED_BY.load(Ordering::SeqCst);
    if ![0, this].contains(&parent) && are_others_inside() {
        return refused(format!(
            "this process was forked from process {parent} while livedisk was using libvirt there, so libvirt could wait \
             for ever for a lock; fork before any operation is started, or execute a program after the fork"
        ));
    }
    OPENED_BY.store(this, Ordering::SeqCst);
    Ok(())
}
