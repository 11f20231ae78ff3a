// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's disk throttled for the last stretch of a job that cannot keep up with it. `next` says when; what was set
//! before is set again on every way out.

use std::sync::Arc;

use super::convergence::Rates;
use crate::driver::Guest;
use crate::error::Result;
use crate::libvirt::IoTune;

/// Below it there is nothing to gain: a job that this little is too much for hangs.
const FLOOR: u64 = 64 << 10;

/// While it lives, the disk is throttled.
pub(super) struct Throttle {
    guest: Arc<Guest>,
    target: String,
    before: IoTune,
    limit: u64,
    restored: bool,
}

impl Throttle {
    /// What a disk is to be given back, to be recorded before anything is set.
    pub(super) fn look(guest: &Guest, target: &str) -> Result<IoTune> {
        guest.get_block_device(target).get_io_tune()
    }

    /// From what a job copies a second while it does not keep up.
    pub(super) fn start(guest: &Arc<Guest>, target: &str, before: IoTune, rates: Rates) -> Result<Self> {
        let mut throttle = Self {
            guest: Arc::clone(guest),
            target: target.to_owned(),
            before,
            // Twice as much may become dirty, and so the job gains on the guest by half of what it copies.
            limit: rates.copied / 4,
            restored: false,
        };
        throttle.set()?;
        Ok(throttle)
    }

    /// It was not enough.
    pub(super) fn tighten(&mut self) -> Result<()> {
        self.limit /= 2;
        self.set()
    }

    pub(super) fn can_be_tightened(&self) -> bool {
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

    /// Bytes per second.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Sets exactly what was set before.
    pub(super) fn restore(&mut self) -> Result<()> {
        self.guest.get_block_device(&self.target).set_io_tune(&self.before)?;
        self.restored = true;
        log::warn!(
            "disk '{}' of domain '{}' is throttled no more",
            self.target,
            self.guest.name()
        );
        Ok(())
    }

    /// The guest that was throttled is gone, and its throttle with it.
    pub(super) fn forget(mut self) {
        self.restored = true;
    }
}

impl Drop for Throttle {
    /// The last resort: a panic, a detached operation, a taking back that failed.
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
