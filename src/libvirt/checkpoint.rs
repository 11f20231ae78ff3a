// SPDX-License-Identifier: LGPL-2.1-or-later
//! Checkpoints of a domain, which the `virt` crate does not know.

use std::ffi::{CStr, CString};
use std::ptr;
use std::slice;

use virt::error::Error;
use virt_sys as sys;

use super::code;
use super::domain::{Domain, check};

/// A virDomainCheckpointPtr.
pub(crate) struct Checkpoint {
    ptr: sys::virDomainCheckpointPtr,
}

impl Domain {
    /// virDomainListAllCheckpoints, each after its parent.
    pub(crate) fn checkpoints(&self) -> Result<Vec<Checkpoint>, Error> {
        let mut list: *mut sys::virDomainCheckpointPtr = ptr::null_mut();
        let flags = sys::VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL;
        // SAFETY: on success libvirt hands over `count` objects, each of which gets one owner here, in an array that is freed
        // here.
        unsafe {
            let count = check(sys::virDomainListAllCheckpoints(self.ptr(), &mut list, flags))?;
            if list.is_null() {
                return Ok(Vec::new());
            }
            let found = slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0));
            let found = found.iter().map(|&ptr| Checkpoint { ptr }).collect();
            libc::free(list.cast());
            Ok(found)
        }
    }

    /// virDomainCheckpointLookupByName; `None` where there is none of that name.
    pub(crate) fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, Error> {
        let name = CString::new(name)?;
        // SAFETY: the string lives until the call returns; what comes back gets its one owner.
        let ptr = unsafe { sys::virDomainCheckpointLookupByName(self.ptr(), name.as_ptr(), 0) };
        if !ptr.is_null() {
            return Ok(Some(Checkpoint { ptr }));
        }
        let error = Error::last_error();
        let none = error.code().to_raw() as i32 == code::NO_DOMAIN_CHECKPOINT;
        if none { Ok(None) } else { Err(error) }
    }

    /// virDomainCheckpointCreateXML with REDEFINE: what libvirt knows of a checkpoint that exists becomes this.
    pub(crate) fn redefine_checkpoint(&self, xml: &str) -> Result<(), Error> {
        let xml = CString::new(xml)?;
        let flags = sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE;
        // SAFETY: the string lives until the call returns; the object that comes back is released at once.
        let ptr = unsafe { sys::virDomainCheckpointCreateXML(self.ptr(), xml.as_ptr(), flags) };
        if ptr.is_null() {
            return Err(Error::last_error());
        }
        drop(Checkpoint { ptr });
        Ok(())
    }
}

impl Checkpoint {
    /// virDomainCheckpointGetXMLDesc, without the domain's definition; with `size` also how much has changed since, which
    /// takes the domain's job and fails where the domain is off.
    pub(crate) fn xml(&self, size: bool) -> Result<String, Error> {
        let size = if size { sys::VIR_DOMAIN_CHECKPOINT_XML_SIZE } else { 0 };
        self.describe(sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN | size)
    }

    /// The same with the domain's definition and all its secrets: only to be handed to [`Domain::redefine_checkpoint`].
    pub(crate) fn whole_xml(&self) -> Result<String, Error> {
        self.describe(sys::VIR_DOMAIN_CHECKPOINT_XML_SECURE)
    }

    fn describe(&self, flags: u32) -> Result<String, Error> {
        // SAFETY: libvirt allocates the text with malloc on success; it is copied and freed here.
        unsafe {
            let text = sys::virDomainCheckpointGetXMLDesc(self.ptr, flags);
            if text.is_null() {
                return Err(Error::last_error());
            }
            let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            Ok(owned)
        }
    }

    /// virDomainCheckpointDelete: with its bitmaps, or what libvirt knows of it alone.
    pub(crate) fn delete(&self, metadata_only: bool) -> Result<(), Error> {
        let flags = if metadata_only {
            sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
        } else {
            0
        };
        // SAFETY: no pointers but the object's.
        check(unsafe { sys::virDomainCheckpointDelete(self.ptr, flags) }).map(drop)
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: this is the one owner.
        unsafe {
            sys::virDomainCheckpointFree(self.ptr);
        }
    }
}
