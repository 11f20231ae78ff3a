// SPDX-License-Identifier: LGPL-2.1-or-later
//! Cancels an operation that another process runs: asks that process, and waits for what becomes of it.

use std::thread;
use std::time::{Duration, Instant};

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::record::Record;
use crate::operation::ownership::request;

/// `patience` is for the owner's answer. Once it rolls back, it is waited for as long as it lives.
pub(crate) fn cancel(guest: &Guest, id: &str, patience: Duration) -> Result<()> {
    let failed = |code, what: &str| {
        let message = format!("operation {id} on domain '{}' {what}", guest.name());
        Err(Error::new(code, message))
    };
    {
        let claim = Claim::take(guest)?;
        match find(guest, id)? {
            None => return failed(ErrorCode::NoOperation, "no longer exists; see 'livedisk status'"),
            Some(record) if record.owner.is_dead() => {
                return failed(
                    ErrorCode::Busy,
                    "is run by no process; attach to it and cancel it, or recover",
                );
            }
            Some(record) => request::write(guest, &record, &claim)?,
        }
    }
    let asked = Instant::now();
    let mut answered = false;
    loop {
        match find(guest, id)? {
            None if answered => return Ok(()),
            None => {
                return failed(
                    ErrorCode::NoOperation,
                    "ended before its process saw the request; that process has reported how",
                );
            }
            Some(record) if record.owner.is_dead() && record.back.is_some() => {
                return failed(
                    ErrorCode::JobFailed,
                    "could not be rolled back completely; its process has reported why, 'livedisk recover' tries again",
                );
            }
            Some(record) if record.owner.is_dead() => {
                return failed(
                    ErrorCode::Busy,
                    "lost its process while it was being cancelled; cancel it again",
                );
            }
            Some(record) if record.back.is_some() && !answered => {
                answered = true;
                request::remove(guest, id)?;
            }
            Some(_) => {}
        }
        if !answered && asked.elapsed() >= patience {
            withdraw(guest, id, patience)?;
        }
        thread::sleep(request::AGAIN);
    }
}

/// Fails unless the owner has answered meanwhile. An operation past its point of no return is completed and does not answer.
fn withdraw(guest: &Guest, id: &str, patience: Duration) -> Result<()> {
    let _claim = Claim::take(guest)?;
    let Some(record) = find(guest, id)?.filter(|record| record.back.is_none()) else {
        return Ok(());
    };
    request::remove(guest, id)?;
    let owner = &record.owner;
    Err(Error::new(
        ErrorCode::Timeout,
        format!(
            "{owner}, which runs operation {id} on domain '{}', has not answered the request to cancel within \
             {patience:?}, and the request was withdrawn: it hangs, is older than livedisk 0.2, or the operation is past \
             its point of no return and is being completed; wait for it, or end that process: kill {}",
            guest.name(),
            owner.process
        ),
    ))
}

fn find(guest: &Guest, id: &str) -> Result<Option<Record>> {
    let records = Record::all(guest)?.into_iter();
    Ok(records.flatten().find(|record| record.id == id))
}
