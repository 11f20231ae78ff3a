// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the argument parser's companions make: completion and manual pages.

use std::path::Path;

use clap_complete::Shell;
use livedisk::ErrorCode;
use serde_json::json;

use crate::complete;
use crate::man;
use crate::output::{Failure, Output};

pub fn completion(shell: Shell) -> Result<Output, Failure> {
    let script = complete::script(shell).map_err(|error| {
        let message = format!("cannot make the completion of {shell}: {error}");
        Failure::new(ErrorCode::Io, message)
    })?;
    Ok(output(&script))
}

pub fn man(dir: Option<&Path>) -> Result<Output, Failure> {
    let Some(dir) = dir else {
        let text = man::main_page()
            .map_err(|error| Failure::new(ErrorCode::Io, format!("cannot make the manual page: {error}")))?;
        return Ok(output(&text));
    };
    man::write_into(dir).map_err(|error| {
        let message = format!("cannot write manual pages into '{}': {error}", dir.display());
        Failure::new(ErrorCode::Io, message)
    })?;
    Ok(output(format!("manual pages are in {}", dir.display()).as_bytes()))
}

fn output(text: &[u8]) -> Output {
    let text = String::from_utf8_lossy(text).into_owned();
    Output {
        json: json!({ "text": text }),
        text,
    }
}
