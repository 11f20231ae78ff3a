// SPDX-License-Identifier: LGPL-2.1-or-later
//! The bitmaps that record what has changed since a checkpoint: QEMU's own, or those in the images of a domain that is off.

use std::collections::HashMap;

use serde_json::Value;

use super::guest::Guest;
use super::pivot::Nodes;
use crate::error::{Error, Result};
use crate::image;
use crate::libvirt::xml::{Disk, DomainXml};

/// Of the bitmaps of one image, why each is of no use, if so.
type Layer = HashMap<String, Option<&'static str>>;

/// Of a disk's images, the active one first.
#[derive(Debug)]
pub(super) struct Bitmaps {
    layers: Vec<Layer>,
    /// Of a domain that is off: where the images lie.
    pub(super) paths: Vec<String>,
}

const INCONSISTENT: &str = "is inconsistent, as it is after QEMU was killed";
const STANDS_STILL: &str = "does not record";
const NOT_KEPT: &str = "would be lost with QEMU";

impl Guest {
    /// Of each disk, or why they cannot be looked at.
    pub(super) fn bitmaps(&self, config: &DomainXml, running: bool) -> Result<HashMap<String, Result<Bitmaps>>> {
        let disks = config.disks.iter();
        if !running {
            let found = disks.map(|disk| (disk.target.clone(), self.bitmaps_of_images(disk)));
            return Ok(found.collect());
        }
        let nodes = self.ask("query-named-block-nodes")?;
        let found = disks.map(|disk| (disk.target.clone(), Ok(of_nodes(disk, &nodes))));
        Ok(found.collect())
    }

    fn bitmaps_of_images(&self, disk: &Disk) -> Result<Bitmaps> {
        let layer = disk.active();
        let is_qcow2_file = layer.format.as_deref() == Some("qcow2") && layer.slice.is_none();
        let path = layer.source.path().filter(|_| is_qcow2_file);
        let Some(path) = path else { return Ok(Bitmaps::none()) };
        if !self.host().is_local() {
            return Err(Error::new(
                crate::ErrorCode::DomainState,
                "the domain is off and its images are on another host",
            ));
        }
        let (paths, layers) = image::bitmaps_of_chain(path)?.into_iter().unzip();
        let layers: Vec<Vec<image::Bitmap>> = layers;
        Ok(Bitmaps {
            layers: layers.into_iter().map(of_image).collect(),
            paths,
        })
    }
}

fn of_image(bitmaps: Vec<image::Bitmap>) -> Layer {
    let why_not = |bitmap: &image::Bitmap| match bitmap {
        image::Bitmap { in_use: true, .. } => Some(INCONSISTENT),
        image::Bitmap { records: false, .. } => Some(STANDS_STILL),
        _ => None,
    };
    let bitmaps = bitmaps.into_iter().map(|bitmap| (why_not(&bitmap), bitmap.name));
    bitmaps.map(|(why_not, name)| (name, why_not)).collect()
}

fn of_nodes(disk: &Disk, nodes: &[Value]) -> Bitmaps {
    let layers = disk.chain.iter().map(|layer| {
        let is_of_layer = |node: &&Value| {
            let name = node["node-name"].as_str().unwrap_or_default();
            layer.index.is_some_and(|index| Nodes::is_of(name, index))
        };
        let of_layer = nodes.iter().filter(is_of_layer);
        let bitmaps = of_layer.flat_map(|node| node["dirty-bitmaps"].as_array().into_iter().flatten());
        let named = bitmaps.filter_map(|bitmap| Some((bitmap["name"].as_str()?.to_owned(), why_not(bitmap))));
        named.collect()
    });
    Bitmaps {
        layers: layers.collect(),
        paths: Vec::new(),
    }
}

fn why_not(bitmap: &Value) -> Option<&'static str> {
    let is = |flag: &str| bitmap[flag] == true;
    if is("inconsistent") {
        Some(INCONSISTENT)
    } else if !is("recording") {
        Some(STANDS_STILL)
    } else if !is("persistent") {
        Some(NOT_KEPT)
    } else {
        None
    }
}

impl Bitmaps {
    fn none() -> Self {
        Self {
            layers: Vec::new(),
            paths: Vec::new(),
        }
    }

    /// The images, from 0 for the active one, that have a bitmap of this name, in whatever state.
    pub(super) fn holders<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        let layers = self.layers.iter().enumerate();
        layers.filter_map(move |(index, layer)| layer.contains_key(name).then_some(index))
    }

    /// Why the bitmaps of this name do not record all that has changed, if so: to an image without the bitmap the guest may have
    /// written unseen.
    pub(super) fn why_not(&self, name: &str) -> Option<String> {
        let mut holders = self.holders(name).enumerate();
        let top = self.layers.first().and_then(|layer| layer.get(name));
        if top.is_none() {
            return Some(match holders.next() {
                Some(_) => "the image that the guest writes to has no such bitmap, but the one below it has".into(),
                None => "its bitmap is missing".to_owned(),
            });
        }
        let broken = self.layers.iter().find_map(|layer| layer.get(name).copied().flatten());
        if let Some(why) = broken {
            return Some(format!("its bitmap {why}"));
        }
        let has_gap = holders.any(|(count, index)| count != index);
        has_gap.then(|| "an image between two that have its bitmap has none".into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bitmaps(layers: &[&[(&str, Option<&'static str>)]]) -> Bitmaps {
        let layers = layers
            .iter()
            .map(|layer| layer.iter().map(|&(name, why)| (name.to_owned(), why)).collect());
        Bitmaps {
            layers: layers.collect(),
            paths: Vec::new(),
        }
    }

    #[test]
    fn a_bitmap_reaches_from_the_active_image_down_without_a_gap() {
        let has: &[_] = &[("c", None)];
        let other: &[_] = &[("d", None)];
        let broken: &[_] = &[("c", Some(INCONSISTENT))];
        for (layers, why) in [
            (&[has][..], None),
            (&[has, has], None),
            (&[has, other], None),
            (&[], Some("missing")),
            (&[other], Some("missing")),
            (&[other, has], Some("writes to has no such bitmap")),
            (&[has, other, has], Some("between")),
            (&[broken], Some("inconsistent")),
            (&[has, broken], Some("inconsistent")),
        ] {
            let found = bitmaps(layers).why_not("c");
            match why {
                None => assert_eq!(found, None, "{layers:?}"),
                Some(part) => assert!(
                    found.as_ref().is_some_and(|found| found.contains(part)),
                    "{layers:?}: {found:?}"
                ),
            }
        }
    }

    #[test]
    fn a_disks_nodes_tell_and_no_others() {
        let text = "<domain><devices><disk type='file'><driver type='qcow2'/><source file='/a' index='5'/>
             <backingStore type='file' index='2'><format type='qcow2'/><source file='/b'/></backingStore>
             <target dev='vda'/></disk></devices></domain>";
        let domain = DomainXml::parse(text).unwrap();
        let bitmap = |name: &str, recording: bool| json!({ "name": name, "recording": recording, "persistent": true, "busy": false });
        let nodes = [
            json!({ "node-name": "libvirt-5-format", "dirty-bitmaps": [bitmap("c", true), bitmap("still", false)] }),
            json!({ "node-name": "libvirt-5-storage" }),
            json!({ "node-name": "libvirt-2-format", "dirty-bitmaps": [bitmap("c", true)] }),
            json!({ "node-name": "libvirt-51-format", "dirty-bitmaps": [bitmap("x", true)] }),
        ];
        let found = of_nodes(domain.disk("vda").unwrap(), &nodes);
        assert_eq!(found.why_not("c"), None);
        assert_eq!(found.holders("c").collect::<Vec<_>>(), [0, 1]);
        assert!(found.why_not("still").unwrap().contains("record"));
        assert!(found.why_not("x").unwrap().contains("missing"));
    }

    #[test]
    fn an_image_that_was_not_closed_has_inconsistent_ones() {
        let bitmap = |name: &str, in_use, records| image::Bitmap {
            name: name.into(),
            in_use,
            records,
        };
        let layer = of_image(vec![
            bitmap("a", false, true),
            bitmap("b", true, true),
            bitmap("c", false, false),
        ]);
        assert_eq!(layer["a"], None);
        assert_eq!(layer["b"], Some(INCONSISTENT));
        assert_eq!(layer["c"], Some(STANDS_STILL));
    }
}
