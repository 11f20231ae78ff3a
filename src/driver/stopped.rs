// SPDX-License-Identifier: LGPL-2.1-or-later
//! Letting a guest go, until it is certain that it is.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::guest::{AgentStatus, Guest};
use crate::error::{ErrorCode, Result};
use crate::libvirt::State;

/// Between two attempts; each is twice as long as the one before.
const FIRST_AGAIN: Duration = Duration::from_millis(50);
const LAST_AGAIN: Duration = Duration::from_secs(1);
/// How long libvirt may be away before the guest is given up.
const AWAY: Duration = Duration::from_secs(3600);
/// How long the agent is given for such an attempt, in seconds.
const PATIENCE: u32 = 5;
/// How long a request of a process that is gone may be on its way through libvirt.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a guest may be stopped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopped {
    /// Its file systems are frozen.
    pub(crate) frozen: bool,
    /// Its vCPUs are paused.
    pub(crate) paused: bool,
}

impl Guest {
    /// Thaws and resumes, again and again: a guest whose agent hangs may freeze when it wakes, long after the request.
    /// Returns when the guest is certain to run, or is gone, or libvirt is.
    pub(crate) fn let_go_until_certain(&self, stopped: Stopped) {
        let mut again = FIRST_AGAIN;
        let mut reached = Instant::now();
        loop {
            if matches!(self.get_power_state(), Ok(State::Off)) {
                return;
            }
            match self.let_go(stopped) {
                Ok(()) => return log::info!("domain '{}' runs", self.name()),
                Err(error) => log::debug!("{error}"),
            }
            match self.reconnect() {
                Ok(()) => reached = Instant::now(),
                Err(error) if reached.elapsed() > AWAY => return log::error!("{error}; giving up"),
                Err(error) => log::debug!("{error}"),
            }
            thread::sleep(again);
            again = (again * 2).min(LAST_AGAIN);
        }
    }

    /// A request that somebody made just before may be carried out still: each call here waits for one that libvirt is
    /// at, and where nothing was thawed one may be on its way to libvirt.
    fn let_go(&self, stopped: Stopped) -> Result<()> {
        if stopped.paused {
            self.resume_if_it_can()?;
        }
        let mut thawed = 0;
        if stopped.frozen {
            // As a backup that failed does, and then it cannot be thawed.
            if self.is_stopped_by_io_error()? {
                self.resume_if_it_can()?;
            }
            self.set_agent_timeout(Some(PATIENCE))?;
            thawed = self.fs_thaw()?;
        }
        let patient_until = Instant::now() + ON_ITS_WAY;
        while thawed == 0 && Instant::now() < patient_until {
            thread::sleep(LOOK_AGAIN);
            if stopped.paused && self.get_power_state()? == State::Paused {
                self.resume_if_it_can()?;
            }
            if stopped.frozen && self.get_agent_status() == AgentStatus::Frozen {
                thawed = self.fs_thaw()?;
            }
        }
        if stopped.frozen {
            self.set_agent_timeout(None)?;
        }
        Ok(())
    }

    /// Thaws what a process that is gone may have left frozen; how many file systems it was.
    pub(crate) fn thaw_left(&self) -> Result<u32> {
        self.set_agent_timeout(Some(PATIENCE))?;
        let thawed = self.fs_thaw();
        self.set_agent_timeout(None)?;
        let thawed = thawed?;
        log::info!("domain '{}': {thawed} file systems thawed", self.name());
        Ok(thawed)
    }

    /// One that suspended itself wakes by itself.
    fn resume_if_it_can(&self) -> Result<()> {
        match self.resume() {
            Err(error) if error.code() == ErrorCode::DomainState => Ok(()),
            other => other,
        }
    }
}
