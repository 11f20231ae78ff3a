// SPDX-License-Identifier: LGPL-2.1-or-later
//! The image that a copy is written to: made or taken, watched by descriptor, and removed if it was made.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use once_cell::sync::OnceCell;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fstat, openat, statat, statx};

use super::clone::Cloned;
use super::convert::{Manner, Source, Written};
use super::destination::{Destination, Place};
use super::failure::{cannot, refused};
use super::identity::Identity;
use super::layer::{Backing, Layer};
use super::made::Made;
use super::qemu_img::Target;
use super::room::directory_of;
use super::write_out::Watch;
use super::{convert, owner, qemu_img};
use crate::error::{Error, ErrorCode, Result};

/// The least that QEMU gives a disk more or less of.
const SECTOR: u64 = 512;

/// An open destination.
#[derive(Debug)]
pub(crate) struct Output {
    destination: Destination,
    place: Place,
    format: String,
    /// Not of an NBD export. Of an image of a resumed operation it may have to wait: while a job writes to it, it may belong
    /// to QEMU's user, and not be ours to open.
    file: OnceCell<File>,
    made: Option<Made>,
    /// It reads as zeroes still.
    blank: bool,
    /// It can be written past the page cache.
    direct: bool,
}

/// What an image is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form<'a> {
    pub(crate) size: u64,
    pub(crate) backing: Option<&'a Backing>,
    /// What is there is an image already.
    pub(crate) reuse: bool,
    pub(crate) compress: bool,
}

impl Output {
    /// Makes the image, or takes the one that is there. One that is made is called `staging` until it is published. A
    /// failure leaves nothing made.
    pub(crate) fn prepare(
        destination: &Destination,
        place: &Place,
        format: &str,
        form: Form<'_>,
        staging: &str,
    ) -> Result<Self> {
        let mut output = Self::open(destination, place, format, staging)?;
        match output.fill(place, form) {
            Ok(()) => Ok(output),
            Err(error) => {
                output.remove()?;
                Err(error)
            }
        }
    }

    /// Makes an empty file, called `staging` until it is published, or opens what is there.
    pub(crate) fn open(destination: &Destination, place: &Place, format: &str, staging: &str) -> Result<Self> {
        let mut output = Self::closed(destination, place, format);
        let Destination::Path(path) = destination else {
            return Ok(output);
        };
        output.file = OnceCell::from(match place {
            Place::Free => {
                let (made, file) = Made::stage(path, staging)?;
                output.made = Some(made);
                file
            }
            Place::Device | Place::LinkedDevice { .. } => {
                // Exclusive: not while it is mounted or claimed. That claim would keep QEMU away from it, too.
                drop(open_at(place, path, OFlags::EXCL)?);
                open_at(place, path, OFlags::empty())?
            }
            Place::File | Place::Export => open(path, OFlags::empty())?,
        });
        Ok(output)
    }

    fn closed(destination: &Destination, place: &Place, format: &str) -> Self {
        Self {
            destination: destination.clone(),
            place: place.clone(),
            format: format.to_owned(),
            file: OnceCell::new(),
            made: None,
            blank: false,
            direct: false,
        }
    }

    /// Opens what somebody made for this operation at a place, which counts as made by it where nothing was.
    pub(crate) fn adopt(destination: &Destination, place: &Place, format: &str) -> Result<Self> {
        let mut output = Self::closed(destination, place, format);
        if let Destination::Path(path) = destination {
            let file = open_at(place, path, OFlags::empty())?;
            if *place == Place::Free {
                output.made = Some(Made::of(path, &file)?);
            }
            output.file = OnceCell::from(file);
        }
        Ok(output)
    }

    /// Opens the image again in another process: the one that was `made`, or the caller's. None where it is gone.
    pub(crate) fn reopen(destination: &Destination, place: &Place, format: &str, made: Option<Made>) -> Option<Self> {
        let mut output = Self::closed(destination, place, format);
        output.made = made;
        if *place == Place::Free && output.made.is_none() {
            return None;
        }
        match output.opened() {
            Err(error) if error.code() == ErrorCode::Permission => log::debug!("{error}; it is known by its name"),
            Err(_) => return None,
            Ok(_) => {}
        }
        Some(output)
    }

    /// None of an NBD export.
    fn opened(&self) -> Result<Option<&File>> {
        let Destination::Path(path) = &self.destination else {
            return Ok(None);
        };
        let staging = self.made.as_ref().and_then(|made| made.staging.as_ref());
        let path = staging.unwrap_or(path);
        let open = || {
            let file = open_at(&self.place, path, OFlags::empty())?;
            match &self.made {
                Some(made) if !made.is(&file) => Err(refused(
                    &self.destination.shown(),
                    "another file was put in its place; copy again",
                )),
                _ => Ok(file),
            }
        };
        self.file.get_or_try_init(open).map(Some)
    }

    /// The same image, for another thread.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        let file = self.opened()?.map(File::try_clone).transpose();
        let file = file.map_err(|error| cannot(&self.destination.shown(), "open", error))?;
        Ok(Self {
            destination: self.destination.clone(),
            place: self.place.clone(),
            format: self.format.clone(),
            file: file.map_or_else(OnceCell::new, OnceCell::from),
            made: self.made.clone(),
            blank: self.blank,
            direct: self.direct,
        })
    }

    /// Takes out what is in the file.
    pub(crate) fn empty(&self) -> Result<()> {
        let emptied = self.opened()?.map_or(Ok(()), |file| file.set_len(0));
        emptied.map_err(|error| cannot(&self.destination.shown(), "empty", error))
    }

    /// Gives a made image its name.
    pub(crate) fn publish(&mut self) -> Result<()> {
        self.made.as_mut().map_or(Ok(()), Made::publish)
    }

    /// Makes what is there the image, empty.
    pub(crate) fn fill(&mut self, place: &Place, form: Form<'_>) -> Result<()> {
        self.blank = self.make(place, form)?;
        let file = self.opened()?;
        self.direct = file.is_some_and(|file| convert::is_direct(file, &self.format));
        Ok(())
    }

    /// True where it reads as zeroes now.
    fn make(&self, place: &Place, form: Form<'_>) -> Result<bool> {
        let Form { size, backing, .. } = form;
        let shown = self.destination.shown();
        let file = match self.opened()? {
            Some(file) if !form.reuse => file,
            _ => return self.must_hold(size, backing).map(|()| false),
        };
        if self.format == "qcow2" {
            qemu_img::create_qcow2(file, size, backing, form.compress, &shown)?;
            return Ok(backing.is_none());
        }
        if place.is_device() {
            return must_fit(&shown, file_size(file, &shown)?, size).map(|()| false);
        }
        // What is in it goes.
        file.set_len(0)
            .and_then(|()| file.set_len(size))
            .map_err(|error| cannot(&shown, "size", error))?;
        Ok(true)
    }

    /// It is an image of its format and of that size, on that backing file or on none.
    pub(crate) fn must_hold(&self, size: u64, backing: Option<&Backing>) -> Result<()> {
        let shown = self.destination.shown();
        let info = match self.target()? {
            Target::File(file) => qemu_img::info(file, &self.format, &shown),
            Target::Uri(uri) => qemu_img::info_nbd(uri, &self.format),
        };
        let info = info.map_err(|error| refused(&shown, error.message()))?;
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
                if absolute(name, &self.destination).is_some_and(|path| Identity::are_one(&path, &wanted.path)) {
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

    pub(super) fn target(&self) -> Result<Target<'_>> {
        Ok(match self.opened()? {
            Some(file) => Target::File(file),
            // Only an export has no file.
            None => Target::Uri(self.destination.as_written()),
        })
    }

    /// Writes what the source, of `size` bytes, shows into the image, which must be one of that size already.
    pub(crate) fn write(&mut self, source: Source<'_>, size: u64, manner: Manner, watch: Watch<'_>) -> Result<Cloned> {
        let blank = std::mem::take(&mut self.blank);
        let shown = self.shown();
        convert::convert(source, size, self.written(blank, &shown)?, manner, watch)
    }

    pub(super) fn shown(&self) -> String {
        self.destination.shown()
    }

    pub(super) fn written<'a>(&'a self, blank: bool, shown: &'a str) -> Result<Written<'a>> {
        Ok(Written {
            target: self.target()?,
            format: &self.format,
            blank,
            direct: self.direct,
            shown,
        })
    }

    /// Writes what a backing chain (the active layer first) shows.
    pub(crate) fn write_chain(
        &mut self,
        layers: &[Layer],
        size: u64,
        bandwidth: u64,
        watch: Watch<'_>,
    ) -> Result<Cloned> {
        let manner = Manner {
            bandwidth,
            compress: false,
        };
        self.write(Source::Chain(layers), size, manner, watch)
    }

    /// Copies what a qcow2 image rests on into it, if it rests on anything still, at `bandwidth` bytes per second at most (0: no
    /// limit).
    pub(crate) fn flatten(&self, bandwidth: u64, watch: Watch<'_>) -> Result<Cloned> {
        let Target::File(file) = self.target()? else {
            return Ok(Cloned::Whole);
        };
        let shown = self.destination.shown();
        if qemu_img::info(file, &self.format, &shown)?.backing.is_none() {
            return Ok(Cloned::Whole);
        }
        convert::flatten(file, convert::is_direct(file, &self.format), bandwidth, &shown, watch)
    }

    /// Whether it shows what a backing chain shows.
    pub(crate) fn equals_chain(&self, layers: &[Layer]) -> Result<bool> {
        self.equals(Source::Chain(layers))
    }

    /// Whether it shows what the source shows.
    pub(crate) fn equals(&self, source: Source<'_>) -> Result<bool> {
        convert::equals(source, self.target()?, &self.format, &self.destination.shown())
    }

    /// The file that this operation made, if it did.
    pub(crate) fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    /// The room that one that was made takes. Its storage is not waited for, and so may have said so some time ago.
    pub(crate) fn allocated(&self) -> Option<u64> {
        let file = self.made.as_ref().and(self.file.get())?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(file, c"", flags, StatxFlags::BLOCKS).ok()?;
        Some(stat.stx_blocks * SECTOR)
    }

    /// One that was made is given to the owner of the disk's image, where libvirt does not see to it.
    pub(crate) fn give_as(&self, image: &str) {
        if let (Some(_), Some(file)) = (&self.made, self.file.get()) {
            owner::give_as(image, file);
        }
    }

    /// One that was made becomes the disk, whose image this is.
    pub(crate) fn succeed(&self, image: &str) {
        if let (Some(_), Some(file)) = (&self.made, self.file.get()) {
            owner::succeed(image, file);
        }
    }

    /// None of an NBD export, and where it is not ours to open.
    pub(crate) fn file(&self) -> Option<&File> {
        self.opened().ok().flatten()
    }

    pub(crate) fn format(&self) -> &str {
        &self.format
    }

    /// Whether the name still leads to the file that was opened; a copy into an unlinked file is lost.
    pub(crate) fn must_be_in_place(&self) -> Result<()> {
        let Destination::Path(path) = &self.destination else {
            return Ok(());
        };
        let shown = self.destination.shown();
        let Some(file) = self.file() else {
            let gone = self.made.as_ref().is_some_and(|made| !made.is_in_place());
            let gone = gone.then(|| refused(&shown, "it was removed or replaced during the copy; copy again"));
            return gone.map_or(Ok(()), Err);
        };
        let held = fstat(file).map_err(|error| cannot(&shown, "look at", error))?;
        let flags = match Identity::of(&held) {
            // It may be named by a link.
            Identity::Device { .. } => AtFlags::empty(),
            Identity::File { .. } => AtFlags::SYMLINK_NOFOLLOW,
        };
        match statat(CWD, path.as_str(), flags) {
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
        if let Some(Err(error)) = self.file.get().map(File::sync_data) {
            log::debug!("cannot write out '{}': {error}", self.destination.shown());
        }
    }

    /// Writes data and name to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let shown = self.destination.shown();
        if let Some(file) = self.opened()? {
            file.sync_all().map_err(|error| cannot(&shown, "sync", error))?;
        }
        if let Some(made) = &self.made {
            File::open(directory_of(&made.path))
                .and_then(|directory| directory.sync_all())
                .map_err(|error| cannot(&shown, "sync the directory of", error))?;
        }
        Ok(())
    }

    /// The image must have the disk's size still, and its format's header.
    pub(crate) fn must_have_size(&self, size: u64) -> Result<()> {
        let shown = self.destination.shown();
        let found = match self.target()? {
            // QEMU counts in sectors: what is after the end of a raw image reads as zeroes.
            Target::File(file) if self.format == "raw" => file_size(file, &shown)?.next_multiple_of(SECTOR),
            Target::File(file) => qemu_img::info(file, &self.format, &shown)?.virtual_size,
            Target::Uri(uri) => qemu_img::info_nbd(uri, &self.format)?.virtual_size,
        };
        if found == size {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Verify,
            format!("the image '{shown}' has {found} bytes, and the disk {size}"),
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

fn open(path: &str, more: OFlags) -> Result<File> {
    open_as(path, OFlags::NOFOLLOW | more, &path.escape_debug().to_string())
}

/// What was found at a place. A link is followed to that one device alone: it may have been changed since.
fn open_at(place: &Place, path: &str, more: OFlags) -> Result<File> {
    let Place::LinkedDevice { number } = *place else {
        return open(path, more);
    };
    let shown = path.escape_debug().to_string();
    // Looked at before it is opened, which has effects of its own on some devices.
    let found = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = found.map_err(|error| cannot(&shown, "open", error))?;
    let stat = fstat(&found).map_err(|error| cannot(&shown, "look at", error))?;
    if Identity::of(&stat) != (Identity::Device { number }) {
        return Err(refused(
            &shown,
            "the symbolic link now leads to something else; name the device again",
        ));
    }
    open_as(&format!("/proc/self/fd/{}", found.as_raw_fd()), more, &shown)
}

fn open_as(name: &str, more: OFlags, shown: &str) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | more;
    openat(CWD, name, flags, Mode::empty())
        .map(File::from)
        .map_err(|error| cannot(shown, "open", error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_was_changed_is_not_followed() {
        let link = std::env::temp_dir().join(format!("livedisk-changed-{}", std::process::id()));
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let path = link.to_str().unwrap();
        let error = open_at(&Place::LinkedDevice { number: 1 }, path, OFlags::empty()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Destination);
        assert!(error.message().contains("something else"), "{error}");
        // By its own name no link is followed at all.
        assert!(open_at(&Place::Device, path, OFlags::empty()).is_err());
        std::fs::remove_file(link).unwrap();
    }
}
