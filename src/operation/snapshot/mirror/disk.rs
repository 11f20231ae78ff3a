// SPDX-License-Identifier: LGPL-2.1-or-later
//! One disk of a snapshot by mirrors: its image, and the mirror onto it.

use std::cell::Cell;

use crate::driver::code_of_reason;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Cloned, Destination, Output, Room, directory_of};
use crate::libvirt::xml::{Disk, copy_destination};
use crate::libvirt::{BlockJobStatus, RebaseCopy};
use crate::operation::ownership::record::Record;
use crate::operation::parts::clone::{finished, watch};
use crate::operation::parts::image::DestinationImage;
use crate::operation::parts::mirror::{Mirror, To};
use crate::operation::parts::site::Site;
use crate::operation::parts::tracked::{End, Shown, data_of};
use crate::operation::plan::preflight::is_at;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Mark;
use crate::operation::types::Method;

/// A file system with less room than this is full: QEMU writes up to a MiB at once.
const FULL: u64 = 2 << 20;
/// In strerror(3)'s words, as QEMU says it.
const FAILED: &str = "libvirt reports that it failed, but not why";
const NO_ROOM: &str = "No space left on device";

pub(super) struct Mirrored {
    pub(super) site: Site,
    pub(super) image: DestinationImage,
    pub(super) mirror: Mirror,
    /// How much of the disk is data.
    data: u64,
    /// The most room that its image was seen to take: a file system gives back a block now and then that it had set aside.
    room: Cell<u64>,
}

/// What verifying it is to look at besides place and size.
pub(super) struct Look {
    /// The image's own metadata.
    pub(super) check: bool,
    pub(super) contents: Contents,
}

/// Contents can be compared where QEMU has written its own metadata out (a freeze and a pause both see to that) and where
/// the guest wrote nothing since.
pub(super) enum Contents {
    NotAskedFor,
    NotFlushed,
    /// The guest's write requests just before the point in time.
    Flushed(Option<i64>),
}

impl Mirrored {
    pub(super) fn new(site: &Site, plan: &Plan, id: &str) -> Self {
        Self {
            image: DestinationImage::new(plan.disks[site.index].wanted(id, false)),
            mirror: Mirror::new(site, plan.bandwidth, plan.write_blocking),
            data: plan.disks[site.index].data(),
            room: Cell::new(0),
            site: site.clone(),
        }
    }

    /// Another process began it. Our mirrors are those onto our destinations. After the point in time the record says that
    /// they ended well.
    pub(super) fn find(&mut self, planned: &PlannedDisk, shown: Option<&Disk>, bytes: (u64, u64), record: &Record) {
        self.image.find(record.disks.get(self.site.index), record.mark);
        let mirror = shown.and_then(|disk| disk.mirror.as_ref());
        let runs = mirror.is_some_and(|mirror| mirror.job == "copy" && is_at(&planned.destination, &mirror.source));
        self.mirror.find(runs, bytes);
        match (record.mark, runs) {
            (Mark::Fixed, true) => self.mirror.job.ask(End::Abort),
            (Mark::Fixed, false) => self.mirror.job.complete(),
            _ => {}
        }
    }

    // Observing.

    pub(super) fn observe(&mut self, planned: &PlannedDisk, disk: Option<&Disk>, fixed: bool) -> Result<()> {
        if !self.mirror.job.is_under_way() {
            return Ok(());
        }
        let shown = Shown::look(&self.site, disk)?;
        let reason = self.site.failure_of("copy");
        let is_there = self.mirror.observe(shown.is_there().then_some(&shown), true)?;
        if is_there && reason.is_none() {
            return Ok(());
        }
        let job = &mut self.mirror.job;
        let said = self.site.shared.facts(|facts| facts.block_job(&self.site.target));
        let reason = match said {
            Some(BlockJobStatus::Failed) if !job.is_restarting() => reason.or_else(|| Some(FAILED.into())),
            _ => reason,
        };
        if reason.is_none() && fixed && job.is_aborting() {
            job.complete();
        } else {
            job.vanished(reason);
        }
        // Without QEMU's event the reason is unknown; a destination without any room left is one.
        let is_untold = job
            .failure()
            .is_some_and(|why| code_of_reason(why) == ErrorCode::JobFailed);
        if is_untold && is_file_system_full(planned) {
            job.fail(NO_ROOM);
        }
        Ok(())
    }

    /// Copied and to be copied, in data.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let job = &self.mirror.job;
        let allocated = self.image.output.as_ref().and_then(Output::allocated).map(|now| {
            self.room.set(now.max(self.room.get()));
            self.room.get()
        });
        data_of((job.done, job.total), self.data, allocated)
    }

    // Stepping.

    pub(super) fn start_copy(&mut self, plan: &Plan, index: usize) -> Result<()> {
        let planned = &plan.disks[index];
        if let (Method::Rebase, Destination::Path(path)) = (plan.method, &planned.destination) {
            return self.mirror.start_by_rebase(RebaseCopy {
                path,
                raw: planned.format == "raw",
                device: planned.place.is_device(),
                bandwidth: 0,
                shallow: planned.backing.is_some(),
            });
        }
        let xml = copy_destination(&planned.libvirt_target(), &planned.format, None, None);
        let xml = xml.map_err(|reason| Error::new(ErrorCode::Internal, reason))?;
        self.mirror.start(&To {
            xml: &xml,
            shown: &planned.destination.shown(),
            shallow: plan.shallow,
            reuse: true,
        })
    }

    /// The image rests on nothing then. `bandwidth`: bytes per second, 0 for no limit.
    pub(super) fn flatten(&mut self, bandwidth: u64) -> Result<()> {
        let before = (self.mirror.job.done, self.mirror.job.total);
        let mut progress = (0, 0);
        let watch = &mut watch(&self.site.shared, before, &mut progress);
        let flattened = match &self.image.output {
            Some(output) => output.flatten(bandwidth, watch)?,
            None => Cloned::Whole,
        };
        finished(flattened)
    }

    pub(super) fn verify(&self, planned: &PlannedDisk, look: &Look) -> Result<()> {
        let Some(output) = &self.image.output else {
            return Err(Error::new(
                ErrorCode::Internal,
                format!("disk '{}' has no image to verify", planned.target),
            ));
        };
        output.must_be_in_place()?;
        output.sync()?;
        output.must_have_size(planned.size)?;
        let shown = planned.destination.shown();
        if let (Some(file), true) = (output.file(), look.check) {
            image::check(file, output.format(), &shown)?;
        }
        let writes = match look.contents {
            Contents::NotAskedFor => return Ok(()),
            Contents::Flushed(writes) if !planned.layers.is_empty() => writes,
            Contents::Flushed(_) | Contents::NotFlushed => return self.not_compared("the guest runs"),
        };
        let Some(file) = output.file() else {
            return self.not_compared("the guest runs");
        };
        let equal = image::compare_with_live(&planned.layers, file, output.format(), &shown);
        if self.site.device().get_write_requests().ok() != writes {
            return self.not_compared("the guest has written since");
        }
        if equal? {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Verify,
            format!(
                "the image '{shown}' differs from disk '{}' although the guest wrote nothing",
                planned.target
            ),
        ))
    }

    fn not_compared(&self, why: &str) -> Result<()> {
        log::info!("disk '{}': contents are not compared, {why}", self.site.target);
        Ok(())
    }
}

fn is_file_system_full(planned: &PlannedDisk) -> bool {
    let Destination::Path(path) = &planned.destination else {
        return false;
    };
    !planned.place.is_device() && Room::of(directory_of(path)).is_some_and(|room| room.free < FULL)
}
