// SPDX-License-Identifier: LGPL-2.1-or-later
//! A definition whose disk has other images than before.

use std::ops::Range;

use xmltree::{Element, XMLNode};

use super::write::slices;
use super::{Source, attribute, parse, to_text};

/// The `<disk>` with `base` (path, format, and of a slice of the file its bytes) as its image. What it knows of the chain below
/// its overlay is kept.
pub(crate) fn without_overlay(disk: &str, base: (&str, &str, Option<&Range<u64>>)) -> Result<String, String> {
    let mut disk = parse(disk).map_err(|error| error.to_string())?;
    let below = disk
        .take_child("backingStore")
        .and_then(|mut layer| layer.take_child("backingStore"));
    disk.children.extend(below.map(XMLNode::Element));
    for (child, name, value) in [("source", "file", base.0), ("driver", "type", base.1)] {
        if let Some(child) = disk.get_mut_child(child) {
            child.attributes.insert(name.to_owned(), value.to_owned());
        }
    }
    if let (Some(source), Some(slice)) = (disk.get_mut_child("source"), base.2) {
        source.children.push(XMLNode::Element(slices(slice)));
    }
    to_text(&disk)
}

/// The `<disk>` of a definition, where the path of its active layer is this.
pub(crate) fn disk_on(definition: &str, target: &str, active: Option<&str>) -> Result<Option<String>, String> {
    let mut root = parse(definition).map_err(|error| error.to_string())?;
    match disk(&mut root, target)? {
        Some(disk) if Source::parse(disk, "source").path() == active => to_text(disk).map(Some),
        _ => Ok(None),
    }
}

/// The `<disk>` where the destination of a block copy is its image, with all else that it has.
pub(crate) fn on_destination(disk: &str, destination: &str) -> Result<String, String> {
    let mut disk = parse(disk).map_err(|error| error.to_string())?;
    let mut destination = parse(destination).map_err(|error| error.to_string())?;
    for name in ["source", "backingStore"] {
        while disk.take_child(name).is_some() {}
        // An empty one says that the chain ends there.
        let new = destination.take_child(name).unwrap_or_else(|| Element::new(name));
        disk.children.push(XMLNode::Element(new));
    }
    if let (Some(old), Some(new)) = (disk.get_mut_child("driver"), destination.take_child("driver")) {
        old.attributes.extend(new.attributes);
    }
    disk.attributes.extend(destination.attributes);
    to_text(&disk)
}

fn disk<'a>(root: &'a mut Element, target: &str) -> Result<Option<&'a mut Element>, String> {
    let devices = root
        .get_mut_child("devices")
        .ok_or("the domain definition has no <devices>")?;
    let mut disks = devices.children.iter_mut().filter_map(|node| match node {
        XMLNode::Element(element) if element.name == "disk" => Some(element),
        _ => None,
    });
    Ok(disks.find(|disk| disk.get_child("target").and_then(|child| attribute(child, "dev")) == Some(target)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::xml::{Below, DomainXml, Target, overlay_destination};

    fn domain(disk: &str) -> String {
        format!("<domain><devices>{disk}</devices></domain>")
    }

    fn disk(active: &str, below: &str) -> String {
        format!(
            "<disk type='file'><driver type='qcow2' cache='none'/><source file='{active}'/>\
             <backingStore type='file'><format type='raw'/><source file='/a'/>{below}</backingStore>\
             <target dev='vda'/></disk>"
        )
    }

    #[test]
    fn the_layer_below_takes_its_place() {
        let below = "<backingStore type='file'><format type='qcow2'/><source file='/base'/></backingStore>";
        for (below, layers, slice) in [(below, 2, None), ("", 1, None), ("", 1, Some(512..1024))] {
            let text = without_overlay(&disk("/o", below), ("/a", "raw", slice.as_ref())).unwrap();
            assert!(text.contains("cache=\"none\""), "{text}");
            let domain = DomainXml::parse(&domain(&text)).unwrap();
            let disk = domain.disk("vda").unwrap();
            assert_eq!(disk.chain.len(), layers);
            assert_eq!(disk.active().source.path(), Some("/a"));
            assert_eq!(disk.active().format.as_deref(), Some("raw"));
            assert_eq!(disk.active().slice, slice);
        }
    }

    #[test]
    fn a_disk_goes_to_a_destination() {
        let definition = domain(&disk("/o", ""));
        let home = disk_on(&definition, "vda", Some("/o")).unwrap().unwrap();
        let slice = 512..1024;
        let below = Below {
            target: Target::File("/b".into()),
            format: "raw",
            slice: Some(&slice),
        };
        let destination = overlay_destination("/new", &[below], None).unwrap();
        let moved = on_destination(&home, &destination).unwrap();
        assert!(moved.contains("cache=\"none\""), "{moved}");
        let text = domain(&moved);
        let domain = DomainXml::parse(&text).unwrap();
        let chain = &domain.disk("vda").unwrap().chain;
        let paths: Vec<_> = chain.iter().map(|layer| layer.source.path()).collect();
        assert_eq!((&chain[0].slice, &chain[1].slice), (&None, &Some(slice)));
        assert_eq!(paths, [Some("/new"), Some("/b")]);
        assert_eq!(disk_on(&text, "vda", Some("/o")).unwrap(), None);
        assert_eq!(disk_on(&text, "vdb", Some("/new")).unwrap(), None);
    }
}
