// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is known of one block job while it runs, and how it ended.

use std::time::{Duration, Instant};

use super::convergence::{Convergence, Rates, Sample};
use super::state::{Job, Remedy};
use crate::libvirt::BlockJobInfo;

/// Since when libvirt has shown a job that there is not: one that died as the job ended has never heard of the end when it is
/// back.
#[derive(Debug, Default)]
pub(super) struct Gone(Option<Instant>);

impl Gone {
    /// libvirt may be tidying up behind it.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Whether it has been so for long enough.
    pub(super) fn look(&mut self, is_gone: bool) -> bool {
        if !is_gone {
            self.0 = None;
        }
        is_gone && self.0.get_or_insert_with(Instant::now).elapsed() > Self::PATIENCE
    }

    /// Nothing can be asked of the job then.
    pub(super) fn is_suspected(&self) -> bool {
        self.0.is_some()
    }
}

/// One block job of ours.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub(super) started: bool,
    pub(super) ready: bool,
    /// Asked to end, or to pivot.
    pub(super) ending: bool,
    pub(super) pivoting: bool,
    /// Why it was ended by us.
    pub(super) given_up: Option<String>,
    pub(super) restarting: bool,
    pub(super) failure: Option<String>,
    pub(super) gone: Gone,
    pub(super) convergence: Convergence,
    /// Where it does not catch up with its guest.
    pub(super) rates: Option<Rates>,
    pub(super) done: u64,
    pub(super) total: u64,
}

impl Tracked {
    pub(super) fn begun() -> Self {
        Self {
            started: true,
            ..Self::default()
        }
    }

    /// It runs. `watched` says whether it should be catching up now.
    pub(super) fn runs(
        &mut self,
        info: Option<BlockJobInfo>,
        ready: bool,
        at: Duration,
        watched: impl FnOnce(&Sample) -> bool,
    ) {
        self.ready = ready;
        let Some(info) = info else {
            self.rates = None;
            return;
        };
        (self.done, self.total) = (info.done, info.total);
        let sample = Sample {
            at,
            done: info.done,
            total: info.total,
        };
        self.rates = if watched(&sample) {
            self.convergence.look(sample)
        } else {
            self.convergence.restart();
            None
        };
    }

    /// It is not there any more, and the chain does not show that it was pivoted to. `end` is QEMU's word.
    pub(super) fn vanished(&mut self, end: Option<Option<String>>) {
        if self.failure.is_some() {
            return;
        }
        if let Some(reason) = self.given_up.take().or(end.flatten()) {
            self.failure = Some(reason);
        } else if self.restarting {
            *self = Self::default();
        } else {
            self.failure = Some("it vanished, and nobody saw how it ended".into());
        }
    }

    /// Its domain is gone, and so is it.
    pub(super) fn lost_domain(&mut self) {
        if self.started && self.failure.is_none() {
            self.failure = Some("the domain was shut off, destroyed or restarted".into());
        }
    }

    /// It was asked to pivot.
    pub(super) fn pivots(&mut self) {
        (self.ending, self.pivoting) = (true, true);
    }

    /// It was asked to end, because as a `kind` it does not catch up.
    pub(super) fn give_up(&mut self, kind: &str) {
        self.ending = true;
        self.given_up = self.rates.map(|rates| does_not_catch_up(kind, rates));
    }

    /// It was given better conditions.
    pub(super) fn watch_anew(&mut self) {
        self.convergence.restart();
        self.rates = None;
    }

    pub(super) fn job(&self) -> Job {
        match self {
            Self { failure: Some(_), .. } => Job::Failed,
            Self { started: false, .. } => Job::NotStarted,
            Self { gone, .. } if gone.is_suspected() => Job::Ending,
            Self { ending: true, .. } => Job::Ending,
            Self { ready: true, .. } => Job::Ready,
            _ => Job::Running,
        }
    }

    /// As an active commit, which has no write-blocking mode.
    pub(super) fn commit_job(&self, may_throttle: bool) -> Job {
        let remedy = Remedy::choose(false, false, may_throttle);
        let helps = !self.ending || (self.pivoting && remedy == Remedy::Throttle);
        match self.rates {
            Some(_) if helps => Job::Stuck(remedy),
            _ => self.job(),
        }
    }
}

pub(super) fn does_not_catch_up(job: &str, rates: Rates) -> String {
    format!(
        "the {job} does not catch up: the guest dirties {} KiB/s and {} KiB/s are copied",
        rates.dirtied >> 10,
        rates.copied >> 10
    )
}
