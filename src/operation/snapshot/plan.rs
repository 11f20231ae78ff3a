// SPDX-License-Identifier: LGPL-2.1-or-later
//! Everything that can be found out and refused before the first side effect.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::disk::{Changes, PlannedDisk};
use super::shallow::backing_kept;
use crate::driver::{AgentStatus, Guest, Job, by_name};
use crate::error::{Error, ErrorCode, Result};
use crate::guard;
use crate::image::{Destination, Identity, Place};
use crate::libvirt::State;
use crate::libvirt::xml::{Disk, DomainXml, Source};
use crate::operation::course::shared::Shared;
use crate::operation::notice::Notice;
use crate::operation::parts::window::Window;
use crate::operation::plan::planned::{Asked, Planned};
use crate::operation::plan::preflight::{
    find_disk, images_in_use, must_be_copyable, must_be_free, must_be_known_format, must_have_no_job,
    must_stay_writable,
};
use crate::operation::plan::room::must_have_room;
use crate::operation::snapshot::backup::plan as backup;
use crate::operation::snapshot::clone::plan::{Way, choose, takes_no_room};
use crate::operation::snapshot::mirror::plan as mirror;
use crate::operation::snapshot::warnings::warnings;
use crate::operation::types::{CloneMethod, Method, Quiesce, SnapshotDisk, SnapshotOptions, Warnings};

const DEFAULT_FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// A snapshot that may be started.
pub(crate) type Plan = Planned<Request>;

/// What was asked for, and what was decided for it: all that the operation's record keeps of the plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// With CLONE: each disk's way, and how.
    pub(crate) ways: Vec<Way>,
    pub(crate) clone: CloneMethod,
    /// Freeze for the point in time.
    pub(crate) freeze: bool,
    /// A freeze that fails fails the operation.
    pub(crate) freeze_required: bool,
    pub(crate) freeze_limit: Duration,
    /// The guest was paused when the operation was started.
    pub(crate) paused: bool,
    pub(crate) bandwidth: u64,
    pub(crate) shallow: bool,
    /// With REBASE: the domain is defined, and must not be as the mirrors are started.
    #[serde(default)]
    pub(crate) undefine: bool,
    pub(crate) auto_finish: bool,
    pub(crate) verify: bool,
    pub(crate) write_blocking: bool,
    #[serde(default)]
    pub(crate) compress: bool,
    /// With a backup: it is made at the point in time.
    #[serde(default)]
    pub(crate) checkpoint: Option<String>,
    /// With a backup: where its export's socket may be. None of one that release 0.1 began.
    #[serde(default)]
    pub(crate) server: Option<String>,
    pub(crate) disks: Vec<PlannedDisk>,
    /// The disks that a backup leaves out.
    pub(crate) other_disks: Vec<String>,
    #[serde(default)]
    pub(crate) warnings: Warnings,
}

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

impl Plan {
    /// Looks at everything and changes nothing. `config` is the live definition.
    pub(crate) fn new(guest: &Arc<Guest>, config: &DomainXml, options: &SnapshotOptions) -> Result<Self> {
        let name = guest.name().to_owned();
        check_options(options)?;
        check_disk_list(&options.disks)?;
        let paused = match guest.get_power_state()? {
            State::Running => false,
            // Its disks stand as still as they get.
            State::Paused if options.quiesce != Quiesce::Require => true,
            State::Paused => {
                return Err(error(
                    ErrorCode::DomainState,
                    format!(
                        "domain '{name}' is paused, so its file systems cannot be frozen; \
                         resume it, or ask for quiesce PREFER or NONE"
                    ),
                ));
            }
            State::Off => {
                return Err(error(
                    ErrorCode::DomainState,
                    format!("domain '{name}' is not running; a live snapshot needs a running guest, so start it first"),
                ));
            }
        };
        must_be_free(guest, config, None)?;
        let in_use = images_in_use(config);
        let mut disks = options
            .disks
            .iter()
            .map(|wanted| plan_disk(guest, config, wanted, options, &in_use))
            .collect::<Result<Vec<_>>>()?;
        must_differ(&disks)?;
        let (method, ways) = if backup::is_asked_for(options) {
            (Method::Backup, Vec::new())
        } else {
            choose(guest, config, options, &disks)?
        };
        let server = match method {
            Method::Backup => Some(backup::prepare(guest, config, options, &mut disks, &in_use)?),
            _ => None,
        };
        let undefine = match method {
            Method::Mirror => mirror::check(guest, config, &disks).map(|()| false)?,
            Method::Rebase => mirror::prepare_rebase(guest, config, options, &mut disks)?,
            _ => false,
        };
        for planned in &disks {
            let what = format!("disk '{}' of domain '{name}'", planned.target);
            must_stay_writable(
                guest,
                find_disk(guest, config, &planned.target)?,
                method,
                ", or use BACKUP",
                &what,
            )?;
        }
        let copied = disks.iter().enumerate();
        let loads: Vec<_> = copied
            .filter(|(index, disk)| !takes_no_room(ways.get(*index), options, disk))
            .filter_map(|(_, disk)| disk.load(options.shallow))
            .collect();
        must_have_room(&name, &loads)?;
        let freeze = !paused && decide_freeze(guest, config, options.quiesce)?;
        let chosen: HashSet<&str> = disks.iter().map(|disk| disk.target.as_str()).collect();
        let other_disks = config
            .disks
            .iter()
            .filter(|disk| disk.active().source != Source::Empty && !chosen.contains(disk.target.as_str()))
            .map(|disk| disk.target.clone())
            .collect();
        let request = Request {
            method,
            ways,
            clone: options.clone,
            freeze,
            freeze_required: options.quiesce == Quiesce::Require,
            freeze_limit: if options.freeze_limit.is_zero() {
                DEFAULT_FREEZE_LIMIT
            } else {
                options.freeze_limit
            },
            paused,
            bandwidth: match method {
                // They copy one disk after the other.
                Method::Backup | Method::Clone => options.bandwidth,
                _ if options.bandwidth == 0 => 0,
                // The others copy all at once, and each disk gets an equal share.
                _ => (options.bandwidth / disks.len() as u64).max(1),
            },
            shallow: options.shallow,
            undefine,
            auto_finish: options.auto_finish,
            verify: options.verify,
            write_blocking: options.write_blocking,
            compress: options.compress,
            checkpoint: options.checkpoint.clone(),
            server,
            warnings: warnings(guest, config, options, method, &disks)?,
            disks,
            other_disks,
        };
        let plan = Self {
            guest: Arc::clone(guest),
            clone_callback: options.clone_callback.clone(),
            request,
        };
        if plan.freezes() || plan.pauses() || plan.undefine {
            guard::prepare(guest.host())?;
        }
        Ok(plan)
    }
}

impl Plan {
    /// In the window. The agent of a paused guest answers nothing.
    pub(in crate::operation) fn freezes(&self) -> bool {
        self.freeze && !self.paused
    }

    /// Several mirrors end one by one: in a window that does not freeze, the vCPUs are paused for them. The other methods give
    /// all disks one point in time in one call of QEMU's.
    pub(in crate::operation) fn pauses(&self) -> bool {
        matches!(self.method, Method::Mirror | Method::Rebase) && self.disks.len() > 1 && !self.paused
    }

    /// The window in which the disks get their point in time.
    pub(in crate::operation) fn window<'a>(&'a self, shared: &'a Arc<Shared>) -> Window<'a> {
        Window {
            guest: &self.guest,
            shared,
            freeze: self.freezes(),
            freeze_required: self.freeze_required,
            pause_unfrozen: self.pauses(),
            backup: self.method == Method::Backup,
            limit: self.freeze_limit,
        }
    }

    /// The window around `call`, in words.
    pub(in crate::operation) fn window_in_words(&self, call: &str) -> String {
        if self.freezes() {
            format!(
                "freeze the guest's file systems, {call}, thaw them; at most {:?}",
                self.freeze_limit
            )
        } else if self.pauses() {
            format!("pause the guest's vCPUs, {call}, resume them")
        } else {
            format!("{call}, without a freeze")
        }
    }
}

impl Asked for Request {
    fn method(&self) -> Method {
        self.method
    }

    fn targets(&self) -> Vec<&str> {
        self.disks.iter().map(|disk| disk.target.as_str()).collect()
    }

    fn notices(&self) -> Vec<Notice> {
        let mut notices: Vec<_> = self.warnings.into();
        notices.extend(self.disks.iter().flat_map(PlannedDisk::notices));
        notices
    }
}

fn check_options(options: &SnapshotOptions) -> Result<()> {
    let method = options.method;
    backup::check_options(options)?;
    let is_no_mirror = matches!(method, Method::Clone | Method::Rebase) || backup::is_asked_for(options);
    if is_no_mirror && options.write_blocking {
        let why = match method {
            Method::Rebase => "virDomainBlockRebase has no write-blocking mode",
            _ => "WRITE_BLOCKING is about a mirror's convergence",
        };
        return Err(error(
            ErrorCode::InvalidArgument,
            format!("{why}; leave it out, or use MIRROR"),
        ));
    }
    Ok(())
}

fn check_disk_list(disks: &[SnapshotDisk]) -> Result<()> {
    if disks.is_empty() {
        return Err(error(
            ErrorCode::InvalidArgument,
            "no disk is named; name at least one disk target, such as vda",
        ));
    }
    let mut seen = HashSet::new();
    for disk in disks {
        if !seen.insert(disk.target.as_str()) {
            return Err(error(
                ErrorCode::InvalidArgument,
                format!("disk '{}' is named twice; name each disk once", disk.target),
            ));
        }
    }
    Ok(())
}

fn plan_disk(
    guest: &Guest,
    config: &DomainXml,
    wanted: &SnapshotDisk,
    options: &SnapshotOptions,
    in_use: &[Identity],
) -> Result<PlannedDisk> {
    let (name, target) = (guest.name(), wanted.target.as_str());
    let what = format!("disk '{}' of domain '{name}'", target.escape_debug());
    let disk = find_disk(guest, config, target)?;
    must_be_copyable(disk, &what)?;
    let destination = Destination::parse(&wanted.destination)?;
    if !guest.host().is_local() && !matches!(destination, Destination::Nbd { .. }) {
        return Err(error(
            ErrorCode::Unsupported,
            format!("{what}: on a remote connection only nbd:// destinations are supported yet"),
        ));
    }
    if disk.is_encrypted() && !wanted.allow_plaintext {
        return Err(error(
            ErrorCode::Unsupported,
            format!("{what} is encrypted and the copy would be plain text; if that is wanted, set ALLOW_PLAINTEXT"),
        ));
    }
    let block_device = guest.get_block_device(target);
    must_have_no_job(guest, disk, &what)?;
    must_be_seen(guest, disk, options, &what)?;
    let place = destination.look(wanted.reuse_existing, in_use)?;
    let format = choose_format(wanted, disk, &place, &what)?;
    if place == Place::Export && format != "raw" && !wanted.reuse_existing {
        return Err(error(
            ErrorCode::Unsupported,
            format!(
                "{what}: an NBD export is written raw; to write qcow2 into it, create the image there and set REUSE_EXISTING"
            ),
        ));
    }
    let backing = if options.shallow {
        backing_kept(guest, disk, &format, &what)?
    } else {
        None
    };
    Ok(PlannedDisk {
        target: target.to_owned(),
        destination,
        place,
        format,
        size: block_device.get_capacity()?,
        backing,
        reuse: wanted.reuse_existing,
        scratch: None,
        changes: Changes::default(),
        source: by_name(disk.active()),
        layers: disk
            .chain
            .iter()
            .map(by_name)
            .collect::<Option<_>>()
            .unwrap_or_default(),
    })
}

fn choose_format(wanted: &SnapshotDisk, disk: &Disk, place: &Place, what: &str) -> Result<String> {
    let format = match (&wanted.format, place) {
        (Some(format), _) => format.clone(),
        (None, Place::Device | Place::LinkedDevice { .. } | Place::Export) => "raw".to_owned(),
        (None, Place::Free | Place::File) => disk.active().format.clone().ok_or_else(|| {
            error(
                ErrorCode::InvalidArgument,
                format!("{what}: its format is not stated in the domain definition; state the destination's format"),
            )
        })?,
    };
    must_be_known_format(format, what)
}

/// The job copies what the guest has, and what it is compared with is that too.
fn must_be_seen(guest: &Guest, disk: &Disk, options: &SnapshotOptions, what: &str) -> Result<()> {
    let is_backup = backup::is_asked_for(options);
    let job = if is_backup { Job::Backup } else { Job::Mirror };
    guest.must_start_at_device(disk, job, what)?;
    // A backup's image is compared with the export that it was copied from.
    if options.verify
        && !is_backup
        && let Some(hindrance) = guest.why_not_compared(disk)
    {
        return Err(hindrance.refuse(what, "cannot be compared", "leave VERIFY out"));
    }
    Ok(())
}

fn must_differ(disks: &[PlannedDisk]) -> Result<()> {
    for (index, disk) in disks.iter().enumerate() {
        let twin = disks[..index]
            .iter()
            .find(|other| other.destination == disk.destination || other.is_one_file_with(disk));
        if let Some(twin) = twin {
            return Err(error(
                ErrorCode::InvalidArgument,
                format!(
                    "disks '{}' and '{}' have the same destination '{}'; name one for each",
                    twin.target,
                    disk.target,
                    disk.destination.shown()
                ),
            ));
        }
    }
    Ok(())
}

/// Whether the window freezes. REQUIRE that cannot be met fails here, before anything was started.
pub(in crate::operation) fn decide_freeze(guest: &Guest, config: &DomainXml, quiesce: Quiesce) -> Result<bool> {
    if quiesce == Quiesce::None {
        return Ok(false);
    }
    let name = guest.name();
    let status = if config.agent_channel {
        guest.get_agent_status()
    } else {
        AgentStatus::Silent("its definition has no channel for one".into())
    };
    match status {
        AgentStatus::Thawed => Ok(true),
        AgentStatus::Frozen => Err(error(
            ErrorCode::Busy,
            format!(
                "the file systems of domain '{name}' are already frozen, and not by livedisk; wait for whatever froze \
                 them, or thaw them (virsh domfsthaw {name})"
            ),
        )),
        AgentStatus::Silent(why) if quiesce == Quiesce::Require => Err(error(
            ErrorCode::Agent,
            format!(
                "no guest agent answers in domain '{name}': {why}; \
                 start qemu-guest-agent in the guest, or ask for quiesce PREFER or NONE"
            ),
        )),
        AgentStatus::Silent(why) => {
            log::warn!("domain '{name}': no guest agent answers ({why}); the snapshot will be crash-consistent");
            Ok(false)
        }
    }
}
