// SPDX-License-Identifier: LGPL-2.1-or-later
//! What goes out: structs that travel with their size.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::invalid;
use super::values::{
    LIVEDISK_WARNING_LABEL_LOST, LIVEDISK_WARNING_SOURCE_KEPT, LIVEDISK_WARNING_UNIDENTIFIED_IMAGE,
    LIVEDISK_WARNING_ZEROES_UNDETECTED,
};
use crate::error::Result;
use crate::operation::{Progress, Recovery, Report, Warnings};

/// The progress of an operation. Filled by livedisk_poll().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_progress {
    /// One of LIVEDISK_PHASE_*. It never goes back.
    pub phase: i32,
    /// Steps completed.
    pub step: i32,
    /// Steps in total.
    pub step_count: i32,
    /// 0.
    pub reserved: i32,
    /// Bytes copied, over all disks.
    pub bytes_done: u64,
    /// Bytes to copy, as far as known now; grows while the guest writes.
    pub bytes_total: u64,
    /// Current transfer rate, bytes per second.
    pub bytes_per_second: u64,
    /// Nanoseconds since the start.
    pub elapsed_ns: u64,
    /// Bytes per second to which the guest's writes to the disk are throttled, because its job cannot keep up
    /// (migrations, and snapshots by CLONE); 0: not throttled.
    pub guest_write_limit: u64,
}

/// What a finished operation did. Filled by livedisk_finish().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_report {
    /// The method used, one of LIVEDISK_METHOD_*.
    pub method: i32,
    /// What the images can be relied on for, one of LIVEDISK_CONSISTENCY_*.
    pub consistency: i32,
    /// How many file systems were frozen.
    pub filesystems_frozen: u32,
    /// How many disks were copied.
    pub disk_count: u32,
    /// The moment whose content the images have, in nanoseconds of CLOCK_REALTIME. They hold every write that was
    /// acknowledged to the guest before it; without a freeze they may hold a little more. 0 for a dry run.
    pub point_in_time_ns: i64,
    /// Nanoseconds from sending the freeze request to the answer to the thaw; 0: not frozen.
    pub freeze_ns: u64,
    /// Nanoseconds for which the vCPUs were paused, to give several mirrors one point in time; 0: not paused.
    pub pause_ns: u64,
    /// Bytes copied, over all disks.
    pub bytes_copied: u64,
    /// Nanoseconds from start to end.
    pub elapsed_ns: u64,
    /// Disks copied whole although `since` was given.
    pub full_disks: u32,
    /// 0.
    pub reserved: u32,
    /// The warnings that apply, LIVEDISK_WARNING_*; 0: none.
    pub warnings: u32,
    /// 0.
    pub reserved_too: u32,
}

/// What livedisk_recover() found and did.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_recovery {
    /// Domains on which something was left to clean up.
    pub domains: u32,
    /// Guests thawed.
    pub thawed: u32,
    /// Operations completed because they had passed their point of no return.
    pub completed: u32,
    /// Operations rolled back.
    pub taken_back: u32,
    /// Operations that could not be resolved; the log says why.
    pub failed: u32,
    /// 0.
    pub reserved: u32,
}

/// A struct of the header that livedisk fills in.
///
/// # Safety
/// A plain C struct without padding, so that all its bytes may be copied.
pub(super) unsafe trait Output: Copy {}
// SAFETY: four i32 and five u64.
unsafe impl Output for livedisk_progress {}
// SAFETY: six u32.
unsafe impl Output for livedisk_recovery {}
// SAFETY: four 32-bit, five 64-bit and two 32-bit fields.
unsafe impl Output for livedisk_report {}

/// The room for a struct, checked before the call does anything.
pub(super) struct Room {
    pointer: *mut u8,
    size: usize,
}

impl Room {
    /// NULL with size 0 says that the struct is not wanted.
    pub(super) fn new<T: Output>(pointer: *mut T, size: usize, what: &str) -> Result<Self> {
        if pointer.is_null() && size > 0 {
            return Err(invalid(format!("{what} is NULL; pass a struct, or NULL with size 0")));
        }
        Ok(Self {
            pointer: pointer.cast(),
            size: if pointer.is_null() { 0 } else { size },
        })
    }

    /// Writes as much as there is room for, and zeros after the end of what this livedisk knows.
    ///
    /// # Safety
    /// The pointer and size that the room was made of are writable.
    pub(super) unsafe fn fill<T: Output>(&self, value: &T) {
        let known = size_of::<T>().min(self.size);
        // SAFETY: writable for `size` bytes by the caller's promise; `value` has no padding and `known` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(std::ptr::from_ref(value).cast::<u8>(), self.pointer, known);
            std::ptr::write_bytes(self.pointer.wrapping_add(known), 0, self.size - known);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// In nanoseconds of CLOCK_REALTIME.
pub(super) fn since_epoch(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl From<&Progress> for livedisk_progress {
    fn from(progress: &Progress) -> Self {
        Self {
            phase: progress.phase as i32,
            step: count(progress.step),
            step_count: count(progress.step_count),
            reserved: 0,
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            bytes_per_second: progress.bytes_per_second,
            elapsed_ns: nanoseconds(progress.elapsed),
            guest_write_limit: progress.guest_write_limit,
        }
    }
}

impl From<&Recovery> for livedisk_recovery {
    fn from(recovery: &Recovery) -> Self {
        Self {
            domains: recovery.domains(),
            thawed: recovery.thawed(),
            completed: recovery.completed(),
            taken_back: recovery.taken_back(),
            failed: recovery.failed(),
            reserved: 0,
        }
    }
}

fn flags(warnings: Warnings) -> u32 {
    let set = [
        (warnings.unidentified_image, LIVEDISK_WARNING_UNIDENTIFIED_IMAGE),
        (warnings.label_lost, LIVEDISK_WARNING_LABEL_LOST),
        (warnings.zeroes_undetected, LIVEDISK_WARNING_ZEROES_UNDETECTED),
        (warnings.source_kept, LIVEDISK_WARNING_SOURCE_KEPT),
    ];
    set.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum()
}

impl From<&Report> for livedisk_report {
    fn from(report: &Report) -> Self {
        Self {
            method: report.method as i32,
            consistency: report.consistency as i32,
            filesystems_frozen: report.filesystems_frozen,
            disk_count: report.disk_count,
            point_in_time_ns: since_epoch(report.point_in_time),
            freeze_ns: nanoseconds(report.freeze),
            pause_ns: nanoseconds(report.pause),
            bytes_copied: report.bytes_copied,
            elapsed_ns: nanoseconds(report.elapsed),
            full_disks: report.full_disks,
            reserved: 0,
            warnings: flags(report.warnings),
            reserved_too: 0,
        }
    }
}
