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
}

/// The `<volume>`, of mode 0600; its pool says in which directory.
pub(crate) fn volume(volume: &NewVolume<'_>) -> Result<String, String> {
    let text = |name, value: &str| {
        let mut element = element(name, &[], vec![]);
        element.children.push(xmltree::XMLNode::Text(value.to_owned()));
        element
    };
    let name = Path::new(volume.path).file_name().unwrap_or_default().to_string_lossy();
    let mut target = vec![
        element("format", &[("type", volume.format)], vec![]),
        element("permissions", &[], vec![text("mode", "0600")]),
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
        };
        let text = volume(&new).unwrap();
        let root = parse(&text).unwrap();
        assert_eq!(root.get_child("name").unwrap().get_text().unwrap(), "it's <&>\"");
        let backing = root.get_child("backingStore").unwrap();
        assert_eq!(backing.get_child("path").unwrap().get_text().unwrap(), "/a & b");
        assert_eq!(volume_format(&text).unwrap(), "qcow2");
    }
}
