// SPDX-License-Identifier: LGPL-2.1-or-later
//! A file that an operation makes. It has a name of the operation's own until the operation's record knows its inode, and
//! so it can be distinguished from any other file at any time, by another process too.

use std::fs::File;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fstat, linkat, openat, statat, statx, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::failure::{cannot, refused};
use super::room::directory_of;
use crate::error::Result;

const THERE: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW: OFlags = THERE.union(OFlags::CREATE).union(OFlags::EXCL);

/// It alone is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) path: String,
    /// Its name until it is published.
    pub(crate) staging: Option<String>,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// When it was made, where the file system knows: an inode's number is given away again, and a device's number is
    /// another one when the host was booted.
    #[serde(default)]
    pub(crate) born: Option<(i64, u32)>,
}

impl Made {
    /// A storage volume: made by the daemon, and known by its name alone.
    pub(crate) fn volume(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            staging: None,
            device: 0,
            inode: 0,
            born: None,
        }
    }

    /// Makes an empty file of mode 0600 where nothing is.
    pub(crate) fn create(path: &str) -> Result<(Self, File)> {
        Self::open(path, path, NEW, Mode::RUSR | Mode::WUSR, "make")
    }

    /// Makes an empty file that is to be published as `path`, and until then is called `staging`.
    pub(crate) fn stage(path: &str, staging: &str) -> Result<(Self, File)> {
        let (mut made, file) = Self::open(path, staging, NEW, Mode::RUSR | Mode::WUSR, "make")?;
        made.staging = Some(staging.to_owned());
        Ok((made, file))
    }

    /// Takes a file that somebody made for this operation.
    pub(crate) fn adopt(path: &str) -> Result<(Self, File)> {
        Self::open(path, path, THERE, Mode::empty(), "open")
    }

    /// By its `name` now.
    fn open(path: &str, name: &str, flags: OFlags, mode: Mode, what: &str) -> Result<(Self, File)> {
        let shown = path.escape_debug().to_string();
        let file = openat(CWD, name, flags, mode)
            .map(File::from)
            .map_err(|error| cannot(&shown, what, error))?;
        Ok((Self::of(path, &file)?, file))
    }

    /// The open file, which is called `path` or will be.
    pub(super) fn of(path: &str, file: &File) -> Result<Self> {
        let stat = fstat(file).map_err(|error| cannot(&path.escape_debug().to_string(), "look at", error))?;
        Ok(Self {
            path: path.to_owned(),
            staging: None,
            device: stat.st_dev,
            inode: stat.st_ino,
            born: born(file, "", AtFlags::EMPTY_PATH),
        })
    }

    /// What stands under a name that is the operation's own.
    pub(crate) fn find(path: &str) -> Option<Self> {
        let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(Self {
            path: path.to_owned(),
            staging: None,
            device: stat.st_dev,
            inode: stat.st_ino,
            born: born(CWD, path, AtFlags::SYMLINK_NOFOLLOW),
        })
    }

    /// What there is of a file that was to be published as `path`: the one that was recorded, or one that was staged.
    pub(crate) fn find_staged(recorded: Option<&Self>, path: &str, staging: &str) -> Option<Self> {
        let staged = Self::find(staging).map(|found| Self {
            path: path.to_owned(),
            staging: Some(staging.to_owned()),
            ..found
        });
        let published = recorded.filter(|recorded| recorded.is_in_place()).map(|recorded| Self {
            staging: None,
            ..recorded.clone()
        });
        staged.or(published)
    }

    /// Gives it its name, if that is free.
    pub(crate) fn publish(&mut self) -> Result<()> {
        let Some(staging) = &self.staging else { return Ok(()) };
        let shown = self.path.escape_debug().to_string();
        linkat(CWD, staging.as_str(), CWD, self.path.as_str(), AtFlags::empty()).map_err(|error| match error {
            Errno::EXIST => refused(&shown, "it exists already; remove it or name another file"),
            error => cannot(&shown, "make", error),
        })?;
        unlinkat(CWD, staging.as_str(), AtFlags::empty()).map_err(|error| cannot(staging, "remove", error))?;
        self.staging = None;
        Ok(())
    }

    /// Whether this is the file.
    pub(super) fn is(&self, file: &File) -> bool {
        fstat(file).is_ok_and(|stat| stat.st_ino == self.inode)
    }

    /// Whether the name still leads to the file.
    pub(crate) fn is_in_place(&self) -> bool {
        self.is_at(&self.path)
    }

    fn is_at(&self, path: &str) -> bool {
        Self::find(path).is_some_and(|found| {
            self.inode == found.inode
                && match (self.born, found.born) {
                    (Some(born), Some(found)) => born == found,
                    _ => self.device == found.device,
                }
        })
    }

    /// Writes the file's data and its name to the disk.
    pub(crate) fn sync(&self, file: &File) -> Result<()> {
        let shown = self.path.escape_debug().to_string();
        file.sync_all()
            .and_then(|()| File::open(directory_of(&self.path))?.sync_all())
            .map_err(|error| cannot(&shown, "sync", error))
    }

    /// Removes the file, unless the name leads to another one by now.
    pub(crate) fn remove(&self) -> Result<()> {
        for path in [Some(&self.path), self.staging.as_ref()].into_iter().flatten() {
            if !self.is_at(path) {
                continue;
            }
            match unlinkat(CWD, path.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(cannot(&path.escape_debug().to_string(), "remove", error)),
            }
        }
        Ok(())
    }
}

fn born(directory: impl AsFd, path: &str, flags: AtFlags) -> Option<(i64, u32)> {
    let stat = statx(directory, path, flags, StatxFlags::BTIME).ok()?;
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn a_staged_file_is_found_at_any_time_and_takes_no_other_files_place() {
        let directory = std::env::temp_dir().join(format!("livedisk-made-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let name = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (path, staging) = (name("image"), name(".staged"));
        assert_eq!(Made::find_staged(None, &path, &staging), None);

        let (mut made, _file) = Made::stage(&path, &staging).unwrap();
        assert_eq!(Made::find_staged(None, &path, &staging), Some(made.clone()));
        std::fs::write(&path, "somebody else's").unwrap();
        assert_eq!(made.publish().unwrap_err().code(), ErrorCode::Destination);
        made.remove().unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        std::fs::remove_file(&path).unwrap();

        let (mut made, _file) = Made::stage(&path, &staging).unwrap();
        let recorded = made.clone();
        made.publish().unwrap();
        assert!(made.is_in_place());
        assert_eq!(Made::find_staged(Some(&recorded), &path, &staging), Some(made.clone()));
        // It died between the two calls that publish.
        std::fs::hard_link(&path, &staging).unwrap();
        let found = Made::find_staged(Some(&recorded), &path, &staging).unwrap();
        assert_eq!(found, recorded);
        found.remove().unwrap();
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_file_with_a_number_that_was_given_away_again_is_another() {
        let directory = std::env::temp_dir().join(format!("livedisk-number-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("image").to_str().unwrap().to_owned();
        let (made, file) = Made::create(&path).unwrap();
        assert!(made.born.is_some() && made.is_in_place());
        drop(file);
        // The kernel's clock for this ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        let mut theirs = Made::find(&path).unwrap();
        theirs.born = made.born;
        assert!(!theirs.is_in_place());
        made.remove().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");

        let mut booted_since = Made::find(&path).unwrap();
        booted_since.device += 1;
        assert!(booted_since.is_in_place());
        booted_since.remove().unwrap();
        std::fs::remove_dir(&directory).unwrap();
    }
}
