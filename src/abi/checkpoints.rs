// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk_list_checkpoints and livedisk_delete_checkpoint.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use super::connection::{livedisk_connection, on_domain};
use super::error::livedisk_error;
use super::output::since_epoch;
use super::{input, internal, pass_each, wanted};
use crate::driver::Checkpoint;
use crate::error::Result;

/// A checkpoint of a domain. It is valid until the callback that receives it returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct livedisk_checkpoint {
    /// Its name.
    pub name: *const c_char,
    /// The name of the checkpoint before it; NULL: it is the oldest.
    pub parent: *const c_char,
    /// Its point in time, in nanoseconds of CLOCK_REALTIME; libvirt keeps whole seconds.
    pub created_ns: i64,
    /// Bytes that have changed on its disks since then, in whole clusters; UINT64_MAX if that is not known, because it
    /// is not usable, the domain is off, or a backup, migration or save is running.
    pub changed_bytes: u64,
    /// 1: what has changed since then is known for certain on all of its disks; 0: it is not, and `why_not` says why.
    pub usable: i32,
    /// The disks of the domain that it covers.
    pub disk_count: u32,
    /// Why it is not usable, such as a missing or inconsistent bitmap; NULL: it is usable.
    pub why_not: *const c_char,
}

/// Receives one checkpoint. `size` is the library's sizeof(struct livedisk_checkpoint): do not read a field that ends
/// beyond it. Return 0 to continue; anything else ends the listing.
pub type livedisk_checkpoint_callback =
    Option<unsafe extern "C" fn(checkpoint: *const livedisk_checkpoint, size: usize, data: *mut c_void) -> i32>;

/// Lists the checkpoints of a domain, oldest first, whichever program created them. The domain may be running or off.
/// The state of the bitmaps comes from QEMU or, if the domain is off, from the images.
///
/// @param connection  from livedisk_open() or livedisk_open_from()
/// @param domain      name or UUID
/// @param each        is called once for each checkpoint, on this thread, after all of them were read; it may call livedisk
/// @param data        passed to it as it is
/// @param error       receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_CANCELLED (the callback ended the listing),
///         LIVEDISK_ERR_UNSUPPORTED (this libvirt has no checkpoints),
///         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
///
/// Any thread. It blocks on libvirt; if the domain is off, also on reading the headers of its images.
/// libvirt: virDomainListAllCheckpoints, virDomainCheckpointGetXMLDesc.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_list_checkpoints(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    each: livedisk_checkpoint_callback,
    data: *mut c_void,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_domain(connection, domain, error, |connection, domain| {
            let each = wanted(each, "checkpoint")?;
            let all = connection.call(|connection| connection.checkpoints(domain))?;
            pass_each(all, |found| {
                let texts = Texts::of(&found)?;
                Ok(each(&texts.checkpoint(&found), size_of::<livedisk_checkpoint>(), data))
            })
        })
    }
}

/// Deletes a checkpoint with its bitmaps, even if some of them are missing or inconsistent. Its child then records what
/// changed since its parent; if there is no child, that record is lost. Backups stay as they are.
///
/// @param connection  from livedisk_open() or livedisk_open_from()
/// @param domain      name or UUID; running or off
/// @param name        the checkpoint's name
/// @param error       receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_CHECKPOINT (there is none of that name: see livedisk_list_checkpoints()),
///         LIVEDISK_ERR_BUSY (an operation, backup, migration or save is in the way: wait for it or end it),
///         LIVEDISK_ERR_DOMAIN_STATE (the domain is off and its images are on another host: start it),
///         LIVEDISK_ERR_IO (an image of a domain that is off cannot be changed),
///         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
///
/// Any thread. It blocks on libvirt.
/// libvirt: virDomainCheckpointDelete.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_delete_checkpoint(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    name: *const c_char,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_domain(connection, domain, error, |connection, domain| {
            let name = input::string(name, "name")?;
            connection.call(|connection| connection.delete_checkpoint(domain, &name))
        })
    }
}

/// The strings of one checkpoint, as C has them.
struct Texts {
    name: CString,
    parent: Option<CString>,
    why_not: Option<CString>,
}

impl Texts {
    fn of(found: &Checkpoint) -> Result<Self> {
        Ok(Self {
            name: text(&found.name)?,
            parent: found.parent.as_deref().map(text).transpose()?,
            why_not: found.why_not().as_deref().map(text).transpose()?,
        })
    }

    fn checkpoint(&self, found: &Checkpoint) -> livedisk_checkpoint {
        let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        livedisk_checkpoint {
            name: self.name.as_ptr(),
            parent: pointer(&self.parent),
            created_ns: since_epoch(found.created),
            changed_bytes: found.changed_bytes().unwrap_or(u64::MAX),
            usable: i32::from(self.why_not.is_none()),
            disk_count: u32::try_from(found.disks.len()).unwrap_or(u32::MAX),
            why_not: pointer(&self.why_not),
        }
    }
}

/// It was read from XML, which holds no NUL.
fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| internal("what libvirt says of a checkpoint holds a zero byte"))
}
