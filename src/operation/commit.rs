// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is known of an active commit while it runs, and how it ended.

use super::state::Job;
use crate::libvirt::BlockJobInfo;

/// The active commit of a disk's overlay into the image below it.
#[derive(Debug, Default)]
pub(super) struct Commit {
    pub(super) started: bool,
    /// The mirror's `ready='yes'`.
    ready: bool,
    /// Asked to pivot.
    pub(super) ending: bool,
    pub(super) failure: Option<String>,
    pub(super) done: u64,
    pub(super) total: u64,
}

impl Commit {
    pub(super) fn begun() -> Self {
        Self {
            started: true,
            ..Self::default()
        }
    }

    pub(super) fn runs(&mut self, info: Option<BlockJobInfo>, ready: bool) {
        self.ready = ready;
        if let Some(info) = info {
            (self.done, self.total) = (info.done, info.total);
        }
    }

    /// It is not there any more, and the chain does not show that it was pivoted to. `end` is QEMU's word.
    pub(super) fn vanished(&mut self, end: Option<Option<String>>) {
        let reason = end.flatten();
        let reason = reason.unwrap_or_else(|| "it vanished, and nobody saw how it ended".into());
        self.failure.get_or_insert(reason);
    }

    /// Its domain is gone, and so is it.
    pub(super) fn lost_domain(&mut self) {
        if self.started {
            let reason = "the domain was shut off, destroyed or restarted";
            self.failure.get_or_insert_with(|| reason.into());
        }
    }

    pub(super) fn job(&self) -> Job {
        match self {
            Self { failure: Some(_), .. } => Job::Failed,
            Self { started: false, .. } => Job::NotStarted,
            Self { ending: true, .. } => Job::Ending,
            Self { ready: true, .. } => Job::Ready,
            _ => Job::Running,
        }
    }
}
