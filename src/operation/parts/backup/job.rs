// SPDX-License-Identifier: LGPL-2.1-or-later
//! The backup's job: seen, watched and ended.

use std::sync::Arc;

use super::export::{self, Export, Server};
use super::line::Line;
use super::pushed::Pushed;
use super::room::{self, Room};
use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::RunningBackup;
use crate::operation::course::shared::{Facts, Shared};
use crate::operation::parts::tracked::Gone;

/// A disk's scratch file, as the job has it.
pub(in crate::operation) struct Place {
    pub(in crate::operation) target: String,
    pub(in crate::operation) directory: String,
    pub(in crate::operation) path: String,
}

pub(in crate::operation) struct Job {
    operation: String,
    pub(in crate::operation) server: Server,
    places: Vec<Place>,
    pub(in crate::operation) export: Export,
    /// A backup that release 0.1 began.
    pub(in crate::operation) pushed: Option<Pushed>,
    line: Option<Arc<Line>>,
    room: Option<Room>,
    /// libvirt's names for the scratch files, whose growth is watched.
    watched: Vec<String>,
    gone: Gone,
    /// libvirt shows it as running, and QEMU has no job for it.
    pub(in crate::operation) broken: bool,
    /// QEMU stopped the guest while the backup ran.
    stopped: bool,
}

impl Job {
    pub(in crate::operation) fn new(operation: &str, server: Server, places: Vec<Place>) -> Self {
        Self {
            operation: operation.to_owned(),
            server,
            places,
            export: Export::None,
            pushed: None,
            line: None,
            room: None,
            watched: Vec::new(),
            gone: Gone::default(),
            broken: false,
            stopped: false,
        }
    }

    /// `may_be_dead`: libvirtd may have died since. `watch`: there is something left to read.
    pub(in crate::operation) fn observe(
        &mut self,
        guest: &Guest,
        shared: &Arc<Shared>,
        may_be_dead: bool,
        watch: bool,
    ) -> Result<()> {
        if let Some(pushed) = &mut self.pushed {
            self.export = pushed.observe(guest, self.export)?;
            return Ok(());
        }
        let paths: Vec<_> = self.places.iter().map(|place| place.path.as_str()).collect();
        let Some(running) = export::find(guest, &paths)? else {
            let is_tidying = self.export != Export::None && export::is_ending(guest)?;
            self.export = if is_tidying { Export::Ending } else { Export::None };
            return Ok(());
        };
        // A libvirtd that dies as the backup ends has never heard of its end when it is back, and waits for ever.
        let is_dead = self.gone.look(may_be_dead && !guest.has_backup_jobs()?);
        self.broken |= is_dead;
        if self.export != Export::Ending || is_dead {
            self.export = Export::Running;
        }
        if watch && self.room.is_none() {
            self.watch_room(guest, &running, shared)?;
        }
        Ok(())
    }

    /// Whether QEMU has saved what the guest overwrote until now: what was read up to here is of the point in time.
    pub(in crate::operation) fn is_intact(&self, guest: &Guest, may_be_dead: bool) -> Result<bool> {
        if self.pushed.is_some() {
            return Ok(true);
        }
        if self.export != Export::Running || (may_be_dead && !guest.has_backup_jobs()?) {
            return Ok(false);
        }
        for place in &self.places {
            if guest.get_block_device(&place.target).get_job_info()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// From now on the end of the scratch files' room is noticed.
    fn watch_room(&mut self, guest: &Guest, running: &[RunningBackup], shared: &Arc<Shared>) -> Result<()> {
        for place in &self.places {
            let disk = running.iter().find(|disk| disk.target == place.target);
            let index = disk.and_then(|disk| disk.index);
            let usable = room::usable(&place.directory).filter(|usable| *usable > 0);
            let (Some(index), Some(usable)) = (index, usable) else {
                continue;
            };
            // The file system is watched anyway.
            match guest.set_block_threshold(&place.target, index, usable) {
                Ok(()) => self.watched.push(format!("{}[{index}]", place.target)),
                Err(error) => log::debug!("{error}"),
            }
        }
        let directories = self.places.iter().map(|place| place.directory.clone());
        self.room = Some(Room::watch(directories.collect(), shared)?);
        Ok(())
    }

    /// The scratch files have had the room that there is for them.
    pub(in crate::operation) fn is_full(&self, shared: &Shared) -> bool {
        let grown = |facts: &mut Facts| self.watched.iter().any(|image| facts.thresholds.contains(image));
        // What stopped the guest may have come after the last look.
        let is_used_up = || {
            self.places
                .iter()
                .any(|place| room::usable(&place.directory) == Some(0))
        };
        self.room.as_ref().is_some_and(Room::is_used_up) || shared.facts(grown) || self.stopped && is_used_up()
    }

    /// Whether QEMU stopped the guest for a write that failed while the backup ran.
    pub(in crate::operation) fn has_stopped(&mut self, guest: &Guest) -> Result<bool> {
        if self.stopped || self.export == Export::Running {
            self.stopped = guest.is_stopped_by_io_error()?;
        }
        Ok(self.stopped)
    }

    pub(in crate::operation) fn resume(&mut self, guest: &Guest) -> Result<()> {
        self.stopped = false;
        guest.resume()
    }

    /// The connections to the export, for a reader.
    pub(in crate::operation) fn line(&mut self) -> Arc<Line> {
        let socket = self.server.socket();
        Arc::clone(self.line.get_or_insert_with(|| Arc::new(Line::new(&socket))))
    }

    /// Ends all readers, this process's and others', or at least what they have of QEMU.
    pub(in crate::operation) fn end_reading(&mut self) -> Result<()> {
        if let Some(pushed) = &mut self.pushed {
            pushed.is_given_up = true;
        }
        export::end_reading(self.line.take().as_deref(), &self.operation)
    }

    /// Asks for the backup's end. Its readers go first, because QEMU waits for them, and the guest for QEMU.
    pub(in crate::operation) fn end(&mut self, guest: &Guest) -> Result<()> {
        self.end_reading()?;
        guest.abort_backup()?;
        self.export = Export::Ending;
        Ok(())
    }

    pub(in crate::operation) fn full(&self, guest: &Guest) -> Error {
        let full = |place: &&Place| room::usable(&place.directory) == Some(0);
        let place = self.places.iter().find(full).or(self.places.first());
        let shown = place.map_or_else(String::new, |place| place.path.escape_debug().to_string());
        Error::new(
            ErrorCode::NoSpace,
            format!(
                "the backup of domain '{}' was ended because its scratch file '{shown}' ran out of room: No space \
                 left on device; the guest continues; make room there, or name another directory for scratch files (scratch)",
                guest.name()
            ),
        )
    }
}
