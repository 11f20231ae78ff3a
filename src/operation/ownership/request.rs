// SPDX-License-Identifier: LGPL-2.1-or-later
//! Asks the process that runs an operation to cancel it: an element in the live definition, beside the operation's record,
//! in a namespace of its own, because only the owner writes the record. The owner looks for it, and removes it with the
//! record.

use crate::driver::Guest;
use crate::error::{ErrorCode, Result};
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::record::Record;

const NAMESPACE: &str = "urn:livedisk:cancel:";

fn namespace(id: &str) -> String {
    format!("{NAMESPACE}{id}")
}

/// The claim keeps the record, and with it the owner's duty to remove this, from going meanwhile.
pub(in crate::operation) fn write(guest: &Guest, record: &Record, _claim: &Claim<'_>) -> Result<()> {
    guest.set_metadata(&namespace(&record.id), Some("<cancel/>"), true, false)
}

pub(in crate::operation) fn is_there(guest: &Guest, id: &str) -> Result<bool> {
    guest.has_metadata(&namespace(id))
}

/// Does nothing where there is none.
pub(in crate::operation) fn remove(guest: &Guest, id: &str) -> Result<()> {
    let removed = match is_there(guest, id) {
        Ok(true) => guest.set_metadata(&namespace(id), None, true, false),
        other => other.map(drop),
    };
    match removed {
        // A transient domain takes it with it.
        Err(error) if error.code() == ErrorCode::NoDomain => Ok(()),
        other => other,
    }
}
