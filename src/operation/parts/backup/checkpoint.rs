// SPDX-License-Identifier: LGPL-2.1-or-later
//! The checkpoint that a backup makes at its point in time. It is deleted again where the backup does not succeed: nobody has
//! an image of that point.

use std::ffi::CString;

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::checkpoint;

/// What there is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Checkpoint {
    /// None was asked for.
    Unwanted,
    Missing,
    /// Or its bitmaps alone.
    Made,
}

impl Checkpoint {
    /// The backup began.
    pub(in crate::operation) fn begun(self) -> Self {
        match self {
            Self::Unwanted => Self::Unwanted,
            Self::Missing | Self::Made => Self::Made,
        }
    }
}

pub(in crate::operation) struct NewCheckpoint {
    name: String,
    /// Distinguishes it from one of the same name that somebody else made meanwhile.
    description: String,
    /// The disks whose changes it notes.
    targets: Vec<String>,
    /// As long as it is known.
    seen: Option<Checkpoint>,
}

impl NewCheckpoint {
    pub(in crate::operation) fn new(name: &str, operation: &str, targets: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            description: format!("livedisk {operation}"),
            targets,
            seen: None,
        }
    }

    fn targets(&self) -> Vec<&str> {
        self.targets.iter().map(String::as_str).collect()
    }

    /// The `<domaincheckpoint>`; `others` are the disks that it does not cover.
    pub(in crate::operation) fn to_begin(&self, others: &[&str]) -> Result<CString> {
        let internal = |reason: String| Error::new(ErrorCode::Internal, reason);
        let xml = checkpoint(&self.name, &self.description, &self.targets(), others).map_err(internal)?;
        CString::new(xml).map_err(|error| internal(error.to_string()))
    }

    /// It was made with the backup, or nobody knows.
    pub(in crate::operation) fn note(&mut self, seen: Option<Checkpoint>) {
        self.seen = seen;
    }

    pub(in crate::operation) fn observe(&mut self, guest: &Guest) -> Result<Checkpoint> {
        let seen = match self.seen {
            Some(seen) => seen,
            None => self.find(guest)?,
        };
        self.seen = Some(seen);
        Ok(seen)
    }

    fn find(&self, guest: &Guest) -> Result<Checkpoint> {
        let is_there = match guest.describe_checkpoint(&self.name)? {
            Some(description) => description == self.description,
            // There was no bitmap of this name before.
            None => !guest.disks_with_bitmap(&self.name, &self.targets())?.is_empty(),
        };
        Ok(if is_there {
            Checkpoint::Made
        } else {
            Checkpoint::Missing
        })
    }

    pub(in crate::operation) fn remove(&mut self, guest: &Guest) -> Result<()> {
        self.seen = None;
        match guest.describe_checkpoint(&self.name)? {
            Some(description) if description == self.description => guest.delete_checkpoint(&self.name),
            Some(_) => Ok(()),
            None => match self.find(guest)? {
                Checkpoint::Made => guest.remove_bitmaps(&self.name, &self.targets()),
                _ => Ok(()),
            },
        }
    }
}
