// SPDX-License-Identifier: LGPL-2.1-or-later
//! Asks the process that runs an operation to cancel it: an element in the live definition, beside the operation's record,
//! in a namespace of its own, because only the owner writes the record. The owner looks for it, and answers in the record
//! that it rolls back. Whoever asked removes the request when it has seen the answer, else the owner does with the record.

use std::ops::Deref;
use std::thread;
use std::time::{Duration, Instant};

use crate::driver::Guest;
use crate::error::{ErrorCode, Result};
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::record::Record;

const NAMESPACE: &str = "urn:livedisk:cancel:";
/// How often either side looks for what the other one has written.
pub(in crate::operation) const AGAIN: Duration = Duration::from_millis(50);
/// For whoever asked to see the answer. It may be dead.
const PATIENCE: Duration = Duration::from_secs(5);

fn namespace(id: &str) -> String {
    format!("{NAMESPACE}{id}")
}

/// The claim keeps the record, and with it the owner's duty to remove this, from going meanwhile.
pub(in crate::operation) fn write(
    guest: &Guest,
    record: &Record,
    _claim: &Claim<impl Deref<Target = Guest>>,
) -> Result<()> {
    guest.set_metadata(&namespace(&record.id), Some("<cancel/>"), true, false)
}

pub(in crate::operation) fn is_there(guest: &Guest, id: &str) -> Result<bool> {
    guest.has_metadata(&namespace(id))
}

/// A roll back can be over before whoever asked looks again, and the answer goes with the record.
pub(in crate::operation) fn await_seen(guest: &Guest, id: &str) {
    let answered = Instant::now();
    while answered.elapsed() < PATIENCE && matches!(is_there(guest, id), Ok(true)) {
        thread::sleep(AGAIN);
    }
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
