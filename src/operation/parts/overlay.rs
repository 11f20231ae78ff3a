// SPDX-License-Identifier: LGPL-2.1-or-later
//! An overlay on one disk, from its file to its end: made, put on the disk by a snapshot, committed into the image right
//! below it, removed. A libvirtd or a process that dies between two of these leaves states that are found here.

use std::ffi::CString;

use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Layer, Made};
use crate::libvirt::State;
use crate::libvirt::xml::{Disk, Mirror, external_snapshot};
use crate::operation::parts::offline;
use crate::operation::parts::site::Site;
use crate::operation::parts::tracked::{End, Shown, Tracked};
use crate::operation::state::{Image, Job};

/// What a procedure sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) image: Image,
    /// The active commit into its base.
    pub(crate) commit: Job,
}

impl Seen {
    pub(crate) const NOTHING: Self = Self {
        image: Image::Missing,
        commit: Job::NotStarted,
    };
}

/// What stands at its path.
#[derive(Default)]
enum File {
    #[default]
    Missing,
    /// A process that died left it, and the guest does not use it.
    Stale(Made),
    Made(Made),
}

pub(in crate::operation) struct Overlay {
    site: Site,
    path: String,
    /// The image right below it.
    base: Layer,
    size: u64,
    /// It is a storage volume: made and removed by the daemon, and out of our sight.
    is_volume: bool,
    file: File,
    /// A snapshot whose end was not observed may have put the guest on it.
    unseen: bool,
    pub(in crate::operation) commit: Tracked,
}

impl Overlay {
    pub(in crate::operation) fn new(site: &Site, path: String, base: Layer, size: u64, is_volume: bool) -> Self {
        Self {
            site: site.clone(),
            path,
            base,
            size,
            is_volume,
            file: File::Missing,
            unseen: false,
            commit: Tracked::default(),
        }
    }

    /// Another process made it, or began to.
    pub(in crate::operation) fn find(&mut self) -> Result<()> {
        let found = if self.is_volume {
            let volume = self.site.guest.host().find_volume(&self.path)?;
            volume.map(|_| Made::volume(&self.path))
        } else {
            Made::find(&self.path)
        };
        self.file = found.map_or(File::Missing, File::Made);
        Ok(())
    }

    /// Whatever stands at its path, the guest does not use it.
    pub(in crate::operation) fn is_unused(&mut self) {
        self.file = match std::mem::take(&mut self.file) {
            File::Made(made) => File::Stale(made),
            file => file,
        };
    }

    /// Its commit runs, if the disk's block job is one.
    pub(in crate::operation) fn find_commit(&mut self, job: Option<&Mirror>) {
        self.commit = Tracked::found(job.is_some_and(|job| job.job == "active-commit"));
    }

    pub(in crate::operation) fn path(&self) -> &str {
        &self.path
    }

    fn made(&self) -> Option<&Made> {
        match &self.file {
            File::Missing => None,
            File::Stale(made) | File::Made(made) => Some(made),
        }
    }

    // Observing.

    pub(in crate::operation) fn seen(&self, may_throttle: bool) -> Seen {
        Seen {
            image: match &self.file {
                File::Missing => Image::Missing,
                File::Stale(_) => Image::Half,
                File::Made(made) => Image::of_made(made),
            },
            commit: self.commit.commit_job(may_throttle),
        }
    }

    /// Whether the disk is on it and on its base; `None` where something else is the active layer.
    pub(in crate::operation) fn is_active(&self, disk: &Disk) -> Option<bool> {
        let path = |index: usize| disk.chain.get(index).and_then(|layer| layer.source.path());
        if path(0) != Some(&self.path) {
            return None;
        }
        // An inactive definition need not list the chain.
        Some(path(1).is_none_or(|below| below == self.base.path))
    }

    /// `shown`: the disk's block job, where that is its commit.
    pub(in crate::operation) fn observe_commit(&mut self, shown: Option<&Shown>) -> Result<()> {
        if !self.commit.is_under_way() {
            return Ok(());
        }
        let observed = self.commit.observe(&self.site, shown, |sample| sample.remainder() > 0);
        // Of a job that libvirt does not know the end of: whoever finds the domain off must know which image has the last writes.
        if observed.is_err() && self.site.journal.is_owned() && self.site.guest.is_on(&self.base)? {
            self.site.journal.note_pivot(self.site.index)?;
        }
        if !observed? {
            self.commit.vanished(self.site.failure_of("commit"));
        }
        Ok(())
    }

    pub(in crate::operation) fn forget_commit(&mut self) {
        self.commit = Tracked::default();
    }

    /// Whether somebody saw what became of the snapshot.
    pub(in crate::operation) fn snapshot_was_seen(&mut self, seen: bool) {
        self.unseen = !seen;
    }

    /// QEMU runs, and has it open.
    pub(in crate::operation) fn is_open(&self) -> Result<bool> {
        let is_there = self.made().is_some();
        Ok(is_there && self.site.guest.get_power_state()? != State::Off && self.site.guest.has_open(&self.path)?)
    }

    /// The guest's last writes are in it, though libvirt names the base: a libvirtd that dies between asking QEMU to take a
    /// snapshot and noting it goes on with the chain from before. `alive`: of the instance that the operation was begun on;
    /// `off`: no instance runs.
    pub(in crate::operation) fn is_unnamed(&self, alive: bool, off: bool) -> Result<bool> {
        if !self.unseen || self.made().is_none() {
            return Ok(false);
        }
        if alive {
            return self.is_open();
        }
        if self.is_volume {
            return Ok(false);
        }
        offline::holds_last_writes(&self.path, &self.base.path, off, &self.site.what())
    }

    /// It was neither removed nor replaced.
    pub(in crate::operation) fn must_be_in_place(&self) -> Result<()> {
        self.made()
            .map_or(Ok(()), |made| must_be_in_place(&self.site, made, self.is_volume))
    }

    // Stepping.

    /// As an empty overlay on its base.
    pub(in crate::operation) fn make(&mut self) -> Result<()> {
        self.remove_file()?;
        if self.is_volume {
            let base = (self.base.path.as_str(), self.base.format.as_str());
            let host = self.site.guest.host();
            host.create_overlay_volume(&self.path, self.size, base)?;
            self.file = File::Made(Made::volume(&self.path));
            return Ok(());
        }
        let mut made = None;
        let result = image::make_overlay(&self.path, self.size, &self.base, &mut made);
        // Also when only half made.
        self.file = made.map_or(File::Missing, File::Made);
        result
    }

    /// As an empty file of the same owner as `image`: libvirt makes it an overlay.
    pub(in crate::operation) fn make_blank(&mut self, image: &str) -> Result<()> {
        self.remove_file()?;
        let (made, file) = Made::create(&self.path)?;
        self.file = File::Made(made);
        image::give_as(image, &file);
        Ok(())
    }

    /// An unnamed one goes back into its base, which the guest goes on with.
    pub(in crate::operation) fn merge(&mut self, alive: bool) -> Result<()> {
        if alive {
            self.site.guest.merge_overlay(&self.path, &self.base)?;
        } else {
            offline::merge(&self.path, &self.base)?;
        }
        self.unseen = false;
        self.is_unused();
        Ok(())
    }

    pub(in crate::operation) fn start_commit(&mut self) -> Result<()> {
        self.site.forget_events();
        self.site.device().commit(None, None)?;
        self.commit = Tracked::found(true);
        Ok(())
    }

    pub(in crate::operation) fn pivot_commit(&mut self) -> Result<()> {
        self.site.journal.note_pivot(self.site.index)?;
        self.site.device().pivot()?;
        self.commit.ask(End::Pivot);
        Ok(())
    }

    pub(in crate::operation) fn abort_commit(&mut self) -> Result<()> {
        self.site.device().abort_job()?;
        self.commit.give_up("commit");
        Ok(())
    }

    /// What an active commit does, for a domain that is off. `home` is the disk's element of the definition that names the
    /// base, where it is known.
    pub(in crate::operation) fn commit_offline(&self, home: Option<&str>) -> Result<()> {
        if self.is_volume {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!(
                    "{}: an overlay in a storage pool cannot be committed while the domain is off; start it",
                    self.site.what()
                ),
            ));
        }
        offline::commit(&self.site.guest, &self.site.recorded()?, &self.path, &self.base, home)
    }

    /// A definition that names it names this image from now on.
    pub(in crate::operation) fn name_instead(&self, image: &Layer, home: Option<&str>) -> Result<()> {
        offline::name_base(&self.site.guest, &self.site.recorded()?, &self.path, image, home)
    }

    pub(in crate::operation) fn remove_file(&mut self) -> Result<()> {
        match self.made() {
            Some(volume) if self.is_volume => self.site.guest.host().remove_volume(&volume.path)?,
            Some(file) => file.remove()?,
            None => {}
        }
        self.file = File::Missing;
        Ok(())
    }
}

/// The one snapshot that puts each disk on its overlay and leaves the guest's `other_disks` alone.
pub(in crate::operation) fn snapshot_xml<'a>(
    overlays: impl Iterator<Item = &'a Overlay>,
    other_disks: &[String],
) -> Result<CString> {
    let internal = |reason: String| Error::new(ErrorCode::Internal, reason);
    let overlays: Vec<_> = overlays
        .map(|overlay| (overlay.site.target.as_str(), overlay.path.as_str()))
        .collect();
    let xml = external_snapshot(&overlays, other_disks).map_err(internal)?;
    CString::new(xml).map_err(|error| internal(error.to_string()))
}

/// The last moment at which a file that was removed or replaced can be noticed without harm is before the pivot to it.
pub(in crate::operation) fn must_be_in_place(site: &Site, made: &Made, is_volume: bool) -> Result<()> {
    let is_in_place = if is_volume {
        let found = site.guest.host().find_volume(&made.path);
        found.is_ok_and(|found| found.is_some())
    } else {
        made.is_in_place()
    };
    if is_in_place {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Destination,
        format!(
            "'{}' was removed or replaced during the migration; migrate again",
            made.path.escape_debug()
        ),
    ))
}
