// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is seen of a migration.

use crate::operation::course::procedure::Model;
use crate::operation::parts::overlay;
use crate::operation::state::{Image, Job, Mark};
use crate::operation::types::Method;

/// The live disk chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Chain {
    Source,
    Overlay,
    Moved,
    Destination,
    /// Source or Overlay as libvirt has it, which did not live to note the pivot; but the guest writes to the destination.
    Astray,
    /// Source as libvirt has it, which did not live to note the snapshot; but the guest writes to A'.
    Unnamed,
    /// None of these: somebody else changed it.
    Foreign,
}

/// What libvirt, the file system and the record say now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Observed {
    pub(crate) method: Method,
    pub(crate) finish: bool,
    pub(crate) alive: bool,
    /// No instance of the domain runs.
    pub(crate) off: bool,
    /// `Copying`: the destination is whole, or is being mirrored to. `Fixing`: about to pivot. `Fixed`: pivoted.
    pub(crate) mark: Mark,
    pub(crate) chain: Chain,
    /// A', whose commit into A is the way back.
    pub(crate) overlay: overlay::Seen,
    /// B.
    pub(crate) destination: SeenDestination,
    /// B', whose commit into B is the way forward.
    pub(crate) destination_overlay: overlay::Seen,
    pub(crate) copy: SeenCopy,
    /// The guest's disk is throttled by us.
    pub(crate) throttled: bool,
    pub(crate) source: Source,
}

/// What is seen of B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SeenDestination {
    pub(crate) image: Image,
    /// It holds all of A, and is on disk.
    pub(crate) cloned: bool,
    /// Contents are to be compared yet.
    pub(crate) verify: bool,
}

/// What is seen of the copy (of A' to B', or of A to B), as long as the chain rests on A, and of its pivot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SeenCopy {
    pub(crate) job: Job,
    pub(crate) limited: bool,
    /// After a pivot that libvirt knows nothing of, what brings the guest back to where libvirt has it; completed: its former
    /// place is still open.
    pub(crate) way_back: Job,
    /// Of a domain that is off: on which side of the pivot the guest's last writes are is known.
    pub(crate) settled: bool,
}

/// What is to become of A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Kept,
    ToBeDeleted,
    Deleted,
}

impl Observed {
    /// Before the first step.
    pub(super) fn at_start(method: Method, limited: bool, verify: bool, delete_source: bool) -> Self {
        Self {
            method,
            finish: false,
            alive: true,
            off: false,
            mark: Mark::Absent,
            chain: Chain::Source,
            overlay: overlay::Seen::NOTHING,
            destination: SeenDestination {
                image: Image::Missing,
                cloned: false,
                verify,
            },
            destination_overlay: overlay::Seen::NOTHING,
            copy: SeenCopy {
                job: Job::NotStarted,
                limited,
                way_back: Job::NotStarted,
                settled: true,
            },
            throttled: false,
            source: if delete_source {
                Source::ToBeDeleted
            } else {
                Source::Kept
            },
        }
    }

    pub(super) fn chain_before_copy(&self) -> Chain {
        match self.method {
            Method::Mirror => Chain::Source,
            _ => Chain::Overlay,
        }
    }

    pub(super) fn chain_after_copy(&self) -> Chain {
        match self.method {
            Method::Mirror => Chain::Destination,
            _ => Chain::Moved,
        }
    }

    pub(super) fn chain_after_commit(&self) -> Chain {
        match self.chain {
            Chain::Moved => Chain::Destination,
            // What it was committed into is not known.
            Chain::Foreign => Chain::Foreign,
            _ => Chain::Source,
        }
    }

    /// The overlay that the guest is on.
    pub(super) fn active_overlay(&mut self) -> &mut overlay::Seen {
        if self.passed_no_return() {
            &mut self.destination_overlay
        } else {
            &mut self.overlay
        }
    }

    /// That of the overlay that the guest is on.
    pub(super) fn commit(&self) -> Job {
        if self.passed_no_return() {
            self.destination_overlay.commit
        } else {
            self.overlay.commit
        }
    }

    pub(super) fn jobs(&mut self) -> [&mut Job; 3] {
        [
            &mut self.copy.job,
            &mut self.overlay.commit,
            &mut self.destination_overlay.commit,
        ]
    }
}
