// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's disk throttled for the last stretch of a job that cannot keep up with it. `next` says when; what was set
//! before is set again on every way out.

use std::sync::Arc;

use crate::driver::Guest;
use crate::error::{ErrorCode, Result};
use crate::libvirt::IoTune;
use crate::operation::parts::convergence::Rates;
use crate::operation::parts::site::Site;
use crate::operation::parts::tracked::Tracked;

/// Below it there is nothing to gain: a job that this little is too much for hangs.
const FLOOR: u64 = 64 << 10;

/// What has disks that can be throttled.
pub(in crate::operation) trait Throttles {
    /// Each of them.
    fn braked(&mut self) -> Vec<Braked<'_>>;

    /// Writes the record, with what each disk is to be given back.
    fn record_throttle(&mut self) -> Result<()>;
}

/// A disk that can be throttled.
pub(in crate::operation) struct Braked<'a> {
    pub(in crate::operation) brake: &'a mut Brake,
    /// Those that may not keep up with the guest. Only one runs at a time.
    pub(in crate::operation) jobs: Vec<&'a mut Tracked>,
}

/// Throttles the guest's writes to one of the disks, or throttles them more.
pub(in crate::operation) fn throttle(of: &mut impl Throttles, disk: usize) -> Result<()> {
    if of.braked()[disk].brake.look()? {
        of.record_throttle()?;
    }
    let mut all = of.braked();
    let Braked { brake, jobs } = &mut all[disk];
    let rates = jobs.iter().find_map(|job| job.rates());
    let tightened = brake.tighten(rates.unwrap_or_default());
    publish(&all);
    tightened?;
    all[disk].jobs.iter_mut().for_each(|job| job.watch_anew());
    Ok(())
}

/// Gives the disk its own limits back.
pub(in crate::operation) fn unthrottle(of: &mut impl Throttles, disk: usize) -> Result<()> {
    let mut all = of.braked();
    all[disk].brake.release()?;
    publish(&all);
    of.record_throttle()
}

/// The caller sees the tightest.
fn publish(all: &[Braked<'_>]) {
    let limits = all.iter().map(|disk| disk.brake.limit());
    let limit = limits.filter(|limit| *limit > 0).min().unwrap_or(0);
    if let Some(disk) = all.first() {
        let shared = &disk.brake.site.shared;
        shared.publish(|progress| progress.guest_write_limit = limit);
    }
}

/// Whether a disk is throttled, and whether it may be more.
pub(in crate::operation) struct Brake {
    site: Site,
    throttle: Option<Throttle>,
    /// What the disk is given back.
    before: Option<IoTune>,
    /// libvirt would not throttle the disk.
    refused: bool,
}

impl Brake {
    pub(in crate::operation) fn new(site: &Site) -> Self {
        Self {
            site: site.clone(),
            throttle: None,
            before: None,
            refused: false,
        }
    }

    /// A process that died left the disk throttled, as tight as may be. `live`: QEMU is the one that was throttled.
    pub(in crate::operation) fn find(&mut self, before: Option<IoTune>, live: bool) {
        if !live || !self.site.journal.is_owned() {
            return;
        }
        self.throttle = before.clone().map(|before| Throttle {
            guest: Arc::clone(&self.site.guest),
            target: self.site.target.clone(),
            before,
            limit: FLOOR,
            restored: false,
        });
        self.before = before;
    }

    /// For the record: the disk is throttled, or about to be, and these limits are its own.
    pub(in crate::operation) fn before(&self) -> Option<&IoTune> {
        self.before.as_ref()
    }

    pub(in crate::operation) fn is_on(&self) -> bool {
        self.throttle.is_some()
    }

    pub(in crate::operation) fn can_be_tightened(&self) -> bool {
        !self.refused && self.throttle.as_ref().is_none_or(Throttle::can_be_tightened)
    }

    /// Bytes per second that the guest may write; 0: as always.
    fn limit(&self) -> u64 {
        self.throttle.as_ref().map_or(0, |throttle| throttle.limit)
    }

    /// Reads what the disk is to be given back. True where that is new, and so to be recorded before anything is set: the
    /// process that resumes the operation gives it back.
    fn look(&mut self) -> Result<bool> {
        if self.throttle.is_some() {
            return Ok(false);
        }
        self.before = Some(self.site.device().get_io_tune()?);
        Ok(true)
    }

    /// Throttles, or throttles more.
    fn tighten(&mut self, rates: Rates) -> Result<()> {
        let tightened = match (&mut self.throttle, self.before.clone()) {
            (Some(throttle), _) => throttle.tighten(),
            (None, Some(before)) => {
                Throttle::start(&self.site, before, rates).map(|throttle| self.throttle = Some(throttle))
            }
            (None, None) => Ok(()),
        };
        match tightened {
            Err(error) if error.code() != ErrorCode::NoConnection => {
                log::warn!("{error}");
                self.refused = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Sets exactly what was set before.
    fn release(&mut self) -> Result<()> {
        if let Some(throttle) = &mut self.throttle {
            throttle.restore()?;
        }
        (self.throttle, self.before) = (None, None);
        Ok(())
    }

    /// The guest that was throttled is gone, and its throttle with it.
    pub(in crate::operation) fn forget(&mut self) {
        if let Some(mut throttle) = self.throttle.take() {
            throttle.restored = true;
        }
    }
}

/// While it lives, the disk is throttled.
struct Throttle {
    guest: Arc<Guest>,
    target: String,
    before: IoTune,
    limit: u64,
    restored: bool,
}

impl Throttle {
    /// From what a job copies a second while it does not keep up.
    fn start(site: &Site, before: IoTune, rates: Rates) -> Result<Self> {
        let mut throttle = Self {
            guest: Arc::clone(&site.guest),
            target: site.target.clone(),
            before,
            // Twice as much may become dirty, and so the job gains on the guest by half of what it copies.
            limit: rates.copied / 4,
            restored: false,
        };
        throttle.set()?;
        Ok(throttle)
    }

    /// It was not enough.
    fn tighten(&mut self) -> Result<()> {
        self.limit /= 2;
        self.set()
    }

    fn can_be_tightened(&self) -> bool {
        self.limit > FLOOR
    }

    fn set(&mut self) -> Result<()> {
        self.limit = self.limit.max(FLOOR);
        log::warn!(
            "disk '{}' of domain '{}' is throttled to {} KiB/s of writes until its block job has caught up",
            self.target,
            self.guest.name(),
            self.limit >> 10
        );
        let tune = self.before.with_writes_limited(self.limit);
        self.guest.get_block_device(&self.target).set_io_tune(&tune)
    }

    fn restore(&mut self) -> Result<()> {
        self.guest.get_block_device(&self.target).set_io_tune(&self.before)?;
        self.restored = true;
        log::warn!(
            "disk '{}' of domain '{}' is no longer throttled",
            self.target,
            self.guest.name()
        );
        Ok(())
    }
}

impl Drop for Throttle {
    /// The last resort: a panic, a detached operation, a roll-back that failed.
    fn drop(&mut self) {
        if !self.restored
            && let Err(error) = self.restore()
        {
            log::error!(
                "{error}; set it with 'virsh blkdeviotune' to: {}",
                self.before.to_text()
            );
        }
    }
}
