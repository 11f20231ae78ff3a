// SPDX-License-Identifier: LGPL-2.1-or-later
//! What goes wrong, and when it makes no sense.

use std::fmt;
use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;

use super::Result;
use super::agent::{Agent, signal};
use super::operation::{Kind, Operation};
use super::proxy::Proxy;
use super::stand::{DOMAIN, Place, Stand};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    AgentKilled,
    AgentTerminated,
    QemuKilled,
    DaemonKilled,
    GuestReset,
    GuestShutdown,
    GuestPaused,
    GuestAgentHangs,
    GuestAgentGone,
    DestinationFull,
    DestinationFails,
    DestinationHangs,
    DestinationDeleted,
    ScratchFull,
    SourceFails,
    ConnectionCut,
    SnapshotUnseen,
    SnapshotUnseenByAgent,
    SnapshotUnseenByAll,
    PivotUnseen,
    CommitUnseen,
    GuardKilled,
    AgentAndGuardKilled,
}

pub const FAULTS: [Fault; 23] = [
    Fault::AgentKilled,
    Fault::AgentTerminated,
    Fault::QemuKilled,
    Fault::DaemonKilled,
    Fault::GuestReset,
    Fault::GuestShutdown,
    Fault::GuestPaused,
    Fault::GuestAgentHangs,
    Fault::GuestAgentGone,
    Fault::DestinationFull,
    Fault::DestinationFails,
    Fault::DestinationHangs,
    Fault::DestinationDeleted,
    Fault::ScratchFull,
    Fault::SourceFails,
    Fault::ConnectionCut,
    Fault::SnapshotUnseen,
    Fault::SnapshotUnseenByAgent,
    Fault::SnapshotUnseenByAll,
    Fault::PivotUnseen,
    Fault::CommitUnseen,
    Fault::GuardKilled,
    Fault::AgentAndGuardKilled,
];

/// What a fault is inflicted on.
pub struct Scene<'a> {
    pub stand: &'a Stand,
    pub agent: &'a Agent,
    pub destinations: &'a [String],
    pub proxy: Option<&'a Proxy>,
    /// The new libvirtd did not know the domain any more, and its QEMU was ended.
    pub lost: bool,
    /// A command to the guest that may be answered late or never.
    pub pending: Option<Child>,
}

impl Fault {
    /// Where the operation writes to.
    pub fn place(self, operation: Operation) -> Place {
        match self {
            Self::DestinationFull => Place::Small,
            Self::ScratchFull => Place::Scratch,
            // Who reads a backup hangs in the kernel there, and a rebase reaches no export.
            Self::DestinationFails | Self::DestinationHangs if matches!(operation.method, "backup" | "rebase") => {
                Place::Device
            }
            Self::DestinationFails | Self::DestinationHangs => Place::Export,
            Self::SourceFails => Place::FromExport,
            _ => Place::Bed,
        }
    }

    /// The rule by which there is no such cell.
    pub fn left_out(self, operation: Operation) -> Option<&'static str> {
        match self {
            Self::DestinationFull
            | Self::DestinationFails
            | Self::DestinationHangs
            | Self::DestinationDeleted
            | Self::SourceFails
                if operation.kind == Kind::Freeze =>
            {
                Some("a freeze has no images")
            }
            Self::GuardKilled | Self::AgentAndGuardKilled if operation.kind != Kind::Freeze => {
                Some("an operation's window is short, and tests/guard has it")
            }
            Self::DestinationFails | Self::DestinationHangs if operation.method == "clone" => {
                Some("a clone's destination is a file on the source's own storage; what fails there is the source")
            }
            Self::ScratchFull if operation.method != "backup" => Some("only a backup has scratch files"),
            _ if operation.method != "clone" && (self.is_in_snapshot() || self == Self::CommitUnseen) => {
                Some("only a clone puts the guest on an overlay")
            }
            Self::PivotUnseen if operation.kind != Kind::Migrate => Some("only a migration pivots to its copy"),
            _ => None,
        }
    }

    /// Whether only root's operations can come through it.
    pub fn takes_root(self, operation: Operation) -> bool {
        match self {
            // Only root can give another user's QEMU the socket of a backup.
            _ if operation.method == "backup" => true,
            // The images of a domain that is off belong to another user.
            Self::QemuKilled | Self::GuestShutdown | Self::SnapshotUnseenByAll => true,
            // The proxy's socket is root's, and so is the other storage.
            Self::ConnectionCut => true,
            _ => self.place(operation) != Place::Bed,
        }
    }

    /// The rule by which it is left out at a point. `passed` are the points before.
    pub fn left_out_at(self, operation: Operation, passed: &[String]) -> Option<&'static str> {
        let gone_past = |point: &str| passed.iter().any(|passed| passed == point);
        match (self, operation.kind) {
            (Self::DestinationDeleted, Kind::Migrate) if gone_past("before PivotCopy") => {
                Some("after the pivot the destination is the guest's only disk: to delete it is the loss itself")
            }
            (Self::DestinationDeleted, Kind::Snapshot) if gone_past("before Verify") => {
                Some("after the last check the image is its owner's, who may delete it")
            }
            _ => None,
        }
    }

    /// The rule by which it is left out at a moment after the last of these points: the operation may be past the next ones.
    pub fn left_out_during(self, operation: Operation, passed: &[String]) -> Option<&'static str> {
        let waits = passed.iter().any(|passed| passed == "before AwaitJobs");
        match (self, operation.kind) {
            (Self::DestinationDeleted, Kind::Migrate) if waits => {
                Some("once the copy runs, the pivot may come at any moment")
            }
            _ => self.left_out_at(operation, passed),
        }
    }

    /// The one point that it is about.
    pub fn only_at(self, operation: Operation) -> Option<&'static str> {
        match (self, operation.kind) {
            (_, Kind::Snapshot) if self.is_in_snapshot() => Some("before FixPoint"),
            (_, Kind::Migrate) if self.is_in_snapshot() => Some("before TakeSnapshot"),
            (Self::PivotUnseen, _) => Some("before PivotCopy"),
            (Self::CommitUnseen, Kind::Snapshot) => Some("before PivotCommit(0)"),
            (Self::CommitUnseen, Kind::Migrate) => Some("before PivotCommit"),
            _ => None,
        }
    }

    /// How long it lasts while the agent goes on; none: until the agent has ended.
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Self::GuestPaused => Some(Duration::from_secs(2)),
            // Longer than the freeze limit.
            Self::GuestAgentHangs | Self::GuestAgentGone => Some(Duration::from_secs(4)),
            Self::DestinationHangs => Some(hang()),
            Self::ConnectionCut => Some(Duration::from_millis(500)),
            _ => None,
        }
    }

    pub fn kills_guest(self) -> bool {
        matches!(
            self,
            Self::QemuKilled | Self::GuestReset | Self::GuestShutdown | Self::SnapshotUnseenByAll
        )
    }

    /// QEMU takes the snapshot, and libvirtd dies before it notes that.
    fn is_in_snapshot(self) -> bool {
        matches!(
            self,
            Self::SnapshotUnseen | Self::SnapshotUnseenByAgent | Self::SnapshotUnseenByAll
        )
    }

    /// Writes of the guest may fail: QEMU reads a block before a backup lets the guest overwrite it, and the rest of a cluster
    /// before an overlay takes the guest's first write to it; and after a migration's pivot the destination is its disk. What its
    /// file system makes of that is the guest's, and a restart ends it.
    pub fn may_fail_guest(self) -> bool {
        matches!(self, Self::SourceFails | Self::DestinationFails)
    }

    pub fn inflict(self, scene: &mut Scene<'_>) -> Result<()> {
        let stand = scene.stand;
        match self {
            Self::AgentKilled => scene.agent.signal(Signal::KILL),
            Self::AgentTerminated => scene.agent.signal(Signal::TERM),
            Self::QemuKilled => signal(stand.qemu()?, Signal::KILL),
            Self::DaemonKilled => {
                stand.restart_daemon()?;
                scene.lost = stand.end_if_lost()?;
            }
            Self::GuestReset => drop(stand.virsh(&["reset", DOMAIN])?),
            // A frozen guest does it once it is thawed.
            Self::GuestShutdown => scene.pending = Some(stand.control_later(&["poweroff"])?),
            Self::GuestPaused => drop(stand.virsh(&["suspend", DOMAIN])?),
            Self::GuestAgentHangs => stand.control(&["agent", "stop"])?,
            Self::GuestAgentGone => stand.control(&["agent", "kill"])?,
            Self::DestinationFull | Self::ScratchFull => stand.fill()?,
            Self::DestinationFails => stand.fail_writes(true)?,
            Self::SourceFails => stand.fail_reads(true)?,
            Self::DestinationHangs => signal(stand.server(), Signal::STOP),
            Self::DestinationDeleted => {
                for destination in scene.destinations {
                    // It may not be made yet, or be removed already.
                    let _ = std::fs::remove_file(destination);
                }
            }
            Self::ConnectionCut => scene.proxy.ok_or("no proxy")?.cut(),
            Self::SnapshotUnseen => stand.snapshot_unseen()?,
            Self::SnapshotUnseenByAgent => {
                scene.agent.signal(Signal::KILL);
                stand.snapshot_unseen()?;
            }
            Self::SnapshotUnseenByAll => {
                scene.agent.signal(Signal::KILL);
                stand.snapshot_unseen()?;
                // The guest goes on for a while.
                std::thread::sleep(Duration::from_secs(2));
                signal(stand.qemu()?, Signal::KILL);
            }
            Self::PivotUnseen => stand.pivot_unseen()?,
            Self::CommitUnseen => stand.commit_unseen()?,
            Self::GuardKilled => scene.agent.kill_guard(),
            Self::AgentAndGuardKilled => {
                scene.agent.kill_guard();
                scene.agent.signal(Signal::KILL);
            }
        }
        Ok(())
    }

    /// As before, as far as that can be.
    pub fn undo(self, scene: &mut Scene<'_>) -> Result<()> {
        let stand = scene.stand;
        match self {
            // It may go on by itself just now.
            Self::GuestPaused if stand.domain_state()? == "paused" => drop(stand.virsh(&["resume", DOMAIN])),
            Self::GuestAgentHangs => stand.control(&["agent", "cont"])?,
            Self::GuestAgentGone => stand.control(&["agent", "start"])?,
            Self::DestinationFull | Self::ScratchFull => stand.make_room()?,
            Self::DestinationFails => stand.fail_writes(false)?,
            Self::SourceFails => stand.fail_reads(false)?,
            Self::DestinationHangs => signal(stand.server(), Signal::CONT),
            Self::ConnectionCut => scene.proxy.ok_or("no proxy")?.repair(),
            _ => {}
        }
        Ok(())
    }
}

/// How long a destination hangs: a minute in the whole matrix.
pub fn hang() -> Duration {
    let seconds = std::env::var("LIVEDISK_FAULTS_HANG")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AgentKilled => "agent SIGKILL",
            Self::AgentTerminated => "agent SIGTERM",
            Self::QemuKilled => "QEMU SIGKILL",
            Self::DaemonKilled => "libvirtd SIGKILL and restart",
            Self::GuestReset => "guest reset",
            Self::GuestShutdown => "guest shutdown",
            Self::GuestPaused => "guest paused",
            Self::GuestAgentHangs => "guest agent hangs",
            Self::GuestAgentGone => "guest agent gone",
            Self::DestinationFull => "destination full",
            Self::DestinationFails => "destination EIO",
            Self::DestinationHangs => "destination hangs",
            Self::DestinationDeleted => "destination deleted",
            Self::ScratchFull => "scratch full",
            Self::SourceFails => "source EIO",
            Self::ConnectionCut => "connection cut",
            Self::SnapshotUnseen => "libvirtd SIGKILL in the snapshot",
            Self::SnapshotUnseenByAgent => "agent and libvirtd SIGKILL in the snapshot",
            Self::SnapshotUnseenByAll => "agent and libvirtd and QEMU SIGKILL in the snapshot",
            Self::PivotUnseen => "libvirtd SIGKILL in the pivot",
            Self::CommitUnseen => "libvirtd SIGKILL in the pivot of the commit",
            Self::GuardKilled => "guard SIGKILL",
            Self::AgentAndGuardKilled => "agent and guard SIGKILL",
        })
    }
}
