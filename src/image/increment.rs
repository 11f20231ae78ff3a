// SPDX-License-Identifier: LGPL-2.1-or-later
//! What has changed of an NBD export, written into a qcow2 image by qemu-io: the image is opened with the export below it, and
//! what is read through it is kept in it (copy on read).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use super::clone::Cloned;
use super::convert::{CONNECTION, Exported, LOOK_AGAIN, MORE, Manner, Source, Written, compared};
use super::layer::Backing;
use super::output::Output;
use super::qemu_img::{self, QEMU_IO, STDIN, Target, failed, one_line};
use super::write_out::Watch;
use crate::error::Result;

/// What is read at once: a cluster of the image, so that one of zeroes is found to be one.
const PIECE: u64 = 64 << 10;
/// At a time. What the guest writes waits for them.
const REQUESTS: u64 = 8;
/// qemu-io's.
const PROMPT: &str = "qemu-io> ";
/// Under a limit the watch must be asked often all the same.
const NAP: Duration = Duration::from_millis(100);

/// A stretch of a disk: where it begins, and how long it is.
pub(crate) type Extent = (u64, u64);

/// Asks qemu-img for a map, and takes of it what is wanted.
fn map(
    export: &Exported<'_>,
    image: &str,
    stdin: Option<OwnedFd>,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Vec<Extent>> {
    let (code, text) = export.ask(&["map", "--output=json", image], stdin, None, what)?;
    if code != 0 {
        return Err(failed(what, &one_line(&text)));
    }
    let list: Vec<Value> = serde_json::from_str(&text).map_err(|error| failed(what, &error.to_string()))?;
    let extents = list.iter().filter(|found| wanted(found)).map(|found| {
        let extent = found["start"].as_u64().zip(found["length"].as_u64());
        extent.ok_or_else(|| failed(what, "qemu-img map reports an extent without start or length"))
    });
    extents.collect()
}

impl Exported<'_> {
    /// The stretches that QEMU's bitmap of this name marks.
    pub(crate) fn changed(&self, bitmap: &str) -> Result<Vec<Extent>> {
        let what = format!("read what has changed of disk '{}'", self.name);
        let mut source = self.node(CONNECTION);
        source["x-dirty-bitmap"] = format!("qemu:dirty-bitmap:{bitmap}").into();
        // What a bitmap marks is shown as what has no data and is no zeroes.
        let is_marked = |found: &Value| found["data"] == false && found["zero"] == false;
        map(self, &format!("json:{source}"), None, &what, is_marked)
    }
}

impl Output {
    /// Writes these stretches of an export into the image, an empty qcow2 one that rests on nothing.
    pub(crate) fn write_changed(
        &self,
        export: &Exported<'_>,
        extents: &[Extent],
        manner: Manner,
        watch: Watch<'_>,
    ) -> Result<Cloned> {
        let shown = self.shown();
        copy(export, extents, self.written(false, &shown)?, manner, watch)
    }

    /// From now on its header names this image below it.
    pub(crate) fn put_on(&self, backing: &Backing) -> Result<()> {
        let file = self.file();
        file.map_or(Ok(()), |file| {
            qemu_img::rebase_unsafe(file, Some(backing), &self.shown())
        })
    }

    /// Whether the image, which rests on nothing, has all of these stretches, and what it has is the export's.
    pub(crate) fn equals_changed(&self, export: &Exported<'_>, extents: &[Extent]) -> Result<bool> {
        equals(export, extents, self.target()?, &self.shown())
    }
}

/// Each of one piece at most.
fn pieces(extents: &[Extent]) -> impl Iterator<Item = Extent> + '_ {
    extents.iter().flat_map(|&(start, length)| {
        let offsets = (0..length).step_by(PIECE as usize);
        offsets.map(move |offset| (start + offset, PIECE.min(length - offset)))
    })
}

/// Writes these stretches of the export into an empty image whose header names no backing file.
fn copy(
    export: &Exported<'_>,
    extents: &[Extent],
    written: Written<'_>,
    manner: Manner,
    watch: Watch<'_>,
) -> Result<Cloned> {
    let what = format!("write the changes to '{}'", written.shown);
    let (_, Some(file)) = written.target.hand_over(&what)? else {
        return Err(failed(&what, "an NBD export cannot hold an increment"));
    };
    let mut image = export.below(&format!("/proc/self/fd/{MORE}"), CONNECTION);
    if manner.compress {
        image = json!({ "driver": "compress", "file": image });
    }
    let cache = if written.direct { "none" } else { "writeback" };
    let arguments = ["-C", "-t", cache, &format!("json:{image}")];
    let mut child = Source::Export(export).program(QEMU_IO, &arguments, Stdio::piped(), Some(file), &what)?;
    let read = read(&mut child, extents, manner.bandwidth, watch);
    if !matches!(read, Ok(End::Whole)) {
        // It may have ended meanwhile; either way it is reaped below.
        let _ = child.kill();
    }
    let output = child.wait_with_output();
    let output = output.map_err(|error| failed(&what, &error.to_string()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors = one_line(errors.trim());
    match read {
        Ok(End::Unwanted) => Ok(Cloned::Cancelled),
        Ok(End::Whole) if output.status.success() => Ok(Cloned::Whole),
        Ok(End::Failed(why)) => Err(failed(&what, &why)),
        _ if !errors.is_empty() => Err(failed(&what, &errors)),
        Err(error) => Err(failed(&what, &error.to_string())),
        Ok(_) => Err(failed(&what, &format!("{QEMU_IO}: {}", output.status))),
    }
}

/// How reading ended.
enum End {
    Whole,
    Unwanted,
    /// What qemu-io says of a request.
    Failed(String),
    /// qemu-io ended before it was asked to.
    Short,
}

/// Has qemu-io read these stretches, a few requests at a time.
fn read(child: &mut Child, extents: &[Extent], bandwidth: u64, watch: Watch<'_>) -> io::Result<End> {
    let mut stdin = child.stdin.take();
    let Some(mut answers) = child.stdout.take().map(Answers::new) else {
        return Ok(End::Short);
    };
    let total: u64 = extents.iter().map(|(_, length)| length).sum();
    let at_once = match bandwidth {
        0 => REQUESTS,
        limit => (limit / 10 / PIECE).clamp(1, REQUESTS),
    };
    let (mut pieces, mut done, mut under_way, began) = (pieces(extents).peekable(), 0, 0, Instant::now());
    loop {
        if !watch(done, total) {
            return Ok(End::Unwanted);
        }
        if answers.is_asked() {
            let early = match (under_way, bandwidth) {
                (0, 1..) => Duration::from_secs_f64(done as f64 / bandwidth as f64).saturating_sub(began.elapsed()),
                _ => Duration::ZERO,
            };
            if !early.is_zero() {
                thread::sleep(early.min(NAP));
                continue;
            }
            let next = pieces.next_if(|_| under_way < at_once);
            let command = match (next, under_way) {
                (Some((start, length)), _) => Some(format!("aio_read {start} {length}\n")),
                // It says nothing of them before it waits for them.
                (None, 1..) => Some("aio_flush\n".to_owned()),
                (None, 0) => None,
            };
            under_way = if next.is_some() { under_way + 1 } else { 0 };
            match (&mut stdin, command) {
                (Some(input), Some(command)) => answers.ask(input, &command)?,
                // At its end qemu-io closes the image.
                _ => stdin = None,
            }
        }
        let Some(found) = answers.next()? else {
            let is_whole = stdin.is_none() && done == total;
            return Ok(if is_whole { End::Whole } else { End::Short });
        };
        for answer in found {
            match answer {
                Answer::Read(bytes) => done += bytes,
                Answer::Failed(why) => return Ok(End::Failed(why)),
            }
        }
    }
}

/// What qemu-io says of a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Read(u64),
    Failed(String),
}

struct Answers {
    stdout: ChildStdout,
    text: Vec<u8>,
}

impl Answers {
    fn new(stdout: ChildStdout) -> Self {
        let text = Vec::new();
        Self { stdout, text }
    }

    /// It waits for a command. More than one at a time it overlooks: what it has read ahead wakes it no more.
    fn is_asked(&self) -> bool {
        self.text.ends_with(PROMPT.as_bytes())
    }

    fn ask(&mut self, stdin: &mut ChildStdin, command: &str) -> io::Result<()> {
        self.text.clear();
        stdin.write_all(command.as_bytes())
    }

    /// Waits for news, not for long; None at the end.
    fn next(&mut self) -> io::Result<Option<Vec<Answer>>> {
        match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&LOOK_AGAIN)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Some(Vec::new())),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut piece = [0; 4096];
        let length = io::Read::read(&mut self.stdout, &mut piece)?;
        if length == 0 {
            return Ok(None);
        }
        self.text.extend_from_slice(&piece[..length]);
        let whole = self
            .text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.text.drain(..whole).collect();
        Ok(Some(
            String::from_utf8_lossy(&lines).lines().filter_map(answer).collect(),
        ))
    }
}

/// `read 65536/65536 bytes at offset 0`, after a prompt or none.
fn answer(line: &str) -> Option<Answer> {
    let line = line.trim_start_matches(PROMPT);
    if line.contains("failed: ") || line.contains("Error: ") {
        return Some(Answer::Failed(line.to_owned()));
    }
    let (bytes, wanted) = line
        .strip_prefix("read ")?
        .split_once(" bytes at offset")?
        .0
        .split_once('/')?;
    let (bytes, wanted): (u64, u64) = (bytes.parse().ok()?, wanted.parse().ok()?);
    Some(match bytes == wanted {
        true => Answer::Read(bytes),
        false => Answer::Failed(line.to_owned()),
    })
}

fn equals(export: &Exported<'_>, extents: &[Extent], target: Target<'_>, shown: &str) -> Result<bool> {
    let what = format!("compare '{shown}' with the disk");
    let (name, stdin) = target.hand_over(&what)?;
    let image = format!("json:{}", export.below(STDIN, MORE));
    let disk = format!("json:{}", export.image(CONNECTION));
    let more = Some((export.connect)()?);
    if !compared(export.ask(&["compare", &disk, &image], stdin, more, &what)?, &what)? {
        return Ok(false);
    }
    let (_, stdin) = target.hand_over(&what)?;
    // QEMU 6.1 and earlier do not say it.
    let has = map(export, name, stdin, &what, |found| found["present"] != false)?;
    Ok(extents.iter().all(|extent| is_within(*extent, &has)))
}

/// Whether stretches, which are in order, cover this one.
fn is_within((start, length): Extent, stretches: &[Extent]) -> bool {
    let end = start + length;
    let reached = stretches.iter().fold(start, |at, &(start, length)| {
        let follows = start <= at && at < start + length;
        if follows { start + length } else { at }
    });
    reached >= end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_io_says_is_read() {
        let read = answer("qemu-io> read 65536/65536 bytes at offset 131072");
        assert_eq!(read, Some(Answer::Read(65536)));
        assert_eq!(answer("read 512/512 bytes at offset 0"), Some(Answer::Read(512)));
        assert_eq!(
            answer("64 KiB, 1 ops; 00.01 sec (5.2 MiB/sec and 84.0541 ops/sec)"),
            None
        );
        for failed in [
            "qemu-io> readv failed: No space left on device",
            "read 512/1024 bytes at offset 0",
        ] {
            assert!(matches!(answer(failed), Some(Answer::Failed(_))), "{failed}");
        }
    }

    #[test]
    fn stretches_are_read_piece_by_piece() {
        let found: Vec<_> = pieces(&[(0, PIECE + 512), (PIECE * 4, PIECE)]).collect();
        assert_eq!(found, [(0, PIECE), (PIECE, 512), (PIECE * 4, PIECE)]);
    }

    #[test]
    fn a_stretch_may_be_covered_by_several() {
        let has = [(0, 10), (10, 10), (30, 10)];
        assert!(is_within((5, 15), &has) && is_within((30, 10), &has));
        assert!(!is_within((5, 16), &has) && !is_within((20, 1), &has) && !is_within((39, 2), &has));
    }

    fn run(program: &str, arguments: &[&str]) {
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    }

    /// An image whose bitmap knows of some writes, exported.
    #[test]
    fn what_a_bitmap_marks_is_copied_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("livedisk-increment-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (disk, full, socket) = (path("disk"), path("full"), path("socket"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", &disk, "64M"]);
        let write = |command: &str| run("qemu-io", &["-f", "qcow2", "-c", command, &disk]);
        write("write -P 1 0 20M");
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "qcow2", &disk, &full]);
        run("qemu-img", &["bitmap", "--add", "-f", "qcow2", &disk, "backup-vda"]);
        write("write -P 2 4k 200k");
        write("write -z 10M 2M");
        write("write -P 3 30M 3M");
        let served = [
            "-r",
            "-t",
            "-e",
            "8",
            "-k",
            &socket,
            "-B",
            "backup-vda",
            "-x",
            "vda",
            "-f",
            "qcow2",
            &disk,
        ];
        let mut server = std::process::Command::new("qemu-nbd").args(served).spawn().unwrap();
        while !directory.join("socket").exists() {
            thread::sleep(Duration::from_millis(10));
        }
        let connect = || Ok(std::os::unix::net::UnixStream::connect(&socket).unwrap().into());
        let export = Exported {
            name: "vda",
            connect: &connect,
            label: ("LIVEDISK_TEST", "increment"),
        };
        let changed = export.changed("backup-vda").unwrap();
        assert_eq!(changed, [(0, 256 << 10), (10 << 20, 2 << 20), (30 << 20, 3 << 20)]);
        assert!(export.changed("none").is_err());
        for (name, compress, bandwidth) in [("a", false, 0), ("b", true, 0), ("c", false, 16 << 20)] {
            let destination = crate::image::Destination::parse(&path(name)).unwrap();
            let place = destination.look(false, &[]).unwrap();
            let form = crate::image::Form {
                size: 64 << 20,
                backing: None,
                reuse: false,
                compress,
            };
            let mut output = Output::prepare(&destination, &place, "qcow2", form, &path("staging")).unwrap();
            output.publish().unwrap();
            let mut seen = Vec::new();
            let mut watch = |done, total| {
                seen.push((done, total));
                true
            };
            let manner = Manner { bandwidth, compress };
            let began = Instant::now();
            let copied = output.write_changed(&export, &changed, manner, &mut watch).unwrap();
            assert_eq!(copied, Cloned::Whole);
            let total = (256 << 10) + (5 << 20);
            assert_eq!(seen.last(), Some(&(total, total)));
            assert!(bandwidth == 0 || began.elapsed() > Duration::from_millis(250));
            assert!(output.equals_changed(&export, &changed).unwrap());
            assert!(!output.equals_changed(&export, &[(40 << 20, 512)]).unwrap());
            assert!(!output.equals(Source::Export(&export)).unwrap());
            let format = "qcow2".into();
            let path = full.clone();
            output.put_on(&Backing { path, format }).unwrap();
            assert!(output.equals(Source::Export(&export)).unwrap());
            let file = output.file().unwrap();
            qemu_img::check(file, "qcow2", name).unwrap();
            let size = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512;
            // The zeroes take no room.
            assert!(size < 4 << 20, "{size}");
            let unwanted = output
                .write_changed(&export, &changed, manner, &mut |_, _| false)
                .unwrap();
            assert_eq!(unwanted, Cloned::Cancelled);
        }
        server.kill().unwrap();
        server.wait().unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
