// SPDX-License-Identifier: LGPL-2.1-or-later
//! The manual pages: one for the command, one for each of its commands, and those of the JSON and of the guard.

use std::fs;
use std::io::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::{Arguments, EXIT_STATUS, JSON};

const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "LIBVIRT_DEFAULT_URI",
        "The libvirt connection URI if --connect is not given.",
    ),
    (
        "LIVEDISK_GUARD",
        "The path of the guard, if it is not PREFIX/libexec/livedisk-guard.",
    ),
    (
        "LIVEDISK_GUARD_REQUIRED",
        "If set to anything but the empty string or 0, the operation fails instead of freezing a guest without a \
         guard.",
    ),
    (
        "RUST_LOG",
        "The log level, instead of the one that -v sets: error, warn, info or debug.",
    ),
];

/// Of the command that is named; the empty one is livedisk itself.
const EXAMPLES: [(&str, &str); 10] = [
    (
        "",
        "livedisk snapshot guest --disk vda=/backup/guest.qcow2\nlivedisk migrate guest vda /new/guest.qcow2\nlivedisk status",
    ),
    (
        "snapshot",
        "livedisk snapshot guest --disk vda=/backup/vda.qcow2 --disk vdb=/backup/vdb.qcow2 --quiesce require\n\
         livedisk snapshot guest --to /backup/guest --bandwidth 100MiB --verify\n\
         livedisk snapshot guest --disk vda=nbd://host:10809/export --dry-run",
    ),
    (
        "migrate",
        "livedisk migrate guest vda /new/guest.qcow2 --delete-source\n\
         livedisk migrate guest vda /dev/vg/guest --method mirror --write-blocking",
    ),
    ("attach", "livedisk attach guest vda"),
    ("cancel", "livedisk cancel guest vda"),
    ("recover", "livedisk recover --dry-run\nlivedisk recover guest"),
    ("status", "livedisk status --json"),
    (
        "checkpoints",
        "livedisk checkpoints guest\nlivedisk checkpoints guest --delete monday",
    ),
    ("freeze", "livedisk freeze guest --limit 30s"),
    ("thaw", "livedisk thaw guest"),
];

const GUARD: &str = r".TH livedisk-guard 8
.SH NAME
livedisk\-guard \- thaws a guest that a dead process left frozen
.SH SYNOPSIS
.B livedisk\-guard
.I PID
.SH DESCRIPTION
livedisk starts this program before it freezes a guest's file systems. You do not start it yourself.
The guard watches the process
.IR PID ,
which passes it a socket as standard input. If that process dies while the guest is frozen or paused, or if the freeze limit
passes, the guard thaws and resumes the guest over its own libvirt connection. If that process dies while method rebase has
undefined the domain, the guard defines it again.
.PP
The guard runs in its own session, so neither a signal to the terminal nor the death of the process that it watches ends it.
It exits when that process has ended and no guest is left frozen.
.SH EXIT STATUS
.TP
.B 0
The watched process has ended, and no guest is left frozen.
.TP
.B 1
The guard could not watch the process.
.TP
.B 2
The command line is wrong.
.SH ENVIRONMENT
.TP
.B LIVEDISK_GUARD
The path of the guard, if it is not PREFIX/libexec/livedisk\-guard.
.TP
.B LIVEDISK_GUARD_REQUIRED
If set to anything but the empty string or 0, livedisk freezes no guest without a guard.
.SH SEE ALSO
.BR livedisk (1)
";

/// All pages into a directory.
pub fn write_into(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    fs::write(directory.join("livedisk.1"), page(&command, "")?)?;
    for sub in command.get_subcommands() {
        let name = sub.get_name();
        fs::write(directory.join(format!("livedisk-{name}.1")), page(sub, name)?)?;
    }
    fs::write(directory.join("livedisk-json.5"), json(&names)?)?;
    fs::write(directory.join("livedisk-guard.8"), GUARD)
}

/// The page of livedisk itself.
pub fn main_page() -> std::io::Result<Vec<u8>> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    page(&command, "")
}

fn page(command: &Command, name: &str) -> std::io::Result<Vec<u8>> {
    let title = if name.is_empty() {
        "livedisk".to_owned()
    } else {
        format!("livedisk-{name}")
    };
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let man = Man::new(command.clone()).title(&title);
    let mut to = Vec::new();
    man.render_title(&mut to)?;
    man.render_name_section(&mut to)?;
    section(&mut to, "SYNOPSIS", usage)?;
    man.render_description_section(&mut to)?;
    man.render_options_section(&mut to)?;
    if command.has_subcommands() {
        writeln!(to, ".SH COMMANDS")?;
        for sub in command.get_subcommands() {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            writeln!(
                to,
                ".TP\n\\fBlivedisk\\-{}\\fR(1)\n{}",
                escaped(sub.get_name()),
                escaped(&about)
            )?;
        }
    }
    section(&mut to, "EXIT STATUS", EXIT_STATUS.trim_start_matches("Exit status:\n"))?;
    writeln!(to, ".SH ENVIRONMENT")?;
    for (variable, meaning) in ENVIRONMENT {
        writeln!(to, ".TP\n.B {variable}\n{}", escaped(meaning))?;
    }
    if let Some((_, example)) = EXAMPLES.iter().find(|(of, _)| *of == name) {
        section(&mut to, "EXAMPLES", example)?;
    }
    let back = if name.is_empty() { "" } else { ".BR livedisk (1),\n" };
    writeln!(
        to,
        ".SH SEE ALSO\n{back}.BR livedisk\\-json (5),\n.BR livedisk\\-guard (8),\n.BR virsh (1)"
    )?;
    Ok(to)
}

fn json(names: &[String]) -> std::io::Result<Vec<u8>> {
    let mut to = Vec::new();
    writeln!(
        to,
        ".TH livedisk-json 5\n.SH NAME\nlivedisk\\-json \\- what livedisk prints with \\-\\-json"
    )?;
    section(&mut to, "DESCRIPTION", JSON)?;
    let names: Vec<String> = names
        .iter()
        .map(|name| format!(".BR livedisk\\-{} (1)", escaped(name)))
        .collect();
    writeln!(to, ".SH SEE ALSO\n.BR livedisk (1),\n{}", names.join(",\n"))?;
    Ok(to)
}

/// As it is written, line by line.
fn section(to: &mut Vec<u8>, title: &str, text: &str) -> std::io::Result<()> {
    writeln!(to, ".SH {title}\n.nf")?;
    for line in text.lines() {
        // A line without text is what .nf makes of a space.
        writeln!(to, "{}", if line.is_empty() { ".sp".into() } else { escaped(line) })?;
    }
    writeln!(to, ".fi")
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_its_sections() {
        let mut command = Arguments::command();
        command.build();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let page = String::from_utf8(page(sub, sub.get_name()).unwrap()).unwrap();
            for title in ["SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"] {
                assert!(page.contains(&format!(".SH {title}")), "{page}");
            }
            assert!(page.contains(&format!(".nf\nlivedisk {}", sub.get_name())), "{page}");
        }
        for (name, _) in EXAMPLES.iter().filter(|(name, _)| !name.is_empty()) {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }
}
