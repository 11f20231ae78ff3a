// SPDX-License-Identifier: LGPL-2.1-or-later
//! The image that a copy is written to: made or taken, watched by descriptor, and removed if it was made.

use std::fs::File;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::destination::{Destination, Place};
use super::{Identity, qemu_img};
use crate::error::{Error, ErrorCode, Result};

/// What a made file is, so that it alone is removed: by another process too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) path: String,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// The image that a shallow copy rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(crate) path: String,
    pub(crate) format: String,
}

/// An open destination.
#[derive(Debug)]
pub(crate) struct Output {
    destination: Destination,
    format: String,
    /// None for an NBD export.
    file: Option<File>,
    made: Option<Made>,
}

fn refused(shown: &str, why: &str) -> Error {
    Error::new(ErrorCode::Destination, format!("destination '{shown}': {why}"))
}

pub(super) fn cannot(shown: &str, what: &str, error: impl Into<std::io::Error>) -> Error {
    let error: std::io::Error = error.into();
    let code = match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorCode::Permission,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorCode::NoSpace,
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::ResourceBusy => ErrorCode::Destination,
        _ => ErrorCode::Io,
    };
    Error::new(code, format!("cannot {what} '{shown}': {error}"))
}

impl Output {
    /// Makes the image, or takes the one that is there. A failure leaves nothing made.
    pub(crate) fn prepare(
        destination: &Destination,
        place: &Place,
        format: &str,
        size: u64,
        backing: Option<&Backing>,
        reuse: bool,
    ) -> Result<Self> {
        let shown = destination.shown();
        let mut output = Self {
            destination: destination.clone(),
            format: format.to_owned(),
            file: None,
            made: None,
        };
        let path = match destination {
            Destination::Nbd { uri, .. } => {
                let info = qemu_img::info_nbd(uri, format).map_err(|error| refused(&shown, error.message()))?;
                must_fit(&shown, info.virtual_size, size)?;
                return Ok(output);
            }
            Destination::Path(path) => path,
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (flags, mode) = match place {
            Place::Free => (flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR),
            // Exclusive on a block device: not while it is mounted or claimed.
            Place::Device => (flags | OFlags::EXCL, Mode::empty()),
            Place::File | Place::Export => (flags, Mode::empty()),
        };
        let file = openat(CWD, path.as_str(), flags, mode)
            .map(File::from)
            .map_err(|error| cannot(&shown, "open", error))?;
        let stat = fstat(&file).map_err(|error| cannot(&shown, "look at", error))?;
        if *place == Place::Free {
            output.made = Some(Made {
                path: path.clone(),
                device: stat.st_dev,
                inode: stat.st_ino,
            });
        }
        // A device is held open without its exclusive claim, which would keep QEMU away from it.
        let file = if *place == Place::Device {
            drop(file);
            openat(
                CWD,
                path.as_str(),
                OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map(File::from)
            .map_err(|error| cannot(&shown, "open", error))?
        } else {
            file
        };
        let filled = output.fill(&file, place, size, backing, reuse);
        output.file = Some(file);
        match filled {
            Ok(()) => Ok(output),
            Err(error) => {
                output.remove()?;
                Err(error)
            }
        }
    }

    fn fill(&self, file: &File, place: &Place, size: u64, backing: Option<&Backing>, reuse: bool) -> Result<()> {
        let shown = self.destination.shown();
        if reuse {
            return self.must_be_reusable(file, size, backing);
        }
        if self.format == "qcow2" {
            let backing = backing.map(|backing| (backing.path.as_str(), backing.format.as_str()));
            return qemu_img::create_qcow2(file, size, backing, &shown);
        }
        if *place == Place::Device {
            return must_fit(&shown, file_size(file, &shown)?, size);
        }
        file.set_len(size).map_err(|error| cannot(&shown, "size", error))
    }

    fn must_be_reusable(&self, file: &File, size: u64, backing: Option<&Backing>) -> Result<()> {
        let shown = self.destination.shown();
        let info = qemu_img::info(file, &self.format, &shown).map_err(|error| refused(&shown, error.message()))?;
        must_fit(&shown, info.virtual_size, size)?;
        if info.encrypted {
            return Err(refused(
                &shown,
                "it is encrypted, which is not supported; name a plain image",
            ));
        }
        if info.data_file {
            return Err(refused(
                &shown,
                "it has an external data file; name an image of one file",
            ));
        }
        match (&info.backing, backing) {
            (None, None) => Ok(()),
            (Some(name), None) => Err(refused(
                &shown,
                &format!(
                    "it has the backing file '{}'; name a standalone image or ask for SHALLOW",
                    name.escape_debug()
                ),
            )),
            (None, Some(wanted)) => Err(refused(
                &shown,
                &format!("it has no backing file; a shallow copy needs '{}'", wanted.path),
            )),
            (Some(name), Some(wanted)) => {
                // `json:` and protocol names have no identity and so are refused here.
                let found = absolute(name, &self.destination).and_then(|path| Identity::of_path(&path));
                if found.is_some() && found == Identity::of_path(&wanted.path) {
                    Ok(())
                } else {
                    Err(refused(
                        &shown,
                        &format!("its backing file '{}' is not '{}'", name.escape_debug(), wanted.path),
                    ))
                }
            }
        }
    }

    /// The file that this operation made, if it did.
    pub(crate) fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    pub(crate) fn format(&self) -> &str {
        &self.format
    }

    /// Whether the name still leads to the file that was opened; a copy into an unlinked file is lost.
    pub(crate) fn must_be_in_place(&self) -> Result<()> {
        let (Some(file), Destination::Path(path)) = (&self.file, &self.destination) else {
            return Ok(());
        };
        let shown = self.destination.shown();
        let held = fstat(file).map_err(|error| cannot(&shown, "look at", error))?;
        match statat(CWD, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if Identity::of(&named) == Identity::of(&held) => Ok(()),
            Ok(_) => Err(refused(
                &shown,
                "another file was put in its place during the copy; copy again",
            )),
            Err(_) => Err(refused(&shown, "it was removed during the copy; copy again")),
        }
    }

    /// Writes out what is cached, to have less to wait for later; not needed for the result.
    pub(crate) fn write_out(&self) {
        if let Some(Err(error)) = self.file.as_ref().map(File::sync_data) {
            log::debug!("cannot write out '{}': {error}", self.destination.shown());
        }
    }

    /// Writes data and name to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let shown = self.destination.shown();
        if let Some(file) = &self.file {
            file.sync_all().map_err(|error| cannot(&shown, "sync", error))?;
        }
        if let Some(made) = &self.made {
            let directory = Path::new(&made.path).parent().unwrap_or(Path::new("/"));
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| cannot(&shown, "sync the directory of", error))?;
        }
        Ok(())
    }

    /// The image must have the disk's size still, and its format's header.
    pub(crate) fn must_have_size(&self, size: u64) -> Result<()> {
        let shown = self.destination.shown();
        let found = match (&self.file, &self.destination) {
            (Some(file), _) if self.format == "raw" => file_size(file, &shown)?,
            (Some(file), _) => qemu_img::info(file, &self.format, &shown)?.virtual_size,
            (None, Destination::Nbd { uri, .. }) => qemu_img::info_nbd(uri, &self.format)?.virtual_size,
            (None, Destination::Path(_)) => size,
        };
        if found == size {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Verify,
            format!("the image '{shown}' is of {found} bytes, the disk of {size}"),
        ))
    }

    /// Removes the image if this operation made it; whatever else is there stays.
    pub(crate) fn remove(&mut self) -> Result<()> {
        match self.made.take() {
            Some(made) => made.remove(),
            None => Ok(()),
        }
    }
}

impl Made {
    /// Makes an empty file of mode 0600 where nothing is.
    pub(crate) fn create(path: &str) -> Result<(Self, File)> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        Self::open(path, flags, Mode::RUSR | Mode::WUSR, "make")
    }

    /// Takes a file that somebody made for this operation.
    pub(crate) fn adopt(path: &str) -> Result<(Self, File)> {
        Self::open(
            path,
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            "open",
        )
    }

    fn open(path: &str, flags: OFlags, mode: Mode, what: &str) -> Result<(Self, File)> {
        let shown = path.escape_debug().to_string();
        let file = openat(CWD, path, flags, mode)
            .map(File::from)
            .map_err(|error| cannot(&shown, what, error))?;
        let stat = fstat(&file).map_err(|error| cannot(&shown, "look at", error))?;
        let made = Self {
            path: path.to_owned(),
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        Ok((made, file))
    }

    /// Whether the name still leads to the file.
    pub(crate) fn is_in_place(&self) -> bool {
        let found = statat(CWD, self.path.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.device, self.inode))
    }

    /// Writes the file's data and its name to the disk.
    pub(crate) fn sync(&self, file: &File) -> Result<()> {
        let shown = self.path.escape_debug().to_string();
        let directory = Path::new(&self.path).parent().unwrap_or(Path::new("/"));
        file.sync_all()
            .and_then(|()| File::open(directory)?.sync_all())
            .map_err(|error| cannot(&shown, "sync", error))
    }

    /// Removes the file, unless the name leads to another one by now.
    pub(crate) fn remove(&self) -> Result<()> {
        let shown = self.path.escape_debug().to_string();
        if !self.is_in_place() {
            return Ok(());
        }
        match unlinkat(CWD, self.path.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(cannot(&shown, "remove", error)),
        }
    }
}

fn must_fit(shown: &str, found: u64, wanted: u64) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(refused(
        shown,
        &format!("its virtual size is {found} bytes and the disk's is {wanted}; both must be equal"),
    ))
}

/// Of a file or a block device.
fn file_size(file: &File, shown: &str) -> Result<u64> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(|error| cannot(shown, "find the size of", error))
}

/// A backing name as QEMU reads it: relative to the directory of the image that names it.
fn absolute(name: &str, image: &Destination) -> Option<String> {
    if name.starts_with('/') {
        return Some(name.to_owned());
    }
    let Destination::Path(path) = image else {
        return None;
    };
    let directory = Path::new(path).parent()?;
    directory.join(name).to_str().map(str::to_owned)
}
