// SPDX-License-Identifier: LGPL-2.1-or-later
//! The loop: observe, next, step. One thread an operation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::operation::course::faults;
use crate::operation::course::procedure::Turn;
use crate::operation::course::run::Run;
use crate::operation::course::shared::{Outcome, Shared};
use crate::operation::state::{Goal, Mark};
use crate::operation::types::{Phase, Report};

/// With events they wake the loop; this is for the progress in between.
const WITH_EVENTS: Duration = Duration::from_millis(250);
/// Without events libvirt is asked: often at first, less often while nothing changes.
const FIRST_WITHOUT_EVENTS: Duration = Duration::from_millis(10);
const LAST_WITHOUT_EVENTS: Duration = Duration::from_millis(500);
/// How long a lost daemon is waited for.
const RECONNECT: Duration = Duration::from_secs(30);
const RECONNECT_AGAIN: Duration = Duration::from_millis(250);
/// How often rolling back is tried where a step of it fails.
const BACK_ATTEMPTS: u32 = 5;
const BACK_AGAIN: Duration = Duration::from_millis(500);
/// How long QEMU is given to end a job; a destination that hangs holds it.
const BACK_PATIENCE: Duration = Duration::from_secs(120);

pub(in crate::operation) struct Worker {
    course: Box<dyn Run>,
    shared: Arc<Shared>,
    /// Why the goal is Back, unless the caller asked for it.
    failure: Option<Error>,
    back_failures: u32,
    /// Since when rolling back waits for QEMU.
    back_waits: Option<Instant>,
    interval: Duration,
    rate: Rate,
}

impl Worker {
    pub(in crate::operation) fn new(course: Box<dyn Run>, shared: Arc<Shared>) -> Self {
        let failure = course.journal().read().back.map(|why| {
            let name = course.guest().name();
            let message =
                format!("the operation on domain '{name}' was being rolled back when its process ended: {why}");
            Error::new(ErrorCode::Cancelled, message)
        });
        Self {
            course,
            shared,
            failure,
            back_failures: 0,
            back_waits: None,
            interval: FIRST_WITHOUT_EVENTS,
            rate: Rate::default(),
        }
    }

    /// Runs the operation to its end, or until it is detached.
    pub(in crate::operation) fn run(mut self) {
        loop {
            let requests = self.shared.requests();
            if requests.detach {
                return;
            }
            if let Err(error) = self.course.journal().must_be_ours() {
                return self.give_up(error);
            }
            let back = (self.failure.is_some() || requests.cancel) && !self.course.passed_no_return();
            let goal = if back { Goal::Back } else { Goal::Forward };
            if let Err(error) = self.record_way_back(goal)
                && !self.carries_on(goal, &error)
            {
                return self.give_up(error);
            }
            let news = self.shared.news();
            let turn = match self.course.look(goal) {
                Ok(turn) => turn,
                Err(error) if self.carries_on(goal, &error) => continue,
                Err(error) => return self.give_up(error),
            };
            self.publish(goal);
            faults::point("before", self.course.step());
            let result = match turn {
                Turn::Done => return self.conclude(goal),
                Turn::Fail(error) => Err(error),
                Turn::AwaitJobs if goal == Goal::Back && self.waited_enough() => {
                    let error = self.never_ends();
                    return self.give_up(error);
                }
                Turn::AwaitJobs => {
                    self.wait(news, false);
                    Ok(())
                }
                Turn::AwaitFinish => {
                    self.wait(news, true);
                    Ok(())
                }
                Turn::Act => {
                    self.interval = FIRST_WITHOUT_EVENTS;
                    self.course.act()
                }
            };
            faults::point("after", self.course.step());
            if let Err(error) = result
                && !self.carries_on(goal, &error)
            {
                return self.give_up(error);
            }
        }
    }

    /// A process that resumes the operation from its record continues in the same direction.
    fn record_way_back(&self, goal: Goal) -> Result<()> {
        let journal = self.course.journal();
        if goal == Goal::Forward || journal.is_back() || journal.mark() == Mark::Absent {
            return Ok(());
        }
        let why = self.failure.as_ref().map_or("it was cancelled", Error::message);
        journal.write(|record| {
            record.back = Some(why.to_owned());
            Ok(())
        })
    }

    /// Whether the loop goes on after `error`: over a new connection, or back instead of forward.
    fn carries_on(&mut self, goal: Goal, error: &Error) -> bool {
        if self.course.journal().must_be_ours().is_err() {
            return false;
        }
        if error.code() == ErrorCode::NoConnection {
            log::warn!("{error}; connecting again");
            match self.reconnect() {
                Ok(()) => return true,
                Err(error) => log::error!("{error}"),
            }
            return false;
        }
        match goal {
            Goal::Forward if !self.course.passed_no_return() => {
                let error = self.or_domain_gone(error);
                log::info!("turning back: {error}");
                // A cancel that made a step fail is a cancel.
                if error.code() != ErrorCode::Cancelled {
                    self.failure = Some(error);
                }
                true
            }
            // The only way there is, so it is tried again.
            Goal::Forward | Goal::Back => {
                self.back_failures += 1;
                log::warn!("{goal:?}: {error}");
                let news = self.shared.news();
                self.shared.await_news(news, BACK_AGAIN);
                self.back_failures < BACK_ATTEMPTS
            }
        }
    }

    /// A call that failed because QEMU died under it says anything but that.
    fn or_domain_gone(&self, error: &Error) -> Error {
        let guest = self.course.guest();
        if error.code() != ErrorCode::Libvirt || !guest.goes_away() {
            return error.clone();
        }
        Error::new(
            ErrorCode::DomainState,
            format!(
                "domain '{}' was shut off, destroyed or restarted during the operation ({}); start again when it runs",
                guest.name(),
                error.message()
            ),
        )
        .with_libvirt_code(error.libvirt_code())
    }

    fn waited_enough(&mut self) -> bool {
        self.back_waits.get_or_insert_with(Instant::now).elapsed() > BACK_PATIENCE
    }

    fn never_ends(&self) -> Error {
        Error::new(
            ErrorCode::JobFailed,
            format!(
                "QEMU has been asked to end the block job of domain '{}' and has not ended it in {BACK_PATIENCE:?}; \
                 its destination hangs; fix the storage, and the job will end by itself",
                self.course.guest().name()
            ),
        )
    }

    fn reconnect(&mut self) -> Result<()> {
        let deadline = Instant::now() + RECONNECT;
        loop {
            match self.course.reconnect() {
                Err(error) if Instant::now() >= deadline || self.shared.requests().detach => return Err(error),
                Err(_) => {
                    let news = self.shared.news();
                    self.shared.await_news(news, RECONNECT_AGAIN);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    fn wait(&mut self, news: u64, for_caller: bool) {
        let at_most = if self.course.has_events() {
            WITH_EVENTS
        } else {
            let now = self.interval;
            self.interval = (now * 3 / 2).min(LAST_WITHOUT_EVENTS);
            now
        };
        // At READY only a finish, a cancel or an accident can come.
        let at_most = if for_caller {
            at_most.max(LAST_WITHOUT_EVENTS)
        } else {
            at_most
        };
        self.shared.await_news(news, at_most);
    }

    fn publish(&mut self, goal: Goal) {
        let left = self.course.steps_left();
        let (done, total) = self.course.bytes();
        let rate = self.rate.look(self.shared.began().elapsed(), done);
        let now = self.course.phase();
        self.shared.publish(|progress| {
            // A caller that saw READY and asks to finish would see COPYING again while the mirrors drain.
            if now as i32 > progress.phase as i32 {
                progress.phase = now;
            }
            progress.bytes_done = done;
            progress.bytes_total = total;
            progress.bytes_per_second = rate;
            if goal == Goal::Forward {
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                progress.step = progress.step.max(progress.step_count.saturating_sub(left));
            }
        });
    }

    fn conclude(self, goal: Goal) {
        let failed = |error| (Phase::Failed, Err(error));
        let (phase, result) = match (goal, self.failure, self.course.report()) {
            (Goal::Forward, _, Some(report)) => (Phase::Done, Ok(report)),
            (Goal::Forward, _, None) => failed(Error::new(
                ErrorCode::Internal,
                "the operation ended without a point in time",
            )),
            (Goal::Back, Some(error), _) => failed(error),
            (Goal::Back, None, _) => {
                let name = self.course.guest().name();
                let message = format!("the operation on domain '{name}' was cancelled and rolled back");
                (Phase::Cancelled, Err(Error::new(ErrorCode::Cancelled, message)))
            }
        };
        log::debug!("{}: {result:?}", phase.name());
        end(self.course, &self.shared, phase, result, goal == Goal::Back);
    }

    /// Rolling back did not work either: the record stays, so that what is left can be found and cleaned up.
    fn give_up(self, error: Error) {
        let reported = match self.failure {
            Some(first) if first != error => Error::new(
                first.code(),
                format!(
                    "{}; and rolling it back failed: {}; what is left is named in the domain's metadata",
                    first.message(),
                    error.message()
                ),
            )
            .with_libvirt_code(first.libvirt_code()),
            _ => error,
        };
        end(self.course, &self.shared, Phase::Failed, Err(reported), false);
    }
}

/// What it holds of the guest (a throttle, its record) and of libvirt is released before the caller learns of the end, and perhaps
/// exits: a client that goes away while its callbacks are being removed can crash libvirtd 9.0
/// (remoteClientFreePrivateCallbacks, without a lock there).
fn end(course: Box<dyn Run>, shared: &Shared, phase: Phase, result: Result<Report>, taken_back: bool) {
    let thawed = course.thawed();
    let (phase, result) = match course.unexplained() {
        Some(error) => (Phase::Failed, Err(error)),
        None => (phase, result),
    };
    drop(course);
    let outcome = Outcome {
        result,
        taken_back,
        thawed,
    };
    shared.conclude(phase, outcome);
}

/// The copying rate, smoothed over about a second.
#[derive(Debug, Default)]
struct Rate {
    at: Duration,
    done: u64,
    rate: u64,
}

impl Rate {
    const SPAN: Duration = Duration::from_millis(500);

    fn look(&mut self, at: Duration, done: u64) -> u64 {
        let passed = at.saturating_sub(self.at);
        if passed >= Self::SPAN {
            let bytes = u128::from(done.saturating_sub(self.done)) * 1000 / passed.as_millis().max(1);
            let now = u64::try_from(bytes).unwrap_or(u64::MAX);
            self.rate = if self.rate == 0 { now } else { (self.rate + now) / 2 };
            (self.at, self.done) = (at, done);
        }
        self.rate
    }
}
