// SPDX-License-Identifier: LGPL-2.1-or-later
//! What every operation asks before it begins.

use std::sync::Arc;

use crate::driver::{AgentStatus, Guest};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Identity, Server};
use crate::libvirt::JobStats;
use crate::libvirt::xml::{Device, Disk, DomainXml, NbdServer, Source, Target};
use crate::operation::ownership::record::{Kind, Record};
use crate::operation::state::Mark;
use crate::operation::types::Method;

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

/// Asked for first, because the error codes of a busy domain say many things. `config` is the live definition as it was just
/// read. `migrated` is the one disk that is wanted, by a migration: migrations of other disks are not in its way.
pub(in crate::operation) fn must_be_free(guest: &Guest, config: &DomainXml, migrated: Option<&str>) -> Result<()> {
    must_have_no_operation(guest, config, migrated)?;
    if guest.get_job_stats()? != JobStats::None {
        let name = guest.name();
        return Err(error(
            ErrorCode::Busy,
            format!(
                "domain '{name}' has a backup, migration or save running; wait for it or end it (virsh domjobabort)"
            ),
        ));
    }
    Ok(())
}

/// Of livedisk's own, on a domain that may be off.
pub(in crate::operation) fn must_have_no_operation(
    guest: &Guest,
    config: &DomainXml,
    migrated: Option<&str>,
) -> Result<()> {
    let name = guest.name();
    for record in Record::all_beside(guest, config)? {
        let record = record.map_err(|failure| {
            error(
                ErrorCode::Busy,
                format!("domain '{name}' is in use by another livedisk: {}", failure.message()),
            )
        })?;
        if record.has_lapsed() {
            continue;
        }
        let is_elsewhere = |target| record.disks.iter().all(|disk| disk.target != target);
        if record.kind != Kind::Migration || !migrated.is_some_and(is_elsewhere) {
            return Err(in_use(guest, &record));
        }
    }
    Ok(())
}

/// The guest over a connection of its own where another operation runs on it: libvirt takes our callbacks once a domain and
/// connection.
pub(in crate::operation) fn apart_if_in_use(guest: &Arc<Guest>) -> Result<Arc<Guest>> {
    let others = Record::all(guest)?.into_iter().flatten();
    if others.filter(|record| !record.owner.is_dead()).count() > 0 {
        return guest.apart().map(Arc::new);
    }
    Ok(Arc::clone(guest))
}

/// Who is in the way, and what to do about it.
pub(in crate::operation) fn in_use(guest: &Guest, record: &Record) -> Error {
    let (name, kind, owner) = (guest.name(), record.kind.name(), &record.owner);
    if is_left_frozen(guest, record) {
        return error(
            ErrorCode::Busy,
            format!(
                "the guest of domain '{name}' is left frozen, and its writes wait: run 'livedisk recover {name}' now, which \
                 thaws it and cleans up; a {kind} of livedisk (operation {}) was left by {owner}, and its guard \
                 ended too",
                record.id
            ),
        );
    }
    let (state, advice) = if record.kind == Kind::Freeze && !owner.is_dead() {
        (
            "is held by",
            "thaw it (livedisk thaw), or wait until its limit has passed",
        )
    } else if record.kind == Kind::Freeze {
        ("was left by", "let recover thaw it (livedisk recover)")
    } else if owner.is_dead() {
        (
            "was left by",
            "attach to it, or let recover clean it up (livedisk recover)",
        )
    } else {
        ("is run by", "wait for it, or cancel it (livedisk cancel)")
    };
    error(
        ErrorCode::Busy,
        format!(
            "domain '{name}' has a {kind} of livedisk under way (operation {}), which {state} {owner}; {advice}",
            record.id
        ),
    )
}

/// Its process died within the freeze window, and so did its guard.
fn is_left_frozen(guest: &Guest, record: &Record) -> bool {
    record.owner.is_dead()
        && record.live
        && record.mark == Mark::Fixing
        && guest.get_agent_status() == AgentStatus::Frozen
}

/// The images that the guest itself uses, whole chains included: no destination may be one of them.
pub(in crate::operation) fn images_in_use(config: &DomainXml) -> Vec<Identity> {
    let layers = config.disks.iter().flat_map(|disk| &disk.chain);
    layers
        .filter_map(|layer| Identity::of_path(layer.source.path()?))
        .collect()
}

pub(in crate::operation) fn find_disk<'a>(guest: &Guest, config: &'a DomainXml, target: &str) -> Result<&'a Disk> {
    let name = guest.name();
    config.disk(target).ok_or_else(|| {
        error(
            ErrorCode::NoDisk,
            format!(
                "domain '{name}' has no disk '{}'; see 'virsh domblklist {name}'",
                target.escape_debug()
            ),
        )
    })
}

pub(in crate::operation) fn must_be_known_format(format: String, what: &str) -> Result<String> {
    if format == "qcow2" || format == "raw" {
        return Ok(format);
    }
    Err(error(
        ErrorCode::Unsupported,
        format!(
            "{what}: format '{}' is not supported; use qcow2 or raw",
            format.escape_debug()
        ),
    ))
}

pub(in crate::operation) fn must_have_no_job(guest: &Guest, disk: &Disk, what: &str) -> Result<()> {
    let (name, target) = (guest.name(), disk.target.as_str());
    if disk.mirror.is_none() && guest.get_block_device(target).get_job_info()?.is_none() {
        return Ok(());
    }
    Err(error(
        ErrorCode::Busy,
        format!("{what} has a block job running; wait for it or end it (virsh blockjob {name} {target} --abort)"),
    ))
}

pub(in crate::operation) fn must_be_copyable(disk: &Disk, what: &str) -> Result<()> {
    let unsupported = |why: &str| Err(error(ErrorCode::Unsupported, format!("{what} {why}")));
    match disk.device {
        Device::Disk => {}
        Device::Lun => return unsupported("is a LUN passed through to the guest, which QEMU cannot copy"),
        Device::Cdrom | Device::Floppy if disk.active().source == Source::Empty => {
            return Err(error(
                ErrorCode::NoDisk,
                format!("{what} is an empty drive; there is nothing to copy"),
            ));
        }
        Device::Cdrom | Device::Floppy => {}
    }
    if disk.active().source == Source::Empty {
        return Err(error(
            ErrorCode::NoDisk,
            format!("{what} has no medium; there is nothing to copy"),
        ));
    }
    if disk.transient {
        return unsupported("is transient; libvirt allows no block job on it");
    }
    if disk.shareable {
        return unsupported("is shareable; other guests may write to it, so a copy has no point in time");
    }
    Ok(())
}

/// QEMU opens a raw image by its name once more when a mirror ends, and aborts, guest and all, where it may not. With
/// CLONE it opens any image again for the commit, and only where libvirt hands that over first does it get there.
pub(in crate::operation) fn must_stay_writable(
    guest: &Guest,
    disk: &Disk,
    method: Method,
    advice: &str,
    what: &str,
) -> Result<()> {
    let layer = disk.active();
    // The device that QEMU has may be another node than the host's, in a /dev of QEMU's own.
    let (Source::File(path), false, true) = (&layer.source, disk.readonly, guest.host().is_local()) else {
        return Ok(());
    };
    let danger = match method {
        Method::Mirror | Method::Rebase if layer.format.as_deref() == Some("raw") => "abort at the end of the mirror",
        Method::Clone => "have no way back from the overlay",
        _ => return Ok(()),
    };
    let Some((user, group)) = guest.get_qemu_user()? else {
        return Ok(());
    };
    if !image::is_closed_to(&user, &group, path) {
        return Ok(());
    }
    let path = path.escape_debug();
    Err(error(
        ErrorCode::Permission,
        format!(
            "{what}: its image '{path}' now has an owner or mode that does not let QEMU's user {user} open it for \
             writing again, and so QEMU would {danger}; give it back (chown {user}:{group} '{path}'){advice}"
        ),
    ))
}

/// A destination as it is passed to libvirt.
pub(in crate::operation) fn libvirt_target(destination: &Destination, is_device: bool) -> Target {
    match destination {
        Destination::Path(path) if is_device => Target::Block(path.clone()),
        Destination::Path(path) => Target::File(path.clone()),
        Destination::Nbd { export, .. } => Target::Nbd {
            export: export.name.clone(),
            server: match &export.server {
                Server::Tcp { host, port } => NbdServer::Tcp {
                    host: host.clone(),
                    port: *port,
                },
                Server::Unix { socket } => NbdServer::Unix { socket: socket.clone() },
            },
        },
    }
}

/// Whether a job that writes there writes to this destination.
pub(in crate::operation) fn is_at(destination: &Destination, source: &Source) -> bool {
    match (destination, source) {
        (Destination::Path(path), source) => source.path() == Some(path),
        (
            Destination::Nbd { .. },
            Source::Nbd {
                export,
                server: Some(server),
            },
        ) => {
            let (export, server) = (export.clone(), server.clone());
            libvirt_target(destination, false) == Target::Nbd { export, server }
        }
        _ => false,
    }
}

/// What the image of a disk is called until the record knows it.
pub(in crate::operation) fn staging(destination: &Destination, id: &str, target: &str) -> String {
    beside_as(destination.as_written(), &format!(".livedisk-{id}-{target}.part"))
}

/// A file name beside `path` that belongs to this operation.
pub(in crate::operation) fn beside(path: &str, id: &str, role: &str) -> String {
    beside_as(path, &format!(".livedisk-{id}-{role}.qcow2"))
}

fn beside_as(path: &str, name: &str) -> String {
    image::directory_of(path).join(name).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_of_the_same_name_elsewhere_is_another() {
        let at = |port, uri| {
            let server = NbdServer::Tcp {
                host: "::1".into(),
                port,
            };
            let export = String::new();
            let source = Source::Nbd {
                export,
                server: Some(server),
            };
            is_at(&Destination::parse(uri).unwrap(), &source)
        };
        assert!(at(10809, "nbd://[::1]"));
        assert!(!at(10810, "nbd://[::1]"));
        assert!(!at(10809, "nbd://localhost"));
        assert!(!at(10809, "nbd+unix:///?socket=/s"));
        assert!(!at(10809, "nbd://[::1]/named"));
    }
}
