// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the command says at its end, and its exit status.

use std::io::Write;
use std::process::ExitCode;

use livedisk::{Error, ErrorCode};
use serde_json::{Value, json};

/// A result, in words and for programs.
pub struct Output {
    pub text: String,
    pub json: Value,
}

impl Output {
    pub fn print(&self, json: bool) {
        if json {
            print(&self.json.to_string());
        } else {
            print(&self.text);
        }
    }
}

/// Why there is no result.
pub struct Failure {
    code: ErrorCode,
    message: String,
    libvirt_code: i32,
    /// What there is to tell all the same.
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
            print(&object.to_string());
        } else {
            if let Some(result) = &self.result {
                print(&result.text);
            }
            eprintln!("livedisk: {}", self.message);
        }
        ExitCode::from(status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.code(),
            message: error.message().to_owned(),
            libvirt_code: error.libvirt_code(),
            result: None,
        }
    }
}

/// Whoever closed the other end of a pipe wants no more.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
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
        ErrorCode::Unsupported => ("UNSUPPORTED", 1),
        ErrorCode::Agent => ("AGENT", 7),
        ErrorCode::Freeze => ("FREEZE", 7),
        ErrorCode::Destination => ("DESTINATION", 6),
        ErrorCode::NoSpace => ("NO_SPACE", 6),
        ErrorCode::Permission => ("PERMISSION", 6),
        ErrorCode::JobFailed => ("JOB_FAILED", 1),
        ErrorCode::Cancelled => ("CANCELLED", 130),
        ErrorCode::Timeout => ("TIMEOUT", 1),
        ErrorCode::NoOperation => ("NO_OPERATION", 1),
        ErrorCode::Verify => ("VERIFY", 1),
        ErrorCode::Libvirt => ("LIBVIRT", 1),
        ErrorCode::Io => ("IO", 1),
        ErrorCode::Checkpoint | ErrorCode::NoCheckpoint => (code.name(), 1),
        _ => ("INTERNAL", 1),
    }
}
