// SPDX-License-Identifier: LGPL-2.1-or-later
//! Everything about a migration that can be found out and refused before the first side effect.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::driver::{Guest, Hindrance, Job, by_name, why_not_whole};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Identity, Layer, Place};
use crate::libvirt::State;
use crate::libvirt::xml::{Device, Disk, DomainXml, Encryption, Source};
use crate::operation::notice::Notice;
use crate::operation::plan::planned::{Asked, Planned};
use crate::operation::plan::preflight::{
    apart_if_in_use, find_disk, images_in_use, must_be_copyable, must_be_free, must_be_known_format, must_have_no_job,
    must_stay_writable,
};
use crate::operation::types::{CloneMethod, Method, MigrateOptions, Warnings};

/// A migration that may be started.
pub(crate) type Plan = Planned<Request>;

/// What was asked for, and what was decided for it: all that the operation's record keeps of the plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) target: String,
    pub(crate) method: Method,
    pub(crate) clone: CloneMethod,
    /// The disk's image. Its path is empty where it is on no file or block device.
    pub(crate) source: Layer,
    pub(crate) source_identity: Option<Identity>,
    /// What the source rests on: each image below it.
    pub(crate) below: Vec<Layer>,
    pub(crate) destination: Destination,
    pub(crate) place: Place,
    pub(crate) format: String,
    /// The destination's; libvirt, which has the secret, formats one that is encrypted.
    pub(crate) encryption: Option<Encryption>,
    pub(crate) size: u64,
    pub(crate) bandwidth: u64,
    pub(crate) auto_finish: bool,
    pub(crate) verify: bool,
    pub(crate) delete_source: bool,
    pub(crate) write_blocking: bool,
    /// All files are storage volumes, made, cloned and removed by the daemon: none of them is touched by us, who may not
    /// see them.
    pub(crate) volumes: bool,
    /// The guest's other disks, which the snapshot leaves out.
    pub(crate) other_disks: Vec<String>,
    /// Of the disk's <driver>; the new image gets it.
    #[serde(default)]
    pub(crate) metadata_cache: Option<String>,
    #[serde(default)]
    pub(crate) warnings: Warnings,
}

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

impl Asked for Request {
    fn method(&self) -> Method {
        self.method
    }

    fn targets(&self) -> Vec<&str> {
        vec![self.target.as_str()]
    }

    fn notices(&self) -> Vec<Notice> {
        self.warnings.into()
    }
}

impl Plan {
    /// Looks at everything and changes nothing. `config` is the live definition.
    pub(crate) fn new(guest: &Arc<Guest>, config: &DomainXml, options: &MigrateOptions) -> Result<Self> {
        let name = guest.name().to_owned();
        if guest.get_power_state()? == State::Off {
            return Err(error(
                ErrorCode::DomainState,
                format!("domain '{name}' is not running; move the image of a domain that is off with mv or cp"),
            ));
        }
        let target = options.target.as_str();
        must_be_free(guest, config, Some(target))?;
        // libvirt takes our callbacks once a domain and connection, and the migration of another disk has them.
        let guest = apart_if_in_use(guest)?;
        let what = format!("disk '{}' of domain '{name}'", target.escape_debug());
        let disk = find_disk(&guest, config, target)?;
        must_be_copyable(disk, &what)?;
        if disk.device != Device::Disk {
            return Err(error(
                ErrorCode::Unsupported,
                format!("{what} is not a hard disk; change its medium instead"),
            ));
        }
        must_have_no_job(&guest, disk, &what)?;
        guest.must_be_pivotable(disk, &what)?;
        if disk.labelled {
            log::warn!(
                "{what} has a <seclabel> in a <source>, which libvirt does not give to the destination; add it to the \
                 definition before the domain's next start"
            );
        }
        guest.must_start_at_device(disk, Job::Mirror, &what)?;
        must_have_no_snapshots(&guest, &what)?;
        let destination = Destination::parse(&options.destination)?;
        must_be_kept_by_libvirt(disk, &destination, &what)?;
        let local = guest.host().is_local();
        let volumes = options.clone == CloneMethod::Volume || (!local && options.clone == CloneMethod::Auto);
        let volumes = volumes && options.method != Method::Mirror && matches!(destination, Destination::Path(_));
        if !local && !volumes && matches!(destination, Destination::Path(_)) {
            return Err(error(
                ErrorCode::Unsupported,
                format!("{what}: on a remote connection only VOLUME can clone to a path; otherwise use nbd://"),
            ));
        }
        let place = if volumes {
            must_be_no_volume(&guest, &destination)?;
            Place::Free
        } else {
            destination.look(false, &images_in_use(config))?
        };
        let source = disk.active().source.path().unwrap_or_default().to_owned();
        let source_format = disk.active().format.clone();
        let source_format =
            source_format.ok_or_else(|| error(ErrorCode::Unsupported, format!("{what} has no stated format")))?;
        if source.is_empty() && place == Place::Export {
            return Err(error(
                ErrorCode::Unsupported,
                format!("neither {what} nor its destination has a path; move it to a file or block device first"),
            ));
        }
        let source = Layer {
            path: source,
            format: source_format,
            slice: disk.active().slice.clone(),
        };
        let format = match (&options.format, &place) {
            (Some(format), _) => format.clone(),
            (None, Place::Free | Place::File) => source.format.clone(),
            (None, Place::Device | Place::LinkedDevice { .. } | Place::Export) => "raw".to_owned(),
        };
        let format = must_be_known_format(format, &what)?;
        must_keep_checkpoints(&guest, target, &format, volumes, &what)?;
        let unnamed = if volumes {
            why_not_whole(&disk.chain).map_or_else(|| guest.why_not_written_down(disk, 0), |part| Ok(Some(part)))?
        } else {
            guest.why_not_named(disk, 0)?
        };
        let undeletable = unnamed.clone().or_else(|| why_not_whole(&disk.chain[..1]));
        if let Some(hindrance) = undeletable
            && options.delete_source
            && !source.path.is_empty()
        {
            return Err(hindrance.refuse(
                &what,
                "cannot leave its source to be deleted",
                "leave DELETE_SOURCE out",
            ));
        }
        let method = choose_method(options, volumes, disk, &place, &format, unnamed.clone(), &what)?;
        if !volumes {
            must_stay_writable(&guest, disk, method, "", &what)?;
        }
        if options.verify && method == Method::Mirror {
            if let Some(hindrance) = unnamed {
                return Err(hindrance.refuse(&what, "can only be mirrored", "leave VERIFY out"));
            }
            return Err(error(
                ErrorCode::Unsupported,
                format!(
                    "{what}: VERIFY needs method CLONE, because a running guest writes to both sides of a mirror; \
                     leave it out, or ask for method CLONE"
                ),
            ));
        }
        if let (Method::Mirror, Some(hindrance)) = (method, guest.why_not_mirrored(disk)) {
            return Err(hindrance.refuse(
                &what,
                "cannot be moved while the guest runs",
                "copy it with a snapshot by BACKUP",
            ));
        }
        let encryption = if options.allow_plaintext {
            None
        } else {
            find_encryption(disk, &place, &what)?
        };
        let below = disk.chain[1..].iter().filter_map(by_name).collect();
        let others = config
            .disks
            .iter()
            .filter(|other| other.target != target)
            .map(|other| other.target.clone())
            .collect();
        let is_raw = source.format == "raw";
        let by_name = match method {
            Method::Clone => &disk.chain[..],
            _ if is_raw || options.delete_source => &disk.chain[..1],
            _ => &[],
        };
        let request = Request {
            target: target.to_owned(),
            method,
            clone: options.clone,
            source_identity: if volumes { None } else { Identity::of_path(&source.path) },
            source,
            below,
            destination,
            place,
            encryption,
            size: guest.get_block_device(target).get_capacity()?,
            bandwidth: options.bandwidth,
            auto_finish: options.auto_finish,
            verify: options.verify,
            delete_source: options.delete_source,
            write_blocking: options.write_blocking,
            other_disks: others,
            metadata_cache: disk.metadata_cache.clone().filter(|_| format == "qcow2"),
            warnings: Warnings {
                unidentified_image: !volumes && guest.has_unidentified(by_name),
                label_lost: disk.labelled,
                zeroes_undetected: method == Method::Clone && disk.detects_zeroes,
                source_kept: false,
            },
            format,
            volumes,
        };
        let plan = Self {
            guest,
            clone_callback: options.clone_callback.clone(),
            request,
        };
        if plan.volumes {
            plan.must_be_volume(&plan.source.path)?;
            if options.verify {
                return Err(error(
                    ErrorCode::Unsupported,
                    format!(
                        "{what}: VERIFY cannot read storage volumes; leave it out, or clone by another way than VOLUME"
                    ),
                ));
            }
        }
        Ok(plan)
    }

    /// Of the disk's size and format: what a pool takes for another format it would clone as that.
    pub(crate) fn must_be_volume(&self, path: &str) -> Result<()> {
        let shown = path.escape_debug();
        match self.guest.host().find_volume(path)? {
            Some(found) if found.format == self.format && found.capacity == self.size => Ok(()),
            Some(found) => Err(error(
                ErrorCode::Unsupported,
                format!(
                    "the storage pool of '{shown}' takes it for {} of {} bytes, and the disk is {} of {}; \
                     clone by another way than VOLUME",
                    found.format, found.capacity, self.format, self.size
                ),
            )),
            None => Err(error(
                ErrorCode::Unsupported,
                format!("'{shown}' is not in its storage pool; clone by another way than VOLUME"),
            )),
        }
    }
}

impl Request {
    /// The destination's path; empty for an NBD export.
    pub(crate) fn destination_path(&self) -> &str {
        match &self.destination {
            Destination::Path(path) => path,
            Destination::Nbd { .. } => "",
        }
    }

    /// The destination as the image of an overlay.
    pub(crate) fn destination_layer(&self) -> Layer {
        Layer::whole(self.destination_path(), self.format.as_str())
    }
}

/// In the domain's stored definition, which libvirt copies by way of its text, a newline in a name becomes a space: a migration
/// from such an image leaves that definition as it is, and one to such a name has it name another file.
fn must_be_kept_by_libvirt(disk: &Disk, destination: &Destination, what: &str) -> Result<()> {
    let is_lost = |path: &str| path.chars().any(char::is_control);
    if is_lost(destination.as_written()) {
        let shown = destination.shown();
        return Err(error(
            ErrorCode::InvalidArgument,
            format!(
                "destination '{shown}': it has a newline, which libvirt loses in the domain's definition; name a path without"
            ),
        ));
    }
    match disk.active().source.path() {
        Some(path) if is_lost(path) => {
            let why = format!(
                "its image '{}' has a newline or another control character in its name, which libvirt loses",
                path.escape_debug()
            );
            let advice = "rename the image while the domain is off";
            Err(Hindrance::unsupported(why).refuse(what, "cannot be moved while the guest runs", advice))
        }
        _ => Ok(()),
    }
}

fn must_be_no_volume(guest: &Guest, destination: &Destination) -> Result<()> {
    match guest.host().find_volume(destination.as_written())? {
        None => Ok(()),
        Some(_) => Err(error(
            ErrorCode::Destination,
            format!(
                "destination '{}': it exists; remove it or name another file",
                destination.shown()
            ),
        )),
    }
}

fn must_have_no_snapshots(guest: &Guest, what: &str) -> Result<()> {
    match guest.snapshots()?.len() {
        0 => Ok(()),
        snapshots => Err(error(
            ErrorCode::Busy,
            format!(
                "{what}: libvirt keeps {snapshots} snapshots of the domain, which would name images that are no longer the \
                 disk's; delete them first (virsh snapshot-delete)"
            ),
        )),
    }
}

/// Bitmaps move with the disk, where the destination can hold any.
fn must_keep_checkpoints(guest: &Guest, target: &str, format: &str, volumes: bool, what: &str) -> Result<()> {
    let (loses, instead) = match (format, volumes) {
        ("qcow2", false) => return Ok(()),
        ("qcow2", true) => ("the daemon's copy of a storage volume does not get", "use MIRROR"),
        _ => ("a raw image cannot hold", "move it to qcow2"),
    };
    let checkpoints = guest.checkpoints()?;
    let would_break = checkpoints.iter().find(|checkpoint| {
        let mut disks = checkpoint.disks.iter();
        disks.any(|disk| disk.target == target && disk.why_not.is_none())
    });
    match would_break {
        None => Ok(()),
        Some(checkpoint) => Err(error(
            ErrorCode::Busy,
            format!(
                "{what}: checkpoint '{}' has a bitmap of it, which {loses}; {instead}, or delete its checkpoints first \
                 (livedisk checkpoints {} --delete NAME)",
                checkpoint.name,
                guest.name()
            ),
        )),
    }
}

/// What the destination is to be encrypted with.
fn find_encryption(disk: &Disk, place: &Place, what: &str) -> Result<Option<Encryption>> {
    let why = match &disk.active().encryption {
        None if !disk.is_encrypted() => return Ok(None),
        None => "only below its active layer",
        Some(encryption) if encryption.format != "luks" => "but not with LUKS",
        Some(_) if *place != Place::Free => "and stays so only in a new file, which libvirt formats",
        Some(encryption) => return Ok(Some(encryption.clone())),
    };
    Err(error(
        ErrorCode::Unsupported,
        format!("{what} is encrypted, {why}; if it may become plain text, set ALLOW_PLAINTEXT"),
    ))
}

fn choose_method(
    options: &MigrateOptions,
    volumes: bool,
    disk: &Disk,
    place: &Place,
    format: &str,
    unnamed: Option<Hindrance>,
    what: &str,
) -> Result<Method> {
    let hindrance = if disk.is_encrypted() {
        Some("the disk is encrypted, and an overlay would hold what the guest writes in plain text")
    } else if disk.readonly {
        Some("the disk is read-only, and so nothing can be committed into it")
    } else if *place != Place::Free {
        Some("the destination is not a new file")
    } else if !matches!(disk.active().source, Source::File(_)) {
        Some("the disk is not a file")
    } else if disk.active().format.as_deref() != Some(format) {
        Some("the format is to change")
    } else if !image::fits_header(options.destination.as_str())
        || disk
            .active()
            .source
            .path()
            .is_some_and(|path| !image::fits_header(path))
    {
        Some("a name is longer than the 1023 bytes that an overlay's header holds")
    } else if disk
        .chain
        .iter()
        .any(|layer| layer.source.path().is_none() || layer.format.is_none())
    {
        Some("its backing chain has an image without path or stated format")
    } else if disk.active().slice.is_some() && matches!(options.clone, CloneMethod::Callback | CloneMethod::Reflink) {
        Some("it is a part of a file only (<slices>), which AUTO and COPY alone can clone")
    } else {
        None
    };
    let hindrance = hindrance.map(Hindrance::unsupported).or(unnamed);
    match (options.method, hindrance) {
        (Method::Auto | Method::Clone, None) => {}
        // A mirror's file would be made here, whereas volumes are the daemon's.
        (Method::Auto, Some(_)) if !volumes => return Ok(Method::Mirror),
        (Method::Mirror, _) => return Ok(Method::Mirror),
        (Method::Auto | Method::Clone, Some(hindrance)) => {
            return Err(hindrance.refuse(what, "cannot be cloned", "use MIRROR"));
        }
        (Method::Backup | Method::Rebase, _) => {
            return Err(error(
                ErrorCode::InvalidArgument,
                format!("{what}: a migration is made by CLONE or MIRROR; ask for one of them or AUTO"),
            ));
        }
    }
    if options.clone == CloneMethod::Callback && options.clone_callback.is_none() {
        return Err(error(ErrorCode::InvalidArgument, "CALLBACK needs a function; pass one"));
    }
    Ok(Method::Clone)
}
