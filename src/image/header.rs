// SPDX-License-Identifier: LGPL-2.1-or-later
//! The backing file that a qcow2 image's header names. QEMU uses the one that the domain's definition names, so a header may
//! have been left.

use std::fs::File;
use std::path::Path;

use super::identity::Identity;
use super::layer::Layer;
use super::qemu_img::{self, Info};
use crate::error::Result;

/// Whether the header of an image at `path` leads to `backing`.
fn leads_to(info: &Info, path: &str, backing: &Layer) -> bool {
    let Some(name) = &info.backing else { return false };
    if info
        .backing_format
        .as_deref()
        .is_some_and(|format| format != backing.format)
    {
        return false;
    }
    if backing.slice.is_some() {
        return *name == backing.name();
    }
    // A relative name is one beside the image; `json:` and protocol names have no identity.
    let found = Path::new(path).with_file_name(name);
    *name == backing.path
        || found
            .to_str()
            .is_some_and(|found| Identity::are_one(found, &backing.path))
}

/// A copy that will be at `path` names `backing`, and none where there is none. A name that leads there, a relative one too, is
/// kept.
pub(crate) fn name_backing(file: &File, backing: Option<&Layer>, path: &str) -> Result<()> {
    let shown = &path.escape_debug().to_string();
    let info = qemu_img::info(file, "qcow2", shown)?;
    let is_right = match backing {
        Some(backing) => leads_to(&info, path, backing),
        None => info.backing.is_none(),
    };
    if is_right {
        return Ok(());
    }
    log::info!("the header of '{shown}' gets the backing file that the domain's definition names");
    let backing = backing.map(Layer::as_backing);
    qemu_img::rebase_unsafe(file, backing.as_ref(), shown)
}

/// Whether the header of a qcow2 image that QEMU has open leads to `backing`, or to none.
pub(crate) fn rests_on(image: &Layer, backing: Option<&Layer>) -> Result<bool> {
    let info = qemu_img::info_live(image)?;
    Ok(match backing {
        Some(backing) => leads_to(&info, &image.path, backing),
        None => info.backing.is_none(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_leads_to_a_file_and_not_to_a_name() {
        let directory = std::env::temp_dir().join(format!("livedisk-header-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let in_directory = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (base, link, image) = (in_directory("base"), in_directory("link"), in_directory("image"));
        std::fs::write(&base, "").unwrap();
        std::fs::write(in_directory("other"), "").unwrap();
        std::os::unix::fs::symlink(&base, &link).unwrap();
        for (name, format, right) in [
            (Some(base.as_str()), Some("raw"), true),
            (Some("base"), None, true),
            (Some(link.as_str()), Some("raw"), true),
            (Some(base.as_str()), Some("qcow2"), false),
            (Some("other"), Some("raw"), false),
            (Some("gone"), Some("raw"), false),
            (Some("json:{}"), Some("raw"), false),
            (None, None, false),
        ] {
            let info = Info {
                virtual_size: 0,
                backing: name.map(str::to_owned),
                backing_format: format.map(str::to_owned),
                encrypted: false,
                data_file: false,
                keeps_bitmaps: true,
                bitmaps: Vec::new(),
            };
            assert_eq!(leads_to(&info, &image, &Layer::whole(&base, "raw")), right, "{name:?}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
