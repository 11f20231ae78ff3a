// SPDX-License-Identifier: LGPL-2.1-or-later
//! Keeps an operation's record with its domain as long as this process runs the operation.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::image::Made;
use crate::libvirt::{Quiet, State};
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::owner::Owner;
use crate::operation::ownership::record::Record;
use crate::operation::ownership::request;
use crate::operation::state::Mark;

/// Between two signs of life, for agents on other hosts.
const RENEW: Duration = Duration::from_secs(20);
/// How often another process's request to cancel is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The record of an operation that this process owns. Dropped before it is removed, it is released: the next
/// process may resume the operation.
pub(in crate::operation) struct Journal {
    pages: Arc<Pages>,
    /// `None` where the record is only looked at.
    renewal: Option<Renewal>,
}

/// The thread that gives the signs of life.
struct Renewal {
    /// Dropped, it ends the thread.
    end: Sender<()>,
    thread: JoinHandle<()>,
}

struct Pages {
    guest: Arc<Guest>,
    record: Mutex<Record>,
    /// Another process has taken the operation over, and whatever is done to it is that one's to do.
    lost: AtomicBool,
    /// This process has taken it over.
    taken_over: bool,
    /// What to do where another process asks to cancel.
    cancel: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Nothing is written while it lives.
pub(in crate::operation) struct Held<'a>(#[allow(dead_code)] MutexGuard<'a, Record>);

impl Journal {
    /// Writes the first record. The holder of the claim has seen that the domain is free.
    pub(in crate::operation) fn begin(
        guest: &Arc<Guest>,
        mut record: Record,
        _claim: &Claim<impl Deref<Target = Guest>>,
    ) -> Result<Self> {
        record.live = true;
        write(guest, &record)?;
        Self::keep(guest, record, false)
    }

    /// Takes over the record of an owner that is dead.
    pub(in crate::operation) fn take_over(
        guest: &Arc<Guest>,
        mut record: Record,
        _claim: &Claim<impl Deref<Target = Guest>>,
    ) -> Result<Self> {
        record.owner = Owner::this();
        write(guest, &record)?;
        Self::keep(guest, record, true)
    }

    /// Of somebody else's record: nothing is written.
    pub(in crate::operation) fn look_at(guest: &Arc<Guest>, record: Record) -> Self {
        Self {
            pages: Arc::new(Pages {
                guest: Arc::clone(guest),
                record: Mutex::new(record),
                lost: AtomicBool::new(false),
                taken_over: false,
                cancel: OnceLock::new(),
            }),
            renewal: None,
        }
    }

    fn keep(guest: &Arc<Guest>, record: Record, taken_over: bool) -> Result<Self> {
        let pages = Arc::new(Pages {
            guest: Arc::clone(guest),
            record: Mutex::new(record),
            lost: AtomicBool::new(false),
            taken_over,
            cancel: OnceLock::new(),
        });
        let (end, ended) = channel();
        let renewed = Arc::clone(&pages);
        let thread = thread::Builder::new()
            .name("livedisk-lease".into())
            .spawn(move || {
                let _quiet = Quiet::new();
                let mut last = Instant::now();
                while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    renewed.look_for_request();
                    if last.elapsed() >= RENEW {
                        renewed.renew();
                        last = Instant::now();
                    }
                }
            })
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot start a thread: {error}")))?;
        Ok(Self {
            pages,
            renewal: Some(Renewal { end, thread }),
        })
    }

    /// Recorded with the domain by the next write.
    pub(in crate::operation) fn note_step_count(&self, step_count: u32) {
        self.pages.lock().step_count = step_count;
    }

    /// Another process may ask to cancel, from now on.
    pub(in crate::operation) fn on_cancel(&self, cancel: impl Fn() + Send + Sync + 'static) {
        let _ = self.pages.cancel.set(Box::new(cancel));
    }

    /// Not only looked at.
    pub(in crate::operation) fn is_owned(&self) -> bool {
        self.renewal.is_some()
    }

    /// Since the operation began: its process did, or was cut off.
    pub(in crate::operation) fn libvirtd_may_have_died(&self) -> bool {
        self.pages.taken_over || self.pages.guest.was_cut_off()
    }

    /// The active commit of this disk's overlay is about to pivot.
    pub(in crate::operation) fn note_pivot(&self, disk: usize) -> Result<()> {
        self.write(|record| {
            if let Some(disk) = record.disks.get_mut(disk) {
                disk.pivoting = true;
            }
            Ok(())
        })
    }

    /// The record as it was written last.
    pub(in crate::operation) fn read(&self) -> Record {
        self.pages.lock().clone()
    }

    pub(in crate::operation) fn mark(&self) -> Mark {
        self.pages.lock().mark
    }

    pub(in crate::operation) fn is_back(&self) -> bool {
        self.pages.lock().back.is_some()
    }

    /// Fails where this process slept past its lease and another one has taken the operation over.
    pub(in crate::operation) fn must_be_ours(&self) -> Result<()> {
        let record = self.pages.lock();
        if !self.is_owned() || record.mark == Mark::Absent {
            return Ok(());
        }
        match self.pages.must_be_ours(&record) {
            // What cannot be asked now is asked again when there is a connection.
            Err(error) if error.code() != ErrorCode::NoOperation => Ok(()),
            other => other,
        }
    }

    /// Changes the record, first with the domain.
    pub(in crate::operation) fn write(&self, change: impl FnOnce(&mut Record) -> Result<()>) -> Result<()> {
        let mut record = self.pages.lock();
        self.pages.must_be_ours(&record)?;
        let mut changed = record.clone();
        change(&mut changed)?;
        changed.owner.renew();
        write(&self.pages.guest, &changed)?;
        *record = changed;
        Ok(())
    }

    /// Records how far it is, the image that was made for each disk, and what its procedure alone understands.
    pub(in crate::operation) fn note<'a>(
        &self,
        mark: Mark,
        made: impl IntoIterator<Item = Option<&'a Made>>,
        details: &impl Serialize,
    ) -> Result<()> {
        self.write(|record| {
            record.mark = mark;
            for (disk, made) in record.disks.iter_mut().zip(made) {
                disk.made = made.cloned();
            }
            record.set_details(details)
        })
    }

    /// The operation is over. `images` are those that it had QEMU open, the upper ones first.
    pub(in crate::operation) fn remove(&self, images: &[&str]) -> Result<()> {
        let mut record = self.pages.lock();
        let guest = &self.pages.guest;
        // Of a libvirtd that dies QEMU is left with what it was to close.
        if self.libvirtd_may_have_died()
            && guest.get_power_state()? != State::Off
            && let Err(error) = guest.close_unnamed(images)
        {
            log::warn!("{error}; QEMU has it open until the domain is off");
        }
        if guest.is_active()? {
            if record.back.is_some() {
                request::await_seen(guest, &record.id);
            }
            request::remove(guest, &record.id)?;
        }
        guest.remove_metadata(&record.namespace())?;
        record.mark = Mark::Absent;
        Ok(())
    }

    /// For the freeze window: no lease is renewed in it.
    pub(in crate::operation) fn hold(&self) -> Held<'_> {
        Held(self.pages.lock())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let Some(Renewal { end, thread }) = self.renewal.take() else {
            return;
        };
        drop(end);
        // It has the connection too, which must be closed when the caller's is.
        let _ = thread.join();
        let record = self.pages.lock();
        if record.mark == Mark::Absent || self.pages.lost.load(Ordering::SeqCst) {
            return;
        }
        let mut released = record.clone();
        released.owner.release();
        let guest = &self.pages.guest;
        let written = match write(guest, &released) {
            Err(error) if error.code() == ErrorCode::NoConnection => {
                guest.reconnect().and_then(|()| write(guest, &released))
            }
            other => other,
        };
        match written {
            // A transient domain takes its record with it.
            Err(error) if error.code() != ErrorCode::NoDomain => log::error!(
                "{error}; operation {} can be resumed only when this process has ended",
                released.id
            ),
            _ => {}
        }
    }
}

impl Pages {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as the lease runs no other process can have taken it.
    fn must_be_ours(&self, record: &Record) -> Result<()> {
        if !self.lost.load(Ordering::SeqCst) && !record.owner.has_overslept() {
            return Ok(());
        }
        let asked = Record::all(&self.guest).and_then(|now| Ok((now, self.guest.has_persistent_configuration()?)));
        let (now, persistent) = match asked {
            // A transient domain takes its records with it.
            Err(error) if error.code() == ErrorCode::NoDomain => return Ok(()),
            asked => asked?,
        };
        let what = match now.into_iter().flatten().find(|now| now.id == record.id) {
            Some(now) if now.owner.is_same_process(&record.owner) => return Ok(()),
            Some(now) => format!("has been taken over by {}", now.owner),
            None if persistent => "has been resolved by another process".to_owned(),
            None => return Ok(()),
        };
        self.lost.store(true, Ordering::SeqCst);
        Err(Error::new(
            ErrorCode::NoOperation,
            format!(
                "operation {} on domain '{}' {what}, because this process gave no sign of life for too long; see \
                 'livedisk status'",
                record.id,
                self.guest.name()
            ),
        ))
    }

    /// Not in the freeze window, in which the record is held.
    fn look_for_request(&self) {
        let record = self.lock();
        let Some(cancel) = self.cancel.get() else { return };
        if record.mark == Mark::Absent || self.lost.load(Ordering::SeqCst) {
            return;
        }
        match request::is_there(&self.guest, &record.id) {
            Ok(true) => cancel(),
            Ok(false) => {}
            Err(error) => log::debug!("{error}"),
        }
    }

    fn renew(&self) {
        let mut record = self.lock();
        if record.mark == Mark::Absent {
            return;
        }
        if let Err(error) = self.must_be_ours(&record) {
            return log::warn!("{error}");
        }
        let mut renewed = record.clone();
        renewed.owner.renew();
        match write(&self.guest, &renewed) {
            Ok(()) => *record = renewed,
            Err(error) => log::debug!("{error}"),
        }
    }
}

/// In the inactive definition first: whatever the live one says, the other has said already.
pub(in crate::operation) fn write(guest: &Guest, record: &Record) -> Result<()> {
    let uri = record.namespace();
    let persistent = match guest.has_persistent_configuration() {
        // A transient domain took it with it.
        Err(error) if error.code() == ErrorCode::NoDomain => return Ok(()),
        persistent => persistent?,
    };
    if persistent {
        guest.set_metadata(&uri, Some(&record.to_xml(false)?), false, true)?;
    }
    if let Some(state) = guest.get_instance()? {
        let same = record.live && state != State::Off;
        guest.set_metadata(&uri, Some(&record.to_xml(same)?), true, false)?;
    }
    Ok(())
}
