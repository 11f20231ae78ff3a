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
    4  there is no such domain or disk, or the domain is not running
    5  busy: a block job, backup or operation is in the way
    6  the destination exists, has the wrong size or format, is full, or cannot be written
    7  no guest agent answers, or freeze or thaw failed
    8  this libvirt, QEMU, disk or format cannot do it
    9  there is no such operation, or it is over
   10  done, but the result could not be written to standard output (a full disk)
  130  cancelled: by SIGINT, SIGTERM or SIGHUP, or by livedisk cancel

The first of these signals rolls the operation back; the command ends when that is done. The second
signal ends the command at once and rolls nothing back; livedisk recover cleans up.";

pub const JSON: &str = "\
With --json the command prints one JSON object on standard output, and no progress. Later releases
may add fields, and keep those listed here. Each time has three forms: nanoseconds since 1970 as a
number, the same as a string (for readers whose numbers are exact below 2^53 only), and local time
in RFC 3339.
  snapshot
    domain, method, consistency (filesystem, crash), filesystems_frozen,
    point_in_time_ns, point_in_time_ns_string, point_in_time, freeze_ns (0: not frozen),
    pause_ns (0: not paused), bytes_copied, elapsed_ns,
    full_disks (copied whole although --since was given),
    remarks: [text] (what differs from the request, and why), disks: [{target, destination}],
    warnings: [name]
  migrate
    domain, method, moved_at_ns, moved_at_ns_string, moved_at, bytes_copied, elapsed_ns,
    old_image (null: neither a file nor a block device), old_image_removed,
    disks: [{target, destination}], remarks: [text], warnings: [name]
  warnings are named:
    unidentified_image  it could not be confirmed that QEMU has the image of this name open
    label_lost          the new image lacks the <seclabel> that the old one had
    zeroes_undetected   detect_zeroes is off until the domain's next start
    source_kept         the old image was to be removed but was kept: it is not a file, or its name
                        now leads to another file
  snapshot --dry-run, migrate --dry-run
    domain, method, plan: [text], remarks: [text], disks: [{target, destination}]
  attach
    the fields of snapshot or of migrate, and always:
    domain, target, kind (snapshot, migration), method, consistency, filesystems_frozen,
    point_in_time_ns, point_in_time_ns_string, point_in_time, freeze_ns, pause_ns, bytes_copied,
    elapsed_ns, full_disks, remarks, disks, warnings
  cancel
    domain, cancelled: [id]
  recover
    domains, thawed, completed, taken_back, failed (counts),
    operations: [{domain, id, kind (snapshot, migration, freeze), method, mark, owner, thawed,
    plan: [text], settlement (completed, taken_back, left_alone, failed), reason}]
    and also error if any of them failed
  freeze, thaw
    domain, filesystems_frozen or filesystems_thawed
  status
    operations: [{domain, id, kind (snapshot, migration, freeze), method,
    mark (begun, copying, fixing, fixed),
    started_ns, started_ns_string, started, owner_host, owner_process, orphaned,
    disks: [{target, destination, format, bytes_done, bytes_total}]}]
    (the bytes are null if no block job runs)
  checkpoints
    domain, checkpoints: [{name, parent (null: the oldest), created_ns, created_ns_string, created,
    changed_bytes (null: not known), usable, why_not (null: usable),
    disks: [{target, changed_bytes, usable, why_not}]}], oldest first
  checkpoints --delete
    domain, deleted
  completion, man
    plain text, not JSON
  any failure, including exit status 2
    error: {code (NO_SPACE, ...: LIVEDISK_ERR_* of the C header; TIMEOUT after a second signal),
    number, message, libvirt_code}";

/// Live snapshots and live storage migration of running libvirt/QEMU guests.
#[derive(Debug, Parser)]
#[command(name = "livedisk", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Arguments {
    /// libvirt connection URI [default: LIBVIRT_DEFAULT_URI, else libvirt's own default]
    #[arg(short, long, value_name = "URI", global = true, help_heading = "Global options")]
    pub connect: Option<String>,
    /// Print one JSON object on standard output
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Describe each step on standard error; twice: print debugging output
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
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
    /// Print a completion script for a shell
    Completion {
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all pages into a directory
    Man {
        /// Write livedisk.1, livedisk-snapshot.1, ..., livedisk-json.5 and livedisk-guard.8 into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Take a live snapshot of a running domain's disks
///
/// All images have the content of one point in time. When the command ends, they are complete and standalone.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Snapshot {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// A disk and the destination of its image: a new file, a block device, or an nbd:// or nbd+unix:// URI
    #[arg(long = "disk", value_name = "TARGET=DESTINATION", required_unless_present = "to", value_parser = disk, add = complete::disks())]
    pub disks: Vec<Disk>,
    /// Copy all disks into this directory, as TARGET.FORMAT (vda.qcow2). CD-ROM and floppy drives are left out
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "disks", value_parser = absolute_path)]
    pub to: Option<String>,
    /// Image format, qcow2 or raw, for all disks or for one [default: the disk's own; raw on a block device or NBD export]
    #[arg(long = "format", value_name = "[TARGET=]FORMAT", value_parser = format)]
    pub formats: Vec<Format>,
    /// Overwrite destinations that already hold an image of the right format and size
    #[arg(long)]
    pub reuse_existing: bool,
    /// How the images are made
    #[arg(long, value_enum, default_value_t)]
    pub method: MethodName,
    /// Whether to freeze the guest's file systems at the point in time
    #[arg(long, value_enum, default_value_t)]
    pub quiesce: QuiesceName,
    /// How long the guest may be frozen: 500ms, 10s, 1m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    pub freeze_limit: Option<Duration>,
    /// With --method clone: how to clone the image file
    #[arg(long, value_enum, default_value_t)]
    pub clone: CloneName,
    /// Keep the backing file instead of making a standalone image
    #[arg(long)]
    pub shallow: bool,
    /// Check the images when they are complete, and compare their content where possible
    #[arg(long)]
    pub verify: bool,
    /// Compress the images (qcow2, zstd); implies --method backup
    #[arg(long)]
    pub compress: bool,
    /// With --method backup: directory of the scratch files, which grow as the guest overwrites data [default: that of each disk's image]
    #[arg(long, value_name = "DIRECTORY", value_parser = absolute_path)]
    pub scratch: Option<String>,
    /// Create this checkpoint at the point in time, as the start of a later increment; implies --method backup
    #[arg(long, value_name = "NAME")]
    pub checkpoint: Option<String>,
    /// Copy only what changed since this checkpoint; implies --method backup
    #[arg(long, value_name = "NAME")]
    pub since: Option<String>,
    /// The backing file of a disk's increment: the image of the backup that made the --since checkpoint. It is taken as raw if
    /// it is a block device or its name ends in .raw, else as qcow2
    #[arg(long = "backing", value_name = "TARGET=PATH", requires = "since", value_parser = backing)]
    pub backings: Vec<Disk>,
    /// Copy a disk whole, with a warning, if its changes since the checkpoint are not known for certain
    #[arg(long, requires = "since")]
    pub full_if_needed: bool,
    #[command(flatten)]
    pub run: Run,
}

/// Move a running domain's disk to other storage
///
/// The guest keeps running. When the command ends, the guest uses the destination. The old image is left in place, unused.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Migrate {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// The disk, such as vda
    #[arg(add = complete::targets())]
    pub target: String,
    /// Where the disk moves: a new file, a block device, or an nbd:// or nbd+unix:// URI
    #[arg(value_parser = absolute)]
    pub destination: String,
    /// Image format, qcow2 or raw [default: the disk's own; raw on a block device or NBD export]
    #[arg(long, value_parser = ["qcow2", "raw"])]
    pub format: Option<String>,
    /// How the disk is moved
    #[arg(long, value_enum, default_value_t)]
    pub method: MigrateMethodName,
    /// With --method clone: how to clone the image file
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
    /// Allow an encrypted disk to be written in plain text
    #[arg(long)]
    pub allow_plaintext: bool,
    /// Copy at most this many bytes per second, over all disks. K, M, G and KiB, MiB, GiB are powers of 1024, KB, MB, GB of 1000: 100M, 1.5G [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub bandwidth: Option<u64>,
    /// Let the guest's writes wait for the copy, so that the copy completes however much the guest writes
    #[arg(long)]
    pub write_blocking: bool,
    /// Check everything, print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result only, no progress
    #[arg(short, long, visible_alias = "no-progress")]
    pub quiet: bool,
}

/// Resume an operation whose process has ended, and complete it
///
/// A signal rolls the operation back, as in the command that started it.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Attach {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// A disk of the operation, such as vda
    #[arg(add = complete::targets())]
    pub target: String,
    /// Print the result only, no progress
    #[arg(short, long, visible_alias = "no-progress")]
    pub quiet: bool,
}

/// Cancel an operation and roll it back, whichever process runs it
///
/// If a process runs the operation, the command asks that process to roll it back; it checks for requests once a second. A
/// freeze is thawed, whichever process holds it. The command ends when the operation is rolled back. If the process does not
/// answer in time, the command withdraws the request and names the process.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Cancel {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// A disk of the operation, such as vda [default: all operations of the domain]
    #[arg(add = complete::targets())]
    pub target: Option<String>,
    /// How long to wait for an answer from the process that runs the operation: 10s, 1m
    #[arg(long, value_name = "TIME", value_parser = units::time, default_value = "30s")]
    pub timeout: Duration,
}

/// Clean up operations whose process has ended
///
/// Frozen guests are thawed, operations past their point of no return are completed, and all others are rolled back, whether
/// or not the domain is running. Operations whose process is alive are left alone, so the command is safe at any time.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Recover {
    /// The domain's name or UUID [default: all domains]
    #[arg(add = complete::domains())]
    pub domain: Option<String>,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// List the operations on one domain or all, including those whose process has ended
#[derive(Debug, Args)]
#[command(after_long_help = JSON)]
pub struct Status {
    /// The domain's name or UUID [default: all domains]
    #[arg(add = complete::domains())]
    pub domain: Option<String>,
}

/// List or delete the checkpoints of a domain, where increments begin
///
/// A checkpoint is not usable if one of its bitmaps is missing, or inconsistent because QEMU was killed. Delete it, and take a
/// full backup.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Checkpoints {
    /// The domain's name or UUID
    pub domain: String,
    /// Delete this checkpoint and its bitmaps; its child then records what changed since its parent
    #[arg(long, value_name = "NAME")]
    pub delete: Option<String>,
}

/// Freeze a running domain's file systems while something else takes a snapshot
///
/// The command returns when the file systems are frozen. They stay frozen until livedisk thaw or until the limit has passed. A
/// background process holds the freeze; if it is killed, the guest is thawed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS, after_long_help = format!("{EXIT_STATUS}\n\n{JSON}"))]
pub struct Freeze {
    /// The domain's name or UUID
    #[arg(add = complete::domains())]
    pub domain: String,
    /// How long the guest may stay frozen: 500ms, 10s [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    pub limit: Option<Duration>,
    /// Be the background process
    #[arg(long, hide = true)]
    pub hold: bool,
}

/// Thaw a domain that livedisk freeze has frozen
///
/// If the guest was thawed too early, the exit status is 7, and a snapshot taken meanwhile is not consistent.
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
    /// The cheapest method that cannot hurt the guest
    #[default]
    Auto,
    /// Content as of the end; a destination that fails or hangs never reaches the guest
    Mirror,
    /// Content as of the start; can make checkpoints, increments and compressed images; a destination that fails or hangs never
    /// reaches the guest
    Backup,
    /// Like mirror, by an older libvirt call, for which a persistent domain is undefined for a moment
    Rebase,
    /// Content as of the start, by cloning the image while the guest writes to an overlay; a destination that fails or hangs
    /// never reaches the guest
    Clone,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum MigrateMethodName {
    /// clone if the destination is a file that can be cloned to, else mirror
    #[default]
    Auto,
    /// Clone the image file while the guest writes to an overlay
    Clone,
    /// One full copy, to any destination and format
    Mirror,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum CloneName {
    /// Share blocks if the file system can, else copy
    #[default]
    Auto,
    /// Share blocks, or fail
    Reflink,
    /// Copy, keeping holes
    Copy,
    /// Let the daemon clone, as volumes of its storage pools
    Volume,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum QuiesceName {
    /// Freeze if the guest agent answers
    #[default]
    Prefer,
    /// Freeze, or fail before anything is started
    Require,
    /// Do not freeze
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
