// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is seen of a migration: libvirt shows one chain and one block job, and each part gets what is its own.

use super::engine::Engine;
use super::seen::Chain;
use crate::error::Result;
use crate::libvirt::BlockJobType;
use crate::operation::parts::pivot::Side;
use crate::operation::parts::tracked::Shown;
use crate::operation::state::{Job, Mark};
use crate::operation::types::Method;

/// Which of the two jobs the disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Copy,
    Commit,
}

impl Engine {
    pub(super) fn observe_disk(&mut self, finish: bool, last: Chain) -> Result<Chain> {
        let config = self.plan.guest.get_config(false)?;
        let disk = config.disk(&self.plan.target);
        let chain = self.classify(disk);
        let commits = self.overlay.commit.is_started() || self.destination_overlay.commit.is_started();
        if !self.copy.job.is_started() && !commits {
            return Ok(chain);
        }
        let shown = Shown::look(&self.site, disk)?;
        let which = match (shown.info.map(|info| info.kind), shown.job()) {
            (None, None) => None,
            (Some(BlockJobType::ActiveCommit), _) | (_, Some("active-commit")) => Some(Which::Commit),
            // After the pivot libvirt says no longer what it was, and the chain not yet what it is.
            (_, Some("")) if commits => Some(Which::Commit),
            _ => Some(Which::Copy),
        };
        let of = |wanted| (which == Some(wanted)).then_some(&shown);
        if let (Some(shown), Some(disk), Chain::Source | Chain::Overlay) = (of(Which::Copy), disk, chain) {
            self.pivot.observe_nodes(disk, shown);
        }
        let has_moved = chain != last;
        if has_moved && self.copy.job.is_pivoting() {
            self.copy.job.complete();
        }
        if self.copy.job.is_under_way() && !self.copy.observe(of(Which::Copy), finish)? && !has_moved {
            self.copy.job.vanished(self.site.failure_of("copy"));
        }
        for overlay in [&mut self.overlay, &mut self.destination_overlay] {
            if has_moved {
                // The other side of the point of no return has its own commit.
                overlay.forget_commit();
            } else {
                overlay.observe_commit(of(Which::Commit))?;
            }
        }
        Ok(chain)
    }

    /// Where it was not observed what became of the snapshot, the guest may be on the overlay.
    pub(super) fn look_above(&mut self, chain: Chain, alive: bool, off: bool) -> Result<Chain> {
        if chain == Chain::Overlay {
            self.overlay.snapshot_was_seen(true);
        }
        if chain != Chain::Source || !self.overlay.is_unnamed(alive, off)? {
            return Ok(chain);
        }
        // What libvirt was just noting as QEMU was asked it has noted now.
        let config = self.plan.guest.get_config(off)?;
        Ok(match self.classify(config.disk(&self.plan.target)) {
            Chain::Source => Chain::Unnamed,
            other => other,
        })
    }

    /// Where a pivot was about to be made and libvirt knows of no copy any more, QEMU has the last word.
    pub(super) fn look_after_pivot(&mut self, chain: Chain, copy: Job) -> Result<(Chain, Job)> {
        let is_over = matches!(copy, Job::NotStarted | Job::Completed | Job::Failed);
        let copied = match self.plan.method {
            Method::Mirror => Chain::Source,
            _ => Chain::Overlay,
        };
        if !is_over || chain != copied || self.ties.journal.mark() != Mark::Fixing {
            return Ok((chain, Job::NotStarted));
        }
        Ok(match self.pivot.look()? {
            Side::AsShown => (chain, Job::NotStarted),
            Side::AsShownButOpen => (chain, Job::Completed),
            Side::Astray(way_back) => (Chain::Astray, way_back),
            Side::Foreign => (Chain::Foreign, Job::NotStarted),
        })
    }
}
