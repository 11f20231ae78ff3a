// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which procedure a record is of.

use std::sync::Arc;

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::operation::course::procedure::Procedure;
use crate::operation::course::run::{Course, Run};
use crate::operation::course::shared::Shared;
use crate::operation::migrate;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::Kind;
use crate::operation::snapshot::{backup, clone, mirror};
use crate::operation::types::Method;

/// An operation as its record and the world show it.
pub(in crate::operation) fn resume(guest: &Arc<Guest>, journal: Journal, shared: &Arc<Shared>) -> Result<Box<dyn Run>> {
    fn course<P: Procedure>(guest: &Arc<Guest>, journal: Journal, shared: &Arc<Shared>) -> Result<Box<dyn Run>> {
        Ok(Box::new(Course::<P>::resume(guest, journal, Arc::clone(shared))?))
    }
    let record = journal.read();
    match record.kind {
        Kind::Snapshot if record.method == Method::Backup => course::<backup::Engine>(guest, journal, shared),
        Kind::Snapshot if record.method == Method::Clone => course::<clone::Engine>(guest, journal, shared),
        Kind::Snapshot => course::<mirror::Engine>(guest, journal, shared),
        Kind::Migration => course::<migrate::Engine>(guest, journal, shared),
        Kind::Freeze => Err(Error::new(
            ErrorCode::NoOperation,
            format!(
                "domain '{}' has a freeze, which is thawed and not resumed",
                guest.name()
            ),
        )),
    }
}
