// SPDX-License-Identifier: LGPL-2.1-or-later
//! An operation's progress: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use livedisk::{Phase, Progress};

use crate::stderr;

pub enum Display {
    Bar(ProgressBar),
    Lines(Lines),
    Nothing,
}

/// At most one a phase and every two seconds.
#[derive(Default)]
pub struct Lines {
    last: Option<Line>,
}

struct Line {
    phase: Phase,
    percent: u64,
    at: Instant,
}

impl Display {
    /// `plain`: no bar even on a terminal, where the log would tear it.
    pub fn new(quiet: bool, plain: bool) -> Self {
        if quiet {
            Self::Nothing
        } else if plain || !std::io::stderr().is_terminal() {
            Self::Lines(Lines::default())
        } else {
            let style = ProgressStyle::with_template("{prefix:10} [{bar:30}] {percent:>3} %  {wide_msg}");
            let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            stderr::set_bar(Some(bar.clone()));
            Self::Bar(bar)
        }
    }

    pub fn show(&mut self, progress: &Progress) {
        match self {
            Self::Bar(bar) => {
                // Of nothing everything would be done.
                bar.set_length(progress.bytes_total.max(1));
                bar.set_position(progress.bytes_done);
                bar.set_prefix(progress.phase.name());
                bar.set_message(amounts(progress));
                if progress.phase.is_final() {
                    bar.finish_and_clear();
                    stderr::set_bar(None);
                }
            }
            Self::Lines(lines) => {
                if let Some(line) = lines.next(progress, Instant::now()) {
                    stderr::say(&line);
                }
            }
            Self::Nothing => {}
        }
    }
}

impl Lines {
    /// A line for a new phase; within one where 10 % or half a minute, and two seconds, have passed since the last.
    fn next(&mut self, progress: &Progress, now: Instant) -> Option<String> {
        let percent = percent(progress);
        if let Some(last) = &self.last
            && last.phase == progress.phase
        {
            let waited = now.duration_since(last.at);
            let moved = percent >= last.percent + 10 || waited >= Duration::from_secs(30);
            if !moved || waited < Duration::from_secs(2) {
                return None;
            }
        }
        self.last = Some(Line {
            phase: progress.phase,
            percent,
            at: now,
        });
        let name = progress.phase.name();
        Some(match progress.phase {
            Phase::Copying if progress.bytes_total > 0 => format!("{name} {percent} %: {}", amounts(progress)),
            _ => format!("{name}{}", throttle(progress)),
        })
    }
}

fn percent(progress: &Progress) -> u64 {
    let percent = u128::from(progress.bytes_done) * 100 / u128::from(progress.bytes_total.max(1));
    u64::try_from(percent).unwrap_or(100)
}

/// How much, how fast, and for how long still.
fn amounts(progress: &Progress) -> String {
    let mut text = format!(
        "{} of {}",
        BinaryBytes(progress.bytes_done),
        BinaryBytes(progress.bytes_total)
    );
    if progress.phase == Phase::Copying && progress.bytes_per_second > 0 {
        let left = progress.bytes_total.saturating_sub(progress.bytes_done) / progress.bytes_per_second;
        text += &format!(
            ", {}/s, {}:{:02}:{:02} left",
            BinaryBytes(progress.bytes_per_second),
            left / 3600,
            left / 60 % 60,
            left % 60
        );
    }
    text + &throttle(progress)
}

/// That the guest is slowed down must not go unseen.
fn throttle(progress: &Progress) -> String {
    match progress.guest_write_limit {
        0 => String::new(),
        limit => format!(", the guest's writes are throttled to {}/s", BinaryBytes(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copying(bytes_done: u64) -> Progress {
        Progress {
            phase: Phase::Copying,
            step: 3,
            step_count: 9,
            bytes_done,
            bytes_total: 100 << 20,
            bytes_per_second: 1 << 20,
            elapsed: Duration::ZERO,
            guest_write_limit: 0,
        }
    }

    #[test]
    fn lines_come_with_a_phase_and_then_seldom() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let mut at = |seconds, mib: u64| lines.next(&copying(mib << 20), start + Duration::from_secs(seconds));
        assert_eq!(
            at(0, 10).unwrap(),
            "copying 10 %: 10.00 MiB of 100.00 MiB, 1.00 MiB/s, 0:01:30 left"
        );
        assert_eq!(at(1, 40), None, "too soon");
        assert_eq!(at(3, 19), None, "too little");
        assert!(at(3, 20).is_some());
        assert!(at(33, 21).is_some(), "a sign of life");
        let ready = Progress {
            phase: Phase::Ready,
            ..copying(100 << 20)
        };
        assert_eq!(lines.next(&ready, start).unwrap(), "ready");
        let finishing = Progress {
            phase: Phase::Finishing,
            guest_write_limit: 1 << 20,
            ..ready
        };
        assert_eq!(
            lines.next(&finishing, start).unwrap(),
            "finishing, the guest's writes are throttled to 1.00 MiB/s"
        );
    }
}
