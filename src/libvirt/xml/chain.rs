// SPDX-License-Identifier: LGPL-2.1-or-later
//! A definition whose disk loses its active layer.

use xmltree::{Element, XMLNode};

use super::{attribute, parse, to_text};

/// The definition with `base` (path, format) as the disk's image, where `overlay` was. What the definition knows of the
/// chain below is kept. `None` where the disk is not on that overlay.
pub(crate) fn without_overlay(
    definition: &str,
    target: &str,
    overlay: &str,
    base: (&str, &str),
) -> Result<Option<String>, String> {
    let mut root = parse(definition).map_err(|error| error.to_string())?;
    let devices = root
        .get_mut_child("devices")
        .ok_or("the domain definition has no <devices>")?;
    let disks = devices.children.iter_mut().filter_map(|node| match node {
        XMLNode::Element(element) if element.name == "disk" => Some(element),
        _ => None,
    });
    let is_ours = |disk: &Element| {
        let of = |child, name| disk.get_child(child).and_then(|child| attribute(child, name));
        of("target", "dev") == Some(target) && of("source", "file") == Some(overlay)
    };
    for disk in disks {
        if !is_ours(disk) {
            continue;
        }
        let below = disk
            .take_child("backingStore")
            .and_then(|mut layer| layer.take_child("backingStore"));
        disk.children.extend(below.map(XMLNode::Element));
        for (child, name, value) in [("source", "file", base.0), ("driver", "type", base.1)] {
            if let Some(child) = disk.get_mut_child(child) {
                child.attributes.insert(name.to_owned(), value.to_owned());
            }
        }
        return to_text(&root).map(Some);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::xml::DomainXml;

    fn disk(active: &str, below: &str) -> String {
        format!(
            "<domain><devices><disk type='file'><driver type='qcow2' cache='none'/><source file='{active}'/>\
             <backingStore type='file'><format type='raw'/><source file='/a'/>{below}</backingStore>\
             <target dev='vda'/></disk></devices></domain>"
        )
    }

    #[test]
    fn the_layer_below_takes_its_place() {
        let below = "<backingStore type='file'><format type='qcow2'/><source file='/base'/></backingStore>";
        for (below, layers) in [(below, 2), ("", 1)] {
            let text = without_overlay(&disk("/o", below), "vda", "/o", ("/a", "raw"))
                .unwrap()
                .unwrap();
            assert!(text.contains("cache=\"none\""), "{text}");
            let domain = DomainXml::parse(&text).unwrap();
            let disk = domain.disk("vda").unwrap();
            assert_eq!(disk.chain.len(), layers);
            assert_eq!(disk.active().source.path(), Some("/a"));
            assert_eq!(disk.active().format.as_deref(), Some("raw"));
        }
        assert_eq!(
            without_overlay(&disk("/a", ""), "vda", "/o", ("/a", "raw")).unwrap(),
            None
        );
        assert_eq!(
            without_overlay(&disk("/o", ""), "vdb", "/o", ("/a", "raw")).unwrap(),
            None
        );
    }
}
