// SPDX-License-Identifier: LGPL-2.1-or-later
//! Reads a guest's disk image offline and says whether its file system and its records are whole.
#![forbid(unsafe_code)]

use lexopt::prelude::*;
use livedisk_guest::log::Stall;
use livedisk_guest::record::Summary;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
Usage: records IMAGE --format qcow2|raw [--json]
       records stall FILE [--from-ns A] [--to-ns B] [--json]

The first reads an image that nobody writes to: checks its ext4 file system (without replaying the journal, and after
it) and the guest writer's records. Exit status 0: every record up to the last is there once and unharmed, and the
file system is clean at least after replay; 1: not; 2: the image could not be read.
The second prints the longest stall in the writer's log.";

struct Options {
    words: Vec<String>,
    format: Option<String>,
    from_ns: u64,
    to_ns: u64,
    json: bool,
}

fn options() -> Result<Option<Options>> {
    let mut options = Options {
        words: Vec::new(),
        format: None,
        from_ns: 0,
        to_ns: u64::MAX,
        json: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("format") => options.format = Some(parser.value()?.string()?),
            Long("from-ns") => options.from_ns = parser.value()?.parse()?,
            Long("to-ns") => options.to_ns = parser.value()?.parse()?,
            Long("json") => options.json = true,
            Long("help") | Short('h') => return Ok(None),
            Value(word) => options.words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("records: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let Some(options) = options()? else {
        println!("{HELP}");
        return Ok(true);
    };
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    match words[..] {
        ["stall", file] => {
            let log = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
            let stall = Stall::of(&String::from_utf8_lossy(&log), options.from_ns, options.to_ns);
            print(
                options.json,
                &[
                    ("lines", stall.lines.to_string()),
                    ("longest_latency_us", stall.longest_latency_us.to_string()),
                    ("longest_latency_at_ns", stall.longest_latency_at_ns.to_string()),
                    ("longest_gap_us", stall.longest_gap_us.to_string()),
                    ("longest_gap_at_ns", stall.longest_gap_at_ns.to_string()),
                ],
            );
            Ok(stall.lines > 0)
        }
        [image] => {
            let format = options
                .format
                .ok_or("--format qcow2|raw is required: an image is never probed")?;
            if !["qcow2", "raw"].contains(&format.as_str()) {
                return Err(format!("--format {format}: expected qcow2 or raw").into());
            }
            let found = Disk::read(Path::new(image), &format)?;
            let records = found.records;
            print(
                options.json,
                &[
                    ("first", records.first.to_string()),
                    ("last", records.last.to_string()),
                    ("count", records.count.to_string()),
                    ("torn", records.torn.to_string()),
                    ("missing", records.missing.to_string()),
                    ("out_of_order", records.out_of_order.to_string()),
                    ("last_realtime_ns", records.last_realtime_ns.to_string()),
                    ("fs_clean", found.clean.to_string()),
                    ("fs_clean_after_replay", found.clean_after_replay.to_string()),
                ],
            );
            Ok(records.is_whole() && found.clean_after_replay)
        }
        _ => Err(format!("expected one image, or stall and a file\n{HELP}").into()),
    }
}

/// Numbers and booleans only, so that both forms need no quoting.
fn print(json: bool, values: &[(&str, String)]) {
    if json {
        let members: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        println!("{{{}}}", members.join(","));
    } else {
        values.iter().for_each(|(name, value)| println!("{name}={value}"));
    }
}

struct Disk {
    clean: bool,
    clean_after_replay: bool,
    records: Summary,
}

impl Disk {
    fn read(image: &Path, format: &str) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let mut raw = image.to_owned();
        if format != "raw" {
            raw = convert(image, format, &scratch)?;
        }
        let clean = !needs_replay(&raw)? && check(&raw, "-fn")? == 0;
        let mut clean_after_replay = clean;
        if !clean {
            if format == "raw" {
                raw = convert(image, format, &scratch)?;
            }
            // What a booting guest does by itself: 0 nothing to do, 1 put right without asking.
            clean_after_replay = check(&raw, "-fp")? <= 1 && check(&raw, "-fn")? == 0;
        }
        let file = scratch.path().join("records");
        tool(
            "debugfs",
            &[
                "-R",
                &format!("dump /records {}", file.display()),
                &raw.to_string_lossy(),
            ],
        )?;
        let bytes = std::fs::read(&file)
            .map_err(|error| format!("{}: no file 'records' in its file system: {error}", image.display()))?;
        Ok(Self {
            clean,
            clean_after_replay,
            records: Summary::of(&bytes),
        })
    }
}

/// A raw copy of our own, which may be written to.
fn convert(image: &Path, format: &str, scratch: &TempDir) -> Result<PathBuf> {
    let raw = scratch.path().join("raw");
    let output = tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            format,
            "-O",
            "raw",
            "--",
            &absolute(image)?,
            &raw.to_string_lossy(),
        ],
    )?;
    if !output.status.success() {
        return Err(format!(
            "{}: {}",
            image.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )
        .into());
    }
    Ok(raw)
}

/// An absolute path is never taken for a protocol by qemu-img, whatever colons it holds.
fn absolute(image: &Path) -> Result<String> {
    let path = std::path::absolute(image)?;
    Ok(path
        .to_str()
        .ok_or_else(|| format!("{}: not UTF-8", image.display()))?
        .to_owned())
}

fn needs_replay(raw: &Path) -> Result<bool> {
    let output = tool("dumpe2fs", &["-h", &raw.to_string_lossy()])?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{}: no ext4 file system: {}",
            raw.display(),
            why.trim().replace('\n', "; ")
        )
        .into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).contains("needs_recovery"))
}

fn check(raw: &Path, how: &str) -> Result<i32> {
    let output = tool("e2fsck", &[how, &raw.to_string_lossy()])?;
    Ok(output.status.code().unwrap_or(i32::MAX))
}

fn tool(name: &str, arguments: &[&str]) -> Result<Output> {
    // An ordinary user's PATH has no sbin, where e2fsprogs lives.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    Command::new(name)
        .args(arguments)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}; run tests/setup").into())
}
