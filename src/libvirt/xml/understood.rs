// SPDX-License-Identifier: LGPL-2.1-or-later
//! What livedisk understands of a disk and its images. An allow-list: what libvirt adds next year is not on it.

use xmltree::Element;

use super::slice::slice;
use super::{attribute, children};

/// An element, its attributes, and what stands in it.
struct Known {
    name: &'static str,
    attributes: &'static [&'static str],
    children: &'static [&'static str],
}

/// Of a disk: all that is not about its images, and what of them is looked at below.
const DISK: Known = Known {
    name: "disk",
    attributes: &["type", "device", "model", "rawio", "sgio", "snapshot"],
    children: &[
        "acpi",
        "address",
        "alias",
        "auth",
        "backenddomain",
        "backingStore",
        "blockio",
        "boot",
        "driver",
        "encryption",
        "geometry",
        "iotune",
        "mirror",
        "product",
        "readonly",
        "serial",
        "shareable",
        "source",
        "target",
        "throttlefilters",
        "transient",
        "vendor",
        "wwn",
    ],
};

const DRIVER: Known = Known {
    name: "driver",
    attributes: &[
        "ats",
        "cache",
        "copy_on_read",
        "detect_zeroes",
        "discard",
        "discard_no_unref",
        "error_policy",
        "event_idx",
        "io",
        "ioeventfd",
        "iommu",
        "iothread",
        "name",
        "packed",
        "page_per_vq",
        "queue_size",
        "queues",
        "rerror_policy",
        "type",
    ],
    children: &["iothreads", "metadata_cache", "statistics"],
};

/// Of a file or block device; of others it is said elsewhere that they have no path.
const SOURCE: Known = Known {
    name: "source",
    attributes: &["dev", "file", "index", "startupPolicy"],
    children: &["encryption", "seclabel", "slices"],
};

const SLICES: Known = Known {
    name: "slices",
    attributes: &[],
    children: &["slice"],
};

const SLICE: Known = Known {
    name: "slice",
    attributes: &["type", "offset", "size"],
    children: &[],
};

const FORMAT: Known = Known {
    name: "format",
    attributes: &["type"],
    children: &[],
};

const BACKING: Known = Known {
    name: "backingStore",
    attributes: &["index", "type"],
    children: &["backingStore", "format", "source"],
};

/// The first thing of the `<disk>` and the images of its chain that is on no list, said of the disk: `its <source> has
/// <slices>`.
pub(super) fn not_understood(disk: &Element) -> Option<String> {
    let beside = [DRIVER, SOURCE].into_iter().find_map(|known| known.look_in(disk));
    let beside = beside.or_else(|| slices(disk)).or_else(|| name(disk));
    beside.or_else(|| DISK.look_at(disk)).or_else(|| below(disk))
}

fn below(image: &Element) -> Option<String> {
    let backing = image.get_child("backingStore")?;
    let beside = [FORMAT, SOURCE].into_iter().find_map(|known| known.look_in(backing));
    let beside = beside.or_else(|| slices(backing)).or_else(|| name(backing));
    let here = beside.or_else(|| BACKING.look_at(backing));
    here.map(|found| format!("{found} in a backing layer"))
        .or_else(|| below(backing))
}

/// An image is one slice of its file's bytes at most.
fn slices(image: &Element) -> Option<String> {
    let source = image.get_child("source")?;
    let slices = source.get_child("slices")?;
    let unknown = SLICES.look_in(source).or_else(|| SLICE.look_in(slices));
    unknown.or_else(|| {
        slice(source)
            .is_none()
            .then(|| "its <slices> are other than one of type storage".to_owned())
    })
}

/// libvirt copies a definition by way of its text, in which a newline or tab in an attribute becomes a space.
fn name(image: &Element) -> Option<String> {
    let source = image.get_child("source")?;
    let path = attribute(source, "file").or_else(|| attribute(source, "dev"))?;
    let shown = path.escape_debug();
    let is_lost = path.chars().any(char::is_control);
    is_lost.then(|| format!("its image '{shown}' has a newline or another control character in its name"))
}

impl Known {
    fn look_in(&self, parent: &Element) -> Option<String> {
        children(parent, self.name).find_map(|element| self.look_at(element))
    }

    fn look_at(&self, element: &Element) -> Option<String> {
        let mut attributes = element.attributes.keys().map(String::as_str);
        if let Some(unknown) = attributes.find(|name| !self.attributes.contains(name)) {
            return Some(format!("its <{}> has the attribute '{unknown}'", self.name));
        }
        let elements = element.children.iter().filter_map(|node| node.as_element());
        let mut names = elements.map(|child| child.name.as_str());
        let unknown = names.find(|name| !self.children.contains(name))?;
        Some(format!("its <{}> has <{unknown}>", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::xml::parse;

    fn of(disk: &str) -> Option<String> {
        not_understood(&parse(disk).unwrap())
    }

    #[test]
    fn what_a_common_disk_has_is_understood() {
        let disk = "<disk type='file' device='disk' model='virtio-transitional' snapshot='external'>
            <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap' detect_zeroes='on' queues='4'
             error_policy='stop' iothread='1'><metadata_cache><max_size unit='KiB'>1</max_size></metadata_cache></driver>
            <source file='/a' index='3' startupPolicy='optional'><slices><slice type='storage' offset='512' size='512'/></slices>
             <seclabel model='dac' relabel='no'/></source>
            <backingStore type='block' index='2'><format type='raw'/><source dev='/b'/><backingStore/></backingStore>
            <target dev='vda' bus='virtio'/><iotune/><serial>x</serial><boot order='1'/><alias name='virtio-disk0'/>
            <address type='pci'/></disk>";
        assert_eq!(of(disk), None);
    }

    #[test]
    fn a_name_that_libvirt_loses_is_shown() {
        for (path, part) in [("/a\nb", "'/a\\nb'"), ("/a\tb", "'/a\\tb'")] {
            let active = of(&format!("<disk><source file='{path}'/></disk>")).unwrap();
            assert!(
                active.contains(part) && active.contains("control character"),
                "{active}"
            );
            let below = format!("<disk><backingStore><source dev='{path}'/></backingStore></disk>");
            let below = of(&below).unwrap();
            assert!(below.contains(part) && below.ends_with("in a backing layer"), "{below}");
        }
    }

    #[test]
    fn what_is_on_no_list_is_named() {
        let two = "<slices><slice type='storage' offset='0' size='512'/><slice type='storage' offset='512' size='512'/></slices>";
        let format = "<slices><slice type='format' offset='512' size='512'/></slices>";
        let novel = "<slices><slice type='storage' offset='512' size='512' novel='1'/></slices>";
        let store = "<dataStore type='file'><format type='raw'/><source file='/d'/></dataStore>";
        for (driver, source, format, backing, part) in [
            ("", two, "", "", "its <slices> are other than one of type storage"),
            ("", format, "", "", "its <slices> are other than one of type storage"),
            ("", novel, "", "", "its <slice> has the attribute 'novel'"),
            ("", store, "", "", "its <source> has <dataStore>"),
            (
                "",
                "",
                "",
                two,
                "its <slices> are other than one of type storage in a backing layer",
            ),
            ("", "", "", store, "its <source> has <dataStore> in a backing layer"),
            (
                "",
                "",
                "<metadata_cache/>",
                "",
                "its <format> has <metadata_cache> in a backing layer",
            ),
            ("next='year'", "", "", "", "its <driver> has the attribute 'next'"),
        ] {
            let disk = format!(
                "<disk type='file'><driver type='qcow2' {driver}/><source file='/a'>{source}</source>
                 <backingStore type='file'><format type='qcow2'/><source file='/b'/>
                 <backingStore type='file'><format type='qcow2'>{format}</format><source file='/c'>{backing}</source>
                 </backingStore></backingStore><target dev='vda'/></disk>"
            );
            assert_eq!(of(&disk).as_deref(), Some(part), "{disk}");
        }
        for (disk, part) in [
            (
                "<disk type='file' layout='odd'/>",
                "its <disk> has the attribute 'layout'",
            ),
            ("<disk><novelty/></disk>", "its <disk> has <novelty>"),
            (
                "<disk><source file='/a' fdgroup='f'/></disk>",
                "its <source> has the attribute 'fdgroup'",
            ),
            (
                "<disk><backingStore novel='1'/></disk>",
                "its <backingStore> has the attribute 'novel' in a backing layer",
            ),
        ] {
            assert_eq!(of(disk).as_deref(), Some(part), "{disk}");
        }
    }
}
