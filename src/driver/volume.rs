// SPDX-License-Identifier: LGPL-2.1-or-later
//! Files as storage volumes of a host: for what is done where the files are and not where we are.

use super::host::Host;
use crate::error::{Error, ErrorCode, Result};
use crate::image;
use crate::libvirt::xml::{NewVolume, Permissions, volume};
use crate::libvirt::{self, VolumeInfo, code};

fn is(error: &libvirt::Error, code: i32) -> bool {
    error.code().to_raw() as i32 == code
}

fn text_of(new: &NewVolume<'_>) -> Result<String> {
    volume(new).map_err(|reason| Error::new(ErrorCode::Internal, reason))
}

impl Host {
    fn volume_failed(&self, error: &libvirt::Error, what: &str, path: &str) -> Error {
        let shown = path.escape_debug();
        let failure = self.failed(error, &format!("cannot {what} the storage volume '{shown}'"));
        if is(error, code::NO_STORAGE_POOL) || is(error, code::NO_STORAGE_VOL) {
            let message = format!(
                "{}; a volume lies in the directory of an active storage pool: see 'virsh pool-list', \
                 make one with 'virsh pool-create-as'",
                failure.message()
            );
            return Error::new(ErrorCode::Unsupported, message).with_libvirt_code(failure.libvirt_code());
        }
        failure
    }

    /// The volume at `path` as it is now; `None` where its pool has no such file.
    pub(crate) fn find_volume(&self, path: &str) -> Result<Option<VolumeInfo>> {
        let connection = self.connection();
        let found = connection
            .refresh_pool_of(path)
            .and_then(|()| connection.volume_info(path));
        match found {
            Err(error) if is(&error, code::NO_STORAGE_VOL) => Ok(None),
            found => found
                .map(Some)
                .map_err(|error| self.volume_failed(&error, "find", path)),
        }
    }

    /// What a new volume gets of this one; `None` where libvirt hands both over to QEMU itself.
    fn permissions_of(&self, path: &str) -> Result<Option<Permissions>> {
        if self.is_local() && image::is_handed_over(path) {
            return Ok(None);
        }
        let found = self.connection().volume_permissions(path);
        found.map_err(|error| self.volume_failed(&error, "look at", path))
    }

    /// Makes a qcow2 overlay on `backing` (path, format).
    pub(crate) fn create_overlay_volume(&self, path: &str, size: u64, backing: (&str, &str)) -> Result<()> {
        let volume = NewVolume {
            path,
            capacity: size,
            format: "qcow2",
            backing: Some(backing),
            permissions: self.permissions_of(backing.0)?,
        };
        self.connection()
            .create_volume(path, &text_of(&volume)?)
            .map_err(|error| self.volume_failed(&error, "make", path))
    }

    /// Clones `source` (path, format), which does not change meanwhile: by shared blocks where the daemon can.
    pub(crate) fn clone_volume(
        &self,
        source: (&str, &str),
        size: u64,
        path: &str,
        backing: Option<(&str, &str)>,
    ) -> Result<()> {
        let volume = NewVolume {
            path,
            capacity: size,
            format: source.1,
            backing,
            permissions: self.permissions_of(source.0)?,
        };
        let (connection, text) = (self.connection(), text_of(&volume)?);
        let mut cloned = Ok(());
        for reflink in [true, false] {
            cloned = connection.clone_volume(source.0, path, &text, reflink);
            match &cloned {
                Ok(()) => break,
                Err(error) if reflink => log::debug!("no shared blocks: {error}"),
                Err(_) => {}
            }
        }
        cloned.map_err(|error| self.volume_failed(&error, "clone to", path))
    }

    /// Removes the file; one that is gone is removed.
    pub(crate) fn remove_volume(&self, path: &str) -> Result<()> {
        match self.connection().delete_volume(path) {
            Err(error) if is(&error, code::NO_STORAGE_VOL) => Ok(()),
            removed => removed.map_err(|error| self.volume_failed(&error, "remove", path)),
        }
    }
}
