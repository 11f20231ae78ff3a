// SPDX-License-Identifier: LGPL-2.1-or-later
//! The disks that a domain has.

use crate::driver::Guest;
use crate::error::Result;
use crate::libvirt::xml::Device;

/// A disk of a domain, as its definition names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDisk {
    /// The disk target (`vda`).
    pub target: String,
    /// The image's format, where the definition states one.
    pub format: Option<String>,
    /// The path of its active image; `None` where it is on no file or block device.
    pub image: Option<String>,
    /// A drive for CD-ROMs or floppies.
    pub removable: bool,
}

pub(crate) fn disks(guest: &Guest) -> Result<Vec<DomainDisk>> {
    let disks = guest.get_config(false)?.disks.into_iter();
    Ok(disks
        .map(|disk| DomainDisk {
            format: disk.active().format.clone(),
            image: disk.active().source.path().map(str::to_owned),
            removable: matches!(disk.device, Device::Cdrom | Device::Floppy),
            target: disk.target,
        })
        .collect())
}
