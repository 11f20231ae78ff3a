// SPDX-License-Identifier: LGPL-2.1-or-later
//! An overlay that the guest may write to though libvirt names the image below: a libvirtd that dies between telling QEMU to
//! take a snapshot and noting it goes on with the chain from before.

use crate::driver::Guest;
use crate::error::Result;
use crate::libvirt::State;
use crate::operation::parts::offline;

/// The overlay of one disk, and the image right below it.
pub(in crate::operation) struct Unnamed<'a> {
    pub(in crate::operation) guest: &'a Guest,
    pub(in crate::operation) target: &'a str,
    pub(in crate::operation) overlay: &'a str,
    pub(in crate::operation) base: &'a str,
}

impl Unnamed<'_> {
    /// QEMU runs, and has the overlay open.
    pub(in crate::operation) fn is_open(&self) -> Result<bool> {
        Ok(self.guest.get_power_state()? != State::Off && self.guest.has_open(self.overlay)?)
    }

    /// The guest's last writes are in the overlay. `alive`: of the instance that the operation was begun on; `off`: no instance
    /// runs.
    pub(in crate::operation) fn holds_last_writes(&self, alive: bool, off: bool) -> Result<bool> {
        if alive {
            return self.is_open();
        }
        let what = format!("disk '{}' of domain '{}'", self.target, self.guest.name());
        offline::holds_last_writes(self.overlay, self.base, off, &what)
    }

    /// They go into the image below, and the guest goes on with that.
    pub(in crate::operation) fn merge(&self, alive: bool) -> Result<()> {
        if alive {
            self.guest.merge_overlay(self.overlay, self.base)
        } else {
            offline::merge(self.overlay, self.base)
        }
    }
}
