// SPDX-License-Identifier: LGPL-2.1-or-later
//! One disk of a snapshot.

use serde::{Deserialize, Serialize};

use crate::image::{Backing, Destination, Identity, Layer, Place, allocated};
use crate::libvirt::xml::Target;
use crate::operation::notice::Notice;
use crate::operation::ownership::record::RecordedDisk;
use crate::operation::parts::image::{Like, Wanted};
use crate::operation::plan::preflight::{libvirt_target, staging};
use crate::operation::plan::room::Load;

/// What becomes of a disk's changes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Changes {
    /// The new checkpoint notes them.
    pub(crate) noted: bool,
    /// It would, and cannot: why.
    pub(crate) unnoted: Option<String>,
    /// Those since this checkpoint are all that is copied.
    pub(crate) since: Option<String>,
    /// They were to be, and the disk is copied whole: why.
    pub(crate) whole: Option<String>,
}

/// One disk, with everything decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PlannedDisk {
    pub(crate) target: String,
    pub(crate) destination: Destination,
    pub(crate) place: Place,
    pub(crate) format: String,
    pub(crate) size: u64,
    pub(crate) backing: Option<Backing>,
    pub(crate) reuse: bool,
    /// The guest's own image, where it has a path.
    pub(crate) source: Option<Layer>,
    /// With a backup: the directory of its scratch file.
    #[serde(default)]
    pub(crate) scratch: Option<String>,
    #[serde(default)]
    pub(crate) changes: Changes,
    /// Each image of its chain, the guest's own first; none where one of them has no path or stated format.
    pub(crate) layers: Vec<Layer>,
}

impl PlannedDisk {
    /// The destination as it is passed to libvirt.
    pub(crate) fn libvirt_target(&self) -> Target {
        libvirt_target(&self.destination, self.place.is_device())
    }

    /// As the record has it at first.
    pub(in crate::operation) fn recorded(&self) -> RecordedDisk {
        RecordedDisk::new(&self.target, &self.destination, &self.format)
    }

    /// The image in words.
    pub(in crate::operation) fn image(&self) -> String {
        format!(
            "{} image '{}' of {} bytes",
            self.format,
            self.destination.shown(),
            self.size
        )
    }

    /// What is done otherwise than was asked for, and why.
    pub(crate) fn notices(&self) -> impl Iterator<Item = Notice> {
        let Changes {
            unnoted, since, whole, ..
        } = &self.changes;
        let target = || self.target.clone();
        let not_covered = unnoted.clone().map(|why| Notice::NotCovered { target: target(), why });
        let copied_whole = whole.clone().map(|why| Notice::CopiedWhole { target: target(), why });
        let alone = (since.is_some() && self.backing.is_none()).then(|| Notice::Alone { target: target() });
        [not_covered, copied_whole, alone].into_iter().flatten()
    }

    /// What is done to have the image, in words.
    pub(in crate::operation) fn to_prepare(&self) -> String {
        match (&self.place, self.reuse) {
            (Place::Free, _) => format!("make the {}", self.image()),
            (_, true) => format!("take the existing {}", self.image()),
            (_, false) => format!("prepare the {}", self.image()),
        }
    }

    /// What is to be copied to a file, if it is to one.
    pub(crate) fn load(&self, shallow: bool) -> Option<Load<'_>> {
        let Destination::Path(destination) = &self.destination else {
            return None;
        };
        if self.changes.since.is_some() {
            return None;
        }
        let copied = if shallow && self.backing.is_some() {
            1
        } else {
            self.layers.len()
        };
        (!self.place.is_device()).then(|| Load {
            target: &self.target,
            destination,
            images: self.layers.iter().take(copied).map(Layer::allocated).collect(),
        })
    }

    /// Of what a job counts as copied: a mirror and a backup count what reads as zeroes and takes no room, too.
    pub(crate) fn copied(&self, counted: u64) -> u64 {
        match &self.destination {
            Destination::Path(path) if !self.place.is_device() => counted.min(allocated(path)),
            _ => counted,
        }
    }

    /// How much of it is data, as its images' room says; at most, for an image hides what it has of those below it.
    pub(crate) fn data(&self) -> u64 {
        let copied = if self.backing.is_some() { 1 } else { self.layers.len() };
        let found: u64 = self.layers.iter().take(copied).map(Layer::allocated).sum();
        // A raw destination is written whole, and what cannot be looked at may be.
        if self.format == "raw" || found == 0 {
            self.size
        } else {
            found.min(self.size)
        }
    }

    /// Under two names, or by a link.
    pub(crate) fn is_one_file_with(&self, other: &Self) -> bool {
        match (&self.destination, &other.destination) {
            (Destination::Path(a), Destination::Path(b)) => Identity::are_one(a, b),
            _ => false,
        }
    }

    /// The destination is the caller's own, and so never removed.
    pub(crate) fn is_taken(&self) -> bool {
        self.place != Place::Free
    }

    /// The image, for the operation with this id. `blank`: the step that fills it formats it.
    pub(in crate::operation) fn wanted(&self, id: &str, blank: bool) -> Wanted {
        Wanted {
            destination: self.destination.clone(),
            place: self.place.clone(),
            format: self.format.clone(),
            size: self.size,
            backing: self.backing.clone(),
            reuse: self.reuse,
            compress: false,
            blank,
            staging: staging(&self.destination, id, &self.target),
            like: self.source.as_ref().map(|source| Like::Copy(source.path.clone())),
        }
    }
}
