// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk_start_live_snapshot and livedisk_migrate_disk.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::connection::livedisk_connection;
use super::error::livedisk_error;
use super::input::{self, input};
use super::invalid;
use super::operation::{livedisk_operation, start};
use super::values::*;
use crate::error::Result;
use crate::operation::{CloneCallback, CloneMethod, Method, MigrateOptions, Quiesce, SnapshotDisk, SnapshotOptions};

/// Clones `source`, which does not change meanwhile, to `destination`, which does not exist yet unless it is to be
/// reused. Returns 0 on success, anything else on failure. It may run for hours. Without SHALLOW, the result for a
/// snapshot must be standalone, in the destination's format, and of exactly the disk's virtual size.
pub type livedisk_clone_callback =
    Option<unsafe extern "C" fn(source: *const c_char, destination: *const c_char, data: *mut c_void) -> i32>;

/// One disk of a snapshot. Strings are copied before the call returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_snapshot_disk {
    /// The disk target, such as "vda".
    pub target: *const c_char,
    /// Absolute path of a file that does not exist yet, path of a block device, or an nbd:// or nbd+unix:// URI.
    pub destination: *const c_char,
    /// "qcow2" or "raw". NULL: the disk's own format for a file, raw for a block device or an NBD export.
    pub format: *const c_char,
    /// LIVEDISK_DISK_*.
    pub flags: u32,
    /// The backing file of an increment (`since`): the image of the backup that made the checkpoint. It is taken as raw
    /// if it is a block device or its name ends in `.raw`, else as qcow2; it is refused if its header says otherwise.
    /// NULL: the increment names no backing file, and is not the whole disk by itself.
    pub backing: *const c_char,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Options of a live snapshot. Zero-initialise it, then set what you want.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_snapshot_options {
    /// The disks, each named once. All images have the content of one point in time.
    pub disks: *const livedisk_snapshot_disk,
    /// Number of disks.
    pub disk_count: usize,
    /// LIVEDISK_METHOD_*.
    pub method: i32,
    /// LIVEDISK_QUIESCE_*.
    pub quiesce: i32,
    /// LIVEDISK_SNAPSHOT_*.
    pub flags: u32,
    /// Milliseconds the guest may be frozen; 0: 10 s. When the limit has passed, the guest is thawed and the operation
    /// fails with FREEZE.
    pub freeze_limit_ms: u32,
    /// Bytes per second; 0: no limit. The disks of the operation share it equally.
    pub bandwidth: u64,
    /// BACKUP: create a checkpoint of this name at the point in time. It covers the disks that can keep a bitmap:
    /// writable qcow2 images of version 3. A backup that fails or is cancelled leaves no checkpoint. NULL: none.
    pub checkpoint: *const c_char,
    /// BACKUP: copy only what changed since this checkpoint, to a qcow2 image with the disk's `backing` as backing
    /// file. A disk that the checkpoint does not cover is copied whole; the report counts it, and the log says why.
    /// NULL: copy everything.
    pub since: *const c_char,
    /// CLONE: how to clone, LIVEDISK_CLONE_*.
    pub clone: i32,
    /// Zero.
    pub reserved: u32,
    /// CLONE with LIVEDISK_CLONE_CALLBACK: the function. It is called once for each disk, from another thread, before
    /// the operation reaches a final phase.
    pub clone_callback: livedisk_clone_callback,
    /// Passed to it unchanged.
    pub clone_data: *mut c_void,
    /// BACKUP: absolute path of a directory for the scratch files, which grow as the guest overwrites data until
    /// everything is copied. NULL: beside each disk's image.
    pub scratch: *const c_char,
}

/// Options of a migration. Zero-initialise it, then set what you want.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_migrate_options {
    /// The disk target, such as "vda".
    pub target: *const c_char,
    /// Where the disk moves: a path, or an nbd:// or nbd+unix:// URI.
    pub destination: *const c_char,
    /// "qcow2" or "raw"; NULL: the disk's own.
    pub format: *const c_char,
    /// LIVEDISK_METHOD_*.
    pub method: i32,
    /// LIVEDISK_CLONE_*.
    pub clone: i32,
    /// LIVEDISK_MIGRATE_*.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes per second; 0: no limit.
    pub bandwidth: u64,
    /// With LIVEDISK_CLONE_CALLBACK: the function.
    pub clone_callback: livedisk_clone_callback,
    /// Passed to it unchanged.
    pub clone_data: *mut c_void,
}

input!(livedisk_snapshot_options,
    disks: *const livedisk_snapshot_disk, disk_count: usize, method: i32, quiesce: i32, flags: u32,
    freeze_limit_ms: u32, bandwidth: u64, checkpoint: *const c_char, since: *const c_char, clone: i32,
    reserved: u32, clone_callback: livedisk_clone_callback, clone_data: *mut c_void, scratch: *const c_char);

input!(livedisk_migrate_options,
    target: *const c_char, destination: *const c_char, format: *const c_char, method: i32, clone: i32, flags: u32,
    reserved: u32, bandwidth: u64, clone_callback: livedisk_clone_callback, clone_data: *mut c_void);

/// Starts a live snapshot of a running guest. The guest's disks are copied to standalone images of one point in time,
/// and its file systems are frozen only while that point is fixed. The call returns as soon as the operation runs, and
/// the operation runs whether or not it is polled. Whatever can be checked beforehand is checked first, and a call that
/// fails has changed nothing.
///
/// MIRROR (virDomainBlockCopy): the images have the content of the moment of livedisk_finish(). A destination that
/// fails or hangs never reaches the guest.
///
/// BACKUP (virDomainBackupBegin, pull mode): the images have the content of the start. QEMU saves what the guest
/// overwrites in a scratch file for each disk, and livedisk reads QEMU's export with qemu-img at its own pace. A
/// destination that fails or hangs never reaches the guest. If the scratch files run out of room, the operation fails
/// with NO_SPACE and the guest continues.
///
/// VERIFY compares a BACKUP's images with the export. COMPRESS, `checkpoint` and `since` work with BACKUP only. The
/// call that fixes the point in time also creates the checkpoint, and an increment holds the clusters that the bitmaps
/// of an older checkpoint mark. If a bitmap is missing or inconsistent, the checkpoint is refused before anything
/// begins; with FULL_IF_NEEDED that disk is copied whole.
///
/// CLONE: the images have the content of the start. livedisk takes one external snapshot of all disks
/// (virDomainSnapshotCreateXML, no metadata), clones the images outside QEMU while they do not change, and commits the
/// overlays (virDomainBlockCommit, active, with pivot). Meanwhile the guest writes to the overlays, which lie beside
/// its images. A destination that fails or hangs never reaches the guest.
///
/// If images share blocks with their clones, the time that CLONE takes does not depend on their size. A disk with a
/// backing file is flattened in the same pass unless SHALLOW is set.
///
/// AUTO takes BACKUP for COMPRESS, `checkpoint` and `since`. Otherwise it takes CLONE if the destinations can share
/// blocks with the images and nothing needs flattening or converting, else MIRROR.
///
/// The guest is frozen around the one call that fixes the point in time, and never around the copy (docs/threads.md
/// quotes qemu-devel, 20 January 2022, on Nova's live snapshot).
///
/// A guard process, livedisk-guard, thaws or resumes the guest if this process dies or hangs while the guest is frozen.
/// The environment variable LIVEDISK_GUARD names its program; the default is in libexec beside the library. It starts
/// with the first operation that needs it and ends with this process. If it cannot run, a warning is logged before
/// the freeze; with LIVEDISK_GUARD_REQUIRED=1 in the environment, the start fails instead.
///
/// @param connection    from livedisk_open() or livedisk_open_from()
/// @param domain        name or UUID of a running domain
/// @param options       the options; copied before the call returns
/// @param options_size  sizeof(struct livedisk_snapshot_options)
/// @param out           receives the operation, owned by the caller: end it with livedisk_operation_free()
/// @param error         receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_DISK (check the names),
///         LIVEDISK_ERR_DOMAIN_STATE (start or resume the domain),
///         LIVEDISK_ERR_BUSY (wait for what is in the way, or end it; a checkpoint of this name exists: name another),
///         LIVEDISK_ERR_NO_CHECKPOINT (there is no checkpoint `since`: see livedisk_list_checkpoints()),
///         LIVEDISK_ERR_CHECKPOINT (it cannot be used: take a full backup, or ask for FULL_IF_NEEDED),
///         LIVEDISK_ERR_UNSUPPORTED (ask for another method, format or disk),
///         LIVEDISK_ERR_AGENT (REQUIRE, and no agent answers: start it in the guest),
///         LIVEDISK_ERR_FREEZE (a guard is required, and none can run: the message says why),
///         LIVEDISK_ERR_DESTINATION, LIVEDISK_ERR_PERMISSION (name another destination, or fix this one),
///         LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_IO, LIVEDISK_ERR_INTERNAL (see the message)
///
/// Any thread.
///
/// # Safety
/// Pointers are null or valid as described; `options` points to `options_size` bytes and `disks` to `disk_count` structs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_start_live_snapshot(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    options: *const livedisk_snapshot_options,
    options_size: usize,
    out: *mut *mut livedisk_operation,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        start(connection, domain, out, error, |connection, domain| {
            let options = snapshot_options(&input::read(options, options_size, "options")?)?;
            connection.call(|connection| connection.start_live_snapshot(domain, &options))
        })
    }
}

/// Moves a disk of a running guest to other storage without downtime. The call returns as soon as the operation runs.
///
/// CLONE takes five steps: an external snapshot (virDomainSnapshotCreateXML, no metadata), a clone of the base outside
/// QEMU while it does not change, an overlay on the clone, a shallow block copy with pivot (virDomainBlockCopy), and an
/// active commit with pivot (virDomainBlockCommit). docs/threads.md quotes their source, libvir-list, 7 October 2014.
/// MIRROR is one full block copy with pivot, for block devices, NBD exports and other formats. AUTO takes CLONE if the
/// destination is a file that can be cloned to, else MIRROR.
///
/// At READY only the pivot to the destination is left. Until livedisk_finish() everything can be rolled back. After the
/// pivot the migration cannot be undone: livedisk_cancel() then completes it and returns NO_OPERATION.
///
/// @param connection    from livedisk_open() or livedisk_open_from()
/// @param domain        name or UUID of a running domain
/// @param options       the options; copied before the call returns. clone_callback and clone_data are used, from another
///                      thread, until the operation is in a final phase
/// @param options_size  sizeof(struct livedisk_migrate_options)
/// @param out           receives the operation, owned by the caller: end it with livedisk_operation_free()
/// @param error         receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or what livedisk_start_live_snapshot() returns, for the same reasons; LIVEDISK_ERR_BUSY also if
///         the domain has snapshots, or if the destination is not qcow2 and a checkpoint's bitmap would be lost (delete
///         them first)
///
/// Any thread.
///
/// # Safety
/// Pointers are null or valid as described; `options` points to `options_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_migrate_disk(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    options: *const livedisk_migrate_options,
    options_size: usize,
    out: *mut *mut livedisk_operation,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        start(connection, domain, out, error, |connection, domain| {
            let options = migrate_options(&input::read(options, options_size, "options")?)?;
            connection.call(|connection| connection.migrate_disk(domain, &options))
        })
    }
}

fn methods() -> [Method; 5] {
    [
        Method::Auto,
        Method::Backup,
        Method::Mirror,
        Method::Rebase,
        Method::Clone,
    ]
}

/// The caller's function and data, for another thread.
struct Callback {
    function: unsafe extern "C" fn(*const c_char, *const c_char, *mut c_void) -> i32,
    data: *mut c_void,
}

// SAFETY: the header demands that both may be used from another thread.
unsafe impl Send for Callback {}
// SAFETY: as above; one operation makes one call at a time.
unsafe impl Sync for Callback {}

impl Callback {
    fn call(&self, source: &str, destination: &str) -> i32 {
        // Paths come from C strings and from libvirt, so they hold no NUL.
        let (Ok(source), Ok(destination)) = (CString::new(source), CString::new(destination)) else {
            return -1;
        };
        // SAFETY: the function was given for this; the strings live until it returns.
        unsafe { (self.function)(source.as_ptr(), destination.as_ptr(), self.data) }
    }
}

fn clone(
    number: i32,
    function: livedisk_clone_callback,
    data: *mut c_void,
) -> Result<(CloneMethod, Option<CloneCallback>)> {
    let clones = [
        CloneMethod::Auto,
        CloneMethod::Reflink,
        CloneMethod::Copy,
        CloneMethod::Volume,
        CloneMethod::Callback,
    ];
    let clone = input::value(number, &clones, "options.clone")?;
    let callback = function.map(|function| {
        let callback = Callback { function, data };
        Arc::new(move |source: &str, destination: &str| callback.call(source, destination)) as CloneCallback
    });
    if clone == CloneMethod::Callback && callback.is_none() {
        return Err(invalid(
            "options.clone is CALLBACK and options.clone_callback is NULL; pass the function",
        ));
    }
    Ok((clone, callback))
}

/// # Safety
/// The strings of `options` are null or terminated.
unsafe fn migrate_options(options: &livedisk_migrate_options) -> Result<MigrateOptions> {
    let known = LIVEDISK_MIGRATE_AUTO_FINISH
        | LIVEDISK_MIGRATE_DRY_RUN
        | LIVEDISK_MIGRATE_VERIFY
        | LIVEDISK_MIGRATE_DELETE_SOURCE
        | LIVEDISK_MIGRATE_WRITE_BLOCKING
        | LIVEDISK_MIGRATE_ALLOW_PLAINTEXT;
    let flags = input::flags(options.flags, known, "options.flags")?;
    let has = |flag| flags & flag != 0;
    input::zero(options.reserved == 0, "options.reserved")?;
    let (clone, clone_callback) = clone(options.clone, options.clone_callback, options.clone_data)?;
    // SAFETY: by the caller's promise.
    unsafe {
        Ok(MigrateOptions {
            target: input::string(options.target, "options.target")?,
            destination: input::string(options.destination, "options.destination")?,
            format: input::optional_string(options.format, "options.format")?,
            method: input::value(options.method, &methods(), "options.method")?,
            clone,
            clone_callback,
            auto_finish: has(LIVEDISK_MIGRATE_AUTO_FINISH),
            dry_run: has(LIVEDISK_MIGRATE_DRY_RUN),
            verify: has(LIVEDISK_MIGRATE_VERIFY),
            delete_source: has(LIVEDISK_MIGRATE_DELETE_SOURCE),
            write_blocking: has(LIVEDISK_MIGRATE_WRITE_BLOCKING),
            allow_plaintext: has(LIVEDISK_MIGRATE_ALLOW_PLAINTEXT),
            bandwidth: options.bandwidth,
        })
    }
}

/// # Safety
/// The strings of `options` are null or terminated, and `disks` points to `disk_count` structs.
unsafe fn snapshot_options(options: &livedisk_snapshot_options) -> Result<SnapshotOptions> {
    let quiesce = [Quiesce::Prefer, Quiesce::Require, Quiesce::None];
    let known = LIVEDISK_SNAPSHOT_SHALLOW
        | LIVEDISK_SNAPSHOT_AUTO_FINISH
        | LIVEDISK_SNAPSHOT_DRY_RUN
        | LIVEDISK_SNAPSHOT_VERIFY
        | LIVEDISK_SNAPSHOT_WRITE_BLOCKING
        | LIVEDISK_SNAPSHOT_COMPRESS
        | LIVEDISK_SNAPSHOT_FULL_IF_NEEDED;
    let flags = input::flags(options.flags, known, "options.flags")?;
    let has = |flag| flags & flag != 0;
    input::zero(options.reserved == 0, "options.reserved")?;
    let (clone, clone_callback) = clone(options.clone, options.clone_callback, options.clone_data)?;
    if options.disks.is_null() && options.disk_count > 0 {
        return Err(invalid(
            "options.disks is NULL; pass an array of options.disk_count disks",
        ));
    }
    let mut disks = Vec::new();
    for index in 0..options.disk_count {
        // SAFETY: index < disk_count, by the caller's promise.
        disks.push(unsafe { snapshot_disk(&options.disks.add(index).read(), index) }?);
    }
    Ok(SnapshotOptions {
        disks,
        method: input::value(options.method, &methods(), "options.method")?,
        quiesce: input::value(options.quiesce, &quiesce, "options.quiesce")?,
        shallow: has(LIVEDISK_SNAPSHOT_SHALLOW),
        auto_finish: has(LIVEDISK_SNAPSHOT_AUTO_FINISH),
        dry_run: has(LIVEDISK_SNAPSHOT_DRY_RUN),
        verify: has(LIVEDISK_SNAPSHOT_VERIFY),
        write_blocking: has(LIVEDISK_SNAPSHOT_WRITE_BLOCKING),
        compress: has(LIVEDISK_SNAPSHOT_COMPRESS),
        full_if_needed: has(LIVEDISK_SNAPSHOT_FULL_IF_NEEDED),
        freeze_limit: Duration::from_millis(options.freeze_limit_ms.into()),
        bandwidth: options.bandwidth,
        // SAFETY: by the caller's promise.
        checkpoint: unsafe { input::optional_string(options.checkpoint, "options.checkpoint") }?,
        // SAFETY: by the caller's promise.
        since: unsafe { input::optional_string(options.since, "options.since") }?,
        // SAFETY: by the caller's promise.
        scratch: unsafe { input::optional_string(options.scratch, "options.scratch") }?,
        clone,
        clone_callback,
    })
}

/// # Safety
/// The strings of `disk` are null or terminated.
unsafe fn snapshot_disk(disk: &livedisk_snapshot_disk, index: usize) -> Result<SnapshotDisk> {
    let name = |field: &str| format!("options.disks[{index}].{field}");
    let known = LIVEDISK_DISK_REUSE_EXISTING | LIVEDISK_DISK_ALLOW_PLAINTEXT;
    let flags = input::flags(disk.flags, known, &name("flags"))?;
    input::zero(disk.reserved == [0; 3], &name("reserved"))?;
    // SAFETY: by the caller's promise.
    unsafe {
        Ok(SnapshotDisk {
            target: input::string(disk.target, &name("target"))?,
            destination: input::string(disk.destination, &name("destination"))?,
            format: input::optional_string(disk.format, &name("format"))?,
            backing: input::optional_string(disk.backing, &name("backing"))?,
            reuse_existing: flags & LIVEDISK_DISK_REUSE_EXISTING != 0,
            allow_plaintext: flags & LIVEDISK_DISK_ALLOW_PLAINTEXT != 0,
        })
    }
}
