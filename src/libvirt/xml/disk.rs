// SPDX-License-Identifier: LGPL-2.1-or-later
//! The domain definition, read as far as livedisk needs it.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use xmltree::Element;

use super::slice::slice;
use super::understood::not_understood;
use super::{attribute, children, parse, to_text};

/// The `device` of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Disk,
    Cdrom,
    Floppy,
    Lun,
}

/// Where an NBD server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NbdServer {
    Tcp { host: String, port: u16 },
    Unix { socket: String },
}

impl NbdServer {
    /// From a `<host>`.
    pub(super) fn parse(host: &Element) -> Option<Self> {
        let value = |name| attribute(host, name);
        if value("transport") == Some("unix") {
            let socket = value("socket")?.to_owned();
            return Some(Self::Unix { socket });
        }
        Some(Self::Tcp {
            host: value("name")?.to_owned(),
            port: value("port")?.parse().ok()?,
        })
    }
}

/// Where an image lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(String),
    Block(String),
    /// An export of an NBD server.
    Nbd {
        export: String,
        server: Option<NbdServer>,
    },
    /// Network, volume, NVMe, vhost-user, ...: nothing that this host can open by path.
    Other(String),
    /// No medium.
    Empty,
}

/// How an image is encrypted. The secret's value is libvirt's alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Encryption {
    pub(crate) format: String,
    /// The whole `<encryption>`, which names the secret.
    pub(crate) xml: String,
}

/// One image of a backing chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) format: Option<String>,
    pub(crate) source: Source,
    pub(crate) encryption: Option<Encryption>,
    /// The bytes of its file that it is, where it is not the whole file: the `<slice>` of its `<source>`.
    pub(crate) slice: Option<Range<u64>>,
    /// Of a running domain: libvirt's number of the image, which is in the names of QEMU's nodes.
    pub(crate) index: Option<u32>,
}

/// The `<mirror>` of a copy or active commit that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// `copy` or `active-commit`; empty while libvirt tidies up after its pivot.
    pub(crate) job: String,
    /// `ready='yes'`: the only sign of readiness there is.
    pub(crate) ready: bool,
    /// Where it goes.
    pub(crate) source: Source,
    /// libvirt's numbers of the images that it goes to, the uppermost first.
    pub(crate) indices: Vec<u32>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) target: String,
    pub(crate) device: Device,
    /// The active layer first.
    pub(crate) chain: Vec<Layer>,
    pub(crate) readonly: bool,
    pub(crate) shareable: bool,
    pub(crate) transient: bool,
    pub(crate) mirror: Option<Mirror>,
    /// What of it and its images livedisk does not understand, such as `its <source> has <slices>`: a layer is then more than
    /// its path and format say.
    pub(crate) not_understood: Option<String>,
    /// An image of its chain has a `<seclabel>` of its own, which a job's destination does not get.
    pub(crate) labelled: bool,
    /// What libvirt has QEMU put between the device and the image: copy_on_read, throttlefilters.
    pub(crate) filter: Option<Filter>,
    /// QEMU serves it in an I/O thread.
    pub(crate) io_thread: bool,
    /// QEMU looks for zeroes in what the guest writes.
    pub(crate) detects_zeroes: bool,
    /// The `<metadata_cache>` of its `<driver>`.
    pub(crate) metadata_cache: Option<String>,
}

/// A node of libvirt's above a disk's images. After a pivot libvirt goes on with it, and the device does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    CopyOnRead,
    Throttle,
}

/// What the domain capabilities are asked for with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) emulator: Option<String>,
    pub(crate) arch: Option<String>,
    pub(crate) machine: Option<String>,
    pub(crate) virt_type: Option<String>,
}

/// A domain definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DomainXml {
    pub(crate) machine: Machine,
    pub(crate) disks: Vec<Disk>,
    /// The channel of the guest agent is configured.
    pub(crate) agent_channel: bool,
    /// The elements under `<metadata>`; `None` without one.
    pub(crate) metadata: Option<Vec<Element>>,
}

impl DomainXml {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let root = parse(text).map_err(|error| error.to_string())?;
        let devices = root
            .get_child("devices")
            .ok_or_else(|| "the domain definition has no <devices>".to_owned())?;
        let os_type = root.get_child("os").and_then(|os| os.get_child("type"));
        let of_type = |name| os_type.and_then(|kind| attribute(kind, name)).map(str::to_owned);
        let scsi_thread = children(devices, "controller").any(has_io_thread);
        Ok(Self {
            machine: Machine {
                emulator: devices
                    .get_child("emulator")
                    .and_then(|emulator| emulator.get_text())
                    .map(std::borrow::Cow::into_owned),
                arch: of_type("arch"),
                machine: of_type("machine"),
                virt_type: attribute(&root, "type").map(str::to_owned),
            },
            disks: children(devices, "disk")
                .filter_map(|disk| Disk::parse(disk, scsi_thread))
                .collect(),
            agent_channel: children(devices, "channel").any(|channel| {
                channel
                    .get_child("target")
                    .is_some_and(|target| attribute(target, "name") == Some("org.qemu.guest_agent.0"))
            }),
            metadata: root.get_child("metadata").map(|metadata| {
                metadata
                    .children
                    .iter()
                    .filter_map(|node| node.as_element().cloned())
                    .collect()
            }),
        })
    }

    pub(crate) fn disk(&self, target: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}

/// Of a disk or a controller.
fn has_io_thread(element: &Element) -> bool {
    let driver = element.get_child("driver");
    driver.is_some_and(|driver| attribute(driver, "iothread").is_some() || driver.get_child("iothreads").is_some())
}

impl Disk {
    /// `scsi_thread`: some controller has an I/O thread, and any disk on the SCSI bus may be its.
    fn parse(element: &Element, scsi_thread: bool) -> Option<Self> {
        let named = element.get_child("target")?;
        let target = attribute(named, "dev")?.to_owned();
        let device = match attribute(element, "device") {
            Some("cdrom") => Device::Cdrom,
            Some("floppy") => Device::Floppy,
            Some("lun") => Device::Lun,
            _ => Device::Disk,
        };
        let driver = element.get_child("driver");
        let mut chain = vec![Layer {
            format: format_of(element, "driver"),
            source: Source::parse(element, "source"),
            // libvirt keeps the place that it was defined in.
            encryption: Encryption::of(element).or_else(|| Encryption::parse(element)),
            slice: element.get_child("source").and_then(slice),
            index: element.get_child("source").and_then(index),
        }];
        chain.extend(below(element).map(|layer| Layer {
            format: format_of(layer, "format"),
            source: Source::parse(layer, "source"),
            encryption: Encryption::of(layer),
            slice: layer.get_child("source").and_then(slice),
            index: index(layer),
        }));
        Some(Self {
            target,
            device,
            chain,
            readonly: element.get_child("readonly").is_some(),
            shareable: element.get_child("shareable").is_some(),
            transient: element.get_child("transient").is_some(),
            not_understood: not_understood(element),
            labelled: std::iter::once(element).chain(below(element)).any(is_labelled),
            filter: Filter::of(element),
            detects_zeroes: driver
                .and_then(|driver| attribute(driver, "detect_zeroes"))
                .is_some_and(|value| value != "off"),
            metadata_cache: driver
                .and_then(|driver| driver.get_child("metadata_cache"))
                .and_then(|cache| to_text(cache).ok()),
            io_thread: has_io_thread(element) || scsi_thread && attribute(named, "bus") == Some("scsi"),
            mirror: element.get_child("mirror").map(|mirror| Mirror {
                job: attribute(mirror, "job").unwrap_or("copy").to_owned(),
                ready: attribute(mirror, "ready") == Some("yes"),
                source: Source::parse(mirror, "source"),
                indices: mirror
                    .get_child("source")
                    .into_iter()
                    .chain(below(mirror))
                    .filter_map(index)
                    .collect(),
            }),
        })
    }

    /// The active layer.
    pub(crate) fn active(&self) -> &Layer {
        &self.chain[0]
    }

    /// Some image of the chain is.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.chain.iter().any(|layer| layer.encryption.is_some())
    }

    /// What the active layer rests on.
    pub(crate) fn backing(&self) -> Option<&Layer> {
        self.chain.get(1)
    }
}

impl Filter {
    fn of(disk: &Element) -> Option<Self> {
        if disk.get_child("throttlefilters").is_some() {
            return Some(Self::Throttle);
        }
        let driver = disk.get_child("driver")?;
        (attribute(driver, "copy_on_read") == Some("on")).then_some(Self::CopyOnRead)
    }

    /// As the definition has it.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::CopyOnRead => "copy_on_read='on'",
            Self::Throttle => "<throttlefilters>",
        }
    }
}

impl Encryption {
    /// Of the image that `parent` describes.
    fn of(parent: &Element) -> Option<Self> {
        Self::parse(parent.get_child("source")?)
    }

    fn parse(parent: &Element) -> Option<Self> {
        let element = parent.get_child("encryption")?;
        Some(Self {
            format: attribute(element, "format").unwrap_or_default().to_owned(),
            xml: to_text(element).ok()?,
        })
    }
}

impl Source {
    /// From the child of that name.
    pub(super) fn parse(parent: &Element, child: &str) -> Self {
        let Some(source) = parent.get_child(child) else {
            return Self::Empty;
        };
        // libvirt leaves an empty name out.
        if attribute(source, "protocol") == Some("nbd") {
            return Self::Nbd {
                export: attribute(source, "name").unwrap_or_default().to_owned(),
                server: source.get_child("host").and_then(NbdServer::parse),
            };
        }
        match (attribute(source, "file"), attribute(source, "dev")) {
            (Some(path), _) => Self::File(path.to_owned()),
            (None, Some(path)) => Self::Block(path.to_owned()),
            (None, None) => Self::Other(attribute(parent, "type").unwrap_or("unknown").to_owned()),
        }
    }

    /// The path, where the image has one on this host.
    pub(crate) fn path(&self) -> Option<&str> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            Self::Nbd { .. } | Self::Other(_) | Self::Empty => None,
        }
    }
}

/// One disk of a backup that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunningBackup {
    pub(crate) target: String,
    /// Its scratch file, or its destination where it is pushed.
    pub(crate) writes_to: Source,
    /// libvirt's number of that image.
    pub(crate) index: Option<u32>,
}

/// Each disk of a `<domainbackup>`.
pub(crate) fn backup_disks(text: &str) -> Result<Vec<RunningBackup>, String> {
    let root = parse(text).map_err(|error| error.to_string())?;
    let disks = root
        .get_child("disks")
        .into_iter()
        .flat_map(|disks| children(disks, "disk"));
    let copied = disks.filter(|disk| attribute(disk, "backup") != Some("no"));
    let found = |disk: &Element| {
        let pushed = disk.get_child("target").is_some();
        Some(RunningBackup {
            target: attribute(disk, "name")?.to_owned(),
            writes_to: Source::parse(disk, if pushed { "target" } else { "scratch" }),
            index: index(disk),
        })
    };
    Ok(copied.filter_map(found).collect())
}

/// The `<backingStore>`s under an image, down to the last that there is.
fn below(image: &Element) -> impl Iterator<Item = &Element> {
    fn layer(above: &Element) -> Option<&Element> {
        let layer = above.get_child("backingStore")?;
        layer.get_child("source").map(|_| layer)
    }
    std::iter::successors(layer(image), |above| layer(above))
}

/// libvirt itself notes where a file system knows no labels.
fn is_labelled(image: &Element) -> bool {
    let source = image.get_child("source");
    let mut labels = source.into_iter().flat_map(|source| children(source, "seclabel"));
    labels.any(|label| attribute(label, "labelskip").is_none())
}

fn index(element: &Element) -> Option<u32> {
    attribute(element, "index")?.parse().ok()
}

fn format_of(parent: &Element, child: &str) -> Option<String> {
    attribute(parent.get_child(child)?, "type").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "<domain><metadata><a:b xmlns:a='urn:a'/></metadata><devices>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a&#10;b&amp;.qcow2' index='4'/>
          <backingStore type='file' index='2'><format type='raw'/><source file='/base'/><backingStore/></backingStore>
          <mirror type='file' job='copy' ready='yes'><format type='raw'/><source file='/m' index='5'/>
          <backingStore type='file' index='6'><format type='raw'/><source file='/n'/><backingStore/></backingStore></mirror>
          <target dev='vda'/></disk>
        <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
        <disk type='network' device='disk'><source protocol='rbd' name='x'><encryption format='luks'/></source>
          <target dev='vdb'/><shareable/></disk>
        <disk type='network' device='disk'><source protocol='nbd' tls='no'><host transport='unix' socket='/s'/></source>
          <target dev='vdc'/></disk>
        <disk type='file' device='disk'><source file='/overlay'/><backingStore type='file'><format type='raw'/>
          <source file='/sealed'><encryption format='luks'/></source></backingStore><target dev='vdd'/></disk>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        </devices></domain>";

    #[test]
    fn reads_chain_mirror_and_flags() {
        let domain = DomainXml::parse(DOMAIN).unwrap();
        let vda = domain.disk("vda").unwrap();
        assert_eq!(vda.active().source, Source::File("/a\nb&.qcow2".into()));
        assert_eq!(vda.active().format.as_deref(), Some("qcow2"));
        assert_eq!(vda.chain.len(), 2);
        assert_eq!(vda.backing().unwrap().format.as_deref(), Some("raw"));
        let mirror = vda.mirror.as_ref().unwrap();
        assert!(mirror.ready && mirror.source == Source::File("/m".into()));
        assert_eq!(mirror.indices, [5, 6]);
        assert_eq!((vda.active().index, vda.chain[1].index), (Some(4), Some(2)));
        assert_eq!(domain.disk("sda").unwrap().active().source, Source::Empty);
        assert_eq!(domain.disk("sda").unwrap().device, Device::Cdrom);
        let vdb = domain.disk("vdb").unwrap();
        assert!(vdb.is_encrypted() && vdb.shareable && !vdb.transient);
        assert_eq!(vdb.active().source, Source::Other("network".into()));
        let nameless = domain.disk("vdc").unwrap();
        let server = NbdServer::Unix { socket: "/s".into() };
        let export = Source::Nbd {
            export: String::new(),
            server: Some(server),
        };
        assert_eq!(nameless.active().source, export);
        let vdd = domain.disk("vdd").unwrap();
        assert!(vdd.is_encrypted() && vdd.active().encryption.is_none() && !vda.is_encrypted());
        assert_eq!(vdb.active().encryption.as_ref().unwrap().format, "luks");
        assert!(domain.agent_channel);
        assert_eq!(domain.metadata.unwrap()[0].namespace.as_deref(), Some("urn:a"));
    }

    #[test]
    fn a_definition_without_devices_is_an_error() {
        assert!(DomainXml::parse("<domain/>").is_err());
        assert!(DomainXml::parse("no xml").is_err());
    }
}
