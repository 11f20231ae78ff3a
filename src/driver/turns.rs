// SPDX-License-Identifier: LGPL-2.1-or-later
//! How many guests of a connection are stopped at the same time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::available_parallelism;

/// libvirtd takes five requests at a time from a client, so that no thaw waits for another guest's slow call.
const AT_ONCE: usize = 4;

pub(super) struct Turns {
    at_once: usize,
    taken: Mutex<usize>,
    given_back: Condvar,
}

impl Default for Turns {
    /// Each guest needs a processor to freeze and to thaw: where there are more guests than processors, each is frozen longer.
    fn default() -> Self {
        Self {
            at_once: available_parallelism().map_or(1, usize::from).min(AT_ONCE),
            taken: Mutex::default(),
            given_back: Condvar::new(),
        }
    }
}

/// Given back when it is dropped.
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for one.
    pub(super) fn take(&self) -> Turn<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .given_back
            .wait_while(taken, |taken| *taken >= self.at_once)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn never_more_at_once_and_all_come() {
        let (turns, now, most, all) = (
            Turns::default(),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    let _turn = turns.take();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    all.fetch_add(1, Ordering::SeqCst);
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= AT_ONCE);
        assert_eq!(all.load(Ordering::SeqCst), 40);
    }
}
