// SPDX-License-Identifier: LGPL-2.1-or-later
//! The image that a disk is copied to: one that we make, which has a name of our own until the record knows it, or one that
//! the caller named, which stays the caller's.

use crate::error::Result;
use crate::image::{Backing, Destination, Form, Made, Output, Place};
use crate::operation::ownership::record::RecordedDisk;
use crate::operation::state::{Image, Mark};

/// What it is to be.
pub(in crate::operation) struct Wanted {
    pub(in crate::operation) destination: Destination,
    pub(in crate::operation) place: Place,
    pub(in crate::operation) format: String,
    pub(in crate::operation) size: u64,
    pub(in crate::operation) backing: Option<Backing>,
    /// What stands there is kept as it is.
    pub(in crate::operation) reuse: bool,
    /// What is written to it is compressed.
    pub(in crate::operation) compress: bool,
    /// The step that fills it formats it.
    pub(in crate::operation) blank: bool,
    /// Its name until it is published.
    pub(in crate::operation) staging: String,
    pub(in crate::operation) like: Option<Like>,
}

/// Whose one is that is made.
pub(in crate::operation) enum Like {
    /// The owner's of this image.
    Copy(String),
    /// And of its mode: it takes the image's place as the guest's disk.
    Disk(String),
}

pub(in crate::operation) struct DestinationImage {
    wanted: Wanted,
    pub(in crate::operation) output: Option<Output>,
}

impl DestinationImage {
    pub(in crate::operation) fn new(wanted: Wanted) -> Self {
        Self { wanted, output: None }
    }

    /// Another process made or opened it. The caller's own that was not yet copied to is prepared again.
    pub(in crate::operation) fn find(&mut self, recorded: Option<&RecordedDisk>, mark: Mark) {
        let wanted = &self.wanted;
        let recorded = recorded.and_then(|disk| disk.made.as_ref());
        let (made, is_there) = match &wanted.destination {
            Destination::Path(path) if wanted.place == Place::Free => {
                let made = Made::find_staged(recorded, path, &wanted.staging);
                let is_there = made.is_some();
                (made, is_there)
            }
            _ => (None, mark != Mark::Begun),
        };
        if is_there {
            self.output = Output::reopen(&wanted.destination, &wanted.place, &wanted.format, made);
        }
    }

    pub(in crate::operation) fn seen(&self) -> Image {
        Image::of(self.output.as_ref())
    }

    /// For the record.
    pub(in crate::operation) fn made(&self) -> Option<&Made> {
        self.output.as_ref().and_then(Output::made)
    }

    /// It is written to the record, which then knows it by its inode, before it is published.
    pub(in crate::operation) fn prepare(&mut self) -> Result<()> {
        self.remove()?;
        let wanted = &self.wanted;
        let (destination, place, format) = (&wanted.destination, &wanted.place, &wanted.format);
        let output = if wanted.blank {
            Output::open(destination, place, format, &wanted.staging)?
        } else {
            let form = Form {
                size: wanted.size,
                backing: wanted.backing.as_ref(),
                reuse: wanted.reuse,
                compress: wanted.compress,
            };
            Output::prepare(destination, place, format, form, &wanted.staging)?
        };
        match &wanted.like {
            Some(Like::Copy(image)) => output.give_as(image),
            Some(Like::Disk(image)) => output.succeed(image),
            None => {}
        }
        self.output = Some(output);
        Ok(())
    }

    /// Under its own name.
    pub(in crate::operation) fn publish(&mut self) -> Result<()> {
        self.output.as_mut().map_or(Ok(()), Output::publish)
    }

    /// If it is ours; whatever else stands there stays.
    pub(in crate::operation) fn remove(&mut self) -> Result<()> {
        if let Some(output) = &mut self.output {
            output.remove()?;
        }
        self.output = None;
        Ok(())
    }
}
