// SPDX-License-Identifier: LGPL-2.1-or-later
//! The loop: observe, next, step. One thread an operation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::model;
use super::shared::{Outcome, Shared};
use super::snapshot::{Goal, Observed, Step, next, phase};
use super::types::Phase;
use crate::error::{Error, ErrorCode, Result};

/// With events they wake the loop; this is for the progress in between.
const WITH_EVENTS: Duration = Duration::from_millis(250);
/// Without events libvirt is asked: often at first, less often while nothing changes.
const FIRST_WITHOUT_EVENTS: Duration = Duration::from_millis(10);
const LAST_WITHOUT_EVENTS: Duration = Duration::from_millis(500);
/// How long a lost daemon is waited for.
const RECONNECT: Duration = Duration::from_secs(30);
const RECONNECT_AGAIN: Duration = Duration::from_millis(250);
/// How often taking back is tried where a step of it fails.
const BACK_ATTEMPTS: u32 = 5;
const BACK_AGAIN: Duration = Duration::from_millis(500);
/// How long QEMU is given to end a job; a destination that hangs holds it.
const BACK_PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Worker {
    engine: Engine,
    shared: Arc<Shared>,
    taken: Vec<bool>,
    /// Why the goal is Back, unless it was the caller's wish.
    failure: Option<Error>,
    back_failures: u32,
    /// Since when taking back waits for QEMU.
    back_waits: Option<Instant>,
    interval: Duration,
    rate: Rate,
}

impl Worker {
    pub(super) fn new(engine: Engine, shared: Arc<Shared>) -> Self {
        Self {
            taken: taken(&engine),
            engine,
            shared,
            failure: None,
            back_failures: 0,
            back_waits: None,
            interval: FIRST_WITHOUT_EVENTS,
            rate: Rate::default(),
        }
    }

    /// Runs the operation to its end, or until it is detached.
    pub(super) fn run(mut self) {
        loop {
            let requests = self.shared.requests();
            if requests.detach {
                return;
            }
            let goal = if self.failure.is_some() || requests.cancel {
                Goal::Back
            } else {
                Goal::Forward
            };
            let news = self.shared.news();
            let seen = match self.engine.observe() {
                Ok(seen) => seen,
                Err(error) if self.carries_on(goal, &error) => continue,
                Err(error) => return self.give_up(error),
            };
            let step = next(&seen, goal);
            log::debug!("{goal:?}: {step:?} from {seen:?}");
            self.publish(&seen, goal, step);
            let result = match step {
                Step::Done => return self.conclude(goal),
                Step::Fail(failure) => Err(self.engine.explain(failure)),
                Step::AwaitJobs if goal == Goal::Back && self.waited_enough() => {
                    let error = self.never_ends();
                    return self.give_up(error);
                }
                Step::AwaitJobs | Step::AwaitFinish => {
                    self.wait(news, step);
                    Ok(())
                }
                step => {
                    self.interval = FIRST_WITHOUT_EVENTS;
                    self.engine.perform(step)
                }
            };
            if let Err(error) = result
                && !self.carries_on(goal, &error)
            {
                return self.give_up(error);
            }
        }
    }

    /// Whether the loop goes on after `error`: over a new connection, or back instead of forward.
    fn carries_on(&mut self, goal: Goal, error: &Error) -> bool {
        if error.code() == ErrorCode::NoConnection {
            log::warn!("{error}; connecting again");
            match self.reconnect() {
                Ok(()) => return true,
                Err(error) => log::error!("{error}"),
            }
            return false;
        }
        match goal {
            Goal::Forward => {
                log::info!("turning back: {error}");
                // A cancel that made a step fail is a cancel.
                if error.code() != ErrorCode::Cancelled {
                    self.failure = Some(error.clone());
                }
                true
            }
            Goal::Back => {
                self.back_failures += 1;
                log::warn!("taking back: {error}");
                let news = self.shared.news();
                self.shared.await_news(news, BACK_AGAIN);
                self.back_failures < BACK_ATTEMPTS
            }
        }
    }

    fn waited_enough(&mut self) -> bool {
        self.back_waits.get_or_insert_with(Instant::now).elapsed() > BACK_PATIENCE
    }

    fn never_ends(&self) -> Error {
        Error::new(
            ErrorCode::JobFailed,
            format!(
                "QEMU has been asked to end the block job of domain '{}' and has not for {BACK_PATIENCE:?}; \
                 its destination hangs; mend the storage, and the job will end by itself",
                self.engine.plan().guest.name()
            ),
        )
    }

    fn reconnect(&mut self) -> Result<()> {
        let deadline = Instant::now() + RECONNECT;
        loop {
            match self.engine.reconnect() {
                Err(error) if Instant::now() >= deadline || self.shared.requests().detach => return Err(error),
                Err(_) => {
                    let news = self.shared.news();
                    self.shared.await_news(news, RECONNECT_AGAIN);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    fn wait(&mut self, news: u64, step: Step) {
        let at_most = if self.engine.has_events() {
            WITH_EVENTS
        } else {
            let now = self.interval;
            self.interval = (now * 3 / 2).min(LAST_WITHOUT_EVENTS);
            now
        };
        // At READY only a finish, a cancel or an accident can come.
        let at_most = if step == Step::AwaitFinish {
            at_most.max(LAST_WITHOUT_EVENTS)
        } else {
            at_most
        };
        self.shared.await_news(news, at_most);
    }

    fn publish(&mut self, seen: &Observed, goal: Goal, step: Step) {
        let left = model::plan(seen, goal, &self.taken).len();
        let (done, total) = self.engine.bytes();
        let rate = self.rate.look(self.shared.began().elapsed(), done);
        let now = phase(seen, goal, step);
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
        let (phase, result) = match (goal, self.failure, self.engine.report()) {
            (Goal::Forward, _, Some(report)) => (Phase::Done, Ok(report)),
            (Goal::Forward, _, None) => failed(Error::new(
                ErrorCode::Internal,
                "the operation ended without a point in time",
            )),
            (Goal::Back, Some(error), _) => failed(error),
            (Goal::Back, None, _) => {
                let name = self.engine.plan().guest.name();
                let message = format!("the operation on domain '{name}' was cancelled and taken back");
                (Phase::Cancelled, Err(Error::new(ErrorCode::Cancelled, message)))
            }
        };
        log::info!("{}: {result:?}", phase.name());
        let taken_back = goal == Goal::Back;
        self.shared.conclude(phase, Outcome { result, taken_back });
    }

    /// Taking back did not work either: the record stays, so that what is left can be found and settled.
    fn give_up(self, error: Error) {
        let told = match self.failure {
            Some(first) if first != error => Error::new(
                first.code(),
                format!(
                    "{}; and taking it back failed: {}; what is left is named in the domain's metadata",
                    first.message(),
                    error.message()
                ),
            )
            .with_libvirt_code(first.libvirt_code()),
            _ => error,
        };
        let outcome = Outcome {
            result: Err(told),
            taken_back: false,
        };
        self.shared.conclude(Phase::Failed, outcome);
    }
}

/// Which destinations are the caller's own, and so never removed.
pub(super) fn taken(engine: &Engine) -> Vec<bool> {
    use crate::image::Place;
    engine
        .plan()
        .disks
        .iter()
        .map(|disk| disk.place != Place::Free)
        .collect()
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
