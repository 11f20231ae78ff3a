// SPDX-License-Identifier: LGPL-2.1-or-later
//! qemu-img, run on open files: an image is handed over as standard input, so that no name is ever interpreted.
//! The format is always stated, because a guest can write any header into its raw disk.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::layer::{Backing, Layer};
use crate::error::{Error, ErrorCode, Result};

pub(super) const QEMU_IMG: &str = "qemu-img";
pub(super) const QEMU_IO: &str = "qemu-io";
/// Ends qemu-img with us.
pub(super) const SETPRIV: &str = "setpriv";

/// The image that is standard input.
pub(super) const STDIN: &str = "/proc/self/fd/0";

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) virtual_size: u64,
    pub(super) backing: Option<String>,
    pub(super) backing_format: Option<String>,
    pub(super) encrypted: bool,
    pub(super) data_file: bool,
    /// Of a qcow2 image: of its version 3, which alone can.
    pub(super) keeps_bitmaps: bool,
    pub(super) bitmaps: Vec<Bitmap>,
}

/// A bitmap that a qcow2 image keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    pub(crate) name: String,
    /// Whoever had the image open last did not close it, so what the bitmap says is not true any more.
    pub(crate) in_use: bool,
    /// It goes on recording when the image is opened.
    pub(crate) records: bool,
}

pub(super) fn failed(what: &str, why: &str) -> Error {
    let code = if why.contains("No space left on device") {
        ErrorCode::NoSpace
    } else {
        ErrorCode::Io
    };
    Error::new(code, format!("cannot {what}: {why}"))
}

pub(super) fn not_started(what: &str, program: &str, error: &io::Error) -> Error {
    let package = match program {
        SETPRIV => "util-linux",
        _ => "with QEMU's tools (qemu-utils, qemu-img)",
    };
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            ErrorCode::Unsupported,
            format!("cannot {what}: {program} is not installed, or not in PATH; install the package {package}"),
        ),
        _ => failed(what, &format!("{program}: {error}")),
    }
}

/// Before anything is begun that ends with a conversion: its programs are there.
pub(crate) fn must_be_able_to_convert() -> Result<()> {
    must_have(&[QEMU_IMG, SETPRIV])
}

/// Before an increment is begun: its programs are there.
pub(crate) fn must_be_able_to_copy_changes() -> Result<()> {
    must_have(&[QEMU_IMG, QEMU_IO, SETPRIV])
}

fn must_have(programs: &[&str]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
            return Err(not_started("write the disk", program, &io::ErrorKind::NotFound.into()));
        }
    }
    Ok(())
}

fn run(
    what: &str,
    arguments: &[&str],
    stdin: Option<OwnedFd>,
    limit: Option<Duration>,
) -> Result<(i32, String, String)> {
    let mut command = Command::new(QEMU_IMG);
    command
        .args(arguments)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started(what, QEMU_IMG, &error))?;
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

pub(super) fn one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

fn clone_of(file: &File, what: &str) -> Result<OwnedFd> {
    file.try_clone()
        .map(OwnedFd::from)
        .map_err(|error| failed(what, &error.to_string()))
}

/// Writes an empty qcow2 image into `file`, on `backing` (with an absolute path) if there is one. What is written to it
/// compressed will be by zstd.
pub(super) fn create_qcow2(
    file: &File,
    size: u64,
    backing: Option<&Backing>,
    compress: bool,
    shown: &str,
) -> Result<()> {
    let what = format!("create the image '{shown}'");
    let size = size.to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2"];
    if compress {
        arguments.extend(["-o", "compression_type=zstd"]);
    }
    if let Some(backing) = backing {
        // -u: the backing file is the guest's, in use, and its size is known.
        arguments.extend(["-u", "-F", &backing.format, "-b", &backing.path]);
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
        backing_format: value["backing-filename-format"].as_str().map(str::to_owned),
        encrypted: value["encrypted"].as_bool().unwrap_or(false),
        data_file: !value["format-specific"]["data"]["data-file"].is_null(),
        keeps_bitmaps: value["format-specific"]["data"]["compat"] == "1.1",
        bitmaps: parse_bitmaps(&value["format-specific"]["data"]["bitmaps"]),
    })
}

fn parse_bitmaps(list: &serde_json::Value) -> Vec<Bitmap> {
    let bitmaps = list.as_array().into_iter().flatten();
    let bitmaps = bitmaps.filter_map(|bitmap| {
        let has = |flag: &str| {
            let flags = bitmap["flags"].as_array();
            flags.is_some_and(|flags| flags.iter().any(|found| found == flag))
        };
        Some(Bitmap {
            name: bitmap["name"].as_str()?.to_owned(),
            in_use: has("in-use"),
            records: has("auto"),
        })
    });
    bitmaps.collect()
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
        format!(
            "the image '{shown}' does not pass qemu-img check: {}",
            said.trim_start_matches("qemu-img: ")
        ),
    ))
}

/// Gives back what an image that was not closed takes and does not use.
pub(super) fn repair_leaks(file: &File, shown: &str) -> Result<()> {
    let what = format!("check '{shown}'");
    let arguments = ["check", "-q", "-r", "leaks", "-f", "qcow2", STDIN];
    must_succeed(&what, run(&what, &arguments, Some(clone_of(file, &what)?), None)?).map(drop)
}

/// `qemu-img compare` of a chain (the active layer first) in use by QEMU, read with its lock
/// ignored, with an image of ours that is to take the place of the active one; whether they are equal.
pub(crate) fn compare_with_live(layers: &[Layer], file: &File, format: &str, shown: &str) -> Result<bool> {
    let what = format!("compare '{shown}' with the disk");
    let below = layers.iter().skip(1).cloned();
    let copy: Vec<_> = std::iter::once(Layer::whole(STDIN, format)).chain(below).collect();
    let arguments = ["compare", "-U", &chain(layers), &chain(&copy)];
    compared(&what, &arguments, Some(clone_of(file, &what)?))
}

fn compared(what: &str, arguments: &[&str], stdin: Option<OwnedFd>) -> Result<bool> {
    match run(what, arguments, stdin, None)? {
        (0, ..) => Ok(true),
        (1, ..) => Ok(false),
        (_, _, errors) => Err(failed(what, &one_line(&errors))),
    }
}

/// An image to write to or to compare with: an open file, or an NBD URI.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    File(&'a File),
    Uri(&'a str),
}

impl Target<'_> {
    pub(super) fn hand_over(&self, what: &str) -> Result<(&str, Option<OwnedFd>)> {
        match self {
            Self::File(file) => Ok((STDIN, Some(clone_of(file, what)?))),
            Self::Uri(uri) => Ok((uri, None)),
        }
    }
}

/// What a backing chain shows, with the format and the file of each layer stated, so that no header is believed.
pub(super) fn chain(layers: &[Layer]) -> String {
    let below = layers.iter().rev().fold(serde_json::Value::Null, |below, layer| {
        let mut node = layer.node();
        // Null there keeps QEMU from following the header.
        if layer.format != "raw" {
            node["backing"] = below;
        }
        node
    });
    format!("json:{below}")
}

/// The header of a qcow2 image that QEMU has open.
pub(super) fn info_live(image: &Layer) -> Result<Info> {
    let what = format!("read '{}' as qcow2", image.path.escape_debug());
    let name = image.name();
    let arguments = ["info", "-U", "--output=json", "-f", "qcow2", name.as_str()];
    let text = must_succeed(&what, run(&what, &arguments, None, None)?)?;
    parse_info(&what, &text)
}

/// Removes a bitmap from a qcow2 image that nobody has open, which QEMU's lock sees to.
pub(crate) fn remove_bitmap(path: &str, name: &str) -> Result<()> {
    let what = format!("remove the bitmap '{name}' from '{}'", path.escape_debug());
    let arguments = ["bitmap", "--remove", "-f", "qcow2", path, name];
    must_succeed(&what, run(&what, &arguments, None, None)?).map(drop)
}

/// Removes a bitmap from a copy that nobody uses.
pub(super) fn drop_bitmap(file: &File, name: &str, shown: &str) -> Result<()> {
    let what = format!("remove the bitmap '{name}' from '{shown}'");
    let arguments = ["bitmap", "--remove", "-f", "qcow2", STDIN, name];
    must_succeed(&what, run(&what, &arguments, Some(clone_of(file, &what)?), None)?).map(drop)
}

/// Writes the backing file's name into a qcow2 header, or takes it out, and looks at no content.
pub(super) fn rebase_unsafe(file: &File, backing: Option<&Backing>, shown: &str) -> Result<()> {
    let what = format!("write the backing file's name into '{shown}'");
    let mut arguments = vec!["rebase", "-u", "-f", "qcow2"];
    match backing {
        Some(backing) => arguments.extend(["-b", &backing.path, "-F", &backing.format]),
        None => arguments.extend(["-b", ""]),
    }
    arguments.push(STDIN);
    must_succeed(&what, run(&what, &arguments, Some(clone_of(file, &what)?), None)?).map(drop)
}

/// Whether a qcow2 image has content of its own, also one that QEMU has open. An error where it is no image yet.
pub(crate) fn has_content(file: &File, shown: &str) -> Result<bool> {
    let what = format!("check '{shown}'");
    let arguments = ["check", "-U", "-f", "qcow2", "--output=json", STDIN];
    let (_, output, errors) = run(&what, &arguments, Some(clone_of(file, &what)?), None)?;
    let value: serde_json::Value = serde_json::from_str(&output).map_err(|_| failed(&what, &one_line(&errors)))?;
    // qemu-img leaves a zero out.
    Ok(value["allocated-clusters"]
        .as_u64()
        .is_some_and(|clusters| clusters > 0))
}

/// Commits an unused overlay into `base`, which it must rest on. The overlay keeps its content.
pub(crate) fn commit(file: &File, base: &Layer, shown: &str) -> Result<()> {
    let what = format!("commit '{shown}'");
    let backing = info(file, "qcow2", shown)?.backing;
    let base = base.name();
    if backing.as_deref() != Some(base.as_str()) {
        let found = backing.unwrap_or_else(|| "nothing".into());
        return Err(failed(
            &what,
            &format!("its backing file is '{}' and not '{base}'", found.escape_debug()),
        ));
    }
    let arguments = ["commit", "-q", "-d", "-f", "qcow2", STDIN];
    must_succeed(&what, run(&what, &arguments, Some(clone_of(file, &what)?), None)?).map(drop)
}

/// `qemu-img compare` of two images that are not in use.
pub(crate) fn are_equal(one: &Layer, other: (&File, &str), shown: &str) -> Result<bool> {
    let what = format!("compare '{shown}'");
    let (name, format) = (one.name(), one.format.as_str());
    let arguments = ["compare", "-q", "-f", format, "-F", other.1, name.as_str(), STDIN];
    compared(&what, &arguments, Some(clone_of(other.0, &what)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_is_missing_is_the_one_that_is_named() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        for (program, other, package) in [(SETPRIV, QEMU_IMG, "util-linux"), (QEMU_IMG, SETPRIV, "qemu-utils")] {
            let error = not_started("write the disk", program, &missing);
            assert_eq!(error.code(), ErrorCode::Unsupported);
            let message = error.message();
            assert!(
                message.contains(&format!("{program} is not installed")) && message.contains(package),
                "{message}"
            );
            assert!(!message.contains(&format!("{other} is not installed")), "{message}");
        }
    }

    #[test]
    fn bitmaps_are_read_with_their_flags() {
        let text = r#"{"virtual-size": 1, "format-specific": {"data": {"bitmaps": [
            {"flags": ["auto"], "name": "a", "granularity": 65536},
            {"flags": ["in-use", "auto"], "name": "b", "granularity": 65536}, {"flags": [], "name": "c"}]}}}"#;
        let found = parse_info("read", text).unwrap().bitmaps;
        let found: Vec<_> = found
            .iter()
            .map(|bitmap| (bitmap.name.as_str(), bitmap.in_use, bitmap.records))
            .collect();
        assert_eq!(found, [("a", false, true), ("b", true, true), ("c", false, false)]);
        assert_eq!(parse_info("read", r#"{"virtual-size": 1}"#).unwrap().bitmaps, []);
    }

    #[test]
    fn a_chain_states_everything_and_ends_where_it_ends() {
        let layers = [Layer::whole("/odd,name\":{}", "qcow2"), Layer::whole("/base", "qcow2")];
        let text = chain(&layers);
        let value: serde_json::Value = serde_json::from_str(text.strip_prefix("json:").unwrap()).unwrap();
        assert_eq!(value["file"]["filename"], "/odd,name\":{}");
        assert_eq!(value["backing"]["driver"], "qcow2");
        assert!(value["backing"].as_object().unwrap()["backing"].is_null());
        let raw = [layers[0].clone(), Layer::whole("/base", "raw")];
        assert!(!chain(&raw).contains("null"));
    }
}
