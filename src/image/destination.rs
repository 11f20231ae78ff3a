// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where a copy may go: checked before anything is started, and without following a symlink.

use rustix::fs::{AtFlags, CWD, FileType, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::nbd::{self, Export};
use super::room::directory_of;
use crate::error::{Error, ErrorCode, Result};

/// A destination as the caller names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Destination {
    Path(String),
    Nbd { uri: String, export: Export },
}

/// What stands at a destination now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// Nothing: a file can be made there.
    Free,
    /// A regular file, which the caller wants reused.
    File,
    /// A block device.
    Device,
    /// A symbolic link to the block device of this number, as udev names logical volumes: /dev/VG/LV, /dev/disk/by-id/...
    LinkedDevice { number: u64 },
    /// An NBD export.
    Export,
}

impl Place {
    /// A block device, by whatever name.
    pub(crate) fn is_device(&self) -> bool {
        matches!(self, Self::Device | Self::LinkedDevice { .. })
    }
}

impl Destination {
    /// From an absolute path or an NBD URI.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            let shown = text.escape_debug();
            Error::new(ErrorCode::InvalidArgument, format!("destination '{shown}': {why}"))
        };
        if nbd::is_nbd(text) {
            let export = nbd::parse(text)?;
            return Ok(Self::Nbd {
                uri: text.to_owned(),
                export,
            });
        }
        if text.is_empty() {
            return Err(invalid("it is empty; name a file, a block device or an nbd:// URI"));
        }
        if !text.starts_with('/') {
            return Err(invalid(
                "it is neither an absolute path nor an nbd:// or nbd+unix:// URI",
            ));
        }
        // XML cannot carry them; a newline can be carried as a character reference.
        if text
            .chars()
            .any(|character| character.is_control() && character != '\n')
        {
            return Err(invalid("it has a control character; name a path without one"));
        }
        if text.ends_with('/') {
            return Err(invalid("it ends in a slash; name a file in the directory"));
        }
        Ok(Self::Path(text.to_owned()))
    }

    /// Looks at the destination without changing it. `in_use` are the guest's own images.
    pub(crate) fn look(&self, reuse: bool, in_use: &[Identity]) -> Result<Place> {
        let Self::Path(path) = self else {
            return Ok(Place::Export);
        };
        let refused = |why: &str| {
            let shown = path.escape_debug();
            Error::new(ErrorCode::Destination, format!("destination '{shown}': {why}"))
        };
        let stat = match statat(CWD, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                let directory = directory_of(path);
                if !directory.is_dir() {
                    let shown = directory.display();
                    return Err(refused(&format!("the directory {shown} does not exist; make it first")));
                }
                if reuse {
                    return Err(refused(
                        "there is no image to reuse; make it or leave REUSE_EXISTING out",
                    ));
                }
                return Ok(Place::Free);
            }
            Err(Errno::ACCESS) => {
                return Err(Error::new(
                    ErrorCode::Permission,
                    format!("destination '{}': no permission to reach it", path.escape_debug()),
                ));
            }
            Err(error) => return Err(refused(&error.to_string())),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let device = match kind {
            FileType::Symlink => linked_device(path),
            _ => None,
        };
        if in_use.contains(&device.unwrap_or(Identity::of(&stat))) {
            return Err(refused("it is an image of this very guest; name another file"));
        }
        if let Some(Identity::Device { number }) = device {
            return Ok(Place::LinkedDevice { number });
        }
        match kind {
            FileType::RegularFile if reuse => Ok(Place::File),
            FileType::RegularFile => Err(refused("it exists; remove it or name another file")),
            FileType::BlockDevice => Ok(Place::Device),
            FileType::Directory => Err(refused("it is a directory; name a file in it")),
            FileType::Symlink => Err(refused(
                "it is a symbolic link to something other than a block device; name the file itself",
            )),
            FileType::Fifo => Err(refused("it is a FIFO; name a file")),
            _ => Err(refused("it is neither a file nor a block device; name one")),
        }
    }

    /// As the caller wrote it.
    pub(crate) fn as_written(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Nbd { uri, .. } => uri,
        }
    }

    /// As the caller wrote it, fit for a message.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Path(path) => path.escape_debug().to_string(),
            Self::Nbd { uri, .. } => uri.clone(),
        }
    }
}

/// The block device that a symbolic link leads to. Links to anything else are not followed: who may change one could
/// have any file overwritten.
fn linked_device(path: &str) -> Option<Identity> {
    Identity::of_path(path).filter(|identity| matches!(identity, Identity::Device { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_names_and_control_characters_are_not() {
        for text in ["/a'b\"<>&,%s", "/new\nline", "/-dash"] {
            assert_eq!(Destination::parse(text).unwrap(), Destination::Path(text.into()));
        }
        for text in ["", "relative", "/bell\u{7}", "/tab\t", "/dir/", "http://x"] {
            let error = Destination::parse(text).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{text}");
            assert!(!error.message().chars().any(char::is_control));
        }
    }

    #[test]
    fn what_stands_there_is_distinguished() {
        let look = |path: &str, reuse| Destination::parse(path).unwrap().look(reuse, &[]);
        assert_eq!(look("/tmp/no such file", false).unwrap(), Place::Free);
        for (path, reuse, part) in [
            ("/tmp", false, "directory"),
            ("/dev/null", false, "neither"),
            ("/proc/self/exe", false, "symbolic link"),
            ("/etc/passwd", false, "exists"),
            ("/tmp/no such file", true, "no image to reuse"),
            ("/no such directory/file", false, "does not exist"),
        ] {
            let error = look(path, reuse).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Destination);
            assert!(error.message().contains(part), "{path}: {error}");
        }
        let itself = Identity::of_path("/etc/passwd").unwrap();
        let error = Destination::parse("/etc/passwd")
            .unwrap()
            .look(true, &[itself])
            .unwrap_err();
        assert!(error.message().contains("this very guest"));
        let long = format!("/tmp/{}", "x".repeat(4096));
        assert_eq!(look(&long, false).unwrap_err().code(), ErrorCode::Destination);
    }

    #[test]
    fn a_link_is_followed_to_a_block_device_alone() {
        let directory = std::env::temp_dir().join(format!("livedisk-links-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let link = directory.join("link");
        let look = |to: &str, in_use: &[Identity]| {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(to, &link).unwrap();
            Destination::parse(link.to_str().unwrap()).unwrap().look(false, in_use)
        };
        for to in [
            "/etc/passwd",
            "/dev/null",
            "/tmp",
            "/no such file",
            link.to_str().unwrap(),
        ] {
            let error = look(to, &[]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Destination);
            assert!(error.message().contains("symbolic link"), "{to}: {error}");
        }
        // Every machine that runs these has one; what is on it does not matter.
        let devices = std::fs::read_dir("/dev").unwrap().flatten();
        let device = devices.map(|entry| entry.path()).find(|path| {
            let found = std::fs::symlink_metadata(path);
            found.is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_block_device(&found.file_type()))
        });
        if let Some(device) = device {
            let device = device.to_str().unwrap();
            let itself = Identity::of_path(device).unwrap();
            let Identity::Device { number } = itself else {
                panic!("{device}: {itself:?}")
            };
            assert_eq!(look(device, &[]).unwrap(), Place::LinkedDevice { number });
            let error = look(device, &[itself]).unwrap_err();
            assert!(error.message().contains("this very guest"), "{error}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
