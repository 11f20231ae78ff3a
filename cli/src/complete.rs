// SPDX-License-Identifier: LGPL-2.1-or-later
//! Completion: of options by the argument parser, of domains and disk targets by libvirt.

use std::ffi::OsStr;

use clap::Command;
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Bash, CompleteEnv, Elvish, EnvCompleter, Fish, Powershell, Zsh};
use livedisk::{Connection, EventLoop};

/// Set by the shell's script, to the shell's name, where the command is to print candidates.
const VARIABLE: &str = "LIVEDISK_COMPLETE";

/// Prints candidates and ends the process where a shell's script asks for them.
pub fn answer(command: impl Fn() -> Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The script that a shell reads, and that asks.
pub fn script(shell: Shell) -> std::io::Result<Vec<u8>> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Elvish => &Elvish,
        Shell::Fish => &Fish,
        Shell::PowerShell => &Powershell,
        _ => &Zsh,
    };
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "livedisk", "livedisk", "livedisk", &mut script)?;
    Ok(script)
}

pub fn domains() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| candidates(current, domains_of(&words())))
}

pub fn targets() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| candidates(current, targets_of(&words())))
}

/// As `--disk` takes them.
pub fn disks() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let targets = targets_of(&words()).into_iter();
        candidates(current, targets.map(|target| format!("{target}=")).collect())
    })
}

fn candidates(current: &OsStr, all: Vec<String>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let fitting = all.into_iter().filter(|name| name.starts_with(&*current));
    fitting.map(CompletionCandidate::new).collect()
}

/// The command line that is being completed: the shell passes it after `--`.
fn words() -> Vec<String> {
    let all = std::env::args().skip_while(|word| word != "--");
    all.skip(1).collect()
}

/// What libvirt does not answer is not completed.
fn connect(words: &[String]) -> Option<Connection> {
    let mut words = words.iter();
    let mut uri = None;
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("--connect", value)) => uri = Some(value),
            _ if word == "-c" || word == "--connect" => uri = words.next().map(String::as_str),
            _ => {}
        }
    }
    Connection::open(uri, EventLoop::None).ok()
}

fn domains_of(words: &[String]) -> Vec<String> {
    let names = connect(words).and_then(|connection| connection.domains().ok());
    names.unwrap_or_default()
}

/// Of the domain that is named on the command line.
fn targets_of(words: &[String]) -> Vec<String> {
    let Some(connection) = connect(words) else {
        return Vec::new();
    };
    let domains = connection.domains().unwrap_or_default();
    let named = words.iter().skip(1).find(|word| domains.contains(word));
    let disks = named
        .and_then(|domain| connection.disks(domain).ok())
        .unwrap_or_default();
    disks.into_iter().map(|disk| disk.target).collect()
}
