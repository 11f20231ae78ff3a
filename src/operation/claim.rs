// SPDX-License-Identifier: LGPL-2.1-or-later
//! One process at a time decides whose operation a domain's is.
//!
//! libvirt has no call that compares and sets, so this is Lamport's bakery: whoever comes notes that it chooses a number,
//! chooses one above all it sees, and waits for everybody who is choosing or has a smaller one. The notes are metadata of
//! the domain, each in a namespace of its own, and so reach agents on other hosts too. A claim is held for milliseconds.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xmltree::{Element, XMLNode};

use super::owner::Owner;
use super::record::new_id;
use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::to_text;

const NAMESPACE: &str = "urn:livedisk:claim:";
/// Longer than anybody holds a claim.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    /// None while it is chosen.
    number: Option<u64>,
    owner: Owner,
}

/// While it lives, no other process begins, attaches to or recovers an operation of the domain.
pub(super) struct Claim<'a> {
    guest: &'a Guest,
    id: String,
    live: bool,
}

impl<'a> Claim<'a> {
    pub(super) fn take(guest: &'a Guest) -> Result<Self> {
        let claim = Self {
            guest,
            id: new_id()?,
            live: guest.is_active()?,
        };
        let owner = Owner::this();
        let mut note = Note { number: None, owner };
        claim.write(Some(&note))?;
        let highest = claim.others()?.iter().filter_map(|(_, other)| other.number).max();
        note.number = Some(highest.unwrap_or(0) + 1);
        claim.write(Some(&note))?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(first) = claim.first_before(note.number)? {
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorCode::Busy,
                    format!("domain '{}' is held by {first}; try again", guest.name()),
                ));
            }
            thread::sleep(AGAIN);
        }
        Ok(claim)
    }

    /// Whoever goes first, if anybody does.
    fn first_before(&self, number: Option<u64>) -> Result<Option<Owner>> {
        let others = self.others()?.into_iter();
        let mut first = others.filter(|(id, other)| (other.number, id) < (number, &self.id));
        Ok(first.next().map(|(_, other)| other.owner))
    }

    /// The claims of the living; those of the dead are taken away.
    fn others(&self) -> Result<Vec<(String, Note)>> {
        let mut found = Vec::new();
        for element in self.guest.get_config(!self.live)?.metadata.iter().flatten() {
            let Some(id) = element.namespace.as_deref().and_then(|uri| uri.strip_prefix(NAMESPACE)) else {
                continue;
            };
            if id == self.id {
                continue;
            }
            match serde_json::from_str::<Note>(&element.get_text().unwrap_or_default()) {
                Ok(note) if !note.owner.is_dead() => found.push((id.to_owned(), note)),
                _ => self.write_note(id, None)?,
            }
        }
        Ok(found)
    }

    fn write(&self, note: Option<&Note>) -> Result<()> {
        self.write_note(&self.id, note)
    }

    fn write_note(&self, id: &str, note: Option<&Note>) -> Result<()> {
        let text = note.map(to_element).transpose()?;
        let uri = format!("{NAMESPACE}{id}");
        self.guest.set_metadata(&uri, text.as_deref(), self.live, !self.live)
    }
}

fn to_element(note: &Note) -> Result<String> {
    let failed = |reason: String| Error::new(ErrorCode::Internal, format!("cannot write a claim: {reason}"));
    let text = serde_json::to_string(note).map_err(|error| failed(error.to_string()))?;
    let mut element = Element::new("claim");
    element.children.push(XMLNode::Text(text));
    to_text(&element).map_err(failed)
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Where it cannot be taken away now, the next one does when this process is dead.
        if let Err(error) = self.write(None)
            && error.code() != ErrorCode::NoDomain
        {
            log::warn!("{error}; a claim of livedisk stays in its metadata until this process ends");
        }
    }
}
