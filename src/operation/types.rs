// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an operation is asked for and what it reports. The numbers are the C header's.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// How the content of a disk gets to its destination.
///
/// [`Method::Auto`] takes the cheapest method that cannot hurt the guest; the report says which one it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum Method {
    /// Let livedisk choose: [`Method::Clone`] where the image's file can share its blocks with the destination, and where
    /// hundreds of GiB of the disk are holes, which a mirror would fill; else [`Method::Mirror`].
    #[default]
    Auto = 0,
    /// virDomainBackupBegin, pull mode: content as of the start. QEMU saves what the guest overwrites in scratch files, and
    /// livedisk copies from QEMU's export at its own pace: a destination that fails or hangs never reaches the guest. A
    /// scratch file that has used up its room ends the backup with [`ErrorCode::NoSpace`](crate::ErrorCode::NoSpace).
    Backup = 1,
    /// virDomainBlockCopy: content as of the finish. In its background mode a destination that fails or hangs never
    /// reaches the guest.
    Mirror = 2,
    /// Like [`Method::Mirror`], by virDomainBlockRebase, for hosts without the newer call. Destinations are files and
    /// block devices. A persistent domain is undefined while the mirrors are started, and then defined again as it was;
    /// it is refused if libvirt keeps more of it than that restores. The disk's backing chain is copied into the image
    /// after the point in time. Not for migrations.
    Rebase = 3,
    /// External snapshot, clone of the base outside QEMU, active commit: content as of the start. A destination that
    /// fails or hangs never reaches the guest, and on a file system that shares blocks the time does not depend on the
    /// size. Meanwhile the guest writes to an overlay beside its image. For a migration: the five-step procedure.
    Clone = 4,
}

/// Whether the guest's file systems are frozen for the point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(i32)]
pub enum Quiesce {
    /// Freeze if a guest agent answers; else the result is crash-consistent, and the report says so.
    #[default]
    Prefer = 0,
    /// Freeze, or fail before anything is started.
    Require = 1,
    /// Do not freeze.
    None = 2,
}

/// What an operation does right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Phase {
    /// Destinations are being created.
    Preparing = 0,
    /// Content is copied.
    Copying = 1,
    /// Everything is copied; [`Operation::finish`](crate::Operation::finish) will not take long.
    Ready = 2,
    /// The point in time is being fixed and the result checked, or the operation is being rolled back.
    Finishing = 3,
    /// The images are complete.
    Done = 4,
    /// Cancelled and rolled back.
    Cancelled = 5,
    /// Failed and rolled back; [`Operation::finish`](crate::Operation::finish) reports why.
    Failed = 6,
}

impl Phase {
    /// Whether the operation is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }

    /// The name of the phase, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::Ready => "ready",
            Self::Finishing => "finishing",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl Method {
    /// The name of the method, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Backup => "backup",
            Self::Mirror => "mirror",
            Self::Rebase => "rebase",
            Self::Clone => "clone",
        }
    }
}

impl Consistency {
    /// The name of the grade, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
        }
    }
}

/// What the result can be relied on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum Consistency {
    /// As after a power failure: file systems replay their journals.
    #[default]
    Crash = 0,
    /// File systems were frozen by the guest agent across the whole point in time, and still frozen when thawed.
    Filesystem = 1,
}

/// One disk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotDisk {
    /// The disk target (`vda`).
    pub target: String,
    /// Absolute path of a file that does not exist yet, of a block device, or an `nbd://` or `nbd+unix://` URI.
    pub destination: String,
    /// `qcow2` or `raw`; `None`: the disk's own format for a file, `raw` for a block device or an NBD export.
    pub format: Option<String>,
    /// The destination already holds an image of that format and of exactly the disk's virtual size; it is overwritten.
    pub reuse_existing: bool,
    /// An encrypted disk may be written to a plain destination.
    pub allow_plaintext: bool,
    /// The backing file of an increment ([`SnapshotOptions::since`]): the image of the backup that made the checkpoint.
    /// It is taken as raw if it is a block device or its name ends in `.raw`, else as qcow2. `None`: the increment is
    /// not the whole disk by itself.
    pub backing: Option<String>,
}

/// Options of a live snapshot.
#[derive(Clone, Default)]
pub struct SnapshotOptions {
    /// The disks, each named once. All images have the content of one point in time.
    pub disks: Vec<SnapshotDisk>,
    /// How.
    pub method: Method,
    /// Whether to freeze the guest.
    pub quiesce: Quiesce,
    /// Keep the backing file instead of making a standalone image (`Mirror`, `Rebase` and `Clone` to qcow2 only).
    pub shallow: bool,
    /// Finish as soon as READY, without waiting for [`Operation::finish`](crate::Operation::finish).
    pub auto_finish: bool,
    /// Check everything, write the plan to the log and change nothing.
    pub dry_run: bool,
    /// Check the images when they are complete, and compare their content if the guest wrote nothing meanwhile.
    pub verify: bool,
    /// Let the guest's writes wait for the mirror, so that it always converges.
    pub write_blocking: bool,
    /// Compress the images (qcow2, zstd). For `Backup`, which `Auto` then takes.
    pub compress: bool,
    /// Copy a disk whole if `since` cannot be used for it; [`Report::full_disks`] counts such disks.
    pub full_if_needed: bool,
    /// How long the guest may be frozen; zero is 10 s.
    pub freeze_limit: Duration,
    /// Bytes per second, 0: no limit. The disks of the operation share it equally.
    pub bandwidth: u64,
    /// For `Backup`, which `Auto` then takes: create this checkpoint at the point in time. A backup that fails or is
    /// cancelled leaves none.
    pub checkpoint: Option<String>,
    /// For `Backup`, which `Auto` then takes: copy only what changed since this checkpoint. A disk that it does not
    /// cover is copied whole; [`Report::full_disks`] counts such disks, and the log says why.
    pub since: Option<String>,
    /// For `Backup`: directory of the scratch files, which grow as the guest overwrites data. `None`: beside each
    /// disk's image.
    pub scratch: Option<String>,
    /// With `Clone`: how.
    pub clone: CloneMethod,
    /// With [`CloneMethod::Callback`]: the function.
    pub clone_callback: Option<CloneCallback>,
}

/// How the unchanging base of a disk is cloned to its destination. A snapshot that is flattened, converted or written
/// to an existing destination is written in one pass from the content of the backing chain, with `Auto` and `Copy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum CloneMethod {
    /// The cheapest that works: shared blocks, else a copy.
    #[default]
    Auto = 0,
    /// FICLONE: XFS and btrfs share the blocks, so the time does not depend on the size.
    Reflink = 1,
    /// A copy that keeps holes.
    Copy = 2,
    /// libvirt storage volumes: source and destination lie in the directories of active storage pools, and the daemon
    /// clones, by shared blocks where it can (raw). For migrations; what AUTO takes on a remote connection.
    Volume = 3,
    /// The caller's own function: a storage array's clone, rsync.
    Callback = 4,
}

/// Clones a file (source, destination), which does not change meanwhile; 0 is success. It may run for hours. For a
/// snapshot without `shallow` what it makes must be standalone.
pub type CloneCallback = std::sync::Arc<dyn Fn(&str, &str) -> i32 + Send + Sync>;

/// Options of a migration.
#[derive(Clone, Default)]
pub struct MigrateOptions {
    /// The disk target (`vda`).
    pub target: String,
    /// Where it is to move: absolute path of a file that does not exist yet, of a block device, or an NBD URI.
    pub destination: String,
    /// `qcow2` or `raw`; `None`: the disk's own for a file, `raw` for a block device or an NBD export.
    pub format: Option<String>,
    /// `Auto`, `Clone` or `Mirror`.
    pub method: Method,
    /// With `Clone`: how.
    pub clone: CloneMethod,
    /// With [`CloneMethod::Callback`]: the function.
    pub clone_callback: Option<CloneCallback>,
    /// Pivot as soon as READY, without waiting for [`Operation::finish`](crate::Operation::finish).
    pub auto_finish: bool,
    /// Check everything, write the plan to the log and change nothing.
    pub dry_run: bool,
    /// Compare base and clone before the pivot. With `Clone` only; `Mirror` is refused, because the guest writes to
    /// both sides of a mirror.
    pub verify: bool,
    /// Remove the source when the disk has moved: the image, and the symbolic links by which the disk named it.
    pub delete_source: bool,
    /// Let the guest's writes wait for the copy, so that it always converges.
    pub write_blocking: bool,
    /// An encrypted disk becomes a plain one. Without this a LUKS disk moves, by `Mirror`, to a new file only, which libvirt
    /// encrypts with the same secret.
    pub allow_plaintext: bool,
    /// Bytes per second, 0: no limit.
    pub bandwidth: u64,
}

/// What [`Operation::poll`](crate::Operation::poll) sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Steps completed.
    pub step: u32,
    /// Steps in total.
    pub step_count: u32,
    /// Bytes copied so far, over all disks.
    pub bytes_done: u64,
    /// Bytes to copy, as far as known now; grows while the guest writes.
    pub bytes_total: u64,
    /// Current transfer rate.
    pub bytes_per_second: u64,
    /// Since the start.
    pub elapsed: Duration,
    /// Bytes per second to which the guest's writes to the disk are throttled, because its job cannot keep up; 0: not
    /// throttled.
    pub guest_write_limit: u64,
}

/// What a finished operation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The method used.
    pub method: Method,
    /// What the images can be relied on for.
    pub consistency: Consistency,
    /// How many file systems were frozen.
    pub filesystems_frozen: u32,
    /// How many disks were copied.
    pub disk_count: u32,
    /// The moment whose content the images have. They hold every write that was acknowledged to the guest before it;
    /// without a freeze they may hold a little more, up to the end of the call that fixes it.
    pub point_in_time: SystemTime,
    /// From sending the freeze request to the answer to the thaw; zero: not frozen.
    pub freeze: Duration,
    /// How long the vCPUs were paused, to give several mirrors one point in time; zero: not paused.
    pub pause: Duration,
    /// Bytes copied, over all disks.
    pub bytes_copied: u64,
    /// From the start to the end.
    pub elapsed: Duration,
    /// How many disks were copied whole although [`SnapshotOptions::since`] was given.
    pub full_disks: u32,
    /// The warnings that apply.
    pub warnings: Warnings,
}

/// What a finished operation warns of. The log says more of each as it is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warnings {
    /// livedisk read an image by its name and could not confirm that QEMU has that same file open, because neither
    /// QEMU's open files nor its locks could be inspected. If another file had taken the name, that file was copied.
    pub unidentified_image: bool,
    /// The old image had a `<seclabel>` of its own, which the new one lacks.
    pub label_lost: bool,
    /// The disk moved by a clone, and QEMU no longer detects zeroes in the guest's writes to it until the domain's next
    /// start.
    pub zeroes_undetected: bool,
    /// The source was to be removed and was kept: it is not a file, or its name now leads to another file.
    pub source_kept: bool,
}
