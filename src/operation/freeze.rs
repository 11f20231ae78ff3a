// SPDX-License-Identifier: LGPL-2.1-or-later
//! A freeze around somebody else's snapshots. It is recorded with the domain as an operation of its own kind, so that any
//! process can thaw it, and nothing of livedisk's begins meanwhile. The process that froze watches the note: another one
//! that has thawed marks it, and this one then takes its guard away before the note goes, so that the guard does not thaw
//! the next freeze.

use std::fmt::Debug;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::course::faults;
use super::ownership::claim::Claim;
use super::ownership::journal;
use super::ownership::record::{Kind, Record};
use super::parts::window::{FROZEN, freeze_failed, keep_thawing, spawn};
use super::plan::preflight::must_be_free;
use super::snapshot::plan::decide_freeze;
use super::state::Mark;
use super::types::{Method, Quiesce};
use crate::driver::{AgentStatus, Guest};
use crate::error::{Error, ErrorCode, Result};
use crate::guard;
use crate::libvirt::State;

const DEFAULT_LIMIT: Duration = Duration::from_secs(10);
/// How often the process that froze looks at the note.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long that process is given to see that it was thawed.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// How long the guard may be about to thaw again what was thawed already: a freeze begun meanwhile would be thawed by it.
const GUARD_CERTAIN: Duration = Duration::from_millis(1500);

/// How many file systems were frozen.
pub(crate) fn freeze(guest: Guest, limit: Duration) -> Result<u32> {
    let guest = Arc::new(guest);
    let limit = if limit.is_zero() { DEFAULT_LIMIT } else { limit };
    if guest.get_power_state()? != State::Running {
        return Err(Error::new(
            ErrorCode::DomainState,
            format!(
                "domain '{}' is not running, so its file systems cannot be frozen; start or resume it",
                guest.name()
            ),
        ));
    }
    let config = guest.get_config(false)?;
    must_be_free(&guest, &config, None)?;
    decide_freeze(&guest, &config, Quiesce::Require)?;
    guard::prepare(guest.host())?;
    let record = at("Note", || note(&guest, limit))?;
    at("Freeze", || hold(&guest, &record, limit)).inspect_err(|_| {
        if let Err(error) = remove(&guest, &record) {
            log::warn!("{error}; let recover remove the record of the freeze");
        }
    })
}

/// A step, as the fault matrix knows it.
fn at<T>(step: &str, take: impl FnOnce() -> T) -> T {
    let step: &dyn Debug = &format_args!("{step}");
    faults::point("before", step);
    let taken = take();
    faults::point("after", step);
    taken
}

fn note(guest: &Guest, limit: Duration) -> Result<Record> {
    let _claim = Claim::take(guest)?;
    must_be_free(guest, &guest.get_config(false)?, None)?;
    for left in freezes(guest)? {
        guest.remove_metadata(&left.namespace())?;
    }
    let mut record = Record::new(Kind::Freeze, Method::Auto, Vec::new(), &())?;
    record.mark = Mark::Fixing;
    record.live = true;
    record.until = record.started.checked_add(limit);
    record.owner.renew_for(limit);
    journal::write(guest, &record)?;
    Ok(record)
}

fn hold(guest: &Arc<Guest>, record: &Record, limit: Duration) -> Result<u32> {
    let deadline = Instant::now().checked_add(limit);
    let is_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let armed = guard::arm(guest, FROZEN, limit)?.map(Arc::new);
    let seconds = limit.as_millis().div_ceil(1000);
    guest.set_agent_timeout(Some(u32::try_from(seconds).unwrap_or(u32::MAX)))?;
    let undo = |error: Error| {
        if let Err(failure) = guest.thaw_left() {
            log::error!("{failure}; trying again until it is certain");
            keep_thawing(guest, armed.clone());
        }
        error
    };
    let frozen = match guest.fs_freeze() {
        Err(error) => return Err(undo(freeze_failed(&error, limit, is_late()))),
        Ok(_) if is_late() => return Err(undo(let_go(guest, "the limit passed while it was being frozen"))),
        Ok(0) => return Err(undo(let_go(guest, "its agent froze no file system"))),
        Ok(frozen) => frozen,
    };
    faults::point("frozen in", &format_args!("Freeze"));
    let (watched, id, guard) = (Arc::clone(guest), record.id.clone(), armed.clone());
    spawn("livedisk-freeze", move || watch(watched, &id, guard, deadline)).map_err(undo)?;
    Ok(frozen)
}

/// Until somebody has thawed it, or the limit.
fn watch(guest: Arc<Guest>, id: &str, armed: Option<Arc<guard::Armed>>, deadline: Option<Instant>) {
    // Others would wait for each call on the shared connection.
    let guest = guest.apart().map(Arc::new).unwrap_or(guest);
    // It was for the freeze request; others talk to the agent meanwhile.
    log_failure(guest.set_agent_timeout(None));
    loop {
        match find(&guest, id) {
            Ok(Some(record)) if record.mark == Mark::Fixed => {
                drop(armed);
                return log_failure(remove(&guest, &record));
            }
            Ok(Some(_)) => {}
            // The process that removed it has thawed, or did not know what it was.
            Ok(None) => return log_failure(thaw_if_unused(&guest)),
            Err(error) if error.code() == ErrorCode::NoDomain => return,
            Err(error) => {
                log::debug!("{error}");
                if let Err(error) = guest.reconnect() {
                    log::debug!("{error}");
                }
            }
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        thread::sleep(left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN)));
    }
    log::warn!(
        "domain '{}': the limit of its freeze has passed; it is thawed",
        guest.name()
    );
    at("LetGo", || guest.let_go_until_certain(FROZEN));
    drop(armed);
    thread::sleep(GUARD_CERTAIN);
    log_failure(note_let_go(&guest, id));
}

fn log_failure(result: Result<()>) {
    if let Err(error) = result {
        log::warn!("{error}");
    }
}

fn thaw_if_unused(guest: &Guest) -> Result<()> {
    if Record::all(guest)?.is_empty() && guest.get_agent_status() == AgentStatus::Frozen {
        guest.thaw_left()?;
    }
    Ok(())
}

fn note_let_go(guest: &Guest, id: &str) -> Result<()> {
    let _claim = Claim::take(guest)?;
    match find(guest, id)? {
        Some(record) if record.mark == Mark::Fixed => guest.remove_metadata(&record.namespace()),
        Some(mut record) => {
            record.back = Some("the limit had passed".into());
            journal::write(guest, &record)
        }
        None => Ok(()),
    }
}

/// How many file systems were thawed. Of any process.
pub(crate) fn thaw(guest: &Guest) -> Result<u32> {
    let claim = Claim::take(guest)?;
    let Some(mut record) = freezes(guest)?.into_iter().next() else {
        return Err(Error::new(
            ErrorCode::NoOperation,
            format!(
                "domain '{}' is not frozen by livedisk; what froze it has been recovered, or thawed before",
                guest.name()
            ),
        ));
    };
    let same = record.live && guest.get_power_state()? != State::Off;
    let why = record.back.clone();
    // After the limit others may have begun something of their own.
    let in_use = record.has_lapsed() && Record::all(guest)?.len() > 1;
    if !same || why.is_some() || in_use {
        guest.remove_metadata(&record.namespace())?;
        let why = why.as_deref().unwrap_or("it was shut off, or the limit had passed");
        return Err(let_go(guest, why));
    }
    let thawed = guest.thaw_left().map_err(|error| {
        let advice = "try again; its guard thaws it when the limit has passed";
        Error::new(ErrorCode::Freeze, format!("{}; {advice}", error.message())).with_libvirt_code(error.libvirt_code())
    })?;
    if record.owner.is_dead() || record.has_lapsed() {
        await_guard(&record);
        guest.remove_metadata(&record.namespace())?;
    } else {
        record.mark = Mark::Fixed;
        journal::write(guest, &record)?;
        drop(claim);
        await_removal(guest, &record)?;
    }
    match thawed {
        0 => Err(let_go(guest, "nothing was frozen any more")),
        thawed => Ok(thawed),
    }
}

/// By the process that froze.
fn await_removal(guest: &Guest, record: &Record) -> Result<()> {
    let until = Instant::now() + SEEN_WITHIN;
    while find(guest, &record.id)?.is_some() {
        if Instant::now() >= until || record.owner.is_dead() {
            return remove(guest, record);
        }
        thread::sleep(LOOK_AGAIN / 5);
    }
    Ok(())
}

/// What is to be done about a freeze whose process is gone or whose limit has passed, and whether the guest is thawed by it.
pub(super) fn recover(guest: &Guest, record: &Record, dry_run: bool) -> Result<(Vec<String>, bool)> {
    let is_frozen = || record.live && record.back.is_none() && guest.get_agent_status() == AgentStatus::Frozen;
    let note = "remove the record of the freeze from the domain's metadata".to_owned();
    let thaw = "thaw the guest's file systems".to_owned();
    if dry_run {
        return Ok(match is_frozen() {
            true => (vec![thaw, note], true),
            false => (vec![note], false),
        });
    }
    let _claim = Claim::take(guest)?;
    if find(guest, &record.id)?.is_none() {
        return Ok((Vec::new(), false));
    }
    let thawed = at("Thaw", || Ok::<_, Error>(is_frozen() && guest.thaw_left()? > 0))?;
    await_guard(record);
    at("RemoveNote", || guest.remove_metadata(&record.namespace()))?;
    Ok((if thawed { vec![thaw, note] } else { vec![note] }, thawed))
}

/// Until the guard of a process that is gone has let go for certain: it may be at it just now, and is long after the limit.
fn await_guard(record: &Record) {
    let over = record.until.and_then(|until| until.checked_add(GUARD_CERTAIN));
    if record.live && over.is_none_or(|over| SystemTime::now() < over) {
        thread::sleep(GUARD_CERTAIN);
    }
}

fn remove(guest: &Guest, record: &Record) -> Result<()> {
    let _claim = Claim::take(guest)?;
    guest.remove_metadata(&record.namespace())
}

/// Those that hold first.
fn freezes(guest: &Guest) -> Result<Vec<Record>> {
    let records = Record::all(guest)?.into_iter().flatten();
    let mut found: Vec<_> = records.filter(|record| record.kind == Kind::Freeze).collect();
    found.sort_by_key(|record| std::cmp::Reverse(record.until.unwrap_or(SystemTime::UNIX_EPOCH)));
    Ok(found)
}

fn find(guest: &Guest, id: &str) -> Result<Option<Record>> {
    Ok(freezes(guest)?.into_iter().find(|record| record.id == id))
}

fn let_go(guest: &Guest, why: &str) -> Error {
    Error::new(
        ErrorCode::Freeze,
        format!(
            "domain '{}' was thawed too early: {why}; a snapshot taken meanwhile is not consistent, so freeze and \
             take it again",
            guest.name()
        ),
    )
}
