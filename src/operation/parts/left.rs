// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a process that died in the freeze window may have left of it. The window itself undoes its freeze and its pause, and
//! repeats in the background what could not be made certain.

use crate::driver::Guest;
use crate::error::Result;

#[derive(Debug, Default)]
pub(in crate::operation) struct Left {
    pub(in crate::operation) frozen: bool,
    /// File systems thawed since.
    pub(in crate::operation) thawed: u32,
}

impl Left {
    /// Where its freeze never came, there is nothing to thaw.
    pub(in crate::operation) fn thaw(&mut self, guest: &Guest) -> Result<()> {
        self.thawed = guest.thaw_left()?;
        self.frozen = false;
        Ok(())
    }
}
