// SPDX-License-Identifier: LGPL-2.1-or-later
//! Copies one disk from a backup's export, in a thread of its own: whatever its destination does, the operation goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::left::LABEL;
use super::line::Line;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Backing, Exported, Form, Manner, Output, Place, Source};
use crate::operation::course::shared::Shared;
use crate::operation::parts::clone::finished;
use crate::operation::parts::window::spawn;

/// What is to be copied, and how.
pub(in crate::operation) struct Task {
    pub(in crate::operation) operation: String,
    pub(in crate::operation) target: String,
    pub(in crate::operation) line: Arc<Line>,
    /// The disk's.
    pub(in crate::operation) size: u64,
    pub(in crate::operation) manner: Manner,
    /// Compare what was written with the export.
    pub(in crate::operation) verify: bool,
    pub(in crate::operation) shown: String,
    /// Another process has written to it: it is made anew.
    pub(in crate::operation) renew: Option<(Place, Form<'static>)>,
    /// Only what has changed.
    pub(in crate::operation) increment: Option<Increment>,
}

/// What is copied where a disk is not copied whole.
pub(in crate::operation) struct Increment {
    /// What the image rests on, if anything.
    pub(in crate::operation) backing: Option<Backing>,
}

#[derive(Default)]
struct State {
    progress: (u64, u64),
    end: Option<Result<()>>,
}

/// One that runs.
pub(in crate::operation) struct Reader {
    state: Arc<Mutex<State>>,
    wanted: Arc<AtomicBool>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// Starts one.
    pub(in crate::operation) fn start(task: Task, output: Output, shared: &Arc<Shared>) -> Result<Self> {
        let reader = Self {
            state: Arc::default(),
            wanted: Arc::new(AtomicBool::new(true)),
        };
        let (state, wanted, shared) = (
            Arc::clone(&reader.state),
            Arc::clone(&reader.wanted),
            Arc::clone(shared),
        );
        // Nobody waits for it: it may hang with its destination.
        spawn("livedisk-reader", move || {
            let mut watch = |done, total| {
                lock(&state).progress = (done, total);
                wanted.load(Ordering::SeqCst)
            };
            let end = task.read(output, &mut watch);
            lock(&state).end = Some(end);
            shared.wake();
        })?;
        Ok(reader)
    }

    /// Copied and to be copied.
    pub(in crate::operation) fn progress(&self) -> (u64, u64) {
        lock(&self.state).progress
    }

    /// How it ended, once it has.
    pub(in crate::operation) fn end(&self) -> Option<Result<()>> {
        lock(&self.state).end.take()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::SeqCst);
    }
}

impl Task {
    /// libvirt's name for what it merges for a disk of what its images have noted.
    fn bitmap(&self) -> String {
        format!("backup-{}", self.target)
    }

    fn read(&self, mut output: Output, watch: image::Watch<'_>) -> Result<()> {
        if let Some((place, form)) = &self.renew {
            output.fill(place, *form)?;
        }
        let connect = || self.line.connect();
        let export = Exported {
            name: &self.target,
            connect: &connect,
            label: (LABEL, &self.operation),
        };
        let changed = self.increment.as_ref().map(|_| export.changed(&self.bitmap()));
        let changed = changed.transpose()?;
        finished(match &changed {
            None => output.write(Source::Export(&export), self.size, self.manner, watch)?,
            Some(changed) => output.write_changed(&export, changed, self.manner, watch)?,
        })?;
        let backing = self.increment.as_ref().and_then(|increment| increment.backing.as_ref());
        if let Some(backing) = backing {
            output.put_on(backing)?;
        }
        if self.verify {
            if let Some(file) = output.file() {
                image::check(file, output.format(), &self.shown)?;
            }
            // An increment on the image before it shows the whole disk.
            let is_equal = match &changed {
                Some(changed) if backing.is_none() => output.equals_changed(&export, changed)?,
                _ => output.equals(Source::Export(&export))?,
            };
            if !is_equal {
                return Err(Error::new(
                    ErrorCode::Verify,
                    format!(
                        "the image '{}' differs from what QEMU shows of disk '{}'; see its storage, then copy again",
                        self.shown, self.target
                    ),
                ));
            }
        }
        Ok(())
    }
}
