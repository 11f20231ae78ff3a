// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a guest's QEMU has open, by its descriptors where they can be looked at, else by its locks.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::libvirt::{LOCK_BYTES, is_locked_as_image};

/// The files of one QEMU.
pub(super) struct OpenFiles {
    /// `None` where they may not be read.
    descriptors: Option<HashSet<Identity>>,
    /// It is seen that it locks its images, as it does unless it is started with locks off.
    locks: bool,
}

/// What a name leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// What QEMU has open.
    Same,
    /// Something that it has not.
    Other,
    /// QEMU's descriptors are not to be seen, and the file is not locked, which need not mean much: locks are off, or nothing of
    /// QEMU is seen, or the device that it has is another node in a /dev of its own.
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
        let found = processes.map(|entry| entry.path()).filter_map(|process| {
            let command_line = fs::read(process.join("cmdline")).ok()?;
            is_of(&command_line, uuid).then_some((process, command_line))
        });
        let mut files = Self {
            descriptors: None,
            locks: false,
        };
        for (process, command_line) in found {
            files.descriptors = files.descriptors.or_else(|| descriptors(&process).ok());
            files.locks |= !is_without_locks(&command_line);
        }
        files
    }

    pub(super) fn find(&self, path: &str) -> Found {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return Found::Failed(error),
        };
        match &self.descriptors {
            Some(open) if open.contains(&Identity::of(&metadata)) => Found::Same,
            Some(_) => Found::Other,
            None => {
                let locked = match fs::File::open(path) {
                    Ok(file) => is_locked_as_image(&file),
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        fs::read_to_string("/proc/locks").map(|locks| is_listed(&locks, &metadata))
                    }
                    Err(error) => Err(error),
                };
                match locked {
                    Ok(true) => Found::Same,
                    Ok(false) if self.locks && metadata.is_file() => Found::Other,
                    Ok(false) => Found::Unknown,
                    Err(error) => Found::Failed(error),
                }
            }
        }
    }
}

/// Whether one of the kernel's list of locks is QEMU's on this file, which is not ours to open.
fn is_listed(locks: &str, metadata: &Metadata) -> bool {
    let (device, inode) = (metadata.dev(), metadata.ino());
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    locks.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        // Also one that somebody waits for has a word more.
        let Some(at) = words.iter().position(|word| *word == file) else {
            return false;
        };
        let byte = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
        byte(at + 1).is_some_and(|start| LOCK_BYTES.contains(&start)) && words[1] != "->"
    })
}

/// Whether this command line (NUL after each word) is of the QEMU of that domain.
fn is_of(command_line: &[u8], uuid: &str) -> bool {
    let words: Vec<_> = command_line.split(|byte| *byte == 0).collect();
    words
        .windows(2)
        .any(|pair| pair[0] == b"-uuid" && pair[1] == uuid.as_bytes())
}

/// Whether it opens an image without QEMU's locks.
fn is_without_locks(command_line: &[u8]) -> bool {
    let text: String = String::from_utf8_lossy(command_line)
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect();
    text.contains("\"locking\":\"off\"") || text.contains("locking=off")
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
    fn a_command_line_tells_whether_locks_are_off() {
        for (line, off) in [
            (
                &b"qemu\0-blockdev\0{\"driver\":\"file\",\"filename\":\"/a\"}\0"[..],
                false,
            ),
            (b"qemu\0-blockdev\0{\"driver\":\"file\",\"locking\": \"off\"}\0", true),
            (b"qemu\0-drive\0file=/a,file.locking=off\0", true),
        ] {
            assert_eq!(is_without_locks(line), off);
        }
    }

    #[test]
    fn a_lock_is_found_in_the_list() {
        let metadata = fs::metadata("/proc/self/exe").unwrap();
        let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        let line = |what: &str, start: u32| {
            format!(
                "7: {what} ADVISORY  READ  -1 {major:02x}:{minor:02x}:{} {start} {start}",
                metadata.ino()
            )
        };
        for (line, found) in [
            (line("OFDLCK", 100), true),
            (line("OFDLCK", 201), true),
            (line("OFDLCK", 99), false),
            (line("-> OFDLCK", 100), false),
            ("7: OFDLCK ADVISORY  READ  -1 00:00:1 100 100".into(), false),
        ] {
            assert_eq!(is_listed(&format!("1: FLOCK\n{line}\n"), &metadata), found, "{line}");
        }
    }

    #[test]
    fn a_name_is_compared_by_what_it_leads_to() {
        let directory = std::env::temp_dir().join(format!("livedisk-open-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let (path, moved) = (directory.join("image"), directory.join("moved"));
        let _open = fs::File::create(&path).unwrap();
        let text = path.to_str().unwrap();
        let mine = OpenFiles {
            descriptors: descriptors(Path::new("/proc/self")).ok(),
            locks: true,
        };
        assert!(matches!(mine.find(text), Found::Same));
        fs::rename(&path, &moved).unwrap();
        assert!(matches!(mine.find(text), Found::Failed(error) if error.kind() == io::ErrorKind::NotFound));
        assert!(matches!(mine.find(moved.to_str().unwrap()), Found::Same));
        fs::File::create(&path).unwrap();
        assert!(matches!(mine.find(text), Found::Other));
        let unseen = |locks| OpenFiles {
            descriptors: None,
            locks,
        };
        assert!(matches!(unseen(false).find(text), Found::Unknown));
        assert!(matches!(unseen(true).find(text), Found::Other));
        fs::remove_dir_all(directory).unwrap();
    }
}
