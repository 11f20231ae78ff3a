// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pivot to a copy, and the way back from one that libvirtd did not live to note: it goes on with the chain from before,
//! and whatever was done by its word would lose the guest's writes.

use std::os::unix::fs::{MetadataExt, lchown};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::driver::{Active, Nodes, Return};
use crate::error::{Error, ErrorCode, Result};
use crate::image::Layer;
use crate::libvirt::xml::{Disk, on_destination};
use crate::operation::parts::offline;
use crate::operation::parts::site::Site;
use crate::operation::parts::tracked::Shown;
use crate::operation::state::{Job, Mark};

/// What the record keeps of it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(in crate::operation) struct Note {
    pub(in crate::operation) moved_at: Option<SystemTime>,
    /// The copy's, as soon as libvirt shows them.
    nodes: Option<Nodes>,
    /// The disk's element of the definition, while that names the destination because libvirt knows nothing of the pivot.
    home: Option<String>,
    /// Whose the images are that libvirt handed over to QEMU for the copy: path, user, group.
    handed_over: Vec<(String, u32, u32)>,
}

/// What is known of the way back.
enum Way {
    /// Whether there has to be one is asked of QEMU.
    Unknown,
    /// QEMU and libvirt were seen to agree after the copy.
    NotNeeded,
    Begun {
        failure: Option<String>,
    },
}

/// Where QEMU has the disk.
pub(in crate::operation) enum Side {
    AsShown,
    /// As libvirt shows it, and the destination is still open.
    AsShownButOpen,
    /// On the destination. The job brings it back.
    Astray(Job),
    Foreign,
}

/// The images that the guest may write to before and after (path, format) the pivot.
pub(in crate::operation) struct Images<'a> {
    pub(in crate::operation) before: Layer,
    pub(in crate::operation) after: (&'a str, &'a str),
}

pub(in crate::operation) struct Pivot {
    site: Site,
    note: Note,
    way: Way,
    /// Whether the copy pivoted is known, also where QEMU cannot be asked any more.
    pub(in crate::operation) settled: bool,
}

fn internal(reason: String) -> Error {
    Error::new(ErrorCode::Internal, reason)
}

impl Pivot {
    pub(in crate::operation) fn new(site: &Site) -> Self {
        Self {
            site: site.clone(),
            note: Note::default(),
            way: Way::Unknown,
            settled: true,
        }
    }

    /// Another process noted this. `live`: QEMU is the one that the operation was begun on; another one numbers its nodes
    /// anew.
    pub(in crate::operation) fn find(&mut self, note: Note, live: bool, mark: Mark, turned_back: bool) {
        self.note = note;
        self.note.nodes = self.note.nodes.take().filter(|_| live);
        // A commit that was about to pivot below this mark was one on the way back.
        self.settled = mark != Mark::Fixing || turned_back;
    }

    /// For the record. At the mark before the pivot it is nearly that moment.
    pub(in crate::operation) fn note(&self, mark: Mark) -> Note {
        Note {
            moved_at: self.note.moved_at.or((mark == Mark::Fixing).then(SystemTime::now)),
            ..self.note.clone()
        }
    }

    pub(in crate::operation) fn moved_at(&self) -> Option<SystemTime> {
        self.note.moved_at
    }

    /// Why the way back failed.
    pub(in crate::operation) fn failure(&self) -> Option<&str> {
        match &self.way {
            Way::Begun { failure } => failure.as_deref(),
            Way::Unknown | Way::NotNeeded => None,
        }
    }

    // Observing.

    /// `shown` is the copy's job.
    pub(in crate::operation) fn observe_nodes(&mut self, disk: &Disk, shown: &Shown) {
        if let (Some(source), Some(mirror)) = (disk.active().index, &shown.mirror) {
            let destination = mirror.indices.clone();
            self.note.nodes = Some(Nodes { source, destination });
        }
    }

    /// About to be called, or was called, and libvirt knows of no copy any more: QEMU has the last word.
    pub(in crate::operation) fn look(&mut self) -> Result<Side> {
        let Some(nodes) = &self.note.nodes else {
            return Ok(Side::AsShown);
        };
        if matches!(self.way, Way::NotNeeded) {
            return Ok(Side::AsShown);
        }
        Ok(match self.site.guest.find_active(nodes)? {
            Active::Source { open: false } => {
                self.way = Way::NotNeeded;
                Side::AsShown
            }
            Active::Source { open: true } => Side::AsShownButOpen,
            Active::Destination(None) => Side::Astray(Job::NotStarted),
            Active::Destination(Some(Return::Running)) => Side::Astray(Job::Running),
            Active::Destination(Some(Return::Ready)) => Side::Astray(Job::Ready),
            Active::Destination(Some(Return::Ending)) => Side::Astray(Job::Ending),
            Active::Destination(Some(Return::Failed(reason))) => match &mut self.way {
                Way::Begun { failure } => {
                    *failure = Some(reason);
                    Side::Astray(Job::Failed)
                }
                // What an earlier process failed with need not stay.
                Way::Unknown | Way::NotNeeded => Side::Astray(Job::NotStarted),
            },
            Active::Other => Side::Foreign,
        })
    }

    // Stepping.

    /// The pivot is about to be called.
    pub(in crate::operation) fn is_about_to_be(&mut self) {
        self.note.moved_at = Some(SystemTime::now());
        self.settled = false;
    }

    /// Notes whose these images are as long as QEMU has them.
    pub(in crate::operation) fn look_at_owners(&mut self, images: &[String]) {
        let paths = images.iter().filter(|path| !path.is_empty());
        let found = paths.filter_map(|path| {
            let metadata = std::fs::symlink_metadata(path).ok()?;
            Some((path.clone(), metadata.uid(), metadata.gid()))
        });
        self.note.handed_over = found.collect();
    }

    /// libvirt took them away from QEMU, which opens them anew when it stops writing to them.
    pub(in crate::operation) fn hand_over_again(&self) {
        for (path, user, group) in &self.note.handed_over {
            if let Err(error) = lchown(path, Some(*user), Some(*group)) {
                log::debug!("cannot hand '{}' over to QEMU again: {error}", path.escape_debug());
            }
        }
    }

    /// Looks where the definition has the disk; true where that is new, and so to be recorded before it is changed.
    pub(in crate::operation) fn find_home(&mut self) -> Result<bool> {
        if self.note.home.is_some() {
            return Ok(false);
        }
        let (guest, target) = (&self.site.guest, &self.site.target);
        if let Some(disk) = guest.get_config(false)?.disk(target) {
            self.note.home = guest.get_disk_definition(target, disk.active().source.path())?;
        }
        Ok(true)
    }

    /// Begins to bring the guest back (`top`: what its active layer has). What the domain starts from if QEMU dies now is where
    /// it writes.
    pub(in crate::operation) fn start_return(&mut self, destination_xml: &str, top: bool) -> Result<()> {
        self.define_on_destination(self.note.home.as_deref(), destination_xml)?;
        self.site.guest.start_return(self.nodes()?, top)?;
        self.way = Way::Begun { failure: None };
        Ok(())
    }

    /// Both sides have all that the guest wrote.
    pub(in crate::operation) fn complete_return(&self) -> Result<()> {
        if let Some(home) = &self.note.home {
            self.site.guest.define_disk(home)?;
        }
        self.site.guest.complete_return(self.nodes()?)
    }

    pub(in crate::operation) fn close_destination(&self) -> Result<()> {
        self.site.guest.close_destination(self.nodes()?)
    }

    /// Of a domain that is off: sees on which side the guest's last writes are, and has the definition name it. Where the
    /// images cannot be looked at from here (`None`), the definition has the last word.
    pub(in crate::operation) fn settle(&mut self, images: Option<Images<'_>>, destination_xml: &str) -> Result<()> {
        if let Some(Images { before, after }) = images
            && offline::has_pivoted(&before, after, &self.site.what())?
        {
            let (guest, target) = (&self.site.guest, &self.site.target);
            let home = guest.get_disk_definition(target, Some(&before.path))?;
            self.define_on_destination(home.as_deref(), destination_xml)?;
        }
        self.settled = true;
        Ok(())
    }

    /// The definition has the disk, whose element is this, on the destination from now on.
    pub(in crate::operation) fn define_on_destination(
        &self,
        element: Option<&str>,
        destination_xml: &str,
    ) -> Result<()> {
        let Some(element) = element else { return Ok(()) };
        let moved = on_destination(element, destination_xml).map_err(internal)?;
        self.site.guest.define_disk(&moved)
    }

    fn nodes(&self) -> Result<&Nodes> {
        let nodes = self.note.nodes.as_ref();
        nodes.ok_or_else(|| internal("the copy's nodes are not known".into()))
    }
}
