// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is known of one block job while it runs, and how it ended.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::libvirt::BlockJobInfo;
use crate::libvirt::xml::{Disk, Mirror};
use crate::operation::parts::convergence::{Convergence, Rates, Sample};
use crate::operation::parts::site::Site;
use crate::operation::state::{Job, Remedy};

/// Since when libvirt has shown a job that there is not: one that died as the job ended has never heard of the end when it is
/// back.
#[derive(Debug, Default)]
pub(in crate::operation) struct Gone(Option<Instant>);

impl Gone {
    /// libvirt may be tidying up after it.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Whether it has been so for long enough.
    pub(in crate::operation) fn look(&mut self, is_gone: bool) -> bool {
        if !is_gone {
            self.0 = None;
        }
        is_gone && self.0.get_or_insert_with(Instant::now).elapsed() > Self::PATIENCE
    }

    /// Nothing can be asked of the job then.
    fn is_suspected(&self) -> bool {
        self.0.is_some()
    }
}

/// A job with no more than this left counts as drained: it is copied well within a freeze, and pivoted to at once.
const DRAINED: u64 = 4 << 20;

const LOST_DOMAIN: &str = "the domain was shut off, destroyed or restarted";

/// What a job was asked to do at its end.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::operation) enum End {
    Abort,
    Pivot,
    /// To be started again, write-blocking.
    Restart,
    /// Aborted by us, for this reason.
    GiveUp(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    NotStarted,
    /// `ready`: the mirror's `ready='yes'`.
    Running {
        ready: bool,
    },
    /// Asked to end, and not yet gone.
    Asked(End),
    Completed,
    Failed(String),
}

/// What libvirt shows of a disk's block job, of which there is one at most.
#[derive(Debug, Default)]
pub(in crate::operation) struct Shown {
    pub(in crate::operation) info: Option<BlockJobInfo>,
    pub(in crate::operation) mirror: Option<Mirror>,
}

impl Shown {
    pub(in crate::operation) fn look(site: &Site, disk: Option<&Disk>) -> Result<Self> {
        Ok(Self {
            info: site.device().get_job_info()?,
            mirror: disk.and_then(|disk| disk.mirror.clone()),
        })
    }

    pub(in crate::operation) fn is_there(&self) -> bool {
        self.info.is_some() || self.mirror.is_some()
    }

    pub(in crate::operation) fn job(&self) -> Option<&str> {
        self.mirror.as_ref().map(|mirror| mirror.job.as_str())
    }

    pub(in crate::operation) fn is_ready(&self) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| mirror.ready)
    }
}

/// One block job of ours.
#[derive(Debug, Default)]
pub(in crate::operation) struct Tracked {
    state: State,
    /// The guest's writes wait for the copy.
    pub(in crate::operation) write_blocking: bool,
    gone: Gone,
    convergence: Convergence,
    /// Where it does not catch up with its guest.
    rates: Option<Rates>,
    pub(in crate::operation) done: u64,
    pub(in crate::operation) total: u64,
}

impl Tracked {
    /// It was started anew, or, where the start failed, was not.
    pub(in crate::operation) fn begin(&mut self, started: bool) {
        let write_blocking = self.write_blocking;
        *self = Self {
            write_blocking,
            ..Self::found(started)
        };
    }

    /// As libvirt shows it.
    pub(in crate::operation) fn found(runs: bool) -> Self {
        let state = if runs {
            State::Running { ready: false }
        } else {
            State::NotStarted
        };
        Self {
            state,
            ..Self::default()
        }
    }

    pub(in crate::operation) fn is_started(&self) -> bool {
        self.state != State::NotStarted
    }

    /// It ended, well or not.
    pub(in crate::operation) fn is_over(&self) -> bool {
        matches!(self.state, State::Completed | State::Failed(_))
    }

    pub(in crate::operation) fn is_under_way(&self) -> bool {
        self.is_started() && !self.is_over()
    }

    pub(in crate::operation) fn is_restarting(&self) -> bool {
        self.state == State::Asked(End::Restart)
    }

    pub(in crate::operation) fn is_aborting(&self) -> bool {
        self.state == State::Asked(End::Abort)
    }

    pub(in crate::operation) fn is_pivoting(&self) -> bool {
        self.state == State::Asked(End::Pivot)
    }

    pub(in crate::operation) fn failure(&self) -> Option<&str> {
        match &self.state {
            State::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    pub(in crate::operation) fn rates(&self) -> Option<Rates> {
        self.rates
    }

    /// `shown`: the disk's block job, where that is this one; false where it is not. `watched` says whether it should be
    /// catching up now.
    pub(in crate::operation) fn observe(
        &mut self,
        site: &Site,
        shown: Option<&Shown>,
        watched: impl FnOnce(&Sample) -> bool,
    ) -> Result<bool> {
        let is_gone = shown.is_some_and(|shown| shown.info.is_none());
        if self.gone.look(is_gone && site.journal.libvirtd_may_have_died()) {
            return Err(site.device().dead_job());
        }
        let Some(shown) = shown else { return Ok(false) };
        self.runs(shown.info, shown.is_ready(), site.shared.began().elapsed(), watched);
        Ok(true)
    }

    /// It runs. `watched` says whether it should be catching up now.
    fn runs(
        &mut self,
        info: Option<BlockJobInfo>,
        is_ready: bool,
        at: Duration,
        watched: impl FnOnce(&Sample) -> bool,
    ) {
        if let State::Running { ready } = &mut self.state {
            *ready = is_ready;
        }
        let Some(info) = info else {
            self.rates = None;
            return;
        };
        // libvirt has 1 of 1, so that a job with nothing to copy looks complete.
        (self.done, self.total) = match (info.done, info.total) {
            (_, 1) => (0, 0),
            bytes => bytes,
        };
        let sample = Sample {
            at,
            done: self.done,
            total: self.total,
        };
        self.rates = if watched(&sample) {
            self.convergence.look(sample)
        } else {
            self.convergence.restart();
            None
        };
    }

    /// It is not there any more, and the chain does not show that it was pivoted to. `reason` is why, where somebody said so.
    pub(in crate::operation) fn vanished(&mut self, reason: Option<String>) {
        let state = std::mem::take(&mut self.state);
        self.state = match (state, reason) {
            (State::Failed(reason) | State::Asked(End::GiveUp(reason)), _) | (_, Some(reason)) => State::Failed(reason),
            (State::Asked(End::Restart), None) => {
                *self = Self {
                    write_blocking: true,
                    ..Self::default()
                };
                return;
            }
            (_, None) => State::Failed("it vanished, and how it ended was not observed".into()),
        };
    }

    pub(in crate::operation) fn complete(&mut self) {
        self.state = State::Completed;
    }

    pub(in crate::operation) fn fail(&mut self, reason: impl Into<String>) {
        self.state = State::Failed(reason.into());
    }

    /// Its domain is gone, and so is it.
    pub(in crate::operation) fn lost_domain(&mut self) {
        if self.is_started() && !self.is_over() {
            self.fail(LOST_DOMAIN);
        }
    }

    /// It was asked to end.
    pub(in crate::operation) fn ask(&mut self, end: End) {
        if !self.is_over() {
            self.state = State::Asked(end);
        }
    }

    /// It was asked to end, because as a `kind` it does not catch up.
    pub(in crate::operation) fn give_up(&mut self, kind: &str) {
        let reason = self.rates.map(|rates| does_not_catch_up(kind, rates));
        self.ask(reason.map_or(End::Abort, End::GiveUp));
    }

    /// It was given better conditions.
    pub(in crate::operation) fn watch_anew(&mut self) {
        self.convergence.restart();
        self.rates = None;
    }

    fn remainder(&self) -> u64 {
        self.total.saturating_sub(self.done)
    }

    fn job(&self) -> Job {
        match self.state {
            State::Failed(_) => Job::Failed,
            State::Completed => Job::Completed,
            State::NotStarted => Job::NotStarted,
            _ if self.gone.is_suspected() => Job::Ending,
            State::Asked(_) => Job::Ending,
            State::Running { ready: true } => Job::Ready,
            State::Running { ready: false } => Job::Running,
        }
    }

    /// `remedy` is what may still make it converge. A throttle helps a job that is about to pivot, too.
    fn job_or_stuck(&self, remedy: Remedy) -> Job {
        let helps = match self.state {
            State::Running { .. } => true,
            State::Asked(End::Pivot) => remedy == Remedy::Throttle,
            _ => false,
        };
        match self.rates {
            Some(_) if helps => Job::Stuck(remedy),
            _ => self.job(),
        }
    }

    /// As an active commit, which has no write-blocking mode.
    pub(in crate::operation) fn commit_job(&self, may_throttle: bool) -> Job {
        self.job_or_stuck(Remedy::choose(false, false, may_throttle))
    }

    /// As a copy. One that is to be finished is ready only once it is drained.
    pub(in crate::operation) fn copy_job(&self, remedy: Remedy, finish: bool) -> Job {
        match self.job_or_stuck(remedy) {
            Job::Ready if finish && !is_drained(self.remainder()) => Job::Running,
            job => job,
        }
    }
}

/// What a job's count comes to in data, of which there is `expected`: it counts what reads as zeroes, too. `allocated` is the room
/// that the image takes, where that is known.
pub(in crate::operation) fn data_of((done, total): (u64, u64), expected: u64, allocated: Option<u64>) -> (u64, u64) {
    let Some(allocated) = allocated else {
        return (done, total);
    };
    let zeroes = total.saturating_sub(expected);
    let copied = allocated.clamp(done.saturating_sub(zeroes), done);
    let left = total.saturating_sub(done).min(expected.saturating_sub(copied));
    (copied, copied + left)
}

pub(in crate::operation) fn is_drained(remainder: u64) -> bool {
    remainder <= DRAINED
}

pub(in crate::operation) fn does_not_catch_up(job: &str, rates: Rates) -> String {
    format!(
        "the {job} does not catch up: the guest dirties {} KiB/s and {} KiB/s are copied",
        rates.dirtied >> 10,
        rates.copied >> 10
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const DATA: u64 = 526 << 20;

    fn of(done: u64, total: u64, allocated: u64) -> (u64, u64) {
        data_of((done, total), DATA, Some(allocated))
    }

    #[test]
    fn zeroes_are_not_counted_as_data() {
        // At once through the zeroes, then the data, then READY.
        assert_eq!(of(0, 10 * GIB, 0), (0, DATA));
        assert_eq!(of(9 * GIB, 10 * GIB, 1 << 20), (1 << 20, DATA));
        assert_eq!(of(10 * GIB, 10 * GIB, DATA), (DATA, DATA));
        // Less data than the images' room said.
        assert_eq!(of(10 * GIB, 10 * GIB, DATA / 2), (DATA, DATA));
        // What the guest writes again meanwhile takes no more room.
        assert_eq!(of(10 * GIB, 11 * GIB, DATA), (DATA, DATA));
        assert_eq!(data_of((3, 5), DATA, None), (3, 5));
    }

    #[test]
    fn an_image_that_says_nothing_of_its_room_still_shows_progress() {
        assert_eq!(of(10 * GIB - DATA / 2, 10 * GIB, 0), (DATA - DATA / 2, DATA));
    }
}
