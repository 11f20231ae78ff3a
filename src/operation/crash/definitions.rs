// SPDX-License-Identifier: LGPL-2.1-or-later
//! Definitions that a dead process had saved, of domains that ended before they were defined again. With its definition a
//! domain has the operation's record again, and what else is left is found by that.

use std::sync::Arc;

use super::recovered::{Recovered, Settlement};
use crate::driver::{Guest, Host};
use crate::error::{ErrorCode, Result};
use crate::operation::ownership::record::Record;
use crate::operation::ownership::saved::Saved;
use crate::operation::parts::definition::{Given, give_back};

/// Those of one domain, or of all, whose operation is not found by its record in the running domain.
pub(super) fn left(host: &Arc<Host>, domain: Option<&str>) -> Result<Vec<(Saved, Option<Guest>)>> {
    let mut left = Vec::new();
    for saved in Saved::all(host)? {
        if domain.is_some_and(|domain| domain != saved.name && domain != saved.uuid) {
            continue;
        }
        let guest = domain_of(host, &saved)?;
        let records = guest.as_ref().map(Record::all).transpose()?.unwrap_or_default();
        let mut records = records.into_iter().flatten();
        if !records.any(|record| record.live && record.id == saved.record.id) {
            left.push((saved, guest));
        }
    }
    Ok(left)
}

/// The domain, or all. `is_left`: a definition of it was found; it may have ended while it was not defined.
pub(super) fn guests(host: &Arc<Host>, domain: Option<&str>, is_left: bool) -> Result<Vec<Guest>> {
    match domain.map(|domain| host.get_guest(domain)) {
        Some(Err(error)) if error.code() == ErrorCode::NoDomain && is_left => Ok(Vec::new()),
        Some(guest) => Ok(vec![guest?]),
        None => host.list_guests(),
    }
}

/// For the guard: what this operation, whose process is gone, has taken away from libvirt. It is nothing where another process
/// has resumed the operation.
pub(crate) fn give_back_definition(host: &Arc<Host>, operation: &str) -> Result<()> {
    let Some(saved) = Saved::of(host, operation)? else {
        return Ok(());
    };
    if !saved.record.owner.is_dead() {
        return Ok(());
    }
    give_back(host, domain_of(host, &saved)?.as_ref(), &saved).map(drop)
}

/// The domain, if there is one still.
fn domain_of(host: &Arc<Host>, saved: &Saved) -> Result<Option<Guest>> {
    match host.get_guest_by_uuid(&saved.uuid) {
        Err(error) if error.code() == ErrorCode::NoDomain => Ok(None),
        guest => guest.map(Some),
    }
}

/// Gives them back.
pub(super) fn recover(host: &Arc<Host>, domain: Option<&str>, dry_run: bool) -> Result<Vec<Recovered>> {
    let left = left(host, domain)?.into_iter();
    Ok(left
        .map(|(saved, guest)| resolve(host, &saved, guest.as_ref(), dry_run))
        .collect())
}

fn resolve(host: &Arc<Host>, saved: &Saved, guest: Option<&Guest>, dry_run: bool) -> Recovered {
    let mut found = Recovered::of(&saved.name, &saved.record);
    if !saved.record.owner.is_dead() {
        return found;
    }
    found.plan = vec![format!(
        "define domain '{}' again, as it was (virDomainDefineXML)",
        saved.name
    )];
    found.settlement = Settlement::TakenBack;
    if !dry_run {
        match give_back(host, guest, saved) {
            Ok(Given::Back) => log::info!("domain '{}' is defined again", saved.name),
            Ok(Given::NotNeeded) => found.plan = vec!["drop the saved definition".into()],
            Err(error) => {
                log::error!("{error}");
                found.settlement = Settlement::Failed(error);
            }
        }
    }
    found
}
