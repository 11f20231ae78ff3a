// SPDX-License-Identifier: LGPL-2.1-or-later
//! An operation's progress: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::BinaryBytes;
use livedisk::{Phase, Progress};
use terminal_size::{Width, terminal_size_of};

use crate::args::Arguments;
use crate::{stderr, words};

/// Of a terminal whose width is not known.
const USUAL_WIDTH: u16 = 80;
/// At the end of the line there is room for the `^C` that a terminal echoes.
const ECHO: usize = 3;
const BAR: std::ops::RangeInclusive<usize> = 10..=30;

pub enum Display {
    /// At the foot of a terminal.
    Foot,
    Lines(Lines, Steps),
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

/// The steps in words, for those who want them.
#[derive(Default)]
pub struct Steps {
    plan: Vec<String>,
    shown: usize,
}

impl Display {
    pub fn new(arguments: &Arguments, dry_run: bool, plan: &[String]) -> Self {
        if arguments.is_quiet() || dry_run {
            Self::Nothing
        } else if arguments.verbose > 0 {
            let plan = plan.iter().map(|step| words::ours(step)).collect();
            Self::Lines(Lines::default(), Steps { plan, shown: 0 })
        } else if !std::io::stderr().is_terminal() {
            Self::Lines(Lines::default(), Steps::default())
        } else {
            stderr::show_foot(true);
            Self::Foot
        }
    }

    pub fn show(&mut self, progress: &Progress, cancelling: bool) {
        match self {
            Self::Foot if progress.phase.is_final() => stderr::show_foot(false),
            Self::Foot => {
                let width = terminal_size_of(std::io::stderr()).map_or(USUAL_WIDTH, |(Width(width), _)| width);
                stderr::set_foot(&line(progress, usize::from(width), cancelling));
            }
            Self::Lines(lines, steps) => {
                for line in steps.next(progress) {
                    stderr::say(&line);
                }
                if let Some(line) = lines.next(progress, Instant::now()) {
                    stderr::say(&line);
                }
            }
            Self::Nothing => {}
        }
    }
}

impl Steps {
    /// Those that have begun since the last look. What is rolled back has no steps to show.
    fn next(&mut self, progress: &Progress) -> Vec<String> {
        let all = self.plan.len();
        let begun = match progress.phase {
            Phase::Done => all,
            Phase::Failed | Phase::Cancelled => self.shown,
            _ => {
                let left = progress.step_count.saturating_sub(progress.step);
                let left = usize::try_from(left).unwrap_or(all);
                all.min((all + 1).saturating_sub(left))
            }
        };
        let shown = self.shown;
        self.shown = begun.max(shown);
        // The plan of an operation that was attached to has only what was left of it.
        let before = usize::try_from(progress.step_count).unwrap_or(all).saturating_sub(all);
        (shown..self.shown)
            .map(|index| format!("step {} of {}: {}", before + index + 1, before + all, self.plan[index]))
            .collect()
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
            Phase::Copying if progress.bytes_total > 0 => format!("{name} {percent} %: {}", copied(progress)),
            _ => format!("{name}{}", throttles(progress)[0]),
        })
    }
}

fn percent(progress: &Progress) -> u64 {
    let percent = u128::from(progress.bytes_done) * 100 / u128::from(progress.bytes_total.max(1));
    u64::try_from(percent).unwrap_or(100)
}

/// The line at the foot of a terminal of this width: all that fits, the most important last to go.
fn line(progress: &Progress, width: usize, cancelling: bool) -> String {
    let room = width.saturating_sub(ECHO);
    let limits = throttles(progress);
    let name = progress.phase.name();
    let details: Vec<String> = if cancelling {
        vec!["cancelling".into()]
    } else if progress.bytes_total == 0 {
        vec![name.into()]
    } else {
        let head = format!("{name} {} %", percent(progress));
        let [rate, left] = [rate(progress), left(progress)].map(Option::unwrap_or_default);
        vec![
            format!("{head}: {}{rate}{left}", amounts(progress)),
            format!("{head}{rate}{left}"),
            format!("{head}{left}"),
            head,
        ]
    };
    let lines = details
        .iter()
        .flat_map(|detail| limits.iter().map(move |limit| format!("{detail}{limit}")));
    let lines: Vec<String> = lines.collect();
    let fits = |line: &&String| line.chars().count() <= room;
    let Some(line) = lines.iter().find(fits) else {
        return lines
            .last()
            .map(|line| line.chars().take(room).collect())
            .unwrap_or_default();
    };
    // "[] " is three wide.
    let bar = room.saturating_sub(line.chars().count() + 3).min(*BAR.end());
    if cancelling || progress.bytes_total == 0 || bar < *BAR.start() {
        return line.clone();
    }
    let done = usize::try_from(percent(progress)).unwrap_or(100).min(100) * bar / 100;
    format!("[{}{}] {line}", "#".repeat(done), "-".repeat(bar - done))
}

/// How much, how fast, and for how long still.
fn copied(progress: &Progress) -> String {
    let [rate, left] = [rate(progress), left(progress)].map(Option::unwrap_or_default);
    format!("{}{rate}{left}{}", amounts(progress), throttles(progress)[0])
}

fn amounts(progress: &Progress) -> String {
    let (done, total) = (BinaryBytes(progress.bytes_done), BinaryBytes(progress.bytes_total));
    format!("{done} of {total}")
}

fn rate(progress: &Progress) -> Option<String> {
    let copies = progress.phase == Phase::Copying && progress.bytes_per_second > 0;
    copies.then(|| format!(", {}/s", BinaryBytes(progress.bytes_per_second)))
}

fn left(progress: &Progress) -> Option<String> {
    rate(progress)?;
    let left = progress.bytes_total.saturating_sub(progress.bytes_done) / progress.bytes_per_second;
    Some(format!(", {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60))
}

/// That the guest is slowed down must not go unseen: long, short and shortest.
fn throttles(progress: &Progress) -> [String; 3] {
    match progress.guest_write_limit {
        0 => Default::default(),
        limit => {
            let limit = BinaryBytes(limit);
            [
                format!(", the guest's writes are throttled to {limit}/s"),
                format!(", guest throttled to {limit}/s"),
                ", guest throttled".into(),
            ]
        }
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

    #[test]
    fn the_line_fits_any_terminal() {
        let slow = |limit| Progress {
            bytes_done: 450 << 30,
            bytes_total: 1000 << 30,
            bytes_per_second: 100 << 20,
            guest_write_limit: limit,
            ..copying(0)
        };
        let finishing = Progress {
            phase: Phase::Finishing,
            ..slow(1023 << 20)
        };
        for width in 40..200 {
            for progress in [slow(0), slow(999 << 20), finishing, copying(0)] {
                for cancelling in [false, true] {
                    let line = line(&progress, width, cancelling);
                    assert!(line.chars().count() + ECHO <= width, "{width}: {line}");
                    assert_eq!(
                        line.contains("throttled"),
                        progress.guest_write_limit > 0,
                        "{width}: {line}"
                    );
                    assert_eq!(line.contains('%'), !cancelling, "{width}: {line}");
                }
            }
        }
        assert_eq!(line(&slow(0), 40, false), "copying 45 %, 1:33:52 left");
        assert_eq!(
            line(&slow(0), 80, false),
            "copying 45 %: 450.00 GiB of 1000.00 GiB, 100.00 MiB/s, 1:33:52 left"
        );
        assert_eq!(
            line(&slow(0), 100, false),
            "[############---------------] copying 45 %: 450.00 GiB of 1000.00 GiB, 100.00 MiB/s, 1:33:52 left"
        );
    }

    #[test]
    fn steps_are_shown_as_they_begin() {
        let mut steps = Steps {
            plan: ["one", "two", "three"].map(str::to_owned).to_vec(),
            shown: 0,
        };
        let at = |step, phase| Progress {
            phase,
            step,
            step_count: 5,
            ..copying(0)
        };
        // Of five, two were done before.
        assert_eq!(steps.next(&at(2, Phase::Copying)), ["step 3 of 5: one"]);
        assert_eq!(steps.next(&at(2, Phase::Copying)), [""; 0]);
        assert_eq!(
            steps.next(&at(4, Phase::Copying)),
            ["step 4 of 5: two", "step 5 of 5: three"]
        );
        assert_eq!(steps.next(&at(5, Phase::Done)), [""; 0]);
    }
}
