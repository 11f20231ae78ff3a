// SPDX-License-Identifier: LGPL-2.1-or-later
//! The stored definition of a domain that must not be defined for a moment: saved, taken away, and given back. If somebody
//! else defines the domain meanwhile, theirs stands.

use std::sync::Arc;

use crate::driver::{Guest, Host};
use crate::error::{Error, ErrorCode, Result};
use crate::operation::course::procedure::Ties;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::saved::{Of, Saved};
use crate::operation::state::Stored;

pub(in crate::operation) struct Definition {
    guest: Arc<Guest>,
    journal: Arc<Journal>,
    saved: Option<Saved>,
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
            saved: None,
        }
    }

    /// Another process may have taken it away.
    pub(in crate::operation) fn find(&mut self) -> Result<()> {
        let record = self.journal.read();
        self.saved = Saved::of(self.guest.host(), &record.id)?;
        if let (Some(saved), true) = (&mut self.saved, self.journal.is_owned()) {
            // For whoever finds it if this process dies, too.
            saved.record = record;
            saved.write()?;
        }
        Ok(())
    }

    // Observing.

    /// `None` of a transient domain.
    pub(in crate::operation) fn seen(&self) -> Result<Option<Stored>> {
        Ok(match (is_defined(&self.guest)?, &self.saved) {
            (true, None) => Some(Stored::Stands),
            (true, Some(_)) => Some(Stored::Saved),
            (false, Some(_)) => Some(Stored::Away),
            (false, None) => None,
        })
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
        self.saved = Some(saved);
        Ok(())
    }

    /// What was saved, and nothing that somebody else has defined since.
    pub(in crate::operation) fn take_away(&self) -> Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        if !self.guest.is_defined_as(&saved.definition)? {
            return Err(Error::new(
                ErrorCode::Busy,
                format!(
                    "another program changed the definition of domain '{}' just now; try again",
                    self.guest.name()
                ),
            ));
        }
        self.guest.undefine()
    }

    pub(in crate::operation) fn give_back(&mut self) -> Result<()> {
        if let Some(saved) = &self.saved {
            give_back(self.guest.host(), Some(&self.guest), saved)?;
        }
        self.saved = None;
        Ok(())
    }
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
                     one before is dropped"
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
