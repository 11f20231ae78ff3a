// SPDX-License-Identifier: LGPL-2.1-or-later
//! One disk of a guest and its block job.

use std::thread;
use std::time::{Duration, Instant};

use super::guest::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::{BlockJobInfo, BlockJobType, Copy, IoTune};

/// How long a commit that was half begun may take to end.
const HALF_BEGUN: Duration = Duration::from_secs(5);

/// A disk of a guest, named by its target (`vda`).
pub(crate) struct BlockDevice<'a> {
    guest: &'a Guest,
    target: &'a str,
}

impl Guest {
    pub(crate) fn get_block_device<'a>(&'a self, target: &'a str) -> BlockDevice<'a> {
        BlockDevice { guest: self, target }
    }
}

impl BlockDevice<'_> {
    fn what(&self, what: &str) -> String {
        format!("{what} disk '{}' of domain '{}'", self.target, self.guest.name())
    }

    /// Starts a mirror onto an image that exists (virDomainBlockCopy).
    /// `shown` is the destination's name.
    pub(crate) fn copy(&self, copy: &Copy<'_>, shown: &str) -> Result<()> {
        self.guest.call(
            &self.what(&format!("cannot start the copy to '{shown}' of")),
            |domain| domain.block_copy(copy),
        )
    }

    /// Asks the job to end (virDomainBlockJobAbort, ASYNC). A READY mirror ends whole, any other job is dropped.
    pub(crate) fn abort_job(&self) -> Result<()> {
        self.guest.call(&self.what("cannot end the block job of"), |domain| {
            domain.block_job_abort(self.target)
        })
    }

    /// The job as it runs; `None` where there is none.
    pub(crate) fn get_job_info(&self) -> Result<Option<BlockJobInfo>> {
        self.guest
            .call(&self.what("cannot ask for the block job of"), |domain| {
                domain.block_job_info(self.target)
            })
    }

    /// Bytes per second, 0 for no limit.
    pub(crate) fn set_job_speed(&self, bandwidth: u64) -> Result<()> {
        self.guest
            .call(&self.what("cannot set the bandwidth of the copy of"), |domain| {
                domain.block_job_set_speed(self.target, bandwidth)
            })
    }

    /// The virtual size in bytes.
    pub(crate) fn get_capacity(&self) -> Result<u64> {
        self.guest.call(&self.what("cannot read the size of"), |domain| {
            domain.capacity(self.target)
        })
    }

    /// The guest's write requests so far.
    pub(crate) fn get_write_requests(&self) -> Result<i64> {
        self.guest.call(&self.what("cannot read the statistics of"), |domain| {
            domain.write_requests(self.target)
        })
    }

    /// The limits of the guest's own I/O, as they are now.
    pub(crate) fn get_io_tune(&self) -> Result<IoTune> {
        self.guest.call(&self.what("cannot read the I/O limits of"), |domain| {
            domain.io_tune(self.target)
        })
    }

    /// Sets them in the running guest; its definition stays.
    pub(crate) fn set_io_tune(&self, tune: &IoTune) -> Result<()> {
        self.guest.call(&self.what("cannot set the I/O limits of"), |domain| {
            domain.set_io_tune(self.target, tune)
        })
    }

    /// The READY job's destination becomes the disk (virDomainBlockJobAbort, PIVOT).
    pub(crate) fn pivot(&self) -> Result<()> {
        self.guest
            .call(&self.what("cannot pivot"), |domain| domain.block_job_pivot(self.target))
    }

    /// libvirt shows a job that does not exist, and lets no caller start, end or pivot one on the disk.
    pub(crate) fn dead_job(&self) -> Error {
        Error::new(
            ErrorCode::JobFailed,
            format!(
                "{}: libvirtd died as it ended, and does not know that it did; the guest is well and nothing is lost, but \
                 libvirt will not touch the disk before the domain was off; then recover (livedisk recover)",
                self.what("libvirt shows a block job that there is not on")
            ),
        )
    }

    /// Commits the active layer into the one below it (virDomainBlockCommit).
    pub(crate) fn commit(&self) -> Result<()> {
        let start = || {
            self.guest
                .call(&self.what("cannot start the active commit of"), |domain| {
                    domain.active_commit(self.target)
                })
        };
        match start() {
            Err(error) if self.has_half_begun_commit()? => {
                log::info!("{error}; ending it first");
                self.abort_job()?;
                let deadline = Instant::now() + HALF_BEGUN;
                while self.get_job_info()?.is_some() && Instant::now() < deadline {
                    thread::sleep(HALF_BEGUN / 100);
                }
                start()
            }
            other => other,
        }
    }

    /// A libvirtd that died as it began a commit knows the job when it is back, and has no `<mirror>` to pivot to.
    fn has_half_begun_commit(&self) -> Result<bool> {
        let config = self.guest.get_config(false)?;
        let has_mirror = config.disk(self.target).is_some_and(|disk| disk.mirror.is_some());
        let job = self.get_job_info()?.map(|info| info.kind);
        Ok(!has_mirror && job == Some(BlockJobType::ActiveCommit))
    }
}
