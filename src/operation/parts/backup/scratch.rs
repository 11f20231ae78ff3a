// SPDX-License-Identifier: LGPL-2.1-or-later
//! The file in which QEMU saves what the guest overwrites while a backup runs. Its name has the operation's id, so it can
//! always be distinguished from anybody else's.

use std::path::Path;

use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Made};
use crate::libvirt::xml::{Disk, Source};
use crate::operation::parts::backup::room::must_be_usable;
use crate::operation::state::Image;

/// For a disk whose image is no file: local, and there after a restart (FHS).
const ELSEWHERE: &str = "/var/tmp";

/// The directory of a disk's scratch file: the caller's, or the one of the disk's own image.
pub(in crate::operation) fn directory(asked: Option<&str>, disk: &Disk, what: &str) -> Result<String> {
    let refused = |code, why: String| Err(Error::new(code, format!("{what}: {why}")));
    let directory = match (asked, &disk.active().source) {
        (Some(asked), _) => asked.to_owned(),
        (None, Source::File(path)) => image::directory_of(&image::without_links(path))
            .to_string_lossy()
            .into_owned(),
        (None, _) => ELSEWHERE.to_owned(),
    };
    let shown = directory.escape_debug();
    if !directory.starts_with('/') {
        return refused(
            ErrorCode::InvalidArgument,
            format!("the directory '{shown}' for scratch files is not an absolute path"),
        );
    }
    // libvirt's schema for a backup.
    if directory.chars().any(char::is_control) {
        return refused(
            ErrorCode::Unsupported,
            format!(
                "libvirt takes no scratch file under '{shown}', which has a newline or another control character; name \
                 another directory for scratch files (scratch)"
            ),
        );
    }
    if !Path::new(&directory).is_dir() {
        return refused(
            ErrorCode::InvalidArgument,
            format!("the directory '{shown}' for scratch files does not exist; make it first"),
        );
    }
    must_be_usable(&directory, what)?;
    Ok(directory)
}

pub(in crate::operation) struct Scratch {
    path: String,
    made: Option<Made>,
}

impl Scratch {
    /// As it stands there, if it does.
    pub(in crate::operation) fn find(directory: &str, operation: &str, target: &str) -> Self {
        let name = format!(".livedisk-{operation}-{target}.scratch");
        let path = Path::new(directory).join(name).to_string_lossy().into_owned();
        Self {
            made: Made::find(&path),
            path,
        }
    }

    pub(in crate::operation) fn path(&self) -> &str {
        &self.path
    }

    pub(in crate::operation) fn image(&self) -> Image {
        self.made.as_ref().map_or(Image::Missing, Image::of_made)
    }

    /// As large as the disk, and whose that one's image is (a path, where it has one).
    pub(in crate::operation) fn make(&mut self, size: u64, owner: Option<&str>) -> Result<()> {
        self.remove()?;
        image::make_scratch(&self.path, size, owner, &mut self.made)
    }

    pub(in crate::operation) fn remove(&mut self) -> Result<()> {
        if let Some(made) = &self.made {
            made.remove()?;
        }
        self.made = None;
        Ok(())
    }
}
