// SPDX-License-Identifier: LGPL-2.1-or-later
//! A mirror of one disk: brought to READY, helped where it does not catch up with the guest, and ended or pivoted to.

use crate::error::{ErrorCode, Result};
use crate::libvirt::{BlockCopy, RebaseCopy};
use crate::operation::parts::site::Site;
use crate::operation::parts::tracked::{End, Shown, Tracked, is_drained};
use crate::operation::state::{Job, Remedy};

pub(in crate::operation) struct Mirror {
    site: Site,
    pub(in crate::operation) job: Tracked,
    bandwidth: u64,
    /// The caller's bandwidth limit is still on.
    pub(in crate::operation) limited: bool,
    /// The caller allows that the guest's writes wait for the copy.
    may_block: bool,
    /// What it is to be ended by, where libvirt does not end it whole.
    to_end: Option<String>,
}

/// Where to, as virDomainBlockCopy takes it.
pub(in crate::operation) struct To<'a> {
    pub(in crate::operation) xml: &'a str,
    pub(in crate::operation) shown: &'a str,
    pub(in crate::operation) shallow: bool,
    /// The image is there already.
    pub(in crate::operation) reuse: bool,
}

impl Mirror {
    pub(in crate::operation) fn new(site: &Site, bandwidth: u64, may_block: bool) -> Self {
        Self {
            site: site.clone(),
            job: Tracked::default(),
            bandwidth,
            limited: bandwidth > 0,
            may_block,
            to_end: None,
        }
    }

    /// Another process started it, or did not.
    pub(in crate::operation) fn find(&mut self, runs: bool, (done, total): (u64, u64)) {
        self.job = Tracked::found(runs);
        (self.job.done, self.job.total) = (done, total);
    }

    // Observing.

    pub(in crate::operation) fn seen(&self, may_throttle: bool, finish: bool) -> Job {
        let may_block = self.may_block && !self.job.write_blocking;
        let remedy = Remedy::choose(self.limited, may_block, may_throttle);
        self.job.copy_job(remedy, finish)
    }

    /// `shown`: the disk's block job, where that is this mirror; false where it is not. Of one that may wait for its caller
    /// (`finish` is not asked for) no more is expected than READY.
    pub(in crate::operation) fn observe(&mut self, shown: Option<&Shown>, finish: bool) -> Result<bool> {
        let is_ready = shown.is_some_and(Shown::is_ready);
        self.job.observe(&self.site, shown, |sample| {
            !is_drained(sample.remainder()) && (finish || !is_ready)
        })
    }

    // Stepping.

    pub(in crate::operation) fn start(&mut self, to: &To<'_>) -> Result<()> {
        self.site.forget_events();
        let copy = BlockCopy {
            destination: to.shown,
            destination_xml: to.xml,
            bandwidth: if self.limited { self.bandwidth } else { 0 },
            shallow: to.shallow,
            reuse_existing: to.reuse,
            write_blocking: self.job.write_blocking,
        };
        let started = self.site.device().copy(&copy);
        self.begun(started)
    }

    /// By virDomainBlockRebase, which has no write-blocking mode.
    pub(in crate::operation) fn start_by_rebase(&mut self, to: RebaseCopy<'_>) -> Result<()> {
        self.site.forget_events();
        let bandwidth = if self.limited { self.bandwidth } else { 0 };
        let started = self.site.device().copy_by_rebase(&RebaseCopy { bandwidth, ..to });
        self.begun(started)
    }

    fn begun(&mut self, started: Result<()>) -> Result<()> {
        // A call that was cut off may have begun the job all the same; the record says that it is ours.
        let is_cut_off = matches!(&started, Err(error) if error.code() == ErrorCode::NoConnection);
        self.job.begin(started.is_ok() || is_cut_off);
        started
    }

    pub(in crate::operation) fn lift_limit(&mut self) -> Result<()> {
        log::info!("disk '{}': lifting our bandwidth limit", self.site.target);
        self.site.device().set_job_speed(0)?;
        self.limited = false;
        self.job.watch_anew();
        Ok(())
    }

    pub(in crate::operation) fn restart_write_blocking(&mut self) -> Result<()> {
        log::warn!(
            "disk '{}': the mirror does not catch up; starting it again in write-blocking mode, which slows the guest",
            self.site.target
        );
        self.site.device().abort_job()?;
        self.job.ask(End::Restart);
        self.job.watch_anew();
        Ok(())
    }

    /// Before [`end`](Self::end), which there is no time to be lost in.
    pub(in crate::operation) fn prepare_end(&mut self) -> Result<()> {
        self.to_end = self.site.device().get_mirror_to_end()?;
        Ok(())
    }

    /// READY, it is asked to end whole.
    pub(in crate::operation) fn end(&self) -> Result<()> {
        self.site.device().end_mirror(self.to_end.as_deref())
    }

    pub(in crate::operation) fn abort(&mut self) -> Result<()> {
        self.site.device().abort_job()?;
        self.job.ask(End::Abort);
        Ok(())
    }

    pub(in crate::operation) fn pivot(&mut self) -> Result<()> {
        self.site.device().pivot()?;
        self.job.ask(End::Pivot);
        Ok(())
    }
}
