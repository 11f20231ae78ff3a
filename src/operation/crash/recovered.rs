// SPDX-License-Identifier: LGPL-2.1-or-later
//! One operation of a dead process, and what became of it.

use crate::error::Error;
use crate::operation::ownership::record::Record;
use crate::operation::types::Method;

/// One operation that a recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The domain's name.
    pub domain: String,
    /// The operation's id; empty where its record cannot be read.
    pub id: String,
    /// `snapshot`, `migration` or `freeze`.
    pub kind: &'static str,
    /// The method taken.
    pub method: Method,
    /// Its progress: `begun`, `copying`, `fixing` or `fixed`.
    pub mark: &'static str,
    /// Who ran it.
    pub owner: String,
    /// The guest had been left frozen, and was thawed; in a dry run, it is frozen now.
    pub thawed: bool,
    /// The steps, in words, as far as they were foreseen.
    pub plan: Vec<String>,
    /// What became of it.
    pub settlement: Settlement,
}

/// What became of an operation that a recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Completed, because it was past its point of no return; or, in a dry run, to be completed.
    Completed,
    /// Rolled back, or to be rolled back.
    TakenBack,
    /// Its process lives, and it was left alone.
    LeftAlone,
    /// It could not be resolved, and its record stays.
    Failed(Error),
}

impl Recovered {
    /// Nothing was done about it yet.
    pub(super) fn of(domain: &str, record: &Record) -> Self {
        Self {
            domain: domain.to_owned(),
            id: record.id.clone(),
            kind: record.kind.name(),
            method: record.method,
            mark: record.mark.name(),
            owner: record.owner.to_string(),
            thawed: false,
            plan: Vec::new(),
            settlement: Settlement::LeftAlone,
        }
    }
}
