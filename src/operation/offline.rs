// SPDX-License-Identifier: LGPL-2.1-or-later
//! Overlays that a domain that is off was left with. QEMU's locks on the images see to it that either what is done here
//! fails, or a start that comes in between.

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Made};

/// What the guest wrote to the overlay goes into `base` (path, format), which becomes the disk again.
pub(super) fn commit(guest: &Guest, target: &str, overlay: &str, base: (&str, &str)) -> Result<()> {
    let shown = overlay.escape_debug().to_string();
    let (_, file) = Made::adopt(overlay)?;
    log::info!("committing '{shown}' into '{}'", base.0.escape_debug());
    image::commit(&file, base.0, &shown)?;
    guest.drop_overlay(target, overlay, base)
}

/// An overlay that no definition names. libvirt may have died between taking the snapshot and saying so in the
/// definition, and then the guest wrote to it.
pub(super) fn must_hold_nothing(overlay: &str, base: &str, what: &str) -> Result<()> {
    let shown = overlay.escape_debug().to_string();
    let (_, file) = Made::adopt(overlay)?;
    // One that was begun is no image yet, and the guest never had it.
    if !image::has_content(&file, &shown).unwrap_or(false) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Verify,
        format!(
            "{what}: '{shown}' holds writes of the guest that '{}' lacks, and the definition names the latter; if the \
             domain was not started since, shut it off and run 'qemu-img commit' on the former; then remove it and \
             recover again",
            base.escape_debug()
        ),
    ))
}

/// QEMU died about to pivot from one overlay to the other. Where they show the same it does not matter whether it did.
pub(super) fn must_be_equal(overlay: &str, other: &str, what: &str) -> Result<()> {
    let (shown, other_shown) = (overlay.escape_debug().to_string(), other.escape_debug());
    let (_, file) = Made::adopt(overlay)?;
    let (_, other) = Made::adopt(other)?;
    if image::are_equal(&file, &other, "qcow2", &shown)? {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Verify,
        format!(
            "{what}: QEMU died in the pivot, and nobody knows whether '{shown}' or '{other_shown}' has the guest's last \
             writes; start the domain, which goes on with the former, and recover again"
        ),
    ))
}
