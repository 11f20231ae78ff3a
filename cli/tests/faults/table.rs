// SPDX-License-Identifier: LGPL-2.1-or-later
//! What came out, as the page in docs/.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use super::cell::{Cell, Notes, Outcome};
use super::fault::{FAULTS, Fault, hang};
use super::keep::first_line;
use super::operation::{COURSES, Course, OPERATIONS, Operation};

#[derive(Default, Clone, Copy)]
struct Count {
    /// Cells that there are.
    all: u32,
    passed: u32,
    failed: u32,
    not_reached: u32,
}

impl Count {
    fn run(self) -> u32 {
        self.passed + self.failed
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            all: sum.all + count.all,
            passed: sum.passed + count.passed,
            failed: sum.failed + count.failed,
            not_reached: sum.not_reached + count.not_reached,
        })
    }
}

type Key = (Operation, Course, Fault);
/// Whether a count is of this row.
type Row = Box<dyn Fn(Key) -> bool>;

#[derive(Default)]
pub struct Table {
    counts: BTreeMap<Key, Count>,
    recovered: BTreeMap<Fault, u32>,
    lost: u32,
    restarted: u32,
    deaf: u32,
    thaws: Vec<Duration>,
    pub failed: Vec<String>,
}

impl Table {
    fn count(&mut self, cell: &Cell) -> &mut Count {
        let key = (cell.operation, cell.course, cell.fault);
        self.counts.entry(key).or_default()
    }

    /// There is such a cell, whether it is run or not.
    pub fn announce(&mut self, cell: &Cell) {
        self.count(cell).all += 1;
    }

    pub fn add(&mut self, cell: &Cell, outcome: &Outcome) {
        match outcome {
            Outcome::Passed(Notes {
                recovered,
                lost,
                restarted,
                deaf,
                thawed_within,
            }) => {
                self.lost += u32::from(*lost);
                self.restarted += u32::from(*restarted);
                self.deaf += u32::from(*deaf);
                self.count(cell).passed += 1;
                *self.recovered.entry(cell.fault).or_default() += u32::from(*recovered);
                self.thaws.extend(thawed_within);
            }
            Outcome::Failed(wrong) => {
                self.count(cell).failed += 1;
                self.failed.push(format!("{cell}: {}", first_line(wrong)));
            }
            Outcome::NotReached => self.count(cell).not_reached += 1,
        }
    }

    fn total(&self) -> Count {
        self.counts.values().copied().sum()
    }

    pub fn has_any(&self) -> bool {
        self.total().run() > 0
    }

    pub fn summary(&self) -> String {
        let total = self.total();
        format!(
            "{} cells were run: {} passed, {} failed; {} more were not reached",
            total.run(),
            total.passed,
            total.failed,
            total.not_reached
        )
    }

    /// The slowest and the median.
    fn thaw(&self) -> Option<(Duration, Duration)> {
        let mut thaws = self.thaws.clone();
        thaws.sort();
        Some((*thaws.last()?, thaws[thaws.len() / 2]))
    }

    /// `rerun`: cells that failed before, and were run again.
    pub fn page(&self, seed: u64, rerun: &[String]) -> String {
        let total = self.total();
        let mut page = String::from(HEAD);
        let _ = writeln!(
            page,
            "There are {} such cells. Of them {} were run, with seed {seed}: **{} passed, \
             {} failed**, and {} were not reached, because the operation did not come by at that point this time. Nothing is \
             said of the others. A destination that hangs does so for {} s.\n",
            total.all,
            total.run() + total.not_reached,
            total.passed,
            total.failed,
            total.not_reached,
            hang().as_secs()
        );
        if !rerun.is_empty() {
            let _ = writeln!(
                page,
                "They were run in parts. {} cells failed at first and count as they came out when they were run again, after the faults \
                 found were fixed; they are named below.\n",
                rerun.len()
            );
        }
        let _ = writeln!(
            page,
            "Passed / failed / not reached, of how many there are; \"-\": left out by a rule below.\n"
        );
        let rows = FAULTS.map(|fault| (fault.to_string(), Box::new(move |key: Key| key.2 == fault) as Row));
        self.counts_by(&mut page, "fault", rows);
        let rows = COURSES.map(|course| (course.to_string(), Box::new(move |key: Key| key.1 == course) as Row));
        self.counts_by(&mut page, "course", rows);
        if let Some((worst, median)) = self.thaw() {
            let _ = writeln!(
                page,
                "From SIGKILL of the agent to the guest's next acknowledged writes on every disk, frozen or not, before anything recovers: \
                 median {} ms, worst {} ms of {} cells.",
                median.as_millis(),
                worst.as_millis(),
                self.thaws.len()
            );
        }
        page.push_str("\n## Left out\n\n");
        for (rule, cells) in rules() {
            let _ = writeln!(page, "- {cells}: {rule}.");
        }
        page.push_str(LEFTOVERS);
        let resolved: Vec<_> = self
            .recovered
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(fault, count)| format!("{fault} {count}"))
            .collect();
        let resolved = if resolved.is_empty() {
            "none".to_owned()
        } else {
            resolved.join(", ")
        };
        let _ = writeln!(
            page,
            "\nCells in which a record was left for `livedisk recover`, which resolved it: {resolved}."
        );
        let _ = writeln!(
            page,
            "\nCells in which libvirtd died while it was tidying up after a block job, and knew nothing of the domain when it was \
             back, or not where its disk is, or kept a job that does not exist (docs/operations.md); there the guest's QEMU was \
             ended as well, before recover: {}.\n\n\
             Cells in which the guest gave up its file systems, because its own disk failed (a source that cannot be read \
             fails writes above an overlay or during a backup; docs/limits.md), and was started anew: {}.\n\n\
             Cells in which libvirt lost the agent of a guest that was well, during a backup, until it was started anew \
             (docs/operations.md): {}.",
            self.lost, self.restarted, self.deaf
        );
        if !self.failed.is_empty() {
            page.push_str("\n## Failed\n\n");
            for failed in &self.failed {
                let _ = writeln!(page, "- {failed}");
            }
        }
        if !rerun.is_empty() {
            page.push_str("\n## Failed at first, and run again\n\n");
            for failed in rerun {
                let _ = writeln!(page, "- {failed}");
            }
        }
        page.push_str(REPEAT);
        let _ = writeln!(page, "\n## Versions\n\n{}", versions());
        page
    }

    /// A table of what each row's filter takes, a column an operation.
    fn counts_by<const N: usize>(&self, page: &mut String, what: &str, rows: [(String, Row); N]) {
        let names = OPERATIONS.map(|operation| operation.to_string());
        let _ = writeln!(page, "| {what} | {} |", names.join(" | "));
        let _ = writeln!(page, "|---|{}", "---|".repeat(names.len()));
        for (name, is_in_row) in rows {
            let cells = OPERATIONS.map(|operation| {
                let counts = self
                    .counts
                    .iter()
                    .filter(|(key, _)| key.0 == operation && is_in_row(**key));
                let count: Count = counts.map(|(_, count)| *count).sum();
                match count {
                    Count { all: 0, .. } => "-".to_owned(),
                    Count {
                        all,
                        passed,
                        failed,
                        not_reached,
                    } => format!("{passed} / {failed} / {not_reached} of {all}"),
                }
            });
            let _ = writeln!(page, "| {name} | {} |", cells.join(" | "));
        }
        page.push('\n');
    }
}

/// Each rule with what it is about.
fn rules() -> Vec<(&'static str, String)> {
    let mut rules: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let everything = ["before PivotCopy", "before Verify"].map(str::to_owned);
    let waits = ["before AwaitJobs".to_owned()];
    for fault in FAULTS {
        for operation in OPERATIONS {
            let found = [
                fault.left_out(operation),
                fault.left_out_at(operation, &everything),
                fault.left_out_during(operation, &waits),
            ];
            for rule in found.into_iter().flatten() {
                rules.entry(rule).or_default().push(format!("{operation}, {fault}"));
            }
        }
    }
    rules
        .into_iter()
        .map(|(rule, cells)| (rule, cells.join("; ")))
        .collect()
}

fn versions() -> String {
    let first_line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    [
        format!("livedisk {}", env!("CARGO_PKG_VERSION")),
        first_line("libvirtd", &["--version"]),
        first_line("qemu-system-x86_64", &["--version"]),
        format!("Linux {}", first_line("uname", &["-r"])),
    ]
    .join("; ")
}

const HEAD: &str = "\
<!-- SPDX-License-Identifier: LGPL-2.1-or-later -->
<!-- Written by `make faults`; not by hand. -->
# Fault matrix

Each operation is held before and after each of its steps, inside the freeze window, or let go for a random moment into a
step; then something goes wrong. *forward*: the operation goes on. *cancelled*: it was cancelled as late as it can be and is
being rolled back. *recovering*: its process was killed there, and `livedisk recover` is cleaning up what it left. *astray*: that,
and libvirtd died in the pivot of a migration's copy before it could record it, so that QEMU is on an image that libvirt does
not name.

Then, on a real guest that writes numbered records on two disks without pause: where the agent's process is gone a new one
runs `livedisk recover`; where the guest is gone it is started. After that the guest is thawed and writes; no
acknowledged record is lost, torn or out of order, and its file systems are whole; `virsh dumpxml`, live and inactive, is as
before or as after an undisturbed run, the same of both; there is no block job, no snapshot, no checkpoint, no record of an
operation; QEMU has the images open that libvirt names and no others; and of files only what the table below allows. An
image that is there is whole; an agent that reported success left what it reported. Every turn of an operation's loop follows from the
model that the property tests check (`src/operation/course/held.rs`).

";

const LEFTOVERS: &str = "
## What may be left

| when | what |
|---|---|
| the operation was completed, by its own process or by recover | its images, all of them and whole; after a migration also the old image |
| it was rolled back, or failed | nothing |
| an image or export that was there before and was to be used again | itself, with anything in it |
";

const REPEAT: &str = "
## How to repeat

    make faults                                        # every cell: hours
    LIVEDISK_FAULTS=100 make faults                    # so many at random
    LIVEDISK_FAULTS_MINUTES=30 make faults             # or as many as there is time for
    LIVEDISK_FAULTS_KEEP=/tmp/kept make faults         # what is in the file is not run again, unless it failed; the rest is added
    LIVEDISK_FAULTS_SEED=20260101 make faults          # in the same order, with the same delays
    LIVEDISK_FAULTS_CELL='migrate clone, forward, before PivotCopy, QEMU SIGKILL' make faults
    LIVEDISK_FAULTS_CELL='snapshot mirror, connection cut' make faults

A cell's name is what a failure prints; with a part of it, all cells that have that part are run. `make test` runs a sample of eight, the same ones every day.
";
