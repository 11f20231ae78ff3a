// SPDX-License-Identifier: LGPL-2.1-or-later
//! One process at a time decides whose operation a domain's is.
//!
//! libvirt has no call that compares and sets, so this is Lamport's bakery: each process notes that it chooses a number,
//! chooses one above all it sees, and waits for everybody who is choosing or has a smaller one. Where nobody else is seen, to be
//! choosing is enough. The notes are metadata of the domain, each in a namespace of its own, and so reach agents on other hosts
//! too. A claim is held for milliseconds.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xmltree::{Element, XMLNode};

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::to_text;
use crate::operation::ownership::owner::Owner;
use crate::operation::ownership::record::new_id;

const NAMESPACE: &str = "urn:livedisk:claim:";
/// Longer than a process holds a claim.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(5);
/// How long a daemon that is away is waited for, to take a claim away.
const AWAY: Duration = Duration::from_secs(5);

/// This process's own. Where a connection dies with a claim, its note stays, and is distinguished from a living one by this.
static HELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    /// None while it is chosen.
    number: Option<u64>,
    owner: Owner,
}

/// Removes the claims of the dead where no process takes one.
pub(in crate::operation) fn sweep(guest: &Guest) -> Result<()> {
    let config = guest.get_config(!guest.is_active()?)?;
    if config.metadata.iter().flatten().any(|element| id_of(element).is_some()) {
        drop(Claim::take(guest)?);
    }
    Ok(())
}

/// While it lives, no other process begins, attaches to or recovers an operation of the domain.
pub(in crate::operation) struct Claim<G: Deref<Target = Guest>> {
    guest: G,
    id: String,
    live: bool,
}

impl<G: Deref<Target = Guest>> Claim<G> {
    pub(in crate::operation) fn take(guest: G) -> Result<Self> {
        let claim = Self {
            id: new_id()?,
            live: guest.is_active()?,
            guest,
        };
        held().insert(claim.id.clone());
        let owner = Owner::this();
        let mut note = Note { number: None, owner };
        claim.write(Some(&note))?;
        let others = claim.others()?;
        if others.is_empty() {
            // Whoever comes now sees that this one is choosing, and waits.
            return Ok(claim);
        }
        let highest = others.iter().filter_map(|(_, other)| other.number).max();
        note.number = Some(highest.unwrap_or(0) + 1);
        claim.write(Some(&note))?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(first) = claim.first_before(note.number)? {
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorCode::Busy,
                    format!("domain '{}' is held by {first}; try again", claim.guest.name()),
                ));
            }
            thread::sleep(AGAIN);
        }
        Ok(claim)
    }

    /// The process that goes first, if there is one.
    fn first_before(&self, number: Option<u64>) -> Result<Option<Owner>> {
        let others = self.others()?.into_iter();
        let mut first = others.filter(|(id, other)| (other.number, id) < (number, &self.id));
        Ok(first.next().map(|(_, other)| other.owner))
    }

    /// The claims of the living; those of the dead are taken away.
    fn others(&self) -> Result<Vec<(String, Note)>> {
        let mut found = Vec::new();
        for element in self.guest.get_config(!self.live)?.metadata.iter().flatten() {
            let Some(id) = id_of(element) else { continue };
            if id == self.id {
                continue;
            }
            match serde_json::from_str::<Note>(&element.get_text().unwrap_or_default()) {
                Ok(note) if note.is_held_as(id) => found.push((id.to_owned(), note)),
                _ => self.write_by(&self.guest, id, None)?,
            }
        }
        Ok(found)
    }

    fn write(&self, note: Option<&Note>) -> Result<()> {
        self.write_by(&self.guest, &self.id, note)
    }

    /// A daemon that is being started again is soon back.
    fn remove_when_back(&self) -> Result<()> {
        let deadline = Instant::now() + AWAY;
        loop {
            let apart = self.guest.apart();
            match apart.and_then(|guest| self.write_by(&guest, &self.id, None)) {
                Err(error) if error.code() == ErrorCode::NoConnection && Instant::now() < deadline => {
                    thread::sleep(AWAY / 50);
                }
                other => return other,
            }
        }
    }

    fn write_by(&self, guest: &Guest, id: &str, note: Option<&Note>) -> Result<()> {
        let text = note.map(to_element).transpose()?;
        let uri = format!("{NAMESPACE}{id}");
        guest.set_metadata(&uri, text.as_deref(), self.live, !self.live)
    }
}

impl Note {
    fn is_held_as(&self, id: &str) -> bool {
        let is_ours = self.owner.is_same_process(&Owner::this());
        !self.owner.is_dead() && (!is_ours || held().contains(id))
    }
}

fn held() -> MutexGuard<'static, BTreeSet<String>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of a claim, if the metadata element is one.
fn id_of(element: &Element) -> Option<&str> {
    element.namespace.as_deref()?.strip_prefix(NAMESPACE)
}

fn to_element(note: &Note) -> Result<String> {
    let failed = |reason: String| Error::new(ErrorCode::Internal, format!("cannot write a claim: {reason}"));
    let text = serde_json::to_string(note).map_err(|error| failed(error.to_string()))?;
    let mut element = Element::new("claim");
    element.children.push(XMLNode::Text(text));
    to_text(&element).map_err(failed)
}

impl<G: Deref<Target = Guest>> Drop for Claim<G> {
    fn drop(&mut self) {
        held().remove(&self.id);
        let removed = match self.write(None) {
            // Not by the shared connection, whose users have to see that it died.
            Err(error) if error.code() == ErrorCode::NoConnection => self.remove_when_back(),
            other => other,
        };
        // Where it cannot be taken away now, the next one of this process does, or anybody's when this process is dead.
        if let Err(error) = removed
            && error.code() != ErrorCode::NoDomain
        {
            log::warn!("{error}; a claim of livedisk stays in its metadata for now");
        }
    }
}
