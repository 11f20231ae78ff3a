// SPDX-License-Identifier: LGPL-2.1-or-later
//! qemu-img, run on open files: an image is handed over as standard input, so that no name is ever interpreted.
//! The format is always stated, because a guest can write any header into its raw disk.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};

/// The image that is standard input.
const STDIN: &str = "/proc/self/fd/0";

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) virtual_size: u64,
    pub(super) backing: Option<String>,
    pub(super) encrypted: bool,
    pub(super) data_file: bool,
}

fn failed(what: &str, why: &str) -> Error {
    Error::new(ErrorCode::Io, format!("qemu-img cannot {what}: {why}"))
}

fn run(
    what: &str,
    arguments: &[&str],
    stdin: Option<OwnedFd>,
    limit: Option<Duration>,
) -> Result<(i32, String, String)> {
    let mut command = Command::new("qemu-img");
    command
        .args(arguments)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            ErrorCode::Unsupported,
            "qemu-img is not installed; install the package with QEMU's tools (qemu-utils, qemu-img)",
        ),
        _ => failed(what, &error.to_string()),
    })?;
    if let Some(limit) = limit {
        let deadline = Instant::now() + limit;
        while child
            .try_wait()
            .map_err(|error| failed(what, &error.to_string()))?
            .is_none()
        {
            if Instant::now() >= deadline {
                // It may have ended meanwhile; either way it is reaped below.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(what, &format!("no answer within {} s", limit.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(what, &error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok((
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

fn must_succeed(what: &str, result: (i32, String, String)) -> Result<String> {
    match result {
        (0, output, _) => Ok(output),
        (_, _, errors) => Err(failed(what, &one_line(&errors))),
    }
}

fn one_line(text: &str) -> String {
    text.trim_start_matches("qemu-img: ").replace('\n', "; ")
}

fn clone_of(file: &File, what: &str) -> Result<OwnedFd> {
    file.try_clone()
        .map(OwnedFd::from)
        .map_err(|error| failed(what, &error.to_string()))
}

/// Writes an empty qcow2 image into `file`, on `backing` (absolute path, format) if there is one.
pub(super) fn create_qcow2(file: &File, size: u64, backing: Option<(&str, &str)>, shown: &str) -> Result<()> {
    let what = format!("create the image '{shown}'");
    let size = size.to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2"];
    if let Some((path, format)) = backing {
        // -u: the backing file is the guest's, in use, and its size is known.
        arguments.extend(["-u", "-F", format, "-b", path]);
    }
    arguments.extend([STDIN, &size]);
    must_succeed(&what, run(&what, &arguments, Some(clone_of(file, &what)?), None)?).map(drop)
}

fn parse_info(what: &str, text: &str) -> Result<Info> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| failed(what, &error.to_string()))?;
    Ok(Info {
        virtual_size: value["virtual-size"]
            .as_u64()
            .ok_or_else(|| failed(what, "its answer has no virtual-size"))?,
        backing: value["backing-filename"].as_str().map(str::to_owned),
        encrypted: value["encrypted"].as_bool().unwrap_or(false),
        data_file: !value["format-specific"]["data"]["data-file"].is_null(),
    })
}

/// Reads the header of an image that exists, in the stated format.
pub(super) fn info(file: &File, format: &str, shown: &str) -> Result<Info> {
    let what = format!("read '{shown}' as {format}");
    let arguments = ["info", "--output=json", "-f", format, STDIN];
    let text = must_succeed(&what, run(&what, &arguments, Some(clone_of(file, &what)?), None)?)?;
    parse_info(&what, &text)
}

/// The size of an NBD export; it answers within ten seconds or is taken for unreachable.
pub(super) fn info_nbd(uri: &str, format: &str) -> Result<Info> {
    let what = format!("reach '{uri}'");
    let arguments = ["info", "--output=json", "-f", format, uri];
    let text = must_succeed(&what, run(&what, &arguments, None, Some(Duration::from_secs(10)))?)?;
    parse_info(&what, &text)
}

/// `qemu-img check`, where the format has one: the image must be without errors and leaks.
pub(crate) fn check(file: &File, format: &str, shown: &str) -> Result<()> {
    if format != "qcow2" {
        return Ok(());
    }
    let what = format!("check '{shown}'");
    let (status, output, errors) = run(
        &what,
        &["check", "-f", format, STDIN],
        Some(clone_of(file, &what)?),
        None,
    )?;
    if status == 0 {
        return Ok(());
    }
    let said = one_line(if errors.is_empty() { &output } else { &errors });
    Err(Error::new(
        ErrorCode::Verify,
        format!("the image '{shown}' does not pass qemu-img check: {said}"),
    ))
}

/// `qemu-img compare` of an image in use by QEMU (read with its lock ignored) with ours; whether they are equal.
pub(crate) fn compare_with_live(live: (&str, &str), file: &File, format: &str, shown: &str) -> Result<bool> {
    let what = format!("compare '{shown}' with '{}'", live.0);
    let arguments = ["compare", "-U", "-f", live.1, "-F", format, live.0, STDIN];
    match run(&what, &arguments, Some(clone_of(file, &what)?), None)? {
        (0, ..) => Ok(true),
        (1, ..) => Ok(false),
        (_, _, errors) => Err(failed(&what, &one_line(&errors))),
    }
}

/// A clone in another directory cannot keep a relative backing name: it is given the absolute one.
pub(crate) fn rebase_relative(file: &File, backing: (&str, &str), shown: &str) -> Result<()> {
    match info(file, "qcow2", shown)?.backing {
        Some(name) if !name.starts_with('/') => {}
        _ => return Ok(()),
    }
    let what = format!("write the backing file's name into '{shown}'");
    let arguments = ["rebase", "-u", "-f", "qcow2", "-b", backing.0, "-F", backing.1, STDIN];
    must_succeed(&what, run(&what, &arguments, Some(clone_of(file, &what)?), None)?).map(drop)
}
