// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the command takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use livedisk::{CloneMethod, Method, Quiesce};

use crate::complete;
use crate::units;

pub const EXIT_STATUS: &str = "\
Exit status:
    0  done
    1  the operation failed and was rolled back
    2  the command line is wrong
    3  libvirt cannot be reached
    4  no such domain or disk, or the domain is not running
    5  busy: a block job, backup or operation is in the way
    6  the destination: it exists, has the wrong size or format, is full, or may not be written
    7  no guest agent answers, or freeze or thaw failed
    8  this libvirt, QEMU, disk or format cannot do it
    9  no such operation, or it is over
   10  done, but the result could not be written to standard output (a full disk)
  130  cancelled: by SIGINT, SIGTERM or SIGHUP, or by livedisk cancel

The first such signal rolls the operation back and waits until that is done. The second ends
the command at once and leaves things as they are; livedisk recover cleans up.";

pub const JSON: &str = "\
With --json there is one JSON object on standard output and no progress. Fields may be added;
those that are there stay. A point in time is there in nanoseconds since 1970, as a number and, for
readers whose numbers are exact below 2^53 only, as a string; and in RFC 3339, local time.
  snapshot
    domain, method, consistency (filesystem, crash), filesystems_frozen,
    point_in_time_ns (since 1970), point_in_time_ns_string, point_in_time, freeze_ns and pause_ns (0: not), bytes_copied, elapsed_ns,
    full_disks (copied whole although --since was asked for), remarks: [text] (what was done otherwise than asked for, and why),
    disks: [{target, destination}], warnings: [name]
  migrate
    domain, method, moved_at_ns, moved_at_ns_string, moved_at, bytes_copied, elapsed_ns,
    old_image (null: on no file or block device), old_image_removed,
    disks: [{target, destination}], warnings: [name]
  The names of warnings: unidentified_image (nothing showed whether an image is the one that QEMU has open under its name),
    label_lost (the new image has no <seclabel> of its own), zeroes_undetected (no detect_zeroes until the next start),
    source_kept (it was to be removed, and is no file, or another one by now)
  snapshot --dry-run, migrate --dry-run
    domain, method, plan: [text], remarks: [text], disks: [{target, destination}]
  attach
    what snapshot or migrate has, and for both:
    domain, target, kind (snapshot, migration), method, consistency, filesystems_frozen, point_in_time_ns,
    point_in_time_ns_string, point_in_time, freeze_ns, pause_ns, bytes_copied, elapsed_ns, full_disks,
    remarks
  cancel
    domain, cancelled: [id]
  recover
    domains, thawed, completed, taken_back, failed (counts),
    operations: [{domain, id, kind (snapshot, migration, freeze), method, mark, owner, thawed,
    plan: [text], settlement (completed, taken_back, left_alone, failed), reason}]
    and error beside them where one failed
  freeze, thaw
    domain, filesystems_frozen or filesystems_thawed
  status
    operations: [{domain, id, kind (snapshot, migration, freeze), method, mark (begun, copying, fixing, fixed),
    started_ns, started_ns_string, started, owner_host, owner_process, orphaned,
    disks: [{target, destination, format, bytes_done, bytes_total}]}]
    (bytes are null where no block job runs)
  checkpoints
    domain, checkpoints: [{name, parent (null: the oldest), created_ns, created_ns_string, created,
    changed_bytes (null: not known), usable, why_not, disks: [{target, changed_bytes, usable, why_not}]}], oldest first
  checkpoints --delete
    domain, deleted
  completion, man
    text
  any failure, exit status 2 included; on its second signal the command says TIMEOUT
    error: {code (NO_SPACE, ...: the C header's LIVEDISK_ERR_*), number, message, libvirt_code}";

/// Live snapshots and live storage migration of running libvirt/QEMU guests.
#[derive(Debug, Parser)]
#[command(name = "livedisk", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Arguments {
    /// libvirt's URI [default: LIBVIRT_DEFAULT_URI, else libvirt's own choice]
    #[arg(
        short,
        long,
        value_name = "URI",
        global = true,
        help_heading = "Options of every command"
    )]
    pub connect: Option<String>,
    /// One JSON object on standard output
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// Say on standard error each step, in words; twice: for debugging, everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Options of every command")]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Nothing but the result is wanted.
    pub fn is_quiet(&self) -> bool {
        let quiet = match &self.command {
            Command::Snapshot(snapshot) => snapshot.run.quiet,
            Command::Migrate(migrate) => migrate.run.quiet,
            Command::Attach(attach) => attach.quiet,
            _ => false,
        };
        self.json || quiet
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Snapshot(Snapshot),
    Migrate(Migrate),
    Attach(Attach),
    Cancel(Cancel),
    Recover(Recover),
    Status(Status),
    Checkpoints(Checkpoints),
    Freeze(Freeze),
    Thaw(Thaw),
    /// Print the completion of a shell's command line
    Completion {
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Write livedisk.1, livedisk-snapshot.1, ..., livedisk-json.5 and livedisk-guard.8 into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Take a live snapshot of a running domain's disks
///
/// All disks named get one point in time. When the command ends, the images are complete and standalone.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Snapshot {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// A disk and where its image goes: a file, a block device, or an nbd:// or nbd+unix:// URI
    #[arg(long = "disk", value_name = "TARGET=DESTINATION", required_unless_present = "to", value_parser = disk, add = complete::disks())]
    pub disks: Vec<Disk>,
    /// All disks, into files of this directory: vda.qcow2 and so on, by target and format; without drives for CD-ROMs
    /// and floppies
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "disks", value_parser = absolute_path)]
    pub to: Option<String>,
    /// The images' format, qcow2 or raw, of all disks or of one [default: the disk's own; raw on a device or export]
    #[arg(long = "format", value_name = "[TARGET=]FORMAT", value_parser = format)]
    pub formats: Vec<Format>,
    /// The destinations hold images of the right format and size already; overwrite them
    #[arg(long)]
    pub reuse_existing: bool,
    /// How
    #[arg(long, value_enum, default_value_t)]
    pub method: MethodName,
    /// Whether the guest's file systems are frozen for the point in time
    #[arg(long, value_enum, default_value_t)]
    pub quiesce: QuiesceName,
    /// How long they may be frozen: 500ms, 10s, 1m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    pub freeze_limit: Option<Duration>,
    /// With clone: how the image's file is cloned
    #[arg(long, value_enum, default_value_t)]
    pub clone: CloneName,
    /// Keep the backing file instead of making a standalone image
    #[arg(long)]
    pub shallow: bool,
    /// Check the images when they are complete
    #[arg(long)]
    pub verify: bool,
    /// Compress the images (qcow2, zstd); by backup
    #[arg(long)]
    pub compress: bool,
    /// With backup: where the scratch files go, which grow by what the guest overwrites [default: beside each disk's image]
    #[arg(long, value_name = "DIRECTORY", value_parser = absolute_path)]
    pub scratch: Option<String>,
    /// Make this checkpoint at the point in time, for the next increment to begin at; by backup
    #[arg(long, value_name = "NAME")]
    pub checkpoint: Option<String>,
    /// Copy only what changed since this checkpoint; by backup
    #[arg(long, value_name = "NAME")]
    pub since: Option<String>,
    /// The image that the increment of a disk rests on: that of the backup at whose point in time --since was made. Raw if it
    /// is a block device or its name ends in .raw, else qcow2
    #[arg(long = "backing", value_name = "TARGET=PATH", requires = "since", value_parser = backing)]
    pub backings: Vec<Disk>,
    /// Copy a disk whole whose changes since the checkpoint are not known for certain, and say so
    #[arg(long, requires = "since")]
    pub full_if_needed: bool,
    #[command(flatten)]
    pub run: Run,
}

/// Move a running domain's disk to other storage
///
/// The guest runs meanwhile. When the command ends, the disk is on its destination. The old image is left in place, unused.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Migrate {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// The disk, such as vda
    #[arg(add = complete::targets())]
    pub target: String,
    /// Where it goes: a file that does not exist yet, a block device, or an nbd:// or nbd+unix:// URI
    #[arg(value_parser = absolute)]
    pub destination: String,
    /// The image's format, qcow2 or raw [default: the disk's own; raw on a device or export]
    #[arg(long, value_parser = ["qcow2", "raw"])]
    pub format: Option<String>,
    /// How
    #[arg(long, value_enum, default_value_t)]
    pub method: MigrateMethodName,
    /// How the image's file is cloned
    #[arg(long, value_enum, default_value_t)]
    pub clone: CloneName,
    /// Compare the clone with the source before the guest depends on it (not with mirror)
    #[arg(long)]
    pub verify: bool,
    /// Remove the old image when the disk has moved
    #[arg(long)]
    pub delete_source: bool,
    #[command(flatten)]
    pub run: Run,
}

/// What every operation takes.
#[derive(Debug, Args)]
pub struct Run {
    /// An encrypted disk may be written in plain
    #[arg(long)]
    pub allow_plaintext: bool,
    /// Copy at most so many bytes per second, over all disks: 500K, 100M or 100MiB, 1.5G, powers of 1024; 100MB, of 1000 [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub bandwidth: Option<u64>,
    /// Let the guest's writes wait for the copy, so that it ends however much the guest writes
    #[arg(long)]
    pub write_blocking: bool,
    /// Check everything, print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// No progress, only the result
    #[arg(short, long, visible_alias = "no-progress")]
    pub quiet: bool,
}

/// Resume an operation whose process has ended, and complete it
///
/// The first signal rolls it back, as in the command that began it.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Attach {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// A disk of the operation, such as vda
    #[arg(add = complete::targets())]
    pub target: String,
    /// No progress, only the result
    #[arg(short, long, visible_alias = "no-progress")]
    pub quiet: bool,
}

/// Cancel an operation and roll it back, whichever process runs it
///
/// If a process runs the operation, that process is asked to roll it back; it looks for requests once a second. A freeze is
/// thawed, whichever process holds it. The command ends when the operation is rolled back. If the process does not answer in
/// time, the request is withdrawn and the error names the process.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Cancel {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// A disk of the operation, such as vda [default: all operations of the domain]
    #[arg(add = complete::targets())]
    pub target: Option<String>,
    /// How long to wait for the answer of the process that runs the operation: 10s, 1m
    #[arg(long, value_name = "TIME", value_parser = units::time, default_value = "30s")]
    pub timeout: Duration,
}

/// Clean up what processes that have ended left
///
/// Guests that they froze are thawed, operations past their point of no return are completed, and all others are rolled
/// back, on domains that run and on those that do not. Operations whose process lives are left alone, so it is safe at any
/// time.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Recover {
    /// The domain's name or UUID [default: all domains]
    #[arg(add = complete::domains())]
    pub domain: Option<String>,
    /// Say what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Show the operations that run or were left by a process that has ended
#[derive(Debug, Args)]
#[command(after_long_help = JSON)]
pub struct Status {
    /// The domain's name or UUID [default: all domains]
    #[arg(add = complete::domains())]
    pub domain: Option<String>,
}

/// Show or delete the checkpoints that a domain's increments begin at
///
/// One that is not usable has no bitmap left, or an inconsistent one, as after a QEMU that was killed: delete it, and take a
/// full backup.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Checkpoints {
    /// The domain's name or UUID
    pub domain: String,
    /// Delete this one, with its bitmaps; its child notes what changed since its parent
    #[arg(long, value_name = "NAME")]
    pub delete: Option<String>,
}

/// Freeze a running domain's file systems around somebody else's snapshot
///
/// The command ends when they are frozen. They stay frozen until livedisk thaw, or until the limit has passed. A process of
/// the command stays until then; if it is killed, the guest is thawed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Freeze {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// How long they may be frozen: 500ms, 10s [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    pub limit: Option<Duration>,
    /// Be the process that stays
    #[arg(long, hide = true)]
    pub hold: bool,
}

/// End a freeze of livedisk freeze
///
/// It fails with exit status 7 if the guest was thawed before: what was taken meanwhile is not consistent.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Thaw {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub target: String,
    pub destination: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// None: of all disks.
    pub target: Option<String>,
    pub name: String,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum MethodName {
    /// The cheapest that cannot hurt the guest
    #[default]
    Auto,
    /// Content as of the end; a bad destination never reaches the guest
    Mirror,
    /// Content as of the start; makes checkpoints, increments and compressed images; a bad destination never reaches the guest
    Backup,
    /// As mirror, by an older call of libvirt, for which a persistent domain is undefined for a moment
    Rebase,
    /// Content as of the start, by cloning the image while an overlay takes the guest's writes; a bad destination never
    /// reaches the guest
    Clone,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum MigrateMethodName {
    /// By a clone if the destination can be made so, else by a mirror
    #[default]
    Auto,
    /// Clone the image's file while an overlay takes the guest's writes
    Clone,
    /// One full copy, to whatever destination and format
    Mirror,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum CloneName {
    /// By shared blocks if the file system can, else by a copy
    #[default]
    Auto,
    /// By shared blocks, or fail
    Reflink,
    /// By a copy that keeps holes
    Copy,
    /// By the daemon, as volumes of its storage pools
    Volume,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum QuiesceName {
    /// If a guest agent answers
    #[default]
    Prefer,
    /// Or fail
    Require,
    /// Do not
    None,
}

impl From<MethodName> for Method {
    fn from(name: MethodName) -> Self {
        match name {
            MethodName::Auto => Self::Auto,
            MethodName::Mirror => Self::Mirror,
            MethodName::Backup => Self::Backup,
            MethodName::Rebase => Self::Rebase,
            MethodName::Clone => Self::Clone,
        }
    }
}

impl From<MigrateMethodName> for Method {
    fn from(name: MigrateMethodName) -> Self {
        match name {
            MigrateMethodName::Auto => Self::Auto,
            MigrateMethodName::Clone => Self::Clone,
            MigrateMethodName::Mirror => Self::Mirror,
        }
    }
}

impl From<CloneName> for CloneMethod {
    fn from(name: CloneName) -> Self {
        match name {
            CloneName::Auto => Self::Auto,
            CloneName::Reflink => Self::Reflink,
            CloneName::Copy => Self::Copy,
            CloneName::Volume => Self::Volume,
        }
    }
}

impl From<QuiesceName> for Quiesce {
    fn from(name: QuiesceName) -> Self {
        match name {
            QuiesceName::Prefer => Self::Prefer,
            QuiesceName::Require => Self::Require,
            QuiesceName::None => Self::None,
        }
    }
}

/// At the first '=': a path may have more of them.
fn disk(text: &str) -> Result<Disk, String> {
    let (target, destination) = text
        .split_once('=')
        .filter(|(target, destination)| !target.is_empty() && !destination.is_empty())
        .ok_or("expected TARGET=DESTINATION, such as vda=/backup/guest.qcow2")?;
    Ok(Disk {
        target: target.to_owned(),
        destination: absolute(destination)?,
    })
}

fn backing(text: &str) -> Result<Disk, String> {
    let (target, path) = text
        .split_once('=')
        .filter(|(target, path)| !target.is_empty() && !path.is_empty())
        .ok_or("expected TARGET=PATH, such as vda=/backup/sunday/vda.qcow2")?;
    Ok(Disk {
        target: target.to_owned(),
        destination: absolute_path(path)?,
    })
}

/// QEMU's working directory is not ours.
fn absolute(destination: &str) -> Result<String, String> {
    if ["nbd://", "nbd+unix://"]
        .iter()
        .any(|scheme| destination.starts_with(scheme))
    {
        return Ok(destination.to_owned());
    }
    absolute_path(destination)
}

fn absolute_path(path: &str) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    path.into_os_string()
        .into_string()
        .map_err(|_| "the working directory's name is not UTF-8; give an absolute path".to_owned())
}

fn format(text: &str) -> Result<Format, String> {
    let (target, name) = match text.split_once('=') {
        Some((target, name)) => (Some(target.to_owned()), name),
        None => (None, text),
    };
    if !["qcow2", "raw"].contains(&name) {
        return Err("expected qcow2 or raw, or one of these for one disk, such as vda=raw".into());
    }
    Ok(Format {
        target,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_disk_is_split_at_the_first_equals_sign_and_its_path_made_absolute() {
        let found = disk("vda=/a=b,c").unwrap();
        assert_eq!((found.target.as_str(), found.destination.as_str()), ("vda", "/a=b,c"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(disk("vda=x").unwrap().destination, here.join("x").to_str().unwrap());
        assert_eq!(
            disk("vda=nbd+unix:///?socket=/s").unwrap().destination,
            "nbd+unix:///?socket=/s"
        );
        for wrong in ["vda", "=/a", "vda=", ""] {
            assert!(disk(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_format_is_for_all_disks_or_for_one() {
        assert_eq!(format("raw").unwrap().target, None);
        assert_eq!(format("vdb=qcow2").unwrap().target.as_deref(), Some("vdb"));
        assert!(format("vmdk").is_err());
    }
}
