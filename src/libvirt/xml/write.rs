// SPDX-License-Identifier: LGPL-2.1-or-later
//! The XML that block copy, snapshot and backup are given.

use std::ops::Range;

use xmltree::{Element, XMLNode};

use super::disk::{Encryption, NbdServer};
use super::{parse, to_text};

/// What a job writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    File(String),
    Block(String),
    Nbd { export: String, server: NbdServer },
}

/// An image below a copy.
#[derive(Debug)]
pub(crate) struct Below<'a> {
    pub(crate) target: Target,
    pub(crate) format: &'a str,
    /// The bytes of its file that it is, where it is not the whole file.
    pub(crate) slice: Option<&'a Range<u64>>,
}

/// One disk of a backup.
#[derive(Debug)]
pub(crate) struct BackupDisk<'a> {
    pub(crate) target: &'a str,
    /// Path of its scratch file; `None` leaves the disk out.
    pub(crate) scratch: Option<&'a str>,
    /// The export says what has changed since this checkpoint.
    pub(crate) since: Option<&'a str>,
}

pub(super) fn element(name: &str, attributes: &[(&str, &str)], children: Vec<Element>) -> Element {
    let mut element = Element::new(name);
    for (key, value) in attributes {
        element.attributes.insert((*key).to_owned(), (*value).to_owned());
    }
    element.children = children.into_iter().map(XMLNode::Element).collect();
    element
}

impl Target {
    fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Block(_) => "block",
            Self::Nbd { .. } => "network",
        }
    }

    fn source(&self, name: &str) -> Element {
        match self {
            Self::File(path) => element(name, &[("file", path)], vec![]),
            Self::Block(path) => element(name, &[("dev", path)], vec![]),
            Self::Nbd { export, server } => {
                let host = match server {
                    NbdServer::Tcp { host, port } => {
                        element("host", &[("name", host), ("port", &port.to_string())], vec![])
                    }
                    NbdServer::Unix { socket } => element("host", &[("transport", "unix"), ("socket", socket)], vec![]),
                };
                element(name, &[("protocol", "nbd"), ("name", export)], vec![host])
            }
        }
    }
}

/// As a `<source>` has it.
pub(super) fn slices(slice: &Range<u64>) -> Element {
    let (offset, size) = (slice.start.to_string(), (slice.end - slice.start).to_string());
    let attributes = [
        ("type", "storage"),
        ("offset", offset.as_str()),
        ("size", size.as_str()),
    ];
    element("slices", &[], vec![element("slice", &attributes, vec![])])
}

/// Of an image: its format, and a `<metadata_cache>`.
fn of_format(name: &str, format: &str, cache: Option<&str>) -> Result<Element, String> {
    let cache = cache.map(parse).transpose().map_err(|error| error.to_string())?;
    Ok(element(name, &[("type", format)], cache.into_iter().collect()))
}

/// The destination of virDomainBlockCopy.
pub(crate) fn copy_destination(
    target: &Target,
    format: &str,
    encryption: Option<&Encryption>,
    cache: Option<&str>,
) -> Result<String, String> {
    let mut source = target.source("source");
    if let Some(encryption) = encryption {
        let encryption = parse(&encryption.xml).map_err(|error| error.to_string())?;
        source.children.push(XMLNode::Element(encryption));
    }
    to_text(&element(
        "disk",
        &[("type", target.kind())],
        vec![of_format("driver", format, cache)?, source],
    ))
}

/// The destination of a shallow copy that rests on `backing`: libvirt makes the overlay with it, and
/// notes the chain in both definitions. `cache` is of the first of `backing`, into which the overlay is committed.
pub(crate) fn overlay_destination(path: &str, backing: &[Below<'_>], cache: Option<&str>) -> Result<String, String> {
    let mut chain = element("backingStore", &[], vec![]);
    for (index, below) in backing.iter().enumerate().rev() {
        let format = of_format("format", below.format, cache.filter(|_| index == 0))?;
        let kind = ("type", below.target.kind());
        let mut source = below.target.source("source");
        source.children.extend(below.slice.map(slices).map(XMLNode::Element));
        chain = element("backingStore", &[kind], vec![format, source, chain]);
    }
    to_text(&element(
        "disk",
        &[("type", "file")],
        vec![
            element("driver", &[("type", "qcow2")], vec![]),
            element("source", &[("file", path)], vec![]),
            chain,
        ],
    ))
}

/// The `<domainsnapshot>` of an external snapshot of some disks (target, overlay); the others are left out by name.
pub(crate) fn external_snapshot(overlays: &[(&str, &str)], others: &[String]) -> Result<String, String> {
    let chosen = overlays.iter().map(|(target, overlay)| {
        element(
            "disk",
            &[("name", target), ("snapshot", "external"), ("type", "file")],
            vec![
                element("driver", &[("type", "qcow2")], vec![]),
                element("source", &[("file", overlay)], vec![]),
            ],
        )
    });
    let left_out = others
        .iter()
        .map(|other| element("disk", &[("name", other), ("snapshot", "no")], vec![]));
    let disks = chosen.chain(left_out).collect();
    to_text(&element("domainsnapshot", &[], vec![element("disks", &[], disks)]))
}

/// The `<domainbackup>` of a pull backup: each disk is exported by its target's name over a unix socket, and what the guest
/// overwrites is saved in its scratch file. Each disk says for itself whether it is incremental: one that cannot be is whole.
pub(crate) fn backup(socket: &str, disks: &[BackupDisk<'_>]) -> Result<String, String> {
    let server = element("server", &[("transport", "unix"), ("socket", socket)], vec![]);
    let disks = disks
        .iter()
        .map(|disk| match disk.scratch {
            Some(scratch) => {
                let mut attributes = vec![
                    ("name", disk.target),
                    ("backup", "yes"),
                    ("type", "file"),
                    ("exportname", disk.target),
                ];
                if let Some(since) = disk.since {
                    attributes.extend([("backupmode", "incremental"), ("incremental", since)]);
                }
                let children = vec![
                    element("driver", &[("type", "qcow2")], vec![]),
                    element("scratch", &[("file", scratch)], vec![]),
                ];
                element("disk", &attributes, children)
            }
            None => element("disk", &[("name", disk.target), ("backup", "no")], vec![]),
        })
        .collect();
    to_text(&element(
        "domainbackup",
        &[("mode", "pull")],
        vec![server, element("disks", &[], disks)],
    ))
}

#[cfg(test)]
mod tests {
    use super::super::attribute;
    use super::*;
    use crate::libvirt::xml::DomainXml;

    #[test]
    fn any_path_survives_the_way_to_libvirt() {
        for path in [
            "/a b",
            "/quote'\"",
            "/<&>",
            "/new\nline",
            "/comma,colon:",
            "/%s",
            "/ünïcode",
        ] {
            let text = copy_destination(&Target::File(path.into()), "qcow2", None, None).unwrap();
            let disk = parse(&text).unwrap();
            let source = disk.get_child("source").unwrap();
            assert_eq!(attribute(source, "file"), Some(path), "{text}");
            assert!(!text.starts_with("<?xml"));
        }
    }

    #[test]
    fn the_destination_is_encrypted_as_the_source_is() {
        let inside = "<encryption format='luks'><secret type='passphrase' usage='&quot;a&quot; &amp; b'/></encryption>";
        for (in_source, beside) in [(inside, ""), ("", inside)] {
            let text = format!(
                "<domain xmlns:qemu='urn:q'><devices><disk type='file'><driver type='raw'/><source file='/a'>{in_source}\
                 </source>{beside}<target dev='vda'/></disk></devices></domain>"
            );
            let domain = DomainXml::parse(&text).unwrap();
            let encryption = domain.disk("vda").unwrap().active().encryption.clone().unwrap();
            let text = copy_destination(&Target::File("/b".into()), "raw", Some(&encryption), None).unwrap();
            let disk = parse(&text).unwrap();
            let copied = disk.get_child("source").unwrap().get_child("encryption").unwrap();
            assert_eq!(attribute(copied, "format"), Some("luks"), "{text}");
            let secret = copied.get_child("secret").unwrap();
            assert_eq!(attribute(secret, "usage"), Some("\"a\" & b"), "{text}");
        }
    }

    #[test]
    fn a_backup_names_the_disks_left_out() {
        let disks = [
            BackupDisk {
                target: "vda",
                scratch: Some("/a<b"),
                since: Some("mo&n"),
            },
            BackupDisk {
                target: "vdb",
                scratch: None,
                since: None,
            },
            BackupDisk {
                target: "vdc",
                scratch: Some("/c"),
                since: None,
            },
        ];
        let text = backup("/run/s", &disks).unwrap();
        assert!(text.contains("<scratch file=\"/a&lt;b\""), "{text}");
        assert!(text.contains("backup=\"no\" name=\"vdb\""), "{text}");
        assert!(text.contains("socket=\"/run/s\""), "{text}");
        assert!(text.contains("incremental=\"mo&amp;n\""), "{text}");
        assert_eq!(text.matches("incremental").count(), 2, "{text}");
    }
}
