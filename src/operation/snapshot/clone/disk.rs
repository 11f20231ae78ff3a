// SPDX-License-Identifier: LGPL-2.1-or-later
//! One disk of a snapshot by clone: its overlay, its image, and the clone of what is quiet below the one into the other.

use serde::{Deserialize, Serialize};

use super::plan::Way;
use super::seen::{Chain, SeenDisk};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Layer, Output};
use crate::libvirt::IoTune;
use crate::libvirt::xml::Disk;
use crate::operation::ownership::record::Record;
use crate::operation::parts::clone;
use crate::operation::parts::image::DestinationImage;
use crate::operation::parts::overlay::Overlay;
use crate::operation::parts::site::Site;
use crate::operation::parts::throttle::Brake;
use crate::operation::parts::tracked::Shown;
use crate::operation::plan::preflight::beside;
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::Plan;
use crate::operation::state::Mark;

/// What the record keeps of it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Note {
    /// Copied and to be copied, by the clone.
    progress: (u64, u64),
    /// The disk is throttled, and these limits are its own.
    throttled: Option<IoTune>,
}

pub(super) struct Cloning {
    site: Site,
    pub(super) overlay: Overlay,
    pub(super) image: DestinationImage,
    /// The image holds all of what is below the overlay, and is on disk.
    is_whole: bool,
    /// Copied and to be copied.
    pub(super) progress: (u64, u64),
    pub(super) brake: Brake,
}

fn internal(reason: String) -> Error {
    Error::new(ErrorCode::Internal, reason)
}

/// The guest's own image. A disk without is refused beforehand.
pub(super) fn source(disk: &PlannedDisk) -> Layer {
    disk.source.clone().unwrap_or_default()
}

impl Cloning {
    pub(super) fn new(site: &Site, plan: &Plan, id: &str) -> Self {
        let planned = &plan.disks[site.index];
        let source = source(planned);
        let overlay = beside(&source.path, id, &planned.target);
        let is_filled_as_file = plan.ways.get(site.index) == Some(&Way::File);
        Self {
            overlay: Overlay::new(site, overlay, source, planned.size, false),
            image: DestinationImage::new(planned.wanted(id, is_filled_as_file)),
            is_whole: false,
            progress: (0, 0),
            brake: Brake::new(site),
            site: site.clone(),
        }
    }

    /// Another process began it.
    pub(super) fn find(
        &mut self,
        planned: &PlannedDisk,
        shown: Option<&Disk>,
        known: Note,
        record: &Record,
    ) -> Result<()> {
        let recorded = record.disks.get(self.site.index);
        self.image.find(recorded, record.mark);
        self.is_whole = record.mark == Mark::Fixed;
        self.progress = known.progress;
        self.brake.find(known.throttled, record.live);
        self.overlay.find()?;
        let chain = self.classify(planned, shown);
        if chain == Chain::Overlay {
            self.overlay.find_commit(shown.and_then(|disk| disk.mirror.as_ref()));
        }
        if chain == Chain::Source && record.mark == Mark::Begun {
            self.overlay.is_unused();
        }
        let is_before = matches!(record.mark, Mark::Begun | Mark::Fixing) && record.back.is_none();
        let is_seen = !(is_before || self.overlay.is_open()?);
        self.overlay.snapshot_was_seen(is_seen);
        Ok(())
    }

    pub(super) fn note(&self) -> Note {
        Note {
            progress: self.progress,
            throttled: self.brake.before().cloned(),
        }
    }

    // Observing.

    pub(super) fn classify(&self, planned: &PlannedDisk, disk: Option<&Disk>) -> Chain {
        let Some(disk) = disk else { return Chain::Foreign };
        let active = disk.chain.first().and_then(|layer| layer.source.path());
        match self.overlay.is_active(disk) {
            _ if active == Some(source(planned).path.as_str()) => Chain::Source,
            Some(true) => Chain::Overlay,
            Some(false) | None => Chain::Foreign,
        }
    }

    pub(super) fn observe_commit(&mut self, disk: Option<&Disk>) -> Result<()> {
        if !self.overlay.commit.is_under_way() {
            return Ok(());
        }
        let shown = Shown::look(&self.site, disk)?;
        self.overlay.observe_commit(shown.is_there().then_some(&shown))
    }

    pub(super) fn seen(&self, planned: &PlannedDisk, chain: Chain) -> SeenDisk {
        let overlay = self.overlay.seen(self.brake.can_be_tightened());
        SeenDisk {
            chain,
            overlay: overlay.image,
            destination: self.image.seen(),
            taken: planned.is_taken(),
            cloned: self.is_whole,
            commit: overlay.commit,
            throttled: self.brake.is_on(),
        }
    }

    // Stepping.

    pub(super) fn remove_image(&mut self) -> Result<()> {
        self.is_whole = false;
        self.image.remove()
    }

    /// No definition names an overlay that is removed.
    pub(super) fn remove_overlay(&mut self, planned: &PlannedDisk) -> Result<()> {
        let recorded = self.site.recorded()?;
        self.overlay.name_instead(&source(planned), recorded.home.as_deref())?;
        self.overlay.remove_file()
    }

    pub(super) fn commit_offline(&self) -> Result<()> {
        let recorded = self.site.recorded()?;
        self.overlay.commit_offline(recorded.home.as_deref())
    }

    /// The names may have been given to other files since the plan was made.
    fn must_read_what_qemu_has(&self, planned: &PlannedDisk) -> Result<()> {
        let paths = planned.layers.iter().map(|layer| layer.path.as_str());
        self.site.guest.must_have(paths)
    }

    /// `before` is what was copied of the disks before.
    pub(super) fn clone(&mut self, plan: &Plan, before: (u64, u64)) -> Result<()> {
        self.fill(plan, before).map_err(|error| self.site.explain(&error))
    }

    fn fill(&mut self, plan: &Plan, before: (u64, u64)) -> Result<()> {
        let planned = &plan.disks[self.site.index];
        self.must_read_what_qemu_has(planned)?;
        let (source, shown) = (source(planned), planned.destination.shown());
        let mut watch = clone::watch(&self.site.shared, before, &mut self.progress);
        match (plan.ways[self.site.index], &mut self.image.output) {
            (Way::Callback, output) => {
                let destination = planned.destination.as_written();
                let callback = clone::of_caller(plan.clone_callback.as_ref(), destination)?;
                let result = callback(&source.path, destination);
                let adopted = Output::adopt(&planned.destination, &planned.place, &planned.format);
                let held = adopted.and_then(|adopted| {
                    // Whatever the function left is ours to remove, also after a failure.
                    output.insert(adopted).must_hold(planned.size, planned.backing.as_ref())
                });
                clone::must_have_cloned(result, destination, held)?;
            }
            (Way::Content, Some(output)) => {
                let cloned = output.write_chain(&planned.layers, planned.size, plan.bandwidth, &mut watch)?;
                clone::finished(cloned)?;
            }
            (Way::File, Some(output)) => {
                let Some(file) = output.file() else {
                    return Err(internal(format!("'{shown}' is not a file, so it cannot be cloned to")));
                };
                clone::clone_into(plan.clone, &source, file, &shown, plan.bandwidth, &mut watch)?;
                if planned.format == "qcow2" {
                    let backing = planned.backing.as_ref();
                    let backing = backing.map(|backing| Layer::whole(&backing.path, &backing.format));
                    image::name_backing(file, backing.as_ref(), planned.destination.as_written())?;
                }
            }
            (_, None) => return Err(internal(format!("there is no '{shown}' to clone to"))),
        }
        if let Some(output) = &self.image.output {
            // A clone of the file has the checkpoints' bitmaps, of which nothing knows.
            if let Some(file) = output.file().filter(|_| planned.format == "qcow2") {
                image::drop_bitmaps(file, &shown)?;
            }
            output.sync()?;
        }
        self.is_whole = true;
        Ok(())
    }

    /// In place and of the right size; if the caller wants it (`contents`), also sound and equal to the disk.
    pub(super) fn verify(&self, planned: &PlannedDisk, contents: bool) -> Result<()> {
        let shown = planned.destination.shown();
        let Some(output) = &self.image.output else {
            return Err(internal(format!("disk '{}' has no image to verify", planned.target)));
        };
        output.must_be_in_place()?;
        output.must_have_size(planned.size)?;
        if !contents {
            return Ok(());
        }
        if let Some(file) = output.file() {
            image::check(file, output.format(), &shown)?;
        }
        self.must_read_what_qemu_has(planned)
            .map_err(|error| self.site.explain(&error))?;
        if output.equals_chain(&planned.layers)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Verify,
            format!(
                "the clone '{shown}' differs from {}; see the storage, or the function that made it",
                self.site.what()
            ),
        ))
    }
}
