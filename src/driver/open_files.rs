// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest's QEMU has open, by its descriptors where they can be looked at, else by its locks.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::libvirt::is_locked_as_image;

/// The files of one QEMU; `None` where they may not be read.
pub(super) struct OpenFiles(Option<HashSet<Identity>>);

/// What a name leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// What QEMU has open.
    Same,
    /// Something that it has not.
    Other,
    /// QEMU's descriptors are not to be seen, and the file is not locked.
    Unknown,
    Failed(io::Error),
}

#[derive(PartialEq, Eq, Hash)]
enum Identity {
    File { device: u64, inode: u64 },
    Device { number: u64 },
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            return Self::Device {
                number: metadata.rdev(),
            };
        }
        Self::File {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl OpenFiles {
    /// Of the QEMU of the domain with this UUID, which libvirt states on its command line.
    pub(super) fn of_qemu(uuid: &str) -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut of_uuid = processes
            .map(|entry| entry.path())
            .filter(|process| is_of(&fs::read(process.join("cmdline")).unwrap_or_default(), uuid));
        Self(of_uuid.find_map(|process| descriptors(&process).ok()))
    }

    pub(super) fn find(&self, path: &str) -> Found {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return Found::Failed(error),
        };
        match &self.0 {
            Some(open) if open.contains(&Identity::of(&metadata)) => Found::Same,
            Some(_) => Found::Other,
            None => match fs::File::open(path).and_then(|file| is_locked_as_image(&file)) {
                Ok(true) => Found::Same,
                Ok(false) => Found::Unknown,
                Err(error) => Found::Failed(error),
            },
        }
    }
}

/// Whether this command line (NUL after each word) is of the QEMU of that domain.
fn is_of(command_line: &[u8], uuid: &str) -> bool {
    let words: Vec<_> = command_line.split(|byte| *byte == 0).collect();
    words
        .windows(2)
        .any(|pair| pair[0] == b"-uuid" && pair[1] == uuid.as_bytes())
}

fn descriptors(process: &Path) -> io::Result<HashSet<Identity>> {
    let mut open = HashSet::new();
    for entry in fs::read_dir(process.join("fd"))? {
        // One may be closed meanwhile.
        if let Ok(metadata) = fs::metadata(entry?.path()) {
            open.insert(Identity::of(&metadata));
        }
    }
    if open.is_empty() {
        // To list them takes less than to look at them.
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_tells_whose_it_is() {
        assert!(is_of(b"qemu\0-smp\x001\0-uuid\0abc\0", "abc"));
        assert!(!is_of(b"qemu\0-uuid\0abcd\0", "abc"));
        assert!(!is_of(b"qemu\0abc\0-uuid\0", "abc"));
        assert!(!is_of(b"", ""));
    }

    #[test]
    fn a_name_is_compared_by_what_it_leads_to() {
        let directory = std::env::temp_dir().join(format!("livedisk-open-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let (path, moved) = (directory.join("image"), directory.join("moved"));
        let _open = fs::File::create(&path).unwrap();
        let text = path.to_str().unwrap();
        let mine = OpenFiles(descriptors(Path::new("/proc/self")).ok());
        assert!(matches!(mine.find(text), Found::Same));
        fs::rename(&path, &moved).unwrap();
        assert!(matches!(mine.find(text), Found::Failed(error) if error.kind() == io::ErrorKind::NotFound));
        assert!(matches!(mine.find(moved.to_str().unwrap()), Found::Same));
        fs::File::create(&path).unwrap();
        assert!(matches!(mine.find(text), Found::Other));
        assert!(matches!(OpenFiles(None).find(text), Found::Unknown));
        fs::remove_dir_all(directory).unwrap();
    }
}
