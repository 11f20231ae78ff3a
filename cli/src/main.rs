// SPDX-License-Identifier: LGPL-2.1-or-later
//! The `livedisk` command.
#![forbid(unsafe_code)]

mod args;
mod companions;
mod interrupt;
mod output;
mod progress;
mod snapshot;
mod status;
mod units;

use std::process::ExitCode;

use clap::Parser;
use livedisk::{Connection, EventLoop};

use args::{Arguments, Command};
use output::{Failure, Output};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if arguments.verbose { "debug" } else { "warn" };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
    match run(&arguments) {
        Ok(output) => {
            output.print(arguments.json);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.print(arguments.json),
    }
}

fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let connect = || Connection::open(arguments.connect.as_deref(), EventLoop::Own);
    match &arguments.command {
        Command::Snapshot(snapshot) => snapshot::run(&connect()?, snapshot, arguments),
        Command::Status(status) => status::run(&connect()?, status),
        Command::Completion { shell } => companions::completion(*shell),
        Command::Man { dir } => companions::man(dir.as_deref()),
    }
}
