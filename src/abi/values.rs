// SPDX-License-Identifier: LGPL-2.1-or-later
//! The constants of the header. Enumerations cross the boundary as `int32_t`, because a C caller may pass any number.
//!
//! Many of them are for C callers only.
#![allow(dead_code)]

/// The header's version: major * 1000000 + minor * 1000 + patch. livedisk_version() has the library's.
pub const LIVEDISK_VERSION_NUMBER: i32 = 2000;

/// Success.
pub const LIVEDISK_OK: i32 = 0;

/// An argument is invalid: a null pointer, an unknown flag or value, text that is not UTF-8, no disks. Correct the call.
pub const LIVEDISK_ERR_INVALID_ARGUMENT: i32 = -1;
/// libvirt cannot be reached. Check the URI and the daemon, then open again.
pub const LIVEDISK_ERR_NO_CONNECTION: i32 = -2;
/// There is no such domain on this connection. Check the name or UUID.
pub const LIVEDISK_ERR_NO_DOMAIN: i32 = -3;
/// The domain has no such disk, or the disk has no medium. Check the disk target.
pub const LIVEDISK_ERR_NO_DISK: i32 = -4;
/// The domain is not running, is paused, or was shut off under the operation. Start or resume it and try again.
pub const LIVEDISK_ERR_DOMAIN_STATE: i32 = -5;
/// A block job, backup, freeze or operation is in the way. Wait for it or end it, then try again.
pub const LIVEDISK_ERR_BUSY: i32 = -6;
/// This libvirt, QEMU, disk, format or version of livedisk cannot do it. Ask for something else.
pub const LIVEDISK_ERR_UNSUPPORTED: i32 = -7;
/// Quiescing is required and no guest agent answers. Start the agent in the guest, or ask for less.
pub const LIVEDISK_ERR_AGENT: i32 = -8;
/// Freeze or thaw failed, or the freeze limit was passed. The operation was rolled back. Try again, perhaps with a higher limit.
pub const LIVEDISK_ERR_FREEZE: i32 = -9;
/// The destination exists, has the wrong size or format, or cannot be reached. Name another one, or fix this one.
pub const LIVEDISK_ERR_DESTINATION: i32 = -10;
/// The destination's file system is full. Make room, or name another destination.
pub const LIVEDISK_ERR_NO_SPACE: i32 = -11;
/// livedisk or QEMU may not read or write a path. Fix its owner, mode or security label.
pub const LIVEDISK_ERR_PERMISSION: i32 = -12;
/// A block job failed in QEMU, for the reason in the message. The operation was rolled back.
pub const LIVEDISK_ERR_JOB_FAILED: i32 = -13;
/// The operation was cancelled and rolled back.
pub const LIVEDISK_ERR_CANCELLED: i32 = -14;
/// The wait ended and the operation continues. Wait again, or cancel.
pub const LIVEDISK_ERR_TIMEOUT: i32 = -15;
/// There is no such operation, or it is over. Nothing is left to do.
pub const LIVEDISK_ERR_NO_OPERATION: i32 = -16;
/// The copy failed its check, or differs from the source. It was removed.
pub const LIVEDISK_ERR_VERIFY: i32 = -17;
/// Any other libvirt error; livedisk_error_libvirt_code() has its number.
pub const LIVEDISK_ERR_LIBVIRT: i32 = -18;
/// A file could not be read or written.
pub const LIVEDISK_ERR_IO: i32 = -19;
/// A bug in livedisk. Please report it.
pub const LIVEDISK_ERR_INTERNAL: i32 = -20;
/// A checkpoint's bitmap is missing or inconsistent. Take a full backup.
pub const LIVEDISK_ERR_CHECKPOINT: i32 = -21;
/// The domain has no checkpoint of that name. Check the name.
pub const LIVEDISK_ERR_NO_CHECKPOINT: i32 = -22;

/// Let livedisk choose the cheapest method that cannot hurt the guest; the report says which one it was.
pub const LIVEDISK_METHOD_AUTO: i32 = 0;
/// virDomainBackupBegin: content as of the start. A destination that fails or hangs never reaches the guest.
pub const LIVEDISK_METHOD_BACKUP: i32 = 1;
/// virDomainBlockCopy: content as of the finish. A destination that fails or hangs never reaches the guest.
pub const LIVEDISK_METHOD_MIRROR: i32 = 2;
/// Like MIRROR, by virDomainBlockRebase, for old hosts. Destinations are files and block devices. A persistent domain
/// is undefined for a moment, and defined again as it was. The disk's backing chain is copied into the image after the
/// point in time. Not for migrations.
pub const LIVEDISK_METHOD_REBASE: i32 = 3;
/// External snapshot, clone of the base outside QEMU, active commit: content as of the start. A destination that fails
/// or hangs never reaches the guest. For a migration: the five steps of livedisk_migrate_disk().
pub const LIVEDISK_METHOD_CLONE: i32 = 4;

/// Freeze if a guest agent answers; else the images are crash-consistent, and the report says so.
pub const LIVEDISK_QUIESCE_PREFER: i32 = 0;
/// Freeze, or fail before anything is started.
pub const LIVEDISK_QUIESCE_REQUIRE: i32 = 1;
/// Do not freeze.
pub const LIVEDISK_QUIESCE_NONE: i32 = 2;

/// The cheapest way that works.
pub const LIVEDISK_CLONE_AUTO: i32 = 0;
/// Share blocks (FICLONE), or fail.
pub const LIVEDISK_CLONE_REFLINK: i32 = 1;
/// Copy, keeping holes. A snapshot that is flattened or converted, or whose destination exists, is written in one pass
/// from the content of the disk's backing chain; so it is with LIVEDISK_CLONE_AUTO.
pub const LIVEDISK_CLONE_COPY: i32 = 2;
/// The daemon clones, as libvirt storage volumes: source and destination are in directories of active storage pools.
/// For migrations. LIVEDISK_CLONE_AUTO takes it on a remote connection.
pub const LIVEDISK_CLONE_VOLUME: i32 = 3;
/// The caller's own function.
pub const LIVEDISK_CLONE_CALLBACK: i32 = 4;

/// Destinations are being created.
pub const LIVEDISK_PHASE_PREPARING: i32 = 0;
/// Content is being copied.
pub const LIVEDISK_PHASE_COPYING: i32 = 1;
/// Everything is copied; livedisk_finish() will not take long.
pub const LIVEDISK_PHASE_READY: i32 = 2;
/// The point in time is being fixed and the result checked, or the operation is being rolled back.
pub const LIVEDISK_PHASE_FINISHING: i32 = 3;
/// The images are complete. Final.
pub const LIVEDISK_PHASE_DONE: i32 = 4;
/// Cancelled and rolled back. Final.
pub const LIVEDISK_PHASE_CANCELLED: i32 = 5;
/// Failed and rolled back; livedisk_finish() reports why. Final.
pub const LIVEDISK_PHASE_FAILED: i32 = 6;

/// Something failed.
pub const LIVEDISK_LOG_LEVEL_ERROR: i32 = 0;
/// Something differs from what was asked for; the operation continues.
pub const LIVEDISK_LOG_LEVEL_WARN: i32 = 1;
/// What livedisk does, and the plan of a dry run.
pub const LIVEDISK_LOG_LEVEL_INFO: i32 = 2;
/// Each step and what led to it.
pub const LIVEDISK_LOG_LEVEL_DEBUG: i32 = 3;
/// Everything.
pub const LIVEDISK_LOG_LEVEL_TRACE: i32 = 4;

/// As after a power failure: file systems replay their journals.
pub const LIVEDISK_CONSISTENCY_CRASH: i32 = 0;
/// Frozen by the guest agent across the whole point in time, and still frozen when thawed.
pub const LIVEDISK_CONSISTENCY_FILESYSTEM: i32 = 1;

/// livedisk runs libvirt's default event loop in its own thread for as long as the process lives.
pub const LIVEDISK_OPEN_RUN_EVENT_LOOP: u32 = 1;
/// The caller runs libvirt's event loop, registered before this connection was opened.
pub const LIVEDISK_OPEN_USE_EVENTS: u32 = 2;

/// Keep the backing file instead of making a standalone image. MIRROR and CLONE to qcow2 only.
pub const LIVEDISK_SNAPSHOT_SHALLOW: u32 = 1;
/// Finish as soon as the operation is READY, without waiting for livedisk_finish().
pub const LIVEDISK_SNAPSHOT_AUTO_FINISH: u32 = 2;
/// Check everything, report the plan to the log callback (INFO) and change nothing. The operation is DONE at once.
pub const LIVEDISK_SNAPSHOT_DRY_RUN: u32 = 4;
/// Check the images when they are complete, and compare their content if the guest wrote nothing meanwhile.
pub const LIVEDISK_SNAPSHOT_VERIFY: u32 = 8;
/// Let the guest's writes wait for the mirror, so that it always converges.
pub const LIVEDISK_SNAPSHOT_WRITE_BLOCKING: u32 = 16;
/// Compress the images (qcow2, zstd). For BACKUP, which AUTO then takes.
pub const LIVEDISK_SNAPSHOT_COMPRESS: u32 = 32;
/// Copy a disk whole if `since` cannot be used for it; the report counts such disks.
pub const LIVEDISK_SNAPSHOT_FULL_IF_NEEDED: u32 = 64;

/// The destination already holds an image of this format and of exactly the disk's virtual size. It is overwritten, and
/// never removed.
pub const LIVEDISK_DISK_REUSE_EXISTING: u32 = 1;
/// An encrypted disk may be written to a plain destination.
pub const LIVEDISK_DISK_ALLOW_PLAINTEXT: u32 = 2;

/// As LIVEDISK_SNAPSHOT_AUTO_FINISH.
pub const LIVEDISK_MIGRATE_AUTO_FINISH: u32 = 1;
/// As LIVEDISK_SNAPSHOT_DRY_RUN.
pub const LIVEDISK_MIGRATE_DRY_RUN: u32 = 2;
/// Compare base and clone before the pivot. With LIVEDISK_METHOD_CLONE only; MIRROR is refused with
/// LIVEDISK_ERR_UNSUPPORTED, because the guest writes to both sides of a mirror.
pub const LIVEDISK_MIGRATE_VERIFY: u32 = 4;
/// Remove the source when the disk has moved: the image, and the symbolic links by which the disk named it.
pub const LIVEDISK_MIGRATE_DELETE_SOURCE: u32 = 8;
/// As LIVEDISK_SNAPSHOT_WRITE_BLOCKING.
pub const LIVEDISK_MIGRATE_WRITE_BLOCKING: u32 = 16;
/// An encrypted disk becomes a plain one. Without this flag a LUKS disk moves, by LIVEDISK_METHOD_MIRROR, only to a new file
/// that libvirt encrypts with the same secret.
pub const LIVEDISK_MIGRATE_ALLOW_PLAINTEXT: u32 = 32;

/// Count what would be done, and change nothing.
pub const LIVEDISK_RECOVER_DRY_RUN: u32 = 1;

/// livedisk read an image by its name and could not confirm that QEMU has that same file open, because neither QEMU's
/// open files nor its locks could be inspected. If another file had taken the name, that file was copied. The log names
/// the image.
pub const LIVEDISK_WARNING_UNIDENTIFIED_IMAGE: u32 = 1;
/// The old image had a `<seclabel>` of its own, which the new one lacks. Add it to the definition before the domain's
/// next start.
pub const LIVEDISK_WARNING_LABEL_LOST: u32 = 2;
/// The disk moved by a clone, and QEMU no longer detects zeroes in the guest's writes to it (detect_zeroes) until the
/// domain's next start.
pub const LIVEDISK_WARNING_ZEROES_UNDETECTED: u32 = 4;
/// The source was to be removed and was kept: it is not a file, or its name now leads to another file.
pub const LIVEDISK_WARNING_SOURCE_KEPT: u32 = 8;

/// The numbers stand twice, for C and for Rust, and cannot part.
macro_rules! same {
    ($($constant:ident = $value:expr),+ $(,)?) => { $(const _: () = assert!($constant == $value as i32);)+ };
}
use crate::error::ErrorCode;
use crate::operation::{Consistency, Method, Phase, Quiesce};
same!(
    LIVEDISK_ERR_INVALID_ARGUMENT = ErrorCode::InvalidArgument,
    LIVEDISK_ERR_NO_CONNECTION = ErrorCode::NoConnection,
    LIVEDISK_ERR_NO_DOMAIN = ErrorCode::NoDomain,
    LIVEDISK_ERR_NO_DISK = ErrorCode::NoDisk,
    LIVEDISK_ERR_DOMAIN_STATE = ErrorCode::DomainState,
    LIVEDISK_ERR_BUSY = ErrorCode::Busy,
    LIVEDISK_ERR_UNSUPPORTED = ErrorCode::Unsupported,
    LIVEDISK_ERR_AGENT = ErrorCode::Agent,
    LIVEDISK_ERR_FREEZE = ErrorCode::Freeze,
    LIVEDISK_ERR_DESTINATION = ErrorCode::Destination,
    LIVEDISK_ERR_NO_SPACE = ErrorCode::NoSpace,
    LIVEDISK_ERR_PERMISSION = ErrorCode::Permission,
    LIVEDISK_ERR_JOB_FAILED = ErrorCode::JobFailed,
    LIVEDISK_ERR_CANCELLED = ErrorCode::Cancelled,
    LIVEDISK_ERR_TIMEOUT = ErrorCode::Timeout,
    LIVEDISK_ERR_NO_OPERATION = ErrorCode::NoOperation,
    LIVEDISK_ERR_VERIFY = ErrorCode::Verify,
    LIVEDISK_ERR_LIBVIRT = ErrorCode::Libvirt,
    LIVEDISK_ERR_IO = ErrorCode::Io,
    LIVEDISK_ERR_INTERNAL = ErrorCode::Internal,
    LIVEDISK_ERR_CHECKPOINT = ErrorCode::Checkpoint,
    LIVEDISK_ERR_NO_CHECKPOINT = ErrorCode::NoCheckpoint,
    LIVEDISK_METHOD_AUTO = Method::Auto,
    LIVEDISK_METHOD_BACKUP = Method::Backup,
    LIVEDISK_METHOD_MIRROR = Method::Mirror,
    LIVEDISK_METHOD_REBASE = Method::Rebase,
    LIVEDISK_METHOD_CLONE = Method::Clone,
    LIVEDISK_QUIESCE_PREFER = Quiesce::Prefer,
    LIVEDISK_QUIESCE_REQUIRE = Quiesce::Require,
    LIVEDISK_QUIESCE_NONE = Quiesce::None,
    LIVEDISK_PHASE_PREPARING = Phase::Preparing,
    LIVEDISK_PHASE_COPYING = Phase::Copying,
    LIVEDISK_PHASE_READY = Phase::Ready,
    LIVEDISK_PHASE_FINISHING = Phase::Finishing,
    LIVEDISK_PHASE_DONE = Phase::Done,
    LIVEDISK_PHASE_CANCELLED = Phase::Cancelled,
    LIVEDISK_PHASE_FAILED = Phase::Failed,
    LIVEDISK_CONSISTENCY_CRASH = Consistency::Crash,
    LIVEDISK_CONSISTENCY_FILESYSTEM = Consistency::Filesystem,
);
