// SPDX-License-Identifier: LGPL-2.1-or-later
//! What can go wrong, and how it is reported.

use std::{fmt, io};

/// What kind of failure it was. The numbers are those of `LIVEDISK_ERR_*` in the C header and are never reused.
///
/// Each variant says what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum ErrorCode {
    /// An argument is wrong in itself (null, unknown flag, not UTF-8, no disks, ...). Correct the call.
    InvalidArgument = -1,
    /// libvirt cannot be reached. Check the URI and the daemon, then open again.
    NoConnection = -2,
    /// There is no such domain on this connection. Check the name or UUID.
    NoDomain = -3,
    /// The domain has no such disk, or the disk has no medium. Check the disk target with `virsh domblklist`.
    NoDisk = -4,
    /// The domain is not running, is paused, or was shut off under the operation. Start or resume it and try again.
    DomainState = -5,
    /// A block job, backup, checkpoint, freeze or operation is in the way. Wait for it or end it, then try again.
    Busy = -6,
    /// This libvirt, QEMU, disk or format cannot do it. Ask for another method, format or disk.
    Unsupported = -7,
    /// Quiescing is required and no guest agent answers. Start the agent in the guest or ask for less.
    Agent = -8,
    /// Freeze or thaw failed, or the freeze limit was passed. The operation was rolled back. Try again, perhaps with a higher limit.
    Freeze = -9,
    /// The destination exists, has the wrong size or format, or cannot be reached. Name another one or fix this one.
    Destination = -10,
    /// The destination's file system is full. Make room or name another destination.
    NoSpace = -11,
    /// livedisk or QEMU may not read or write a path. Fix its owner, mode or security label.
    Permission = -12,
    /// A block job failed in QEMU; the message carries QEMU's reason. The operation was rolled back.
    JobFailed = -13,
    /// The operation was cancelled and rolled back.
    Cancelled = -14,
    /// The wait ended and the operation continues. Wait again or cancel.
    Timeout = -15,
    /// There is no such operation, or it is over. Nothing is left to do.
    NoOperation = -16,
    /// The copy differs from the source or does not pass its check. It was removed.
    Verify = -17,
    /// Any other libvirt error; its number comes with it.
    Libvirt = -18,
    /// A file could not be read or written.
    Io = -19,
    /// A bug in livedisk. Please report it.
    Internal = -20,
    /// A checkpoint's bitmap is missing or inconsistent. Take a full backup.
    Checkpoint = -21,
    /// The domain has no checkpoint of that name. Check the name.
    NoCheckpoint = -22,
}

impl ErrorCode {
    /// Of a file that cannot be used, for this reason.
    pub(crate) fn of_io(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permission,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io,
        }
    }

    /// The name in the C header, without `LIVEDISK_ERR_`: `NO_SPACE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NoConnection => "NO_CONNECTION",
            Self::NoDomain => "NO_DOMAIN",
            Self::NoDisk => "NO_DISK",
            Self::DomainState => "DOMAIN_STATE",
            Self::Busy => "BUSY",
            Self::Unsupported => "UNSUPPORTED",
            Self::Agent => "AGENT",
            Self::Freeze => "FREEZE",
            Self::Destination => "DESTINATION",
            Self::NoSpace => "NO_SPACE",
            Self::Permission => "PERMISSION",
            Self::JobFailed => "JOB_FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Timeout => "TIMEOUT",
            Self::NoOperation => "NO_OPERATION",
            Self::Verify => "VERIFY",
            Self::Libvirt => "LIBVIRT",
            Self::Io => "IO",
            Self::Internal => "INTERNAL",
            Self::Checkpoint => "CHECKPOINT",
            Self::NoCheckpoint => "NO_CHECKPOINT",
        }
    }
}

/// A failure: what failed, on which domain, disk or path, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: ErrorCode,
    message: String,
    libvirt_code: i32,
}

/// What livedisk's calls return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            libvirt_code: 0,
        }
    }

    pub(crate) fn with_libvirt_code(mut self, libvirt_code: i32) -> Self {
        self.libvirt_code = libvirt_code;
        self
    }

    /// What kind of failure it was.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What failed, on which domain, disk or path, why, and what to do; one line of UTF-8.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// libvirt's own `virErrorNumber`, or 0 where libvirt did not fail.
    pub fn libvirt_code(&self) -> i32 {
        self.libvirt_code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
