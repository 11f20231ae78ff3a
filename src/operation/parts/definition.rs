// SPDX-License-Identifier: LGPL-2.1-or-later
//! The stored definition of a domain that must not be defined for a moment: saved, taken away, and given back. If somebody
//! else defines the domain meanwhile, theirs stands.

use std::sync::Arc;

use crate::driver::{Guest, Host};
use crate::error::{Error, ErrorCode, Result};
use crate::guard;
use crate::operation::course::procedure::Ties;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::saved::{Of, Saved};
use crate::operation::state::Stored;

pub(in crate::operation) struct Definition {
    guest: Arc<Guest>,
    journal: Arc<Journal>,
    kept: Option<Kept>,
}

/// A definition that was saved, and may have been taken away.
struct Kept {
    saved: Saved,
    /// It was, when it was looked at last.
    away: bool,
    /// How often somebody else has defined the domain since it was saved.
    defined_again: u32,
    /// As long as it may be away.
    guard: Option<guard::Armed>,
}

impl Kept {
    fn new(saved: Saved) -> Self {
        Self {
            saved,
            away: false,
            defined_again: 0,
            guard: None,
        }
    }
}

/// What became of a definition that was given back.
pub(in crate::operation) enum Given {
    Back,
    /// Somebody else has defined the domain.
    NotNeeded,
}

impl Definition {
    pub(in crate::operation) fn new(guest: &Arc<Guest>, ties: &Ties) -> Self {
        Self {
            guest: Arc::clone(guest),
            journal: Arc::clone(&ties.journal),
            kept: None,
        }
    }

    /// Another process may have taken it away.
    pub(in crate::operation) fn find(&mut self) -> Result<()> {
        let record = self.journal.read();
        let mut saved = Saved::of(self.guest.host(), &record.id)?;
        if let (Some(saved), true) = (&mut saved, self.journal.is_owned()) {
            // For whoever finds it if this process dies, too.
            saved.record = record;
            saved.write()?;
        }
        self.kept = saved.map(Kept::new);
        if let (Some(kept), true) = (&mut self.kept, self.journal.is_owned()) {
            kept.guard = guard::keep(&self.guest, &kept.saved.record.id)?;
        }
        Ok(())
    }

    // Observing.

    /// `None` of a transient domain.
    pub(in crate::operation) fn seen(&mut self) -> Result<Option<Stored>> {
        let is_defined = is_defined(&self.guest)?;
        let Some(kept) = &mut self.kept else {
            return Ok(is_defined.then_some(Stored::Stands));
        };
        if is_defined && kept.away {
            kept.defined_again += 1;
        }
        kept.away = !is_defined;
        let again = kept.defined_again > 0;
        Ok(Some(match kept.defined_again {
            _ if kept.away => Stored::Away { again },
            0 | 1 => Stored::Saved { again },
            _ => Stored::Contested,
        }))
    }

    /// As far as libvirt says.
    pub(in crate::operation) fn stands(&self) -> bool {
        is_defined(&self.guest).unwrap_or(false)
    }

    // Stepping.

    pub(in crate::operation) fn save(&mut self) -> Result<()> {
        let guest = &self.guest;
        let of = Of {
            name: guest.name(),
            uuid: guest.uuid(),
            autostart: guest.is_autostarted()?,
        };
        let saved = Saved::new(guest.host(), &of, guest.get_whole_definition()?, self.journal.read())?;
        saved.write()?;
        self.kept = Some(Kept::new(saved));
        Ok(())
    }

    /// What was saved, and nothing that somebody else has defined since.
    pub(in crate::operation) fn take_away(&mut self) -> Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        if !self.guest.is_defined_as(&kept.saved.definition)? {
            return Err(Error::new(
                ErrorCode::Busy,
                format!(
                    "another program changed the definition of domain '{}' just now; try again",
                    self.guest.name()
                ),
            ));
        }
        kept.guard = guard::keep(&self.guest, &kept.saved.record.id)?;
        self.guest.undefine()?;
        kept.away = true;
        Ok(())
    }

    pub(in crate::operation) fn give_back(&mut self) -> Result<()> {
        if let Some(kept) = &self.kept {
            give_back(self.guest.host(), Some(&self.guest), &kept.saved)?;
        }
        self.kept = None;
        Ok(())
    }
}

/// Why a domain cannot stay undefined for the moment that it takes.
pub(in crate::operation) fn defined_again(guest: &Guest) -> Error {
    Error::new(
        ErrorCode::Busy,
        format!(
            "another program defines domain '{}' again whenever it is undefined for a moment, as REBASE needs it; that \
             program's definition is kept; pause that program, or use MIRROR",
            guest.name()
        ),
    )
}

/// A domain that is gone is not.
fn is_defined(guest: &Guest) -> Result<bool> {
    match guest.has_persistent_configuration() {
        Err(error) if error.code() == ErrorCode::NoDomain => Ok(false),
        defined => defined,
    }
}

/// Defines the domain as it was, and forgets what was saved. `guest`: the domain, where there is still one.
pub(in crate::operation) fn give_back(host: &Arc<Host>, guest: Option<&Guest>, saved: &Saved) -> Result<Given> {
    let name = &saved.name;
    let mut given = Given::Back;
    match guest {
        // It was given back already, if it is the same.
        Some(guest) if is_defined(guest)? => {
            if !guest.is_defined_as(&saved.definition)? {
                log::warn!(
                    "another program defined domain '{name}' during the operation; that definition is kept, and the \
                     earlier one is dropped"
                );
                given = Given::NotNeeded;
            }
        }
        _ => host.define(name, &saved.definition)?,
    }
    if matches!(given, Given::Back) && saved.autostart {
        host.get_guest_by_uuid(&saved.uuid)?.set_autostart()?;
    }
    saved.remove()?;
    Ok(given)
}
