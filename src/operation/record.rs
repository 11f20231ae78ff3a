// SPDX-License-Identifier: LGPL-2.1-or-later
//! The operation's record: what was asked, the files it makes, who owns it. It is stored with the domain, as metadata
//! in a namespace of its own for each operation, and so survives the agent, libvirtd and the agent's host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xmltree::{Element, XMLNode};

use super::state::Mark;
use super::types::Method;
use crate::error::{Error, ErrorCode, Result};
use crate::image::Made;
use crate::libvirt::IoTune;
use crate::libvirt::xml::{attribute, children, to_text};

/// Every operation's namespace begins so and ends in the operation's id.
const NAMESPACE: &str = "urn:livedisk:operation:";

/// The process that runs an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) host: String,
    pub(crate) process: u32,
    /// Clock ticks since boot, to tell a process from a later one of the same number.
    pub(crate) process_start: u64,
}

/// One disk of the operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordedDisk {
    pub(crate) target: String,
    pub(crate) destination: String,
    pub(crate) format: String,
    pub(crate) made: Option<Made>,
    /// The disk is throttled, and these limits are its own.
    pub(crate) throttled: Option<IoTune>,
    /// The overlay beside the disk's own image, which takes the guest's writes meanwhile.
    pub(crate) overlay: Option<Made>,
}

/// What the operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Snapshot,
    Migration,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Migration => "migration",
        }
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    pub(crate) mark: Mark,
    pub(crate) started: SystemTime,
    pub(crate) owner: Owner,
    /// The inactive definition had a `<metadata>` before.
    pub(crate) had_metadata: bool,
    pub(crate) disks: Vec<RecordedDisk>,
}

const METHODS: [Method; 4] = [Method::Backup, Method::Mirror, Method::Rebase, Method::Clone];

impl Owner {
    /// This process.
    pub(crate) fn this() -> Self {
        let process = std::process::id();
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            process,
            process_start: process_start(process).unwrap_or(0),
        }
    }

    /// Whether it is known to be dead: only a process of this host can be.
    pub(crate) fn is_dead(&self) -> bool {
        self.host == Self::this().host && process_start(self.process) != Some(self.process_start)
    }
}

/// Field 22 of /proc/PID/stat; the name in field 2 may hold anything, so the count starts behind its parenthesis.
fn process_start(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

impl Record {
    /// The record of an operation that this process begins.
    pub(crate) fn new(kind: Kind, method: Method, had_metadata: bool, disks: Vec<RecordedDisk>) -> Result<Self> {
        Ok(Self {
            id: Self::new_id()?,
            kind,
            method,
            mark: Mark::Absent,
            started: SystemTime::now(),
            owner: Owner::this(),
            had_metadata,
            disks,
        })
    }

    /// A fresh id from the kernel.
    fn new_id() -> Result<String> {
        let path = "/proc/sys/kernel/random/uuid";
        std::fs::read_to_string(path)
            .map(|id| id.trim().to_owned())
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot read {path}: {error}")))
    }

    /// The metadata namespace of this operation.
    pub(crate) fn namespace(&self) -> String {
        format!("{NAMESPACE}{}", self.id)
    }

    /// The metadata element; libvirt itself puts it into the namespace.
    pub(crate) fn to_xml(&self) -> Result<String> {
        let element = |name: &str, attributes: &[(&str, String)]| {
            let mut element = Element::new(name);
            for (key, value) in attributes {
                element.attributes.insert((*key).to_owned(), value.clone());
            }
            element
        };
        let since_epoch = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut root = element(
            "operation",
            &[
                ("version", "1".into()),
                ("kind", self.kind.name().into()),
                ("method", self.method.name().into()),
                ("mark", self.mark.name().into()),
                ("started", since_epoch.as_secs().to_string()),
                ("had-metadata", self.had_metadata.to_string()),
            ],
        );
        root.children.push(XMLNode::Element(element(
            "owner",
            &[
                ("host", self.owner.host.clone()),
                ("process", self.owner.process.to_string()),
                ("start", self.owner.process_start.to_string()),
            ],
        )));
        for disk in &self.disks {
            let mut attributes = vec![
                ("target", disk.target.clone()),
                ("destination", disk.destination.clone()),
                ("format", disk.format.clone()),
            ];
            if let Some(made) = &disk.made {
                attributes.push(("device", made.device.to_string()));
                attributes.push(("inode", made.inode.to_string()));
            }
            if let Some(before) = &disk.throttled {
                attributes.push(("throttled", before.to_text()));
            }
            if let Some(overlay) = &disk.overlay {
                attributes.push(("overlay", overlay.path.clone()));
                attributes.push(("overlay-device", overlay.device.to_string()));
                attributes.push(("overlay-inode", overlay.inode.to_string()));
            }
            root.children.push(XMLNode::Element(element("disk", &attributes)));
        }
        to_text(&root).map_err(|reason| Error::new(ErrorCode::Internal, format!("cannot write the record: {reason}")))
    }

    /// The record in a metadata element, if it is one; an element of ours that cannot be read is an error.
    pub(crate) fn from_xml(element: &Element) -> Option<std::result::Result<Self, String>> {
        let id = element.namespace.as_deref()?.strip_prefix(NAMESPACE)?;
        Some(Self::parse(id, element).ok_or_else(|| format!("the record of operation {id} cannot be read")))
    }

    fn parse(id: &str, element: &Element) -> Option<Self> {
        let owner = element.get_child("owner")?;
        let method = attribute(element, "method")?;
        let mark = attribute(element, "mark")?;
        let seconds = attribute(element, "started")?.parse().ok()?;
        Some(Self {
            id: id.to_owned(),
            kind: match attribute(element, "kind")? {
                "snapshot" => Kind::Snapshot,
                "migration" => Kind::Migration,
                _ => return None,
            },
            method: METHODS.into_iter().find(|known| known.name() == method)?,
            mark: Mark::RECORDED.into_iter().find(|known| known.name() == mark)?,
            started: UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?,
            owner: Owner {
                host: attribute(owner, "host")?.to_owned(),
                process: attribute(owner, "process")?.parse().ok()?,
                process_start: attribute(owner, "start")?.parse().ok()?,
            },
            had_metadata: attribute(element, "had-metadata")?.parse().ok()?,
            disks: children(element, "disk")
                .map(|disk| {
                    let destination = attribute(disk, "destination")?.to_owned();
                    let number = |name| attribute(disk, name).and_then(|text| text.parse().ok());
                    let made = number("device").zip(number("inode")).map(|(device, inode)| Made {
                        path: destination.clone(),
                        device,
                        inode,
                    });
                    let overlay = number("overlay-device").zip(number("overlay-inode"));
                    Some(RecordedDisk {
                        target: attribute(disk, "target")?.to_owned(),
                        destination,
                        format: attribute(disk, "format")?.to_owned(),
                        made,
                        throttled: match attribute(disk, "throttled") {
                            Some(before) => Some(IoTune::from_text(before)?),
                            None => None,
                        },
                        overlay: match (attribute(disk, "overlay"), overlay) {
                            (Some(path), Some((device, inode))) => Some(Made {
                                path: path.to_owned(),
                                device,
                                inode,
                            }),
                            _ => None,
                        },
                    })
                })
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_through_the_domain() {
        let record = Record {
            id: Record::new_id().unwrap(),
            kind: Kind::Snapshot,
            method: Method::Mirror,
            mark: Mark::Copying,
            started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            owner: Owner::this(),
            had_metadata: true,
            disks: vec![RecordedDisk {
                target: "vda".into(),
                destination: "/odd \"<&>'\nname".into(),
                format: "qcow2".into(),
                made: Some(Made {
                    path: "/odd \"<&>'\nname".into(),
                    device: 7,
                    inode: u64::MAX,
                }),
                throttled: IoTune::from_text("total_bytes_sec=7 write_bytes_sec=0"),
                overlay: Some(Made {
                    path: "/overlay".into(),
                    device: 7,
                    inode: 8,
                }),
            }],
        };
        // As virXMLInjectNamespace does.
        let text = record
            .to_xml()
            .unwrap()
            .replace('<', "<livedisk:")
            .replace("<livedisk:/", "</livedisk:");
        let text = text.replacen(" ", &format!(" xmlns:livedisk='{}' ", record.namespace()), 1);
        let wrapped = format!("<domain><metadata><other xmlns='urn:x'/>{text}</metadata><devices/></domain>");
        let metadata = crate::libvirt::xml::DomainXml::parse(&wrapped)
            .unwrap()
            .metadata
            .unwrap();
        let found: Vec<_> = metadata.iter().filter_map(Record::from_xml).collect();
        assert_eq!(found, [Ok(record)]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_overlooked() {
        let text = format!("<x:operation xmlns:x='{NAMESPACE}1' version='9'/>");
        let element = crate::libvirt::xml::parse(&text).unwrap();
        assert!(Record::from_xml(&element).unwrap().is_err());
    }

    #[test]
    fn owners_live_and_die() {
        let me = Owner::this();
        assert!(!me.is_dead());
        assert!(
            Owner {
                process_start: me.process_start + 1,
                ..me.clone()
            }
            .is_dead()
        );
        assert!(
            !Owner {
                host: "elsewhere.invalid".into(),
                process: 1,
                process_start: 0
            }
            .is_dead()
        );
    }
}
