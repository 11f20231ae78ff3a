// SPDX-License-Identifier: LGPL-2.1-or-later
//! A definition whose disk has other images than before.

use xmltree::{Element, XMLNode};

use super::{Source, attribute, parse, to_text};

/// The definition with `base` (path, format) as the disk's image, where `overlay` was. What the definition knows of the
/// chain below is kept. `None` where the disk is not on that overlay.
pub(crate) fn without_overlay(
    definition: &str,
    target: &str,
    overlay: &str,
    base: (&str, &str),
) -> Result<Option<String>, String> {
    let mut root = parse(definition).map_err(|error| error.to_string())?;
    let Some(disk) = disk(&mut root, target)? else {
        return Ok(None);
    };
    if disk.get_child("source").and_then(|source| attribute(source, "file")) != Some(overlay) {
        return Ok(None);
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
    to_text(&root).map(Some)
}

/// The `<disk>` of a definition, where the path of its active layer is this.
pub(crate) fn disk_on(definition: &str, target: &str, active: Option<&str>) -> Result<Option<String>, String> {
    let mut root = parse(definition).map_err(|error| error.to_string())?;
    match disk(&mut root, target)? {
        Some(disk) if Source::parse(disk, "source").path() == active => to_text(disk).map(Some),
        _ => Ok(None),
    }
}

/// The definition with this `<disk>` in the place of the one that has the target.
pub(crate) fn with_disk(definition: &str, target: &str, new: &str) -> Result<Option<String>, String> {
    let mut root = parse(definition).map_err(|error| error.to_string())?;
    let new = parse(new).map_err(|error| error.to_string())?;
    let Some(old) = disk(&mut root, target)? else {
        return Ok(None);
    };
    *old = new;
    to_text(&root).map(Some)
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
    use crate::libvirt::xml::{DomainXml, Target, overlay_destination};

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

    #[test]
    fn a_disk_goes_to_a_destination_and_comes_home() {
        let definition = disk("/o", "");
        let home = disk_on(&definition, "vda", Some("/o")).unwrap().unwrap();
        let destination = overlay_destination("/new", &[(Target::File("/b".into()), "raw")]).unwrap();
        let moved = on_destination(&home, &destination).unwrap();
        let text = with_disk(&definition, "vda", &moved).unwrap().unwrap();
        assert!(text.contains("cache=\"none\""), "{text}");
        let domain = DomainXml::parse(&text).unwrap();
        let paths: Vec<_> = domain
            .disk("vda")
            .unwrap()
            .chain
            .iter()
            .map(|layer| layer.source.path())
            .collect();
        assert_eq!(paths, [Some("/new"), Some("/b")]);
        assert_eq!(disk_on(&text, "vda", Some("/o")).unwrap(), None);
        let back = with_disk(&text, "vda", &home).unwrap().unwrap();
        assert_eq!(DomainXml::parse(&back).unwrap(), DomainXml::parse(&definition).unwrap());
        assert_eq!(with_disk(&text, "vdb", &home).unwrap(), None);
    }
}
