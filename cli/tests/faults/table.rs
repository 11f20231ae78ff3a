// SPDX-License-Identifier: LGPL-2.1-or-later
//! What came out, as the page in docs/.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use super::cell::{Cell, Notes, Outcome};
use super::fault::{FAULTS, Fault};
use super::operation::{COURSES, Course, OPERATIONS, Operation};

#[derive(Default, Clone, Copy)]
struct Count {
    run: u32,
    passed: u32,
}

#[derive(Default)]
pub struct Table {
    counts: BTreeMap<(Operation, Course, Fault), Count>,
    recovered: BTreeMap<Fault, u32>,
    not_reached: u32,
    thaws: Vec<Duration>,
    pub failed: Vec<String>,
}

impl Table {
    pub fn add(&mut self, cell: &Cell, outcome: &Outcome) {
        let count = self
            .counts
            .entry((cell.operation, cell.course, cell.fault))
            .or_default();
        match outcome {
            Outcome::Passed(Notes {
                recovered,
                thawed_within,
            }) => {
                count.run += 1;
                count.passed += 1;
                *self.recovered.entry(cell.fault).or_default() += u32::from(*recovered);
                self.thaws.extend(thawed_within);
            }
            Outcome::Failed(wrong) => {
                count.run += 1;
                self.failed.push(format!(
                    "{cell}: {}",
                    wrong.first().map_or("", |line| line.lines().next().unwrap_or(""))
                ));
            }
            Outcome::NotReached => self.not_reached += 1,
        }
    }

    fn total(&self) -> Count {
        self.counts.values().fold(Count::default(), |sum, count| Count {
            run: sum.run + count.run,
            passed: sum.passed + count.passed,
        })
    }

    pub fn has_any(&self) -> bool {
        self.total().run > 0
    }

    pub fn summary(&self) -> String {
        let total = self.total();
        format!(
            "{} of {} cells passed; {} more were not reached",
            total.passed, total.run, self.not_reached
        )
    }

    /// The slowest and the median.
    fn thaw(&self) -> Option<(Duration, Duration)> {
        let mut thaws = self.thaws.clone();
        thaws.sort();
        Some((*thaws.last()?, thaws[thaws.len() / 2]))
    }

    pub fn page(&self, seed: u64) -> String {
        let total = self.total();
        let mut page = String::from(HEAD);
        let _ = writeln!(
            page,
            "{} of {} cells passed, of seed {seed}; {} more were not reached, because the operation did not come by at the point that time.\n\
             \"-\": left out by a rule below, or not drawn.\n",
            total.passed, total.run, self.not_reached
        );
        let faults = FAULTS.map(|fault| fault.to_string());
        let _ = writeln!(
            page,
            "| fault | {} |",
            self.columns()
                .map(|(operation, course)| format!("{operation}, {course}"))
                .collect::<Vec<_>>()
                .join(" | ")
        );
        let _ = writeln!(page, "|---|{}", self.columns().map(|_| "---|").collect::<String>());
        for (fault, name) in FAULTS.iter().zip(faults) {
            let cells: Vec<_> = self
                .columns()
                .map(
                    |(operation, course)| match self.counts.get(&(operation, course, *fault)) {
                        Some(count) if count.run > 0 => format!("{}/{}", count.passed, count.run),
                        _ => "-".to_owned(),
                    },
                )
                .collect();
            let _ = writeln!(page, "| {name} | {} |", cells.join(" | "));
        }
        if let Some((worst, median)) = self.thaw() {
            let _ = writeln!(
                page,
                "\nFrom SIGKILL of the agent to the guest's next acknowledged writes on every disk, frozen or not, before anything recovers: \
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
        let settled: Vec<_> = self
            .recovered
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(fault, count)| format!("{fault} {count}"))
            .collect();
        let settled = if settled.is_empty() {
            "none".to_owned()
        } else {
            settled.join(", ")
        };
        let _ = writeln!(
            page,
            "\nCells in which a record was left for `livedisk recover`, which settled it: {settled}."
        );
        if !self.failed.is_empty() {
            page.push_str("\n## Failed\n\n");
            for failed in &self.failed {
                let _ = writeln!(page, "- {failed}");
            }
        }
        page.push_str(REPEAT);
        let _ = writeln!(page, "\n## Versions\n\n{}", versions());
        page
    }

    fn columns(&self) -> impl Iterator<Item = (Operation, Course)> {
        OPERATIONS
            .into_iter()
            .flat_map(|operation| COURSES.map(|course| (operation, course)))
    }
}

/// Each rule with what it is about.
fn rules() -> Vec<(&'static str, String)> {
    let mut rules: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let everything = ["before PivotCopy", "before Verify"].map(str::to_owned);
    for fault in FAULTS {
        for operation in OPERATIONS {
            for rule in [fault.left_out(operation), fault.left_out_at(operation, &everything)]
                .into_iter()
                .flatten()
            {
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
being taken back. *recovering*: its process was killed there, and `livedisk recover` is settling what it left.

Then, on a real guest that writes numbered records on two disks without pause: where the agent's process is gone a new one
runs `livedisk recover`; where the guest is gone it is started. After that the guest is thawed and writes; no
acknowledged record is lost, torn or out of order, and its file systems are whole; `virsh dumpxml`, live and inactive, is as
before or as after an undisturbed run, the same of both; there is no block job, no snapshot, no checkpoint, no record of an
operation; and of files only what the table below allows. An image that is there is whole; an agent that said that it
succeeded left what it said.

";

const LEFTOVERS: &str = "
## What may be left

| when | what |
|---|---|
| the operation was completed, by its own process or by recover | its images, all of them and whole; behind a migration also the old image |
| it was taken back, or failed | nothing |
| an image or export that was there before and was to be used again | itself, with anything in it |
";

const REPEAT: &str = "
## How to repeat

    make faults                                        # every cell: hours
    LIVEDISK_FAULTS=100 make faults                    # so many at random
    LIVEDISK_FAULTS_SEED=20260101 make faults          # in the same order, with the same delays
    LIVEDISK_FAULTS_CELL='migrate clone, forward, before PivotCopy, QEMU SIGKILL' make faults
    LIVEDISK_FAULTS_CELL='snapshot mirror, connection cut' make faults

A cell's name is what a failure prints; with a part of it, all cells that have that part are run. `make test` runs a sample of eight, of the day's seed.
";
