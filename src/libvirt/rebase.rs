// SPDX-License-Identifier: LGPL-2.1-or-later
//! A mirror by virDomainBlockRebase, and what a domain that is defined needs for it: its definition taken away and given back.

use std::ffi::CString;

use virt::error::Error;
use virt_sys as sys;

use super::connection::Connection;
use super::domain::{Domain, check};

/// What virDomainBlockRebase is asked for with COPY and REUSE_EXT. libvirt refuses it of a domain that is defined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RebaseCopy<'a> {
    /// The image, which exists, with exactly the disk's virtual size.
    pub(crate) path: &'a str,
    /// The image is raw; of any other libvirt finds out the format itself.
    pub(crate) raw: bool,
    /// It is a block device.
    pub(crate) device: bool,
    /// Bytes per second, 0 for no limit.
    pub(crate) bandwidth: u64,
    /// Copy the active layer alone; the image rests on the same backing image.
    pub(crate) shallow: bool,
}

impl Domain {
    /// virDomainBlockRebase with COPY and REUSE_EXT: a mirror.
    pub(crate) fn block_rebase_copy(&self, target: &str, copy: &RebaseCopy<'_>) -> Result<(), Error> {
        let (target, path) = (CString::new(target)?, CString::new(copy.path)?);
        let asked = [
            (copy.shallow, sys::VIR_DOMAIN_BLOCK_REBASE_SHALLOW),
            (copy.raw, sys::VIR_DOMAIN_BLOCK_REBASE_COPY_RAW),
            (copy.device, sys::VIR_DOMAIN_BLOCK_REBASE_COPY_DEV),
            (copy.bandwidth > 0, sys::VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES),
        ];
        let always = sys::VIR_DOMAIN_BLOCK_REBASE_COPY | sys::VIR_DOMAIN_BLOCK_REBASE_REUSE_EXT;
        let asked = asked.into_iter().filter(|(is_asked, _)| *is_asked);
        let flags = asked.fold(always, |flags, (_, flag)| flags | flag);
        // SAFETY: the strings live until the call returns.
        check(unsafe {
            sys::virDomainBlockRebase(self.ptr(), target.as_ptr(), path.as_ptr(), copy.bandwidth as _, flags)
        })
        .map(drop)
    }

    /// The inactive definition with all its secrets: only to be handed to [`Connection::define`].
    pub(crate) fn whole_definition(&self) -> Result<String, Error> {
        self.inner
            .xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE)
    }

    /// virDomainUndefineFlags with KEEP_NVRAM: a domain that runs becomes transient.
    pub(crate) fn undefine(&self) -> Result<(), Error> {
        self.inner.undefine_flags(sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    }

    pub(crate) fn autostart(&self) -> Result<bool, Error> {
        self.inner.autostart()
    }

    pub(crate) fn set_autostart(&self, autostart: bool) -> Result<(), Error> {
        self.inner.set_autostart(autostart)
    }
}

impl Connection {
    /// virConnectGetCapabilities, as XML.
    pub(crate) fn capabilities(&self) -> Result<String, Error> {
        self.connect.capabilities()
    }

    /// virDomainDefineXML: of a domain that runs, what it is at its next start.
    pub(crate) fn define(&self, definition: &str) -> Result<Domain, Error> {
        self.connect.define_domain_xml(definition).map(Domain::new)
    }
}
