// SPDX-License-Identifier: LGPL-2.1-or-later
//! The process that runs an operation, and whether it still does.

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How long an owner that cannot be looked at counts as living after its last sign of life.
const LEASE: Duration = Duration::from_secs(60);

/// A process, distinguished from every other one, also from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) host: String,
    /// /etc/machine-id.
    machine: Option<String>,
    /// The kernel's id of this boot.
    boot: String,
    /// Process numbers are those of this namespace.
    namespace: String,
    program: String,
    pub(crate) process: u32,
    /// Clock ticks since boot.
    start: u64,
    since: SystemTime,
    /// Until then it counts as living where it cannot be looked at.
    lease: SystemTime,
    /// It has released the operation.
    released: bool,
}

impl Owner {
    /// This process.
    pub(crate) fn this() -> Self {
        let process = std::process::id();
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let machine = text("/etc/machine-id");
        let start = Stat::of(&format!("/proc/{process}")).map_or(0, |stat| stat.start);
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            machine: (!machine.is_empty()).then_some(machine),
            boot: text("/proc/sys/kernel/random/boot_id"),
            namespace: namespace.to_string_lossy().into_owned(),
            program: text("/proc/self/comm"),
            process,
            start,
            since: since(start),
            lease: SystemTime::now() + LEASE,
            released: false,
        }
    }

    /// Gives a sign of life.
    pub(crate) fn renew(&mut self) {
        self.lease = SystemTime::now() + LEASE;
    }

    /// It gives no sign of life for so long.
    pub(crate) fn renew_for(&mut self, time: Duration) {
        self.renew();
        self.lease = self.lease.checked_add(time).unwrap_or(self.lease);
    }

    /// It gave no sign of life for so long that others may have taken over what it owns.
    pub(crate) fn has_overslept(&self) -> bool {
        SystemTime::now() > self.lease
    }

    pub(crate) fn is_same_process(&self, other: &Self) -> bool {
        let process = |owner: &Self| (owner.boot.clone(), owner.namespace.clone(), owner.process, owner.start);
        process(self) == process(other)
    }

    pub(crate) fn release(&mut self) {
        self.released = true;
    }

    /// Whether what it owned does not continue. A process of this boot can be looked at, one of an earlier boot of this
    /// machine is dead, and all others count as living as long as their lease runs.
    pub(crate) fn is_dead(&self) -> bool {
        let here = Self::this();
        if self.released {
            true
        } else if (&self.boot, &self.namespace) == (&here.boot, &here.namespace) {
            !is_running(self.process, self.start)
        } else if self.boot != here.boot && self.machine.is_some() && self.machine == here.machine {
            true
        } else {
            self.has_overslept()
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.program.escape_debug();
        let since = Utc(self.since);
        write!(
            f,
            "'{program}' (process {} on host {}, started {since})",
            self.process, self.host
        )
    }
}

/// In words, to the second.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{seconds} s after 1970"),
        }
    }
}

/// What /proc says of a process or a thread.
struct Stat {
    state: char,
    start: u64,
}

impl Stat {
    /// The name in field 2 may hold anything, so the count starts after its parenthesis, with field 3.
    fn of(directory: &str) -> Option<Self> {
        let text = fs::read_to_string(format!("{directory}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            start: fields.nth(18)?.parse().ok()?,
        })
    }

    fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// A process that was killed and not reaped is dead; one whose first thread alone has ended is not.
fn is_running(process: u32, start: u64) -> bool {
    let directory = format!("/proc/{process}");
    match Stat::of(&directory) {
        Some(stat) if stat.start != start => false,
        Some(stat) if stat.runs() => true,
        Some(_) => fs::read_dir(format!("{directory}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|task| Stat::of(&task.path().to_string_lossy()).is_some_and(|stat| stat.runs())),
        None => false,
    }
}

/// When a process that started so many ticks after boot did so by the clock.
fn since(start: u64) -> SystemTime {
    let now = SystemTime::now();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(' ').next().and_then(|text| text.parse().ok());
    let age = Duration::try_from_secs_f64(uptime.unwrap_or(0.0) - start as f64 / ticks as f64);
    now.checked_sub(age.unwrap_or_default()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_live_and_die() {
        let me = Owner::this();
        assert!(!me.is_dead());
        let shown = me.to_string();
        let year = &jiff::Timestamp::now().to_string()[..2];
        for part in [&format!("process {}", me.process), &me.host, &format!("started {year}")] {
            assert!(shown.contains(part), "{shown}");
        }
        let with = |change: &dyn Fn(&mut Owner)| {
            let mut owner = me.clone();
            change(&mut owner);
            owner.is_dead()
        };
        assert!(with(&|owner| owner.start += 1), "a later process of the number");
        assert!(with(&Owner::release));
        let elsewhere = |owner: &mut Owner| {
            owner.boot = "another".into();
            owner.machine = None;
        };
        assert!(!with(&elsewhere), "its lease runs");
        assert!(with(&|owner| {
            elsewhere(owner);
            owner.lease = UNIX_EPOCH;
        }));
        assert!(with(&|owner| {
            owner.boot = "an earlier one".into();
            owner.machine = Some("here".into());
            owner.lease = UNIX_EPOCH;
        }));
    }

    #[test]
    fn a_process_that_was_not_reaped_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = Stat::of(&format!("/proc/{}", child.id())).unwrap().start;
        assert!(is_running(child.id(), start));
        child.kill().unwrap();
        let killed = std::time::Instant::now();
        while is_running(child.id(), start) {
            assert!(killed.elapsed() < Duration::from_secs(10));
        }
        child.wait().unwrap();
    }
}
