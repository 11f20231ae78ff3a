// SPDX-License-Identifier: LGPL-2.1-or-later
//! The XML of checkpoints.

use std::time::{Duration, SystemTime};

use xmltree::Element;

use super::write::element;
use super::{attribute, children, parse, to_text};

/// A `<domaincheckpoint>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckpointXml {
    pub(crate) name: String,
    pub(crate) parent: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) created: SystemTime,
    /// Those that it has a bitmap of.
    pub(crate) disks: Vec<CheckpointDisk>,
}

/// A disk that a checkpoint has a bitmap of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckpointDisk {
    pub(crate) target: String,
    pub(crate) bitmap: String,
    /// Bytes changed since, where libvirt was asked for them and knew.
    pub(crate) changed: Option<u64>,
}

impl CheckpointXml {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let root = parse(text).map_err(|error| error.to_string())?;
        let name = text_of(&root, "name").ok_or("a checkpoint has no name")?;
        let seconds = text_of(&root, "creationTime").and_then(|text| text.parse().ok());
        let disks = root.get_child("disks");
        let disks = disks.into_iter().flat_map(|disks| children(disks, "disk"));
        let disks = disks.filter(|disk| has_bitmap(disk)).filter_map(|disk| {
            Some(CheckpointDisk {
                target: attribute(disk, "name")?.to_owned(),
                // libvirt's own default.
                bitmap: attribute(disk, "bitmap").unwrap_or(&name).to_owned(),
                changed: attribute(disk, "size").and_then(|size| size.parse().ok()),
            })
        });
        Ok(Self {
            disks: disks.collect(),
            parent: root.get_child("parent").and_then(|parent| text_of(parent, "name")),
            description: text_of(&root, "description"),
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or(0)),
            name,
        })
    }
}

fn has_bitmap(disk: &Element) -> bool {
    // libvirt's own default.
    matches!(attribute(disk, "checkpoint"), None | Some("bitmap"))
}

fn text_of(parent: &Element, name: &str) -> Option<String> {
    Some(parent.get_child(name)?.get_text()?.into_owned())
}

/// A new checkpoint, with bitmaps of these disks and of no others.
pub(crate) fn checkpoint(name: &str, description: &str, noted: &[&str], others: &[&str]) -> Result<String, String> {
    let with_text = |tag: &str, text: &str| {
        let mut element = element(tag, &[], vec![]);
        element.children.push(xmltree::XMLNode::Text(text.to_owned()));
        element
    };
    let disk = |target: &&str, kind: &str| element("disk", &[("name", target), ("checkpoint", kind)], vec![]);
    let noted = noted.iter().map(|target| disk(target, "bitmap"));
    let others = others.iter().map(|target| disk(target, "no"));
    let disks = element("disks", &[], noted.chain(others).collect());
    let children = vec![with_text("name", name), with_text("description", description), disks];
    to_text(&element("domaincheckpoint", &[], children))
}

/// The checkpoint without bitmaps of these disks.
pub(crate) fn checkpoint_without(text: &str, targets: &[&str]) -> Result<String, String> {
    let mut root = parse(text).map_err(|error| error.to_string())?;
    let disks = root.get_mut_child("disks").ok_or("a checkpoint has no <disks>")?;
    for disk in disks.children.iter_mut().filter_map(|node| node.as_mut_element()) {
        if attribute(disk, "name").is_some_and(|name| targets.contains(&name)) {
            *disk = element(
                "disk",
                &[
                    ("name", attribute(disk, "name").unwrap_or_default()),
                    ("checkpoint", "no"),
                ],
                vec![],
            );
        }
    }
    to_text(&root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_libvirt_writes_it() {
        let text = "<domaincheckpoint><name>b</name><parent><name>a</name></parent><creationTime>7</creationTime><disks>
            <disk name='vda' checkpoint='bitmap' bitmap='b' size='65536'/><disk name='vdb' checkpoint='no'/>
            <disk name='vdc' checkpoint='bitmap' bitmap='b'/></disks><domain><name>x</name></domain></domaincheckpoint>";
        let found = CheckpointXml::parse(text).unwrap();
        assert_eq!((found.name.as_str(), found.parent.as_deref()), ("b", Some("a")));
        assert_eq!(found.created, SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        let disks: Vec<_> = found
            .disks
            .iter()
            .map(|disk| (disk.target.as_str(), disk.changed))
            .collect();
        assert_eq!(disks, [("vda", Some(65536)), ("vdc", None)]);
        let less = CheckpointXml::parse(&checkpoint_without(text, &["vda"]).unwrap()).unwrap();
        assert_eq!(less.disks, found.disks[1..]);
        assert_eq!((less.parent, less.created), (found.parent, found.created));
    }

    #[test]
    fn a_new_checkpoint_has_bitmaps_of_the_disks_named() {
        let text = checkpoint("<a&b>", "of us", &["vda"], &["vdb"]).unwrap();
        let found = CheckpointXml::parse(&text).unwrap();
        assert_eq!(
            (found.name.as_str(), found.description.as_deref()),
            ("<a&b>", Some("of us"))
        );
        let disks: Vec<_> = found
            .disks
            .iter()
            .map(|disk| (disk.target.as_str(), disk.bitmap.as_str()))
            .collect();
        assert_eq!(disks, [("vda", "<a&b>")]);
    }
}
