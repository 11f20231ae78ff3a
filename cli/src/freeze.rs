// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk freeze and livedisk thaw.
//!
//! A freeze lasts as long as the process that asked for it, so one stays, in a process group of its own, until
//! the guest is thawed. It is this program again, with the same arguments.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{Connection, ErrorCode};
use serde_json::json;

use crate::args::{Freeze, Thaw};
use crate::output::{Failure, Output};

const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long after its limit a freeze that cannot be looked at is over for certain.
const OVER: Duration = Duration::from_secs(60);
const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

/// Starts who holds it, and ends when the guest is frozen.
pub fn run(freeze: &Freeze) -> Result<Output, Failure> {
    let failed = |error: std::io::Error| Failure::new(ErrorCode::Io, format!("cannot hold the freeze: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut holder = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--hold")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let warnings = holder.stderr.take();
    let warnings = thread::spawn(move || warnings.map(|mut from| std::io::copy(&mut from, &mut std::io::stderr())));
    let mut said = String::new();
    if let Some(stdout) = holder.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut said).map_err(failed)?;
        if let Some(count) = said.strip_prefix("frozen ").and_then(|count| count.trim().parse().ok()) {
            return Ok(counted(&freeze.domain, "frozen", count));
        }
        stdout.read_to_string(&mut said).map_err(failed)?;
    }
    // It has said why.
    let status = holder.wait().map_err(failed)?;
    let _ = warnings.join();
    let _ = write!(std::io::stdout(), "{said}");
    std::process::exit(status.code().unwrap_or(1))
}

/// Until it is thawed, or the limit has passed.
pub fn hold(connection: &Connection, freeze: &Freeze) -> Result<Output, Failure> {
    let limit = freeze.limit.unwrap_or(DEFAULT_LIMIT);
    let frozen = connection.freeze(&freeze.domain, limit)?;
    let over = Instant::now().checked_add(limit.saturating_add(OVER));
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "frozen {frozen}").and_then(|()| stdout.flush());
    let is_held = || {
        let operations = connection.operations(Some(&freeze.domain));
        operations.map(|operations| {
            let own = operations.iter().find(|operation| {
                operation.kind == "freeze" && operation.owner_process == std::process::id() && !operation.orphaned
            });
            own.is_some()
        })
    };
    while is_held().unwrap_or(true) && over.is_none_or(|over| Instant::now() < over) {
        thread::sleep(LOOK_AGAIN);
    }
    // Its output is not read any more.
    std::process::exit(0)
}

pub fn thaw(connection: &Connection, thaw: &Thaw) -> Result<Output, Failure> {
    let thawed = connection.thaw(&thaw.domain)?;
    Ok(counted(&thaw.domain, "thawed", thawed))
}

fn counted(domain: &str, done: &str, count: u32) -> Output {
    let mut json = json!({ "domain": domain });
    json[format!("filesystems_{done}")] = count.into();
    Output {
        text: format!("domain '{domain}': {count} file systems {done}"),
        json,
    }
}
