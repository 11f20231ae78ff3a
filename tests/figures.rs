// SPDX-License-Identifier: LGPL-2.1-or-later
//! The benchmark's figures in the pages are those of the committed results.

use std::fs;
use std::process::Command;

fn check(results: &str) -> Result<(), String> {
    let output = Command::new("python3")
        .args(["tests/bench.d/figures.py", results, "--check"])
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_pages_have_the_figures_of_the_committed_results() {
    check("bench/results.json").unwrap();
}

#[test]
fn other_results_are_noticed() {
    let Ok(text) = fs::read_to_string("bench/results.json") else {
        println!("skipped: no results are committed");
        return;
    };
    let mut results: serde_json::Value = serde_json::from_str(&text).unwrap();
    for row in results["snapshots"].as_array_mut().unwrap() {
        (row["total_s"], row["window_ms"]) = (12345.into(), 12345.into());
    }
    let other = std::env::temp_dir().join(format!("livedisk-figures-{}", std::process::id()));
    fs::write(&other, results.to_string()).unwrap();
    let stale = check(other.to_str().unwrap());
    fs::remove_file(&other).unwrap();
    let stale = stale.unwrap_err();
    assert!(
        stale.contains("README.md") && stale.contains("docs/benchmark.md"),
        "{stale}"
    );
}
