// SPDX-License-Identifier: LGPL-2.1-or-later
//! Checkpoints that are listed and deleted between operations.

use super::plan::preflight::{must_be_free, must_have_no_operation};
use crate::driver::Guest;
use crate::error::Result;

/// An operation may rest on it.
pub(crate) fn delete_checkpoint(guest: &Guest, name: &str) -> Result<()> {
    let config = guest.get_config(false)?;
    if guest.is_active()? {
        must_be_free(guest, &config, None)?;
    } else {
        must_have_no_operation(guest, &config, None)?;
    }
    guest.delete_checkpoint(name)
}
