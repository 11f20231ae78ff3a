// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a backing chain or an NBD export shows, written into an image by qemu-img. A guest works on the same storage
//! meanwhile: the image is written past the page cache where it can be, with few requests at a time.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::clone::Cloned;
use super::layer::Layer;
use super::qemu_img;
use super::qemu_img::{QEMU_IMG, SETPRIV, Target, chain, failed, not_started, one_line};
use super::write_out::{self, Watch};
use crate::error::Result;

/// The descriptor by which qemu-img gets the connection to an export.
pub(super) const CONNECTION: i32 = 3;
/// And by which it gets one thing more.
pub(super) const MORE: i32 = 4;
/// At a time. More are hardly quicker, and a guest waits for them.
const REQUESTS: &str = "4";
/// In which data is counted.
const CLUSTER: u64 = 65536;
/// No disk has larger sectors.
const LARGEST_SECTOR: u64 = 4096;

/// How long a conversion is left alone before it is looked at again.
pub(super) const LOOK_AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What is copied. Nobody writes to it meanwhile.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A backing chain, the active layer first.
    Chain(&'a [Layer]),
    Export(&'a Exported<'a>),
}

/// An NBD export. Its connections are the caller's, who can end them whatever their reader does.
pub(crate) struct Exported<'a> {
    pub(crate) name: &'a str,
    /// A new connection.
    pub(crate) connect: &'a dyn Fn() -> Result<OwnedFd>,
    /// In the reader's environment, so that another process finds it.
    pub(crate) label: (&'a str, &'a str),
}

/// How it is copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Bytes per second, 0: no limit.
    pub(crate) bandwidth: u64,
    /// For qcow2.
    pub(crate) compress: bool,
}

/// One of QEMU's programs. It may run for hours, and ends when we do.
fn command(name: &str, arguments: &[&str], stdin: Stdio) -> Command {
    let mut command = Command::new(SETPRIV);
    command
        .args(["--pdeathsig", "KILL", name])
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A terminal's Ctrl-C is for the caller, who rolls back what is to be rolled back.
        .process_group(0);
    command
}

fn started(command: &mut Command, what: &str) -> Result<Child> {
    command.spawn().map_err(|error| not_started(what, SETPRIV, &error))
}

impl Source<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Chain(layers) => chain(layers),
            Self::Export(export) => format!("json:{}", export.image(CONNECTION)),
        }
    }

    /// qemu-img with what it needs to read this.
    fn reader(&self, arguments: &[&str], stdin: Option<OwnedFd>, what: &str) -> Result<Child> {
        let stdin = stdin.map_or_else(Stdio::null, Stdio::from);
        self.program(QEMU_IMG, arguments, stdin, None, what)
    }

    /// One of QEMU's programs with what it needs to read this, and with `more`.
    pub(super) fn program(
        &self,
        name: &str,
        arguments: &[&str],
        stdin: Stdio,
        more: Option<OwnedFd>,
        what: &str,
    ) -> Result<Child> {
        let mut command = command(name, arguments, stdin);
        if let Self::Export(export) = self {
            let mapping = |parent_fd, child_fd| FdMapping { parent_fd, child_fd };
            let connection = mapping((export.connect)()?, CONNECTION);
            let more = more.map(|more| mapping(more, MORE));
            command
                .env(export.label.0, export.label.1)
                .fd_mappings(std::iter::once(connection).chain(more).collect())
                .map_err(|error| failed(what, &error.to_string()))?;
        }
        started(&mut command, what)
    }

    fn run(&self, arguments: &[&str], stdin: Option<OwnedFd>, what: &str) -> Result<(i32, String)> {
        said(self.reader(arguments, stdin, what)?, what)
    }

    /// How many bytes there are to copy, of `size` in all: what does not read as zeroes.
    fn measure(&self, size: u64, what: &str) -> Result<u64> {
        let clusters = format!("cluster_size={CLUSTER}");
        let arguments = [
            "measure",
            "--output=json",
            "-O",
            "qcow2",
            "-o",
            &clusters,
            &self.shown(),
        ];
        let (0, text) = self.run(&arguments, None, what)? else {
            return Err(failed(what, "the disk cannot be read"));
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(what, &error.to_string()))?;
        let number = |name: &str| value[name].as_u64();
        let (Some(required), Some(allocated)) = (number("required"), number("fully-allocated")) else {
            return Err(failed(what, "qemu-img measure reports no size"));
        };
        Ok(data_of(required, allocated, size))
    }
}

/// What a qcow2 image takes with only the data (`required`) has the metadata of one that is full (`allocated`), which may be a
/// thousand times the data.
fn data_of(required: u64, allocated: u64, size: u64) -> u64 {
    let metadata = allocated.saturating_sub(size.next_multiple_of(CLUSTER));
    required.saturating_sub(metadata).min(size)
}

impl Exported<'_> {
    /// As QEMU's programs open it, by the descriptor of a connection.
    pub(super) fn node(&self, connection: i32) -> serde_json::Value {
        let server = serde_json::json!({ "type": "fd", "str": connection.to_string() });
        serde_json::json!({ "driver": "nbd", "server": server, "export": self.name })
    }

    pub(super) fn image(&self, connection: i32) -> serde_json::Value {
        serde_json::json!({ "driver": "raw", "file": self.node(connection) })
    }

    /// A qcow2 image that rests on it, whatever its header names.
    pub(super) fn below(&self, image: &str, connection: i32) -> serde_json::Value {
        // QEMU finds out whether it is a file or a block device.
        serde_json::json!({ "driver": "qcow2", "file": { "filename": image }, "backing": self.image(connection) })
    }

    /// qemu-img, with a connection; its exit status and what it said.
    pub(super) fn ask(
        &self,
        arguments: &[&str],
        stdin: Option<OwnedFd>,
        more: Option<OwnedFd>,
        what: &str,
    ) -> Result<(i32, String)> {
        let stdin = stdin.map_or_else(Stdio::null, Stdio::from);
        said(
            Source::Export(self).program(QEMU_IMG, arguments, stdin, more, what)?,
            what,
        )
    }
}

/// Its exit status and what it said.
fn said(child: Child, what: &str) -> Result<(i32, String)> {
    let output = child.wait_with_output();
    let output = output.map_err(|error| failed(what, &error.to_string()))?;
    let code = output.status.code().unwrap_or(-1);
    let said = if code == 0 { &output.stdout } else { &output.stderr };
    Ok((code, String::from_utf8_lossy(said).trim().to_owned()))
}

/// Whether the image shows what the source does.
pub(super) fn equals(source: Source<'_>, target: Target<'_>, format: &str, shown: &str) -> Result<bool> {
    let what = format!("compare '{shown}' with the disk");
    let (name, stdin) = target.hand_over(&what)?;
    compared(
        source.run(&["compare", "-F", format, &source.shown(), name], stdin, &what)?,
        &what,
    )
}

/// What `qemu-img compare` came to.
pub(super) fn compared(outcome: (i32, String), what: &str) -> Result<bool> {
    match outcome {
        (0, _) => Ok(true),
        (1, _) => Ok(false),
        (_, errors) => Err(failed(what, &one_line(&errors))),
    }
}

/// The image that is written, which exists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written<'a> {
    pub(super) target: Target<'a>,
    pub(super) format: &'a str,
    /// It reads as zeroes already, and so keeps its holes.
    pub(super) blank: bool,
    /// It can be written past the page cache.
    pub(super) direct: bool,
    pub(super) shown: &'a str,
}

/// Writes what the source, of `size` bytes, shows into an image, in one pass. With an export nothing here waits for the image's storage but
/// qemu-img: a process that hangs with it could not end, and holds connections.
pub(super) fn convert(
    source: Source<'_>,
    size: u64,
    written: Written<'_>,
    manner: Manner,
    watch: Watch<'_>,
) -> Result<Cloned> {
    let Written { target, shown, .. } = written;
    let what = format!("write the disk to '{shown}'");
    let total = source.measure(size, &what)?;
    let (name, stdin) = target.hand_over(&what)?;
    let (limit, read) = (manner.bandwidth.to_string(), source.shown());
    let mut arguments = vec!["convert", "-p", "-n", "-m", REQUESTS, "-O", written.format];
    // qemu-img compresses in order only.
    arguments.push(if manner.compress { "-c" } else { "-W" });
    if written.blank {
        arguments.push("--target-is-zero");
    }
    if manner.bandwidth > 0 {
        arguments.extend(["-r", &limit]);
    }
    arguments.extend(["-t", if written.direct { "none" } else { "writeback" }]);
    arguments.extend([read.as_str(), name]);
    let run = |watch: Watch<'_>| follow(source.reader(&arguments, stdin, &what)?, total, watch, &what);
    match (target, source) {
        (Target::File(file), Source::Chain(_)) if !written.direct => {
            write_out::beside(file, watch, run).map_err(|error| failed(&what, &error.to_string()))?
        }
        _ => run(watch),
    }
}

/// Copies what a qcow2 image rests on into it, at `bandwidth` bytes per second at most (0: no limit). One that was ended half way
/// is as good, and is gone on with.
pub(super) fn flatten(file: &File, direct: bool, bandwidth: u64, shown: &str, watch: Watch<'_>) -> Result<Cloned> {
    let what = format!("copy the backing chain of '{shown}' into it");
    // Of an end half way.
    qemu_img::repair_leaks(file, shown)?;
    let target = Target::File(file);
    let (name, stdin) = target.hand_over(&what)?;
    let cache = if direct { "none" } else { "writeback" };
    // qemu-img's rebase has no limit of its own: what it writes to the file is throttled.
    let group = format!("throttle-group,id=limit,x-bps-write={bandwidth}");
    let throttled = format!(
        "driver=qcow2,file.driver=throttle,file.throttle-group=limit,file.file.driver=file,file.file.filename={name}"
    );
    let mut arguments = vec!["rebase", "-p", "-t", cache, "-b", ""];
    match bandwidth {
        0 => arguments.extend(["-f", "qcow2", name]),
        _ => arguments.extend(["--object", &group, "--image-opts", &throttled]),
    }
    let size = qemu_img::info(file, "qcow2", shown)?.virtual_size;
    let stdin = stdin.map_or_else(Stdio::null, Stdio::from);
    let run = |watch: Watch<'_>| {
        let mut command = command(QEMU_IMG, &arguments, stdin);
        follow(started(&mut command, &what)?, size, watch, &what)
    };
    match direct {
        true => run(watch),
        false => write_out::beside(file, watch, run).map_err(|error| failed(&what, &error.to_string()))?,
    }
}

/// Whether the image can be written past the page cache. QEMU takes a raw one for that only in whole sectors of its disk.
pub(super) fn is_direct(file: &File, format: &str) -> bool {
    let whole = format != "raw" || rustix::fs::fstat(file).is_ok_and(|stat| stat.st_size as u64 % LARGEST_SECTOR == 0);
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    whole
        && openat(
            CWD,
            name,
            OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .is_ok()
}

/// Until the conversion has ended, or is not wanted any more.
fn follow(mut child: Child, total: u64, watch: Watch<'_>, what: &str) -> Result<Cloned> {
    let mut progress = child.stdout.take().map(Percent::new);
    let mut wanted = true;
    while let Some(reader) = &mut progress {
        wanted = watch(total / 10_000 * reader.hundredths, total);
        if !wanted {
            // It may have ended meanwhile; either way it is reaped below.
            let _ = child.kill();
        }
        if !wanted || !reader.goes_on().map_err(|error| failed(what, &error.to_string()))? {
            break;
        }
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(what, &error.to_string()))?;
    if !wanted {
        return Ok(Cloned::Cancelled);
    }
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let errors = one_line(errors.trim());
        return Err(match errors.is_empty() {
            true => failed(what, &format!("{QEMU_IMG}: {}", output.status)),
            false => failed(what, &errors),
        });
    }
    watch(total, total);
    Ok(Cloned::Whole)
}

/// Reads the `(12.34/100%)` that qemu-img writes now and then.
struct Percent {
    stdout: ChildStdout,
    text: String,
    hundredths: u64,
}

impl Percent {
    fn new(stdout: ChildStdout) -> Self {
        Self {
            stdout,
            text: String::new(),
            hundredths: 0,
        }
    }

    /// Waits for news, not for long; false at the end.
    fn goes_on(&mut self) -> io::Result<bool> {
        match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&LOOK_AGAIN)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut piece = [0; 1024];
        let length = self.stdout.read(&mut piece)?;
        self.text.push_str(&String::from_utf8_lossy(&piece[..length]));
        self.hundredths = last_percent(&self.text).unwrap_or(self.hundredths);
        if let Some(end) = self.text.rfind('\r') {
            self.text.drain(..end);
        }
        Ok(length > 0)
    }
}

/// In hundredths of a percent.
fn last_percent(text: &str) -> Option<u64> {
    let (before, _) = text.rsplit_once("/100%")?;
    let (_, number) = before.rsplit_once('(')?;
    let percent: f64 = number.parse().ok()?;
    Some((percent * 100.0).clamp(0.0, 10_000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_not_counted_as_data() {
        // Of a disk of 8 TiB with 2 MiB of data.
        assert_eq!(data_of(1_344_602_112, 8_797_435_527_168, 8 << 40), 2 << 20);
        // Of one that is full, and whose size is odd.
        assert_eq!(data_of(500_000, 500_000, 100_001), 100_001);
        assert_eq!(data_of(0, 500_000, 100_001), 0);
    }

    #[test]
    fn the_last_percentage_counts() {
        assert_eq!(last_percent("    (1.50/100%)\r    (62.50/100%)\r    (7"), Some(6250));
        assert_eq!(last_percent("    (100.00/100%)\r"), Some(10_000));
        assert_eq!(last_percent("    (1"), None);
    }
}
