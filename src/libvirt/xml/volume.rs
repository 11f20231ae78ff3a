// SPDX-License-Identifier: LGPL-2.1-or-later
//! The XML of storage volumes.

use std::path::Path;

use super::write::element;
use super::{attribute, parse, to_text};

/// A volume to be made.
#[derive(Debug)]
pub(crate) struct NewVolume<'a> {
    pub(crate) path: &'a str,
    /// The virtual size in bytes.
    pub(crate) capacity: u64,
    pub(crate) format: &'a str,
    /// Path and format of what it rests on.
    pub(crate) backing: Option<(&'a str, &'a str)>,
    /// The daemon's user's and private, where none are stated.
    pub(crate) permissions: Option<Permissions>,
}

/// Whose a volume's file is, as numbers, and its mode in octal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) owner: String,
    pub(crate) group: String,
    pub(crate) mode: String,
}

/// The `<volume>`; its pool says in which directory.
pub(crate) fn volume(volume: &NewVolume<'_>) -> Result<String, String> {
    let text = |name, value: &str| {
        let mut element = element(name, &[], vec![]);
        element.children.push(xmltree::XMLNode::Text(value.to_owned()));
        element
    };
    let name = Path::new(volume.path).file_name().unwrap_or_default().to_string_lossy();
    let permissions = match &volume.permissions {
        None => vec![text("mode", "0600")],
        Some(Permissions { owner, group, mode }) => {
            vec![text("mode", mode), text("owner", owner), text("group", group)]
        }
    };
    let mut target = vec![
        element("format", &[("type", volume.format)], vec![]),
        element("permissions", &[], permissions),
    ];
    if volume.format == "qcow2" {
        // libvirt's default is QEMU's oldest.
        target.push(text("compat", "1.1"));
    }
    let mut parts = vec![
        text("name", &name),
        text("capacity", &volume.capacity.to_string()),
        // What is not written takes no room.
        text("allocation", "0"),
        element("target", &[], target),
    ];
    if let Some((path, format)) = volume.backing {
        let format = element("format", &[("type", format)], vec![]);
        parts.push(element("backingStore", &[], vec![text("path", path), format]));
    }
    to_text(&element("volume", &[("type", "file")], parts))
}

/// The format that a pool found a volume to have.
pub(crate) fn volume_format(text: &str) -> Option<String> {
    let root = parse(text).ok()?;
    let format = root.get_child("target")?.get_child("format")?;
    attribute(format, "type").map(str::to_owned)
}

/// Of a volume that there is.
pub(crate) fn volume_permissions(text: &str) -> Option<Permissions> {
    let root = parse(text).ok()?;
    let permissions = root.get_child("target")?.get_child("permissions")?;
    let text = |name| Some(permissions.get_child(name)?.get_text()?.into_owned());
    Some(Permissions {
        owner: text("owner")?,
        group: text("group")?,
        mode: text("mode")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_the_way_to_libvirt() {
        let new = NewVolume {
            path: "/pool/it's <&>\"",
            capacity: 7,
            format: "qcow2",
            backing: Some(("/a & b", "raw")),
            permissions: None,
        };
        let text = volume(&new).unwrap();
        assert!(text.contains("<permissions><mode>0600</mode></permissions>"), "{text}");
        let root = parse(&text).unwrap();
        assert_eq!(root.get_child("name").unwrap().get_text().unwrap(), "it's <&>\"");
        let backing = root.get_child("backingStore").unwrap();
        assert_eq!(backing.get_child("path").unwrap().get_text().unwrap(), "/a & b");
        assert_eq!(volume_format(&text).unwrap(), "qcow2");
    }
    #[test]
    fn a_volume_gets_the_permissions_of_another() {
        let permissions = Permissions {
            owner: "107".into(),
            group: "108".into(),
            mode: "0640".into(),
        };
        let new = NewVolume {
            path: "/pool/a",
            capacity: 7,
            format: "raw",
            backing: None,
            permissions: Some(permissions.clone()),
        };
        let text = volume(&new).unwrap();
        assert_eq!(volume_permissions(&text), Some(permissions));
        assert_eq!(
            volume_permissions("<volume><target><permissions/></target></volume>"),
            None
        );
    }
}
