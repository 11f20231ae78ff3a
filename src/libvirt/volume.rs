// SPDX-License-Identifier: LGPL-2.1-or-later
//! Storage volumes: files that the daemon makes, clones and removes, wherever it runs.

use std::path::Path;

use virt::error::Error;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt_sys as sys;

use super::connection::Connection;
use super::xml;

/// What a volume is, as the daemon sees it now. The format is a guess from its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeInfo {
    pub(crate) format: String,
    pub(crate) capacity: u64,
}

impl Connection {
    /// The active pool of the directory that `path` lies in.
    fn pool_of(&self, path: &str) -> Result<StoragePool, Error> {
        let directory = Path::new(path).parent().unwrap_or(Path::new("/")).to_string_lossy();
        self.connect.lookup_storage_pool_by_target_path(&directory)
    }

    /// Has the pool of `path` look for what others made or removed in it.
    pub(crate) fn refresh_pool_of(&self, path: &str) -> Result<(), Error> {
        self.pool_of(path)?.refresh(0)
    }

    pub(crate) fn volume_info(&self, path: &str) -> Result<VolumeInfo, Error> {
        let volume = self.connect.lookup_storage_vol_by_path(path)?;
        // Asking for this makes the daemon look at the file again.
        let capacity = volume.info()?.capacity;
        let format = xml::volume_format(&volume.xml_desc(0)?).unwrap_or_default();
        Ok(VolumeInfo { format, capacity })
    }

    /// Whose the file of the volume is now; `None` where the daemon does not know.
    pub(crate) fn volume_permissions(&self, path: &str) -> Result<Option<xml::Permissions>, Error> {
        let volume = self.connect.lookup_storage_vol_by_path(path)?;
        // Asking for this makes the daemon look at the file again.
        volume.info()?;
        Ok(xml::volume_permissions(&volume.xml_desc(0)?))
    }

    /// virStorageVolCreateXML in the pool of `path`.
    pub(crate) fn create_volume(&self, path: &str, volume_xml: &str) -> Result<(), Error> {
        StorageVol::create_xml(&self.pool_of(path)?, volume_xml, 0).map(drop)
    }

    /// virStorageVolCreateXMLFrom, by shared blocks if asked. A failure leaves nothing.
    pub(crate) fn clone_volume(&self, source: &str, path: &str, volume_xml: &str, reflink: bool) -> Result<(), Error> {
        let source = self.connect.lookup_storage_vol_by_path(source)?;
        let flags = if reflink {
            sys::VIR_STORAGE_VOL_CREATE_REFLINK
        } else {
            0
        };
        StorageVol::create_xml_from(&self.pool_of(path)?, volume_xml, &source, flags).map(drop)
    }

    pub(crate) fn delete_volume(&self, path: &str) -> Result<(), Error> {
        self.connect.lookup_storage_vol_by_path(path)?.delete(0)
    }
}
