// SPDX-License-Identifier: LGPL-2.1-or-later
//! The image that an increment rests on. Its format is never probed: what a guest wrote to its disk may look like any format's
//! header.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::failure;
use super::layer::Backing;
use super::qemu_img;
use crate::error::{Error, ErrorCode, Result};

/// What a qcow2 image begins with.
const QCOW2: [u8; 4] = *b"QFI\xfb";
/// Of a name in a qcow2 header.
const LONGEST: usize = 1023;

/// Whether the header of an image that rests on it can name it.
pub(crate) fn fits_header(path: &str) -> bool {
    path.len() <= LONGEST
}

/// What stands there: raw on a block device and where the name ends in `.raw`, else qcow2.
pub(crate) fn find_backing(path: &str) -> Result<Backing> {
    let shown = path.escape_debug().to_string();
    let refused = |code, why: &str| Err(Error::new(code, format!("backing '{shown}': {why}")));
    if !path.starts_with('/') || !fits_header(path) || path.chars().any(char::is_control) {
        return refused(
            ErrorCode::InvalidArgument,
            "it is not an absolute path of at most 1023 bytes without control characters",
        );
    }
    // A FIFO is not waited for.
    let opened = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refused(
                ErrorCode::Destination,
                "it does not exist; name the image of the earlier backup",
            );
        }
        Err(error) => return Err(failure::cannot(path, "read", error)),
    };
    let kind = file
        .metadata()
        .map_err(|error| failure::cannot(path, "look at", error))?;
    let is_device = kind.file_type().is_block_device();
    if !kind.is_file() && !is_device {
        return refused(ErrorCode::Destination, "it is neither a file nor a block device");
    }
    let mut start = [0; 4];
    let is_qcow2 = file.read_exact_at(&mut start, 0).is_ok() && start == QCOW2;
    let format = match (is_raw(path, is_device), is_qcow2) {
        (true, false) => "raw",
        (false, true) => "qcow2",
        (true, true) => {
            return refused(
                ErrorCode::Destination,
                "it counts as raw, because it is a block device or its name ends in .raw, but it begins like a qcow2 image; if \
                 it is one, copy it to a file with another name",
            );
        }
        (false, false) => {
            return refused(
                ErrorCode::Destination,
                "it is not a qcow2 image; the name of a raw one must end in .raw",
            );
        }
    };
    if format == "qcow2" {
        let info = qemu_img::info(&file, format, &shown)?;
        if info.encrypted || info.data_file {
            return refused(
                ErrorCode::Unsupported,
                "it is encrypted or has an external data file; name a plain image of one file",
            );
        }
    }
    Ok(Backing {
        path: path.to_owned(),
        format: format.to_owned(),
    })
}

fn is_raw(path: &str, is_device: bool) -> bool {
    is_device || Path::new(path).extension().is_some_and(|ending| ending == "raw")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_that_of_the_name_and_a_header_can_only_refuse_it() {
        let directory = std::env::temp_dir().join(format!("livedisk-backing-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        for (name, qcow2, wanted) in [
            ("a.qcow2", true, Some("qcow2")),
            ("a", true, Some("qcow2")),
            ("b.raw", false, Some("raw")),
            ("c.raw", true, None),
            ("d.img", false, None),
        ] {
            let file = File::create_new(path(name)).unwrap();
            match qcow2 {
                true => qemu_img::create_qcow2(&file, 1 << 20, None, false, name).unwrap(),
                false => file.set_len(1 << 20).unwrap(),
            }
            // For qemu-img, which opens what it gets for reading and writing.
            drop(file);
            let found = find_backing(&path(name));
            match wanted {
                Some(format) => assert_eq!(found.unwrap().format, format, "{name}"),
                None => assert_eq!(found.unwrap_err().code(), ErrorCode::Destination, "{name}"),
            }
        }
        assert_eq!(find_backing(&path("none")).unwrap_err().code(), ErrorCode::Destination);
        assert_eq!(find_backing("none").unwrap_err().code(), ErrorCode::InvalidArgument);
        assert_eq!(
            find_backing(directory.to_str().unwrap()).unwrap_err().code(),
            ErrorCode::Destination
        );
        std::fs::remove_dir_all(directory).unwrap();
    }
}
