// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the command says at its end, and its exit status.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::error::ErrorKind as ClapError;
use livedisk::{Error, ErrorCode};
use serde_json::{Value, json};

use crate::{stderr, words};

/// The exit status where all went well but for the writing of the result.
const NOT_WRITTEN: u8 = 10;

/// A result, in words and for programs.
pub struct Output {
    pub text: String,
    pub json: Value,
}

impl Output {
    /// Prints it; what was done stays done if that fails.
    pub fn print(&self, json: bool) -> ExitCode {
        let printed = if json {
            print(&self.json.to_string())
        } else {
            print(&self.text)
        };
        match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => not_written(&error),
        }
    }
}

/// Why there is no result.
pub struct Failure {
    code: ErrorCode,
    message: String,
    libvirt_code: i32,
    /// What there is to report all the same.
    result: Option<Output>,
}

impl Failure {
    pub fn beside(mut self, result: Output) -> Self {
        self.result = Some(result);
        self
    }

    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            libvirt_code: 0,
            result: None,
        }
    }

    pub fn print(&self, json: bool) -> ExitCode {
        let (name, status) = classify(self.code);
        if json {
            let error = json!({
                "code": name,
                "number": self.code as i32,
                "message": self.message,
                "libvirt_code": self.libvirt_code,
            });
            let mut object = self.result.as_ref().map_or(json!({}), |result| result.json.clone());
            object["error"] = error;
            let _ = print(&object.to_string());
        } else {
            if let Some(result) = &self.result {
                let _ = print(&result.text);
            }
            stderr::say(&format!("livedisk: {}", self.message));
        }
        ExitCode::from(status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.code(),
            message: words::ours(error.message()),
            libvirt_code: error.libvirt_code(),
            result: None,
        }
    }
}

fn not_written(error: &std::io::Error) -> ExitCode {
    // The reader closed the pipe and wants no more.
    if error.kind() == ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    stderr::say(&format!(
        "livedisk: the command has done its work, but its result cannot be written to standard output: {error}"
    ));
    stderr::flush();
    ExitCode::from(NOT_WRITTEN)
}

/// For a command line that is wrong, or asks for help or the version.
pub fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        return Failure::new(ErrorCode::InvalidArgument, usage_message(error)).print(true);
    }
    match error.print() {
        Err(failed) if !error.use_stderr() => not_written(&failed),
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

/// clap's words on one line, without what repeats the help.
fn usage_message(error: &clap::Error) -> String {
    if error.kind() == ClapError::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command or an argument is missing; see --help".into();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more"]
        .into_iter()
        .filter_map(|end| text.find(end))
        .min();
    let words = text[..end.unwrap_or(text.len())].split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end())?;
    stdout.flush()
}

/// The name in the C header, and the exit status.
fn classify(code: ErrorCode) -> (&'static str, u8) {
    match code {
        ErrorCode::InvalidArgument => ("INVALID_ARGUMENT", 2),
        ErrorCode::NoConnection => ("NO_CONNECTION", 3),
        ErrorCode::NoDomain => ("NO_DOMAIN", 4),
        ErrorCode::NoDisk => ("NO_DISK", 4),
        ErrorCode::DomainState => ("DOMAIN_STATE", 4),
        ErrorCode::Busy => ("BUSY", 5),
        ErrorCode::Unsupported => ("UNSUPPORTED", 8),
        ErrorCode::Agent => ("AGENT", 7),
        ErrorCode::Freeze => ("FREEZE", 7),
        ErrorCode::Destination => ("DESTINATION", 6),
        ErrorCode::NoSpace => ("NO_SPACE", 6),
        ErrorCode::Permission => ("PERMISSION", 6),
        ErrorCode::JobFailed => ("JOB_FAILED", 1),
        ErrorCode::Cancelled => ("CANCELLED", 130),
        ErrorCode::Timeout => ("TIMEOUT", 1),
        ErrorCode::NoOperation => ("NO_OPERATION", 9),
        ErrorCode::Verify => ("VERIFY", 1),
        ErrorCode::Libvirt => ("LIBVIRT", 1),
        ErrorCode::Io => ("IO", 1),
        ErrorCode::Checkpoint | ErrorCode::NoCheckpoint => (code.name(), 1),
        _ => ("INTERNAL", 1),
    }
}

/// A line a row, below the titles, with its columns in line.
pub fn table<const COLUMNS: usize>(
    titles: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let rows: Vec<_> = std::iter::once(titles.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
