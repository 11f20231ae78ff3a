// SPDX-License-Identifier: LGPL-2.1-or-later
//! Overlays that a domain that is off was left with. QEMU's locks on the images see to it that either what is done here
//! fails, or a start that comes in between.

use std::thread;
use std::time::{Duration, Instant};

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Layer, Made};
use crate::operation::ownership::record::RecordedDisk;

/// How much later one of two images must have been written to for the order to be certain: more than a mirror that has
/// caught up lags.
const LATER: Duration = Duration::from_secs(1);
/// How long libvirt may take to clean up after a job.
const LIBVIRT: Duration = Duration::from_secs(2);

/// What the guest wrote to the overlay goes into `base`, which becomes the disk again, with the element that
/// it had at `home`, or as much of it as the definition has.
pub(in crate::operation) fn commit(
    guest: &Guest,
    disk: &RecordedDisk,
    overlay: &str,
    base: &Layer,
    home: Option<&str>,
) -> Result<()> {
    if disk.pivoting && was_written_later(&base.path, overlay) {
        // A libvirtd that dies at the end of a pivot may not know the domain any more, and QEMU goes on for long.
        log::warn!(
            "the guest had continued on '{}', which has everything that '{}' has",
            base.path.escape_debug(),
            overlay.escape_debug()
        );
    } else {
        merge(overlay, base)?;
    }
    name_base(guest, disk, overlay, base, home)
}

/// What the guest wrote to the overlay goes into `base`.
pub(in crate::operation) fn merge(overlay: &str, base: &Layer) -> Result<()> {
    let shown = overlay.escape_debug().to_string();
    let (_, file) = Made::adopt(overlay)?;
    log::info!("committing '{shown}' into '{}'", base.path.escape_debug());
    image::commit(&file, base, &shown)
}

/// A definition that names the overlay names its base from now on: a libvirtd that dies after a pivot may have changed the
/// running domain alone.
pub(in crate::operation) fn name_base(
    guest: &Guest,
    disk: &RecordedDisk,
    overlay: &str,
    base: &Layer,
    home: Option<&str>,
) -> Result<()> {
    await_libvirt(guest, &disk.target);
    match (guest.get_disk_definition(&disk.target, Some(overlay))?, home) {
        (None, _) => Ok(()),
        (Some(_), Some(home)) => guest.define_disk(home),
        (Some(_), None) => guest.drop_overlay(&disk.target, overlay, base),
    }
}

/// After QEMU's word that a job has ended, libvirt takes its labels off the overlay, which is to be there still. It shows the
/// job until that is done, and answers nobody who asks for it meanwhile.
fn await_libvirt(guest: &Guest, target: &str) {
    let until = Instant::now() + LIBVIRT;
    let runs = || {
        guest
            .get_block_device(target)
            .get_job_info()
            .is_ok_and(|job| job.is_some())
    };
    while runs() && Instant::now() < until {
        thread::sleep(LIBVIRT / 200);
    }
}

fn was_written_later(path: &str, than: &str) -> bool {
    let written = |path: &str| std::fs::metadata(path).and_then(|metadata| metadata.modified());
    match (written(path), written(than)) {
        (Ok(path), Ok(than)) => path.duration_since(than).is_ok_and(|later| later > LATER),
        _ => false,
    }
}

/// Of an overlay that no definition names, and of a domain whose QEMU is gone: whether the guest's last writes are in it, and
/// not in `base`, which the definition names. libvirtd may have died between taking the snapshot and saying so. `off`: no other
/// QEMU of the domain runs.
pub(in crate::operation) fn holds_last_writes(overlay: &str, base: &str, off: bool, what: &str) -> Result<bool> {
    let shown = overlay.escape_debug().to_string();
    let (_, file) = Made::adopt(overlay)?;
    // One that was begun is no image yet, and the guest never had it.
    if !image::has_content(&file, &shown).unwrap_or(false) {
        return Ok(false);
    }
    // A domain that was started since has written to what its definition names.
    if off && was_written_later(overlay, base) {
        return Ok(true);
    }
    Err(Error::new(
        ErrorCode::Verify,
        format!(
            "{what}: '{shown}' holds writes of the guest that '{}' lacks, and the definition names the latter; if the \
             domain has not been started since, shut it off and run 'qemu-img commit' on the former; then remove it and \
             recover again",
            base.escape_debug()
        ),
    ))
}

/// QEMU ended about to pivot a copy that had caught up, from `before` to `after` (path, format), and nobody saw whether it
/// did: whether the latter has the guest's last writes. Where both show the same it does not matter.
pub(in crate::operation) fn has_pivoted(before: &Layer, after: (&str, &str), what: &str) -> Result<bool> {
    let shown = before.path.escape_debug().to_string();
    let other = image::open_destination(after.0)?;
    if was_written_later(after.0, &before.path) {
        return Ok(true);
    }
    if was_written_later(&before.path, after.0) || image::are_equal(before, (&other, after.1), &shown)? {
        return Ok(false);
    }
    Err(Error::new(
        ErrorCode::Verify,
        format!(
            "{what}: QEMU died in the pivot, and it is unknown whether '{shown}' or '{}' has the guest's last writes; \
             start the domain, which continues on the former, and recover again",
            after.0.escape_debug()
        ),
    ))
}
