// SPDX-License-Identifier: LGPL-2.1-or-later
//! The `livedisk` command.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod cancel;
mod checkpoints;
mod companions;
mod complete;
mod freeze;
mod interrupt;
mod man;
mod migrate;
mod operation;
mod output;
mod progress;
mod recover;
mod report;
mod snapshot;
mod status;
mod stderr;
mod units;
mod words;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use livedisk::{Connection, EventLoop};

use args::{Arguments, Command};
use output::{Failure, Output};

fn main() -> ExitCode {
    complete::answer(Arguments::command);
    stderr::open();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error, wants_json()),
    };
    log_to_stderr(&arguments);
    let status = match run(&arguments) {
        Ok(output) => output.print(arguments.json),
        Err(failure) => failure.print(arguments.json),
    };
    stderr::flush();
    status
}

/// Of a command line that cannot be parsed.
fn wants_json() -> bool {
    let arguments = std::env::args_os().skip(1);
    arguments
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json")
}

/// The library's warnings in the command's own words, with -v what it reports of its work; with -vv everything, and where
/// it comes from.
fn log_to_stderr(arguments: &Arguments) {
    let level = match (arguments.verbose, arguments.is_quiet()) {
        (0, true) => "off",
        (0, false) => "warn",
        (1, _) => "info",
        _ => "debug",
    };
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level));
    if arguments.verbose < 2 {
        builder.format(|to, record| {
            let level = if record.level() == log::Level::Warn {
                "warning: "
            } else {
                ""
            };
            writeln!(to, "livedisk: {level}{}", words::ours(&record.args().to_string()))
        });
    }
    builder.target(env_logger::Target::Pipe(Box::new(stderr::Log))).init();
}

fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let connect = || Connection::open(arguments.connect.as_deref(), EventLoop::Own);
    match &arguments.command {
        Command::Snapshot(snapshot) => snapshot::run(&connect()?, snapshot, arguments),
        Command::Migrate(migrate) => migrate::run(&connect()?, migrate, arguments),
        Command::Attach(attach) => attach::run(&connect()?, attach, arguments),
        Command::Cancel(cancel) => cancel::run(&connect()?, cancel),
        Command::Recover(recover) => recover::run(&connect()?, recover),
        Command::Status(status) => status::run(&connect()?, status),
        Command::Checkpoints(checkpoints) => checkpoints::run(&connect()?, checkpoints),
        Command::Freeze(freeze) if freeze.hold => freeze::hold(&connect()?, freeze),
        Command::Freeze(freeze) => freeze::run(freeze),
        Command::Thaw(thaw) => freeze::thaw(&connect()?, thaw),
        Command::Completion { shell } => companions::completion(*shell),
        Command::Man { dir } => companions::man(dir.as_deref()),
    }
}
