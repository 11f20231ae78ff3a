// SPDX-License-Identifier: LGPL-2.1-or-later
//! Points at which the fault matrix (`cli/tests/faults`) holds this process to let something go wrong. Without the
//! feature `faults`, which no release build has, there is nothing here.

use std::fmt::Debug;

/// Names a point that is being passed: `when` and the step.
#[inline]
pub(in crate::operation) fn point(when: &str, step: &dyn Debug) {
    #[cfg(feature = "faults")]
    hold::at(&format!("{when} {step:?}"));
    #[cfg(not(feature = "faults"))]
    let _ = (when, step);
}

/// Whether this step is to do nothing and to report that it did: what the model must notice.
#[inline]
pub(in crate::operation) fn skips(step: &dyn Debug) -> bool {
    #[cfg(feature = "faults")]
    let skips = std::env::var("LIVEDISK_SKIP").is_ok_and(|wanted| wanted == format!("{step:?}"));
    #[cfg(not(feature = "faults"))]
    let skips = {
        let _ = step;
        false
    };
    skips
}

#[cfg(feature = "faults")]
mod hold {
    use std::collections::HashSet;
    use std::sync::{Mutex, PoisonError};
    use std::thread;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    /// Points to stop at, joined by `;`, each once and after the one before: a point may lie on the way back and on the way
    /// to the turn. From `list` on each point is said, once.
    const WANTED: &str = "LIVEDISK_STOP_AT";
    const LIST: &str = "list";

    pub(in crate::operation) fn at(point: &str) {
        static PASSED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
        let Ok(wanted) = std::env::var(WANTED) else { return };
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = passed.get_or_insert_default();
        let next = wanted.split(';').find(|name| !passed.contains(*name));
        let stop = next == Some(point);
        if !(stop || next == Some(LIST)) || !passed.insert(point.to_owned()) {
            return;
        }
        eprintln!("livedisk: at {point}");
        if stop && kill_process(getpid(), Signal::STOP).is_ok() {
            // The signal may be taken by another thread and reach this one a moment later.
            thread::sleep(Duration::from_millis(5));
        }
    }
}
