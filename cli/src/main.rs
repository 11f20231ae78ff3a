// SPDX-License-Identifier: LGPL-2.1-or-later
//! The `livedisk` command.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod companions;
mod freeze;
mod interrupt;
mod migrate;
mod operation;
mod output;
mod progress;
mod recover;
mod snapshot;
mod status;
mod units;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use livedisk::{Connection, EventLoop};

use args::{Arguments, Command};
use output::{Failure, Output};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr(&arguments);
    match run(&arguments) {
        Ok(output) => {
            output.print(arguments.json);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.print(arguments.json),
    }
}

/// The library's warnings in the command's own voice; with --verbose everything, and where it comes from.
fn log_to_stderr(arguments: &Arguments) {
    let level = match (arguments.verbose, arguments.is_quiet()) {
        (true, _) => "debug",
        (false, false) => "warn",
        (false, true) => "off",
    };
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level));
    if !arguments.verbose {
        builder.format(|to, record| {
            let level = if record.level() == log::Level::Warn {
                "warning: "
            } else {
                ""
            };
            writeln!(to, "livedisk: {level}{}", record.args())
        });
    }
    builder.init();
}

fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let connect = || Connection::open(arguments.connect.as_deref(), EventLoop::Own);
    match &arguments.command {
        Command::Snapshot(snapshot) => snapshot::run(&connect()?, snapshot, arguments),
        Command::Migrate(migrate) => migrate::run(&connect()?, migrate, arguments),
        Command::Attach(attach) => attach::run(&connect()?, attach, arguments),
        Command::Recover(recover) => recover::run(&connect()?, recover),
        Command::Status(status) => status::run(&connect()?, status),
        Command::Freeze(freeze) if freeze.hold => freeze::hold(&connect()?, freeze),
        Command::Freeze(freeze) => freeze::run(freeze),
        Command::Thaw(thaw) => freeze::thaw(&connect()?, thaw),
        Command::Completion { shell } => companions::completion(*shell),
        Command::Man { dir } => companions::man(dir.as_deref()),
    }
}
