// SPDX-License-Identifier: LGPL-2.1-or-later
//! From an operation's start to its report, whichever it is.

use std::sync::Arc;
use std::time::Duration;

use livedisk::{ErrorCode, Operation, Report};
use serde_json::json;

use crate::args::Arguments;
use crate::interrupt::Interrupt;
use crate::output::{Failure, Output};
use crate::progress::Display;
use crate::report::{Disk, disks_json};
use crate::words;

/// Starts it, shows its progress, and rolls it back on a signal.
pub fn run(
    start: impl FnOnce() -> livedisk::Result<Operation>,
    dry_run: bool,
    arguments: &Arguments,
) -> Result<(Arc<Operation>, Report), Failure> {
    let interrupt = Interrupt::listen(arguments.json)?;
    let operation = Arc::new(start()?);
    interrupt.watch(&operation);
    let mut display = Display::new(arguments, dry_run, operation.plan());
    let report = follow(&operation, &mut display, &interrupt)?;
    Ok((operation, report))
}

/// The same for one that another process began: whether it waits at READY was decided there, and this command does not
/// wait.
pub fn run_to_end(
    attach: impl FnOnce() -> livedisk::Result<Operation>,
    arguments: &Arguments,
) -> Result<(Arc<Operation>, Report), Failure> {
    let finishing = || {
        let operation = attach()?;
        match operation.finish(Some(Duration::ZERO)) {
            Err(error) if error.code() != ErrorCode::Timeout => Err(error),
            _ => Ok(operation),
        }
    };
    run(finishing, false, arguments)
}

fn follow(operation: &Operation, display: &mut Display, interrupt: &Interrupt) -> livedisk::Result<Report> {
    loop {
        let progress = operation.poll(Some(Duration::from_secs(1)));
        display.show(&progress, interrupt.is_asked());
        if progress.phase.is_final() {
            return operation.finish(None);
        }
    }
}

/// What the library does otherwise than was asked for, in the command's words.
pub fn remarks(operation: &Operation) -> Vec<String> {
    operation.remarks().iter().map(|remark| words::ours(remark)).collect()
}

pub fn planned(domain: &str, operation: &Operation, report: &Report, disks: &[Disk]) -> Output {
    let plan: Vec<String> = operation.plan().iter().map(|step| words::ours(step)).collect();
    let steps = plan.iter().enumerate();
    let steps: Vec<String> = steps.map(|(index, step)| format!("{:2}. {step}", index + 1)).collect();
    Output {
        text: format!(
            "plan for domain '{domain}' by {} (nothing was changed):\n{}",
            report.method.name(),
            steps.join("\n")
        ),
        json: json!({
            "domain": domain,
            "method": report.method.name(),
            "plan": plan,
            "remarks": remarks(operation),
            "disks": disks_json(disks),
        }),
    }
}
