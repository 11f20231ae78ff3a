// SPDX-License-Identifier: LGPL-2.1-or-later
//! Cleans up what dead processes left: completes what is past its point of no return, rolls back the rest. It is the loop
//! of every operation, entered with what the records say.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::definitions;
use super::recovered::{Recovered, Settlement};
use super::resume::resume;
use crate::driver::{AgentStatus, Guest, Host};
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::Quiet;
use crate::operation::course::shared::{Outcome, Shared};
use crate::operation::course::worker::Worker;
use crate::operation::freeze;
use crate::operation::ownership::claim::{self, Claim};
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record};
use crate::operation::plan::preflight::apart_if_in_use;
use crate::operation::state::{Goal, Mark};
use crate::operation::types::Method;

/// Guests that are looked at side by side. libvirtd takes five requests at a time from a client.
const AT_ONCE: usize = 8;

/// What a recovery found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Every operation that was found, in the order of the domains.
    pub operations: Vec<Recovered>,
}

impl Recovery {
    fn count(&self, matches: impl Fn(&Recovered) -> bool) -> u32 {
        let count = self.operations.iter().filter(|operation| matches(operation)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many domains had something to clean up.
    pub fn domains(&self) -> u32 {
        let resolved = self.operations.iter();
        let resolved = resolved.filter(|operation| operation.settlement != Settlement::LeftAlone);
        let names: HashSet<_> = resolved.map(|operation| &operation.domain).collect();
        u32::try_from(names.len()).unwrap_or(u32::MAX)
    }

    /// How many guests were thawed.
    pub fn thawed(&self) -> u32 {
        self.count(|operation| operation.thawed)
    }

    /// How many operations were completed.
    pub fn completed(&self) -> u32 {
        self.count(|operation| operation.settlement == Settlement::Completed)
    }

    /// How many operations were rolled back.
    pub fn taken_back(&self) -> u32 {
        self.count(|operation| operation.settlement == Settlement::TakenBack)
    }

    /// How many operations could not be resolved.
    pub fn failed(&self) -> u32 {
        self.count(|operation| matches!(operation.settlement, Settlement::Failed(_)))
    }
}

/// Of one domain, or of all; a dry run changes nothing.
pub(crate) fn recover(host: &Arc<Host>, domain: Option<&str>, dry_run: bool) -> Result<Recovery> {
    // First: domains that are gone are back then.
    let mut defined = definitions::recover(host, domain, dry_run)?;
    // A dry run does not bring it back.
    let guests = definitions::guests(host, domain, !defined.is_empty())?;
    let guests: Vec<_> = guests.into_iter().map(Arc::new).collect();
    let mut recovery = Recovery::default();
    for (guest, found) in guests.iter().zip(side_by_side(&guests, dry_run)) {
        match found {
            Ok(operations) => {
                for mut operation in operations {
                    if let Some(index) = defined.iter().position(|defined| defined.id == operation.id) {
                        operation.plan.splice(0..0, defined.remove(index).plan);
                    }
                    recovery.operations.push(operation);
                }
            }
            // It was removed since the list was made.
            Err(error) if error.code() == ErrorCode::NoDomain && domain.is_none() => {}
            Err(error) if domain.is_none() => {
                log::error!("{error}");
                recovery.operations.push(unreadable(guest, error));
            }
            Err(error) => return Err(error),
        }
    }
    recovery.operations.append(&mut defined);
    Ok(recovery)
}

/// What was found of each guest, in their order. Most of it is waiting: for libvirtd, jobs and files.
fn side_by_side(guests: &[Arc<Guest>], dry_run: bool) -> Vec<Result<Vec<Recovered>>> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(guests.len())));
    let work = || {
        let _quiet = Quiet::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(guest) = guests.get(index) else { break };
            let operations = of_guest(guest, dry_run);
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((index, operations));
        }
    };
    thread::scope(|scope| {
        for _ in 1..guests.len().min(AT_ONCE) {
            // Without another thread this one does it all.
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, work) {
                log::debug!("cannot start a thread: {error}");
            }
        }
        work();
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, operations)| operations).collect()
}

fn of_guest(guest: &Arc<Guest>, dry_run: bool) -> Result<Vec<Recovered>> {
    let records = Record::all(guest)?;
    if records.is_empty() && !dry_run {
        claim::sweep(guest)?;
    }
    records
        .into_iter()
        .map(|record| match record {
            Ok(record) => resolve(guest, record, dry_run),
            Err(error) => Ok(unreadable(guest, error)),
        })
        .collect()
}

fn unreadable(guest: &Guest, error: Error) -> Recovered {
    Recovered {
        domain: guest.name().to_owned(),
        id: String::new(),
        kind: "unknown",
        method: Method::Auto,
        mark: "unknown",
        owner: "unknown".into(),
        thawed: false,
        plan: Vec::new(),
        settlement: Settlement::Failed(error),
    }
}

fn resolve(guest: &Arc<Guest>, record: Record, dry_run: bool) -> Result<Recovered> {
    let mut found = Recovered::of(guest.name(), &record);
    if !record.owner.is_dead() && !record.has_lapsed() {
        return Ok(found);
    }
    if record.kind == Kind::Freeze {
        let resolved = freeze::recover(guest, &record, dry_run).map(|(plan, thawed)| {
            (found.plan, found.thawed) = (plan, thawed);
            false
        });
        found.settlement = settlement(resolved);
        return Ok(found);
    }
    let guest = &apart_if_in_use(guest)?;
    let of_window = record.mark == Mark::Fixing;
    let journal = if dry_run {
        Journal::look_at(guest, record)
    } else {
        match take_over(guest, &record)? {
            Some(journal) => journal,
            None => return Ok(found),
        }
    };
    let shared = Arc::new(Shared::new(journal.read().started)?);
    let resolved = resume(guest, journal, &shared).and_then(|mut course| {
        course.look(Goal::Forward)?;
        let forward = course.is_resolved_forward();
        found.plan = course.words(if forward { Goal::Forward } else { Goal::Back });
        if dry_run {
            found.thawed = of_window && guest.get_agent_status() == AgentStatus::Frozen;
            return Ok(forward);
        }
        shared.request(|requests| (requests.finish, requests.cancel) = (forward, !forward));
        Worker::new(course, Arc::clone(&shared)).run();
        let outcome = shared.outcome(Some(Instant::now()));
        found.thawed = outcome.as_ref().is_some_and(|outcome| outcome.thawed > 0);
        match outcome {
            Some(Outcome { result: Ok(_), .. }) => Ok(true),
            Some(Outcome { taken_back: true, .. }) => Ok(false),
            Some(Outcome { result: Err(error), .. }) => Err(error),
            None => Err(Error::new(ErrorCode::Internal, "the recovery has no outcome")),
        }
    });
    found.settlement = settlement(resolved);
    Ok(found)
}

/// Whether it was completed, or why it was not resolved.
fn settlement(resolved: Result<bool>) -> Settlement {
    match resolved {
        Ok(true) => Settlement::Completed,
        Ok(false) => Settlement::TakenBack,
        Err(error) => {
            log::error!("{error}");
            Settlement::Failed(error)
        }
    }
}

/// None where somebody else came first.
fn take_over(guest: &Arc<Guest>, record: &Record) -> Result<Option<Journal>> {
    let claim = Claim::take(&**guest)?;
    let now = Record::all(guest)?.into_iter().flatten();
    let mut now = now.filter(|now| now.id == record.id && now.owner.is_dead());
    now.next().map(|now| Journal::take_over(guest, now, &claim)).transpose()
}
