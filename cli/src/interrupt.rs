// SPDX-License-Identifier: LGPL-2.1-or-later
//! The first signal rolls the operation back, the second ends the command.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use livedisk::{ErrorCode, Operation};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::Failure;
use crate::stderr;

/// A second signal does not wait for a reader of what is printed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Listens from its making on; the operation may come later.
#[derive(Clone)]
pub struct Interrupt {
    json: bool,
    operation: Arc<OnceLock<Arc<Operation>>>,
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    pub fn listen(json: bool) -> Result<Self, Failure> {
        let failed = |error| Failure::new(ErrorCode::Io, format!("cannot handle signals: {error}"));
        let interrupt = Self {
            json,
            operation: Arc::default(),
            asked: Arc::default(),
        };
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let listener = interrupt.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _ in signals.forever() {
                    listener.signalled();
                }
            })
            .map_err(failed)?;
        Ok(interrupt)
    }

    /// From now on a signal is for this operation; one that came before is too.
    pub fn watch(&self, operation: &Arc<Operation>) {
        let _ = self.operation.set(Arc::clone(operation));
        if self.asked.load(Ordering::SeqCst) {
            cancel(operation);
        }
    }

    /// The operation is to be rolled back.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    fn signalled(&self) {
        if self.asked.swap(true, Ordering::SeqCst) {
            stderr::show_foot(false);
            // The operation continues without this process, as after a timeout.
            let left = Failure::new(
                ErrorCode::Timeout,
                "ended at once, nothing was rolled back: jobs may continue and the guest may be frozen; \
                 clean up with livedisk recover, or resume the operation with livedisk attach",
            );
            let (json, (done, printed)) = (self.json, channel());
            thread::spawn(move || {
                left.print(json);
                stderr::flush();
                let _ = done.send(());
            });
            let _ = printed.recv_timeout(LAST_WORDS);
            std::process::exit(130);
        }
        stderr::set_foot("cancelling");
        stderr::say("livedisk: cancelling: rolling the operation back; a second signal ends the command at once");
        if let Some(operation) = self.operation.get() {
            cancel(operation);
        }
    }
}

/// In a thread of its own, for cancel waits and a second signal must be heard. How it ended, finish says.
fn cancel(operation: &Arc<Operation>) {
    let operation = Arc::clone(operation);
    thread::spawn(move || {
        if let Err(error) = operation.cancel() {
            log::warn!("{error}");
        }
    });
}
