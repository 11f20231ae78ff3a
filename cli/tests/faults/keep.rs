// SPDX-License-Identifier: LGPL-2.1-or-later
//! What came out so far, in a file, so that the matrix can be run in parts: a line for each cell, and for what was learned.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::cell::{Notes, Outcome};

#[derive(Default)]
pub struct Kept {
    path: Option<PathBuf>,
    points: HashMap<String, Vec<String>>,
    outcomes: HashMap<String, Outcome>,
    /// Cells that failed and were run again, and why they had failed.
    rerun: Vec<String>,
}

impl Kept {
    /// Without a path nothing is kept.
    pub fn open(path: Option<PathBuf>) -> Self {
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let mut kept = Self {
            path,
            ..Self::default()
        };
        for line in text.unwrap_or_default().lines() {
            // The last one may be cut.
            if let Ok(line) = serde_json::from_str(line) {
                kept.read(&line);
            }
        }
        kept
    }

    fn read(&mut self, line: &Value) {
        let Some(name) = line["of"].as_str() else { return };
        if let Some(points) = line["points"].as_array() {
            let points = points.iter().filter_map(Value::as_str).map(str::to_owned);
            self.points.insert(name.to_owned(), points.collect());
        }
        if let Some(outcome) = outcome(line) {
            let before = self.outcomes.insert(name.to_owned(), outcome);
            if let Some(Outcome::Failed(wrong)) = before {
                self.rerun.push(format!("{name}: {}", first_line(&wrong)));
            }
        }
    }

    pub fn points(&self, of: &str) -> Option<&Vec<String>> {
        self.points.get(of)
    }

    /// None where it was not run, or failed and is to be run again.
    pub fn outcome(&self, of: &str) -> Option<&Outcome> {
        let known = self.outcomes.get(of);
        known.filter(|outcome| !matches!(outcome, Outcome::Failed(_)))
    }

    pub fn rerun(&self) -> &[String] {
        &self.rerun
    }

    pub fn learned(&mut self, of: &str, points: &[String]) {
        self.write(&json!({ "of": of, "points": points }));
    }

    pub fn came_out(&mut self, of: &str, outcome: &Outcome) {
        self.write(&match outcome {
            Outcome::Passed(notes) => json!({
                "of": of,
                "outcome": "passed",
                "recovered": notes.recovered,
                "lost": notes.lost,
                "restarted": notes.restarted,
                "deaf": notes.deaf,
                "thawed_ms": notes.thawed_within.map(|time| time.as_millis()),
            }),
            Outcome::NotReached => json!({ "of": of, "outcome": "not reached" }),
            Outcome::Failed(wrong) => json!({ "of": of, "outcome": "failed", "wrong": wrong }),
        });
    }

    fn write(&mut self, line: &Value) {
        let Some(path) = &self.path else { return };
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.read(line);
    }
}

pub fn first_line(wrong: &[String]) -> &str {
    wrong.first().and_then(|text| text.lines().next()).unwrap_or("")
}

fn outcome(line: &Value) -> Option<Outcome> {
    Some(match line["outcome"].as_str()? {
        "passed" => Outcome::Passed(Notes {
            recovered: line["recovered"] == true,
            lost: line["lost"] == true,
            restarted: line["restarted"] == true,
            deaf: line["deaf"] == true,
            thawed_within: line["thawed_ms"].as_u64().map(Duration::from_millis),
        }),
        "not reached" => Outcome::NotReached,
        _ => {
            let wrong = line["wrong"].as_array()?.iter().filter_map(Value::as_str);
            Outcome::Failed(wrong.map(str::to_owned).collect())
        }
    })
}
