// SPDX-License-Identifier: LGPL-2.1-or-later
//! The backup's job and its export, on a unix socket in a directory that QEMU's user alone may enter, and root.

use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use super::left::end_readers;
use super::line::Line;
use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::JobStats;
use crate::libvirt::xml::{BackupDisk, RunningBackup, Source, backup};

/// A unix socket's name is this long at most.
const LONGEST_SOCKET: usize = 107;
/// Of an operation's id.
const ID: usize = 36;
const ATTEMPTS: u32 = 5;

/// How far the backup's job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Export {
    /// There is none, or none any more.
    None,
    Running,
    /// Asked to end, and not yet gone.
    Ending,
}

/// The directory in which each export gets one of its own.
pub(in crate::operation) fn base(guest: &Guest) -> Result<String> {
    let user = geteuid();
    if let (false, Some((qemu, _))) = (user.is_root(), guest.get_qemu_user()?)
        && qemu.parse() != Ok(user.as_raw())
    {
        return Err(Error::new(
            ErrorCode::Permission,
            format!(
                "domain '{}': its QEMU runs as user {qemu}, which only root can give a socket to; run livedisk as root, or use \
                 MIRROR",
                guest.name()
            ),
        ));
    }
    let base = match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !user.is_root()) {
        Some(directory) => PathBuf::from(directory).join("livedisk"),
        None if user.is_root() => PathBuf::from("/run/livedisk"),
        None => std::env::temp_dir().join(format!("livedisk-{}", user.as_raw())),
    };
    let base = base.to_string_lossy().into_owned();
    if base.len() + ID + "//nbd".len() > LONGEST_SOCKET {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "a socket under '{}' would have too long a name; set XDG_RUNTIME_DIR to a shorter one",
                base.escape_debug()
            ),
        ));
    }
    Ok(base)
}

/// Where the export's socket is.
pub(in crate::operation) struct Server {
    directory: PathBuf,
}

impl Server {
    pub(in crate::operation) fn of(base: &str, operation: &str) -> Self {
        Self {
            directory: Path::new(base).join(operation),
        }
    }

    pub(in crate::operation) fn socket(&self) -> String {
        self.directory.join("nbd").to_string_lossy().into_owned()
    }

    pub(in crate::operation) fn is_there(&self) -> bool {
        self.directory.exists()
    }

    /// For QEMU, which makes the socket.
    pub(in crate::operation) fn make(&self, guest: &Guest) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            let shown = self.directory.display();
            Error::new(
                ErrorCode::Io,
                format!("cannot make the directory '{shown}' for the backup's socket: {error}"),
            )
        };
        self.remove()?;
        let base = self.directory.parent().unwrap_or(Path::new("/"));
        // Another operation, which ends, may remove the one above in between.
        for attempt in 1.. {
            // Where it cannot be made, nothing can be made in it.
            let _ = DirBuilder::new().mode(0o711).create(base);
            match DirBuilder::new().mode(0o700).create(&self.directory) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < ATTEMPTS => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        let Some((user, group)) = guest.get_qemu_user()?.filter(|_| geteuid().is_root()) else {
            return Ok(());
        };
        // It knows names and numbers.
        let given = Command::new("chown")
            .arg(format!("{user}:{group}"))
            .arg(&self.directory)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(&error))?;
        if !given.status.success() {
            return Err(failed(&String::from_utf8_lossy(&given.stderr).trim()));
        }
        Ok(())
    }

    pub(in crate::operation) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::new(
                ErrorCode::Io,
                format!("cannot remove '{}': {error}", self.directory.display()),
            )),
            _ => {
                // The last one out. Others may be in it.
                if let Some(base) = self.directory.parent() {
                    let _ = fs::remove_dir(base);
                }
                Ok(())
            }
        }
    }
}

/// A disk of the backup that is to begin.
pub(in crate::operation) struct Begun<'a> {
    pub(in crate::operation) target: &'a str,
    /// Path of its scratch file.
    pub(in crate::operation) scratch: &'a str,
    /// The export says what has changed since this checkpoint.
    pub(in crate::operation) since: Option<&'a str>,
}

/// The `<domainbackup>` of these disks; `others` are left out.
pub(in crate::operation) fn to_begin(server: &Server, disks: &[Begun<'_>], others: &[String]) -> Result<CString> {
    let internal = |reason: String| Error::new(ErrorCode::Internal, reason);
    let chosen = disks.iter().map(|disk| BackupDisk {
        target: disk.target,
        scratch: Some(disk.scratch),
        since: disk.since,
    });
    let others = others.iter().map(|target| BackupDisk {
        target,
        scratch: None,
        since: None,
    });
    let xml = backup(&server.socket(), &chosen.chain(others).collect::<Vec<_>>()).map_err(internal)?;
    CString::new(xml).map_err(|error| internal(error.to_string()))
}

/// The disks of the backup that runs, where its scratch files are these.
pub(in crate::operation) fn find(guest: &Guest, scratches: &[&str]) -> Result<Option<Vec<RunningBackup>>> {
    let runs = guest.get_backup()?;
    Ok(runs.filter(|disks| {
        let is_ours =
            |disk: &RunningBackup| matches!(&disk.writes_to, Source::File(path) if scratches.contains(&path.as_str()));
        disks.iter().any(is_ours)
    }))
}

/// Whether libvirt is still tidying up after a backup.
pub(in crate::operation) fn is_ending(guest: &Guest) -> Result<bool> {
    Ok(matches!(guest.get_job_stats()?, JobStats::Backup(_)))
}

/// Ends all readers, this process's and others', or at least what they have of QEMU.
pub(in crate::operation) fn end_reading(line: Option<&Line>, operation: &str) -> Result<()> {
    if let Some(line) = line {
        line.cut();
    }
    end_readers(operation)
}
