// SPDX-License-Identifier: LGPL-2.1-or-later
//! One disk of a backup: its image, its scratch file, and how far it is copied.

use std::sync::Arc;

use super::seen::Read;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{Form, Manner};
use crate::operation::course::shared::Shared;
use crate::operation::parts::backup::job;
use crate::operation::parts::backup::line::Line;
use crate::operation::parts::backup::reader::{Increment, Reader, Task};
use crate::operation::parts::backup::scratch::Scratch;
use crate::operation::parts::image::{DestinationImage, Wanted};
use crate::operation::snapshot::disk::PlannedDisk;
use crate::operation::snapshot::plan::Request;
use crate::operation::state::Image;

/// How far it is copied.
pub(super) enum Copy {
    /// `fresh`: nobody has written to its image yet.
    Waiting {
        fresh: bool,
    },
    /// None where QEMU itself copies.
    Reading(Option<Reader>),
    Done,
    Failed(Error),
}

pub(super) struct Backed {
    pub(super) image: DestinationImage,
    scratch: Scratch,
    pub(super) copy: Copy,
    /// Copied and to be copied.
    pub(super) bytes: (u64, u64),
}

fn form(planned: &PlannedDisk, compress: bool) -> Form<'static> {
    Form {
        size: planned.size,
        backing: None,
        reuse: planned.reuse,
        compress,
    }
}

fn gone(planned: &PlannedDisk) -> Error {
    Error::new(
        ErrorCode::Destination,
        format!("the image '{}' is gone; copy again", planned.destination.shown()),
    )
}

impl Backed {
    pub(super) fn new(planned: &PlannedDisk, compress: bool, operation: &str) -> Self {
        let directory = planned.scratch.as_deref().unwrap_or_default();
        let wanted = Wanted {
            // QEMU's backup is of the whole chain, and an increment is put on its backing when it is copied.
            backing: None,
            compress,
            ..planned.wanted(operation, false)
        };
        Self {
            image: DestinationImage::new(wanted),
            scratch: Scratch::find(directory, operation, &planned.target),
            copy: Copy::Waiting { fresh: false },
            bytes: (0, 0),
        }
    }

    pub(super) fn scratch_image(&self) -> Image {
        self.scratch.image()
    }

    pub(super) fn scratch_path(&self) -> &str {
        self.scratch.path()
    }

    pub(super) fn place(&self, planned: &PlannedDisk) -> Option<job::Place> {
        Some(job::Place {
            target: planned.target.clone(),
            directory: planned.scratch.clone()?,
            path: self.scratch.path().to_owned(),
        })
    }

    pub(super) fn seen(&self) -> Read {
        match self.copy {
            Copy::Waiting { .. } => Read::Waiting,
            Copy::Reading(_) => Read::Reading,
            Copy::Done => Read::Done,
            Copy::Failed(_) => Read::Failed,
        }
    }

    pub(super) fn is_copied(&self) -> bool {
        matches!(self.copy, Copy::Done)
    }

    /// Whether its reader has ended.
    pub(super) fn look(&mut self) -> bool {
        let Copy::Reading(Some(reader)) = &self.copy else {
            return false;
        };
        self.bytes = reader.progress();
        let Some(end) = reader.end() else { return false };
        self.copy = match end {
            Ok(()) => Copy::Done,
            Err(error) => Copy::Failed(error),
        };
        true
    }

    /// It is not published yet.
    pub(super) fn prepare_image(&mut self) -> Result<()> {
        self.image.prepare()?;
        self.copy = Copy::Waiting { fresh: true };
        Ok(())
    }

    pub(super) fn make_scratch(&mut self, planned: &PlannedDisk) -> Result<()> {
        let owner = planned.source.as_ref().map(|source| source.path.as_str());
        self.scratch.make(planned.size, owner)
    }

    pub(super) fn remove_scratch(&mut self) -> Result<()> {
        self.scratch.remove()
    }

    pub(super) fn start_reader(
        &mut self,
        planned: &PlannedDisk,
        request: &Request,
        operation: String,
        line: Arc<Line>,
        shared: &Arc<Shared>,
    ) -> Result<()> {
        let output = self.image.output.as_ref().ok_or_else(|| gone(planned))?;
        let fresh = matches!(self.copy, Copy::Waiting { fresh: true });
        let task = Task {
            operation,
            target: planned.target.clone(),
            line,
            size: planned.size,
            manner: Manner {
                bandwidth: request.bandwidth,
                compress: request.compress,
            },
            verify: request.verify,
            shown: planned.destination.shown(),
            increment: planned.changes.since.as_ref().map(|_| Increment {
                backing: planned.backing.clone(),
            }),
            renew: (!fresh).then(|| (planned.place.clone(), form(planned, request.compress))),
        };
        self.copy = Copy::Reading(Some(Reader::start(task, output.duplicate()?, shared)?));
        Ok(())
    }

    /// Its reader is gone, and what it has copied may be of no use.
    pub(super) fn stop_reading(&mut self) {
        if !matches!(self.copy, Copy::Waiting { .. }) {
            self.copy = Copy::Waiting { fresh: false };
        }
    }

    pub(super) fn verify(&self, planned: &PlannedDisk) -> Result<()> {
        let output = self.image.output.as_ref().ok_or_else(|| gone(planned))?;
        output.must_be_in_place()?;
        output.sync()?;
        output.must_have_size(planned.size)
    }
}
