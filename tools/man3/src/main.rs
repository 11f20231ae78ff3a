// SPDX-License-Identifier: LGPL-2.1-or-later
//! `man3 HEADER DIRECTORY` makes a manual page of section 3 for each function of the header, from the same comments, and
//! livedisk.3 for what they share. It fails where a function, struct, field, constant or callback has no comment.
#![forbid(unsafe_code)]

mod header;
mod page;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(header), Some(directory), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: man3 HEADER DIRECTORY".into());
    };
    let header = PathBuf::from(header);
    let text = std::fs::read_to_string(&header).map_err(|error| format!("{}: {error}", header.display()))?;
    let header = header::Header::parse(&text)?;
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory)?;
    for (name, text) in page::pages(&header) {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("man3: {error}");
            ExitCode::FAILURE
        }
    }
}
