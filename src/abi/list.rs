// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk_list_operations.

use std::ffi::{CString, c_char, c_void};

use super::connection::{livedisk_connection, on_domains};
use super::error::livedisk_error;
use super::output::since_epoch;
use super::{pass_each, wanted};
use crate::error::{Error, ErrorCode, Result};
use crate::operation::OperationStatus;

/// An operation that runs, or that a process left when it ended. It is valid until the callback that receives it returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_operation_info {
    /// The domain's name.
    pub domain: *const c_char,
    /// The operation's unique id.
    pub id: *const c_char,
    /// The name of the host on which its process runs.
    pub owner_host: *const c_char,
    /// The number of that process, in digits.
    pub owner_process: *const c_char,
    /// 1: a migration; 0: a snapshot, or a freeze of livedisk_freeze(), which has no disks.
    pub is_migration: i32,
    /// LIVEDISK_METHOD_*.
    pub method: i32,
    /// 1: the process has ended or released the operation, so call livedisk_attach() or livedisk_recover(); 0: it runs.
    pub orphaned: i32,
    /// Its disks.
    pub disk_count: u32,
    /// The disk target of each.
    pub targets: *const *const c_char,
    /// Where the content of each goes.
    pub destinations: *const *const c_char,
    /// When it was started, in nanoseconds of CLOCK_REALTIME.
    pub started_ns: i64,
    /// Bytes copied by the block jobs that run, over all disks.
    pub bytes_done: u64,
    /// Bytes that those jobs have to copy, as far as known now; 0 if no job runs.
    pub bytes_total: u64,
}

/// Receives one operation. `size` is the library's sizeof(struct livedisk_operation_info): do not read a field that
/// ends beyond it. Return 0 to continue; anything else ends the listing.
pub type livedisk_operation_callback =
    Option<unsafe extern "C" fn(info: *const livedisk_operation_info, size: usize, data: *mut c_void) -> i32>;

/// Lists the operations on one domain or on all domains: those that run, in whichever process, and those whose process
/// has ended. A restarted agent finds its operations this way. It resumes the orphaned ones with livedisk_attach(), or
/// cleans up with livedisk_recover().
///
/// @param connection  from livedisk_open() or livedisk_open_from()
/// @param domain      name or UUID; NULL: all domains
/// @param each        is called once for each operation, on this thread, after all of them were read; it may call livedisk
/// @param data        passed to it as it is
/// @param error       receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_CANCELLED (the callback ended the listing),
///         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
///
/// Any thread. It blocks on libvirt.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_list_operations(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    each: livedisk_operation_callback,
    data: *mut c_void,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_domains(connection, domain, error, |connection, domain| {
            let each = wanted(each, "operation")?;
            let all = connection.call(|connection| connection.operations(domain))?;
            pass_each(all, |found| {
                let texts = Texts::of(&found)?;
                Ok(each(&texts.info(&found), size_of::<livedisk_operation_info>(), data))
            })
        })
    }
}

/// The strings of one operation, as C has them.
struct Texts {
    domain: CString,
    id: CString,
    owner_host: CString,
    owner_process: CString,
    disks: Vec<(CString, CString)>,
    targets: Vec<*const c_char>,
    destinations: Vec<*const c_char>,
}

impl Texts {
    fn of(found: &OperationStatus) -> Result<Self> {
        let disks = found.disks.iter();
        let disks = disks.map(|disk| Ok((text(&disk.target)?, text(&disk.destination)?)));
        let disks: Vec<_> = disks.collect::<Result<_>>()?;
        Ok(Self {
            domain: text(&found.domain)?,
            id: text(&found.id)?,
            owner_host: text(&found.owner_host)?,
            owner_process: text(&found.owner_process.to_string())?,
            // What a CString points to stays where it is when the string is moved.
            targets: disks.iter().map(|(target, _)| target.as_ptr()).collect(),
            destinations: disks.iter().map(|(_, destination)| destination.as_ptr()).collect(),
            disks,
        })
    }

    fn info(&self, found: &OperationStatus) -> livedisk_operation_info {
        let progress = || found.disks.iter().filter_map(|disk| disk.progress);
        livedisk_operation_info {
            domain: self.domain.as_ptr(),
            id: self.id.as_ptr(),
            owner_host: self.owner_host.as_ptr(),
            owner_process: self.owner_process.as_ptr(),
            is_migration: i32::from(found.kind == "migration"),
            method: found.method as i32,
            orphaned: i32::from(found.orphaned),
            disk_count: u32::try_from(self.disks.len()).unwrap_or(u32::MAX),
            targets: self.targets.as_ptr(),
            destinations: self.destinations.as_ptr(),
            started_ns: since_epoch(found.started),
            bytes_done: progress().map(|(done, _)| done).sum(),
            bytes_total: progress().map(|(_, total)| total).sum(),
        }
    }
}

/// A record was read from XML, which holds no NUL, but what is in it is JSON, which may.
fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| {
        Error::new(
            ErrorCode::Internal,
            format!(
                "the record of an operation holds a zero byte: '{}'",
                text.escape_debug()
            ),
        )
    })
}
