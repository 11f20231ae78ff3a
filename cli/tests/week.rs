// SPDX-License-Identifier: LGPL-2.1-or-later
//! A backup operator's week, with the command alone, as docs/checkpoints.md has it.

mod bed;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use bed::{Bed, kill, text, until};
use signal_hook::consts::SIGKILL;

const DAYS: [&str; 6] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday"];

/// The commands of each day, from the page.
fn script() -> Vec<String> {
    let page = include_str!("../../docs/checkpoints.md");
    let (_, from) = page.split_once("## A week").expect("the page has a week");
    let (_, from) = from.split_once("```sh\n").unwrap();
    let (block, _) = from.split_once("```").unwrap();
    let block = block.replace("\\\n", " ");
    let lines = block
        .lines()
        .map(|line| line.split(" #").next().unwrap().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

struct Operator {
    bed: Bed,
    script: Vec<String>,
}

impl Operator {
    fn command(&self, line: &str) -> Command {
        let path = Path::new(env!("CARGO_BIN_EXE_livedisk")).parent().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", &line.replace("/backup", &self.bed.path("backup"))])
            .env("PATH", format!("{}:{}", path.display(), std::env::var("PATH").unwrap()))
            .env("LIVEDISK_GUARD", path.join("livedisk-guard"))
            .env("LIBVIRT_DEFAULT_URI", self.bed.get("URI"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        let output = self.command(line).output().unwrap();
        println!("{line}\n{}{}", text(&output.stdout), text(&output.stderr));
        output
    }

    /// A day's backup, and what follows it on the page.
    fn of_day(&self, day: &str) -> (&String, &[String]) {
        let backup = |line: &String| line.contains("snapshot") && line.contains(&format!("/{day} "));
        let first = self.script.iter().position(backup).unwrap();
        let rest = &self.script[first + 1..];
        let next = rest
            .iter()
            .position(|line| line.contains("snapshot"))
            .unwrap_or(rest.len());
        (&self.script[first], &rest[..next])
    }

    fn must_run(&self, lines: &[String]) {
        lines
            .iter()
            .for_each(|line| assert!(self.run(line).status.success(), "{line}"));
    }

    /// All of a day; what the command says of its backup.
    fn day(&self, day: &str) -> String {
        let (backup, rest) = self.of_day(day);
        let output = self.run(backup);
        assert!(output.status.success(), "{backup}");
        self.must_run(rest);
        text(&output.stdout) + &text(&output.stderr)
    }

    /// The day's backup is killed while it copies.
    fn interrupt(&self, day: &str) {
        let (backup, _) = self.of_day(day);
        let slow = backup.replace("livedisk snapshot", "exec livedisk snapshot --bandwidth 256K");
        let mut child = self.command(&slow).stderr(Stdio::null()).spawn().unwrap();
        until("it copies", || {
            let answer = self.bed.json(0, &["status", "guest"]);
            answer["operations"][0]["mark"] == "fixed"
        });
        assert!(self.checkpoints().contains(&day.to_owned()));
        kill(child.id(), SIGKILL);
        child.wait().unwrap();
    }

    fn last_record(&self, day: &str, target: &str) -> u64 {
        let format = if target == "vdb" { "raw" } else { "qcow2" };
        let image = self.bed.path(&format!("backup/{day}/{target}.{format}"));
        let records = Command::new(self.bed.get("RECORDS"))
            .args([&image, "--format", format, "--json"])
            .output()
            .unwrap();
        let said = text(&records.stdout);
        assert!(records.status.success(), "{day}, {target}: {said}");
        let found: serde_json::Value = serde_json::from_str(&said).unwrap();
        found["last"].as_u64().unwrap()
    }

    fn checkpoints(&self) -> Vec<String> {
        let answer = self.bed.json(0, &["checkpoints", "guest"]);
        let list = answer["checkpoints"].as_array().unwrap();
        list.iter()
            .map(|found| found["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn write(&self) {
        let before = self.bed.records_written();
        until("the guest writes", || self.bed.records_written() > before + 8);
    }

    fn start(&self) {
        until("it is off", || {
            self.bed.virsh(&["domstate", "guest"]).contains("shut off")
        });
        self.bed.virsh(&["start", "guest"]);
        self.write();
    }
}

#[test]
fn a_week_with_the_command_alone() {
    let bed = Bed::up("ldweek", &["name=guest,disks=qcow2:32M+raw:16M,data=2M"]);
    std::fs::create_dir(bed.path("backup")).unwrap();
    let operator = Operator { bed, script: script() };
    let bed = &operator.bed;
    let made = operator.run(&operator.script[0]);
    assert!(made.status.success() && operator.script[0].starts_with("mkdir"));
    operator.write();
    let said = operator.day("sunday");
    assert!(!said.contains("copied whole"), "{said}");
    operator.write();
    let said = operator.day("monday");
    assert!(said.contains("copied whole 1 of 2 disks"), "{said}");
    assert!(
        said.contains("'vdb'") && said.contains("format raw keeps no bitmaps"),
        "{said}"
    );
    assert_eq!(operator.checkpoints(), ["monday"]);
    // Restarted.
    bed.virsh(&["destroy", "guest"]);
    operator.start();
    operator.day("tuesday");
    // Moved.
    let moved = bed.path("moved.qcow2");
    bed.json(0, &["migrate", "guest", "vda", &moved, "--delete-source"]);
    operator.write();
    // And the backup killed in the middle, and completed by another process.
    operator.interrupt("wednesday");
    let answer = bed.json(0, &["attach", "guest", "vda"]);
    assert_eq!(
        (&answer["method"], &answer["full_disks"]),
        (&"backup".into(), &1.into()),
        "{answer}"
    );
    let remarks = answer["remarks"].to_string();
    assert!(remarks.contains("disk 'vdb' is copied whole"), "{answer}");
    let (_, rest) = operator.of_day("wednesday");
    operator.must_run(rest);
    assert_eq!(operator.checkpoints(), ["wednesday"]);
    // Killed.
    let pid = std::fs::read_to_string(bed.get("PIDFILE_1")).unwrap();
    kill(pid.trim().parse().unwrap(), SIGKILL);
    operator.start();
    let (backup, _) = operator.of_day("thursday");
    let refused = operator.run(&backup.replace("--full-if-needed", ""));
    let said = text(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && said.contains("'wednesday'") && said.contains("--full-if-needed"),
        "{said}"
    );
    let said = operator.day("thursday");
    assert!(
        said.contains("copied whole 2 of 2 disks") && said.contains("'vda'"),
        "{said}"
    );
    // The command is killed in the middle, and what it left is cleaned up.
    operator.write();
    operator.interrupt("friday");
    let answer = bed.json(0, &["recover", "guest"]);
    assert_eq!(answer["taken_back"], 1, "{answer}");
    assert_eq!(operator.checkpoints(), ["thursday"]);
    let said = operator.day("friday");
    assert!(said.contains("copied whole 1 of 2 disks"), "{said}");
    assert_eq!(operator.checkpoints(), ["friday"]);
    // Any day opens, and each is later than the one before.
    for target in ["vda", "vdb"] {
        let last: Vec<_> = DAYS.iter().map(|day| operator.last_record(day, target)).collect();
        println!("{target}: {last:?}");
        assert!(last.windows(2).all(|pair| pair[0] < pair[1]), "{last:?}");
    }
}
