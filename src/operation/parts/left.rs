// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a process that died in the freeze window may have left of it. The window itself undoes its freeze and its pause, and
//! repeats in the background what could not be made certain.

use crate::driver::Guest;
use crate::error::Result;
use crate::operation::ownership::record::Record;
use crate::operation::state::Mark;

#[derive(Debug, Default)]
pub(in crate::operation) struct Left {
    pub(in crate::operation) frozen: bool,
    pub(in crate::operation) paused: bool,
    /// File systems thawed since.
    pub(in crate::operation) thawed: u32,
}

impl Left {
    /// As its record shows it: a window that freezes and pauses so was about to open, or open.
    pub(in crate::operation) fn found(record: &Record, freezes: bool, pauses: bool) -> Self {
        let is_open = record.live && record.mark == Mark::Fixing;
        Self {
            frozen: is_open && freezes,
            paused: is_open && pauses,
            thawed: 0,
        }
    }

    /// Where its freeze never came, there is nothing to thaw.
    pub(in crate::operation) fn thaw(&mut self, guest: &Guest) -> Result<()> {
        self.thawed = guest.thaw_left()?;
        self.frozen = false;
        Ok(())
    }
}
