// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whose a file is that an operation makes. Mostly libvirt hands it over to QEMU, and returns it. Where it does not
//! (`dynamic_ownership = 0`), the file is given to the owner of the disk's own image.

use std::fs::File;

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown, getxattr, stat};
use rustix::process::geteuid;

/// In it libvirt remembers whose a file was before it handed it over to QEMU.
const REMEMBERED: &str = "trusted.libvirt.security.ref_dac";

/// Owner, group and mode of a disk's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    user: u32,
    group: u32,
    mode: u32,
}

/// libvirt handed the image over to QEMU, and so it will those that it opens.
pub(crate) fn is_handed_over(image: &str) -> bool {
    getxattr(image, REMEMBERED, &mut [0u8; 32]).is_ok()
}

impl Owner {
    /// What a file beside the image is to be given; `None` where libvirt sees to it, or we may not.
    fn of(image: &str) -> Option<Self> {
        if !geteuid().is_root() || is_handed_over(image) {
            return None;
        }
        let stat = stat(image).ok()?;
        Some(Self {
            user: stat.st_uid,
            group: stat.st_gid,
            mode: stat.st_mode & 0o666,
        })
    }

    /// On a file system that does not allow this the file stays ours, and QEMU may have it open all the same.
    fn give(self, file: &File) {
        let Self { user, group, mode } = self;
        let given = fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
            .and_then(|()| fchmod(file, Mode::from_raw_mode(mode)));
        if let Err(error) = given {
            log::warn!(
                "a new image cannot be given to user {user} and group {group}, who have the disk's own: {error}"
            );
        }
    }
}

/// Gives a new file to the owner of the disk's image, where libvirt does not see to it.
pub(crate) fn give_as(image: &str, file: &File) {
    if let Some(owner) = Owner::of(image) {
        owner.give(file);
    }
}

/// The new file takes the image's place as the guest's disk: whoever could read that can read this. QEMU's user will have it,
/// and we may be another.
pub(crate) fn succeed(image: &str, file: &File) {
    let moded = stat(image).and_then(|stat| fchmod(file, Mode::from_raw_mode(stat.st_mode & 0o666)));
    if let Err(error) = moded {
        log::warn!("a new image cannot be given the mode of the disk's own: {error}");
    }
    give_as(image, file);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{XattrFlags, setxattr};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_file_is_given_away_where_libvirt_does_not_do_it() {
        if !geteuid().is_root() {
            println!("skipped: to give a file away takes root");
            return;
        }
        let name = |name: &str| std::env::temp_dir().join(format!("livedisk-{name}-{}", std::process::id()));
        let (image, new) = (name("owned"), name("new"));
        let file = File::create(&image).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(&image, Some(4711), Some(815)).unwrap();
        let file = File::create(&new).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = image.to_str().unwrap();
        let owner = |file: &File| {
            let found = file.metadata().unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        // Not every file system keeps such a note.
        if setxattr(path, REMEMBERED, b"1", XattrFlags::CREATE).is_ok() {
            give_as(path, &file);
            assert_eq!(owner(&file), (0, 0, 0o600));
            succeed(path, &file);
            assert_eq!(owner(&file), (0, 0, 0o640));
            rustix::fs::removexattr(path, REMEMBERED).unwrap();
        }
        succeed(path, &file);
        assert_eq!(owner(&file), (4711, 815, 0o640));
        std::fs::remove_file(image).unwrap();
        std::fs::remove_file(new).unwrap();
    }
}
