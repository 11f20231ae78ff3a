// SPDX-License-Identifier: LGPL-2.1-or-later
//! One disk of a guest and its block job.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::guest::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::{Disk, Source};
use crate::libvirt::{BlockCopy, BlockJobInfo, BlockJobType, IoTune, RebaseCopy};

/// How long a commit that was half begun may take to end.
const HALF_BEGUN: Duration = Duration::from_secs(5);

/// Between two looks at a job that is waited for; each is twice as long as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_millis(500);

/// A disk of a guest, named by its target (`vda`). The handle remembers what it asked for last, and so knows how that ends.
///
/// These calls look for no operation of livedisk's on the disk. libvirt refuses a second job on it (`BUSY`); do not end
/// one that is not yours.
///
/// Nova's known faults, and what is done instead:
/// - Nova takes a job that has vanished for complete. Here it is an error, unless the disk's chain shows that the job did
///   its work ([`is_job_complete`](Self::is_job_complete)).
/// - Nova takes 0 of 0, and `cur == end`, for complete. Here a mirror is ready when libvirt says so (`ready='yes'`).
/// - Nova undefines the domain for a copy. That loses a vTPM, and the domain too if nova-compute dies meanwhile. Here every
///   copy is a transient job, and the domain stays defined.
/// - Nova ends a job synchronously, which hangs as long as a destination does. Here the end is requested, and waited for
///   separately ([`wait_for_job`](Self::wait_for_job)), with a limit.
pub struct BlockDevice<'a> {
    guest: &'a Guest,
    target: &'a str,
    asked: Mutex<Option<Asked>>,
}

/// What a job was asked for: by it a completed job is distinguished from a failed one, since libvirt forgets both.
#[derive(Debug, Clone)]
enum Asked {
    /// A mirror or an active commit, which becomes ready and stays so; where it goes, once that was seen.
    Ready(Option<Source>),
    /// A chain like this, when the job ends.
    Chain(Vec<Source>),
    /// This as the active layer.
    Pivot(Source),
    /// No job.
    Abort,
}

impl Guest {
    /// The disk of that target (`vda`). Nothing is looked up: a disk that there is not is an error of the first call.
    pub fn get_block_device<'a>(&'a self, target: &'a str) -> BlockDevice<'a> {
        let asked = Mutex::default();
        BlockDevice {
            guest: self,
            target,
            asked,
        }
    }
}

impl BlockDevice<'_> {
    fn asked(&self) -> Option<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask_for(&self, asked: Option<Asked>) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    fn what(&self, what: &str) -> String {
        format!("{what} disk '{}' of domain '{}'", self.target, self.guest.name())
    }

    /// Starts a mirror of the disk (virDomainBlockCopy with TRANSIENT_JOB). It is complete when it is ready; then
    /// [`abort_job`](Self::abort_job) leaves the copy as it is at that moment, and [`pivot`](Self::pivot) makes it the disk.
    ///
    /// # Errors
    /// `BUSY` where the disk has a job, `UNSUPPORTED`, `PERMISSION`, or what libvirt says.
    pub fn copy(&self, copy: &BlockCopy<'_>) -> Result<()> {
        let what = self.what(&format!("cannot start the copy to '{}' of", copy.destination));
        self.guest.call(&what, |domain| domain.block_copy(self.target, copy))?;
        self.ask_for(Some(Asked::Ready(None)));
        Ok(())
    }

    /// The same by virDomainBlockRebase, of a domain that is not defined.
    pub(crate) fn copy_by_rebase(&self, copy: &RebaseCopy<'_>) -> Result<()> {
        let path = copy.path.escape_debug();
        let what = self.what(&format!("cannot start the copy to '{path}' of"));
        self.guest
            .call(&what, |domain| domain.block_rebase_copy(self.target, copy))?;
        self.ask_for(Some(Asked::Ready(None)));
        Ok(())
    }

    /// Starts to draw what lies between the active layer and `base`, an image of the chain, into the active layer
    /// (virDomainBlockRebase); `None`: everything, so that it rests on nothing. It ends by itself.
    ///
    /// Nova's `copy=True` is [`copy`](Self::copy) here: with virDomainBlockRebase it needs a domain that is not defined. As a whole
    /// snapshot it is [`Method::Rebase`](crate::Method::Rebase), which sees to that.
    ///
    /// # Errors
    /// `BUSY` where the disk has a job, `UNSUPPORTED`, or what libvirt says.
    pub fn rebase(&self, base: Option<&str>) -> Result<()> {
        let mut expected = self.chain()?;
        let kept = match base {
            Some(base) => self.position(&expected, base)?,
            None => expected.len(),
        };
        expected.drain(1..kept.max(1));
        self.guest.call(&self.what("cannot start the rebase of"), |domain| {
            domain.block_rebase(self.target, base)
        })?;
        self.ask_for(Some(Asked::Chain(expected)));
        Ok(())
    }

    /// Asks the job to end (virDomainBlockJobAbort with ASYNC), and returns before it has. A READY mirror ends whole, any
    /// other job is dropped. libvirt before 8.0 drops that, too.
    ///
    /// # Errors
    /// `DOMAIN_STATE` where there is no job, or what libvirt says.
    pub fn abort_job(&self) -> Result<()> {
        self.guest.call(&self.what("cannot end the block job of"), |domain| {
            domain.block_job_abort(self.target)
        })?;
        self.ask_for(Some(Asked::Abort));
        Ok(())
    }

    /// QEMU's name of the READY mirror, where QEMU has to be asked itself to end it whole. libvirt before 8.0 has it dropped
    /// (job-cancel): what the guest wrote last is missing then.
    pub(crate) fn get_mirror_to_end(&self) -> Result<Option<String>> {
        if !self.guest.host().drops_mirrors()? {
            return Ok(None);
        }
        let prefix = format!("copy-{}-", self.target);
        let jobs = self.guest.ask("query-block-jobs")?;
        let mut names = jobs.iter().filter_map(|job| job["device"].as_str());
        match names.find(|name| name.starts_with(&prefix)) {
            Some(name) => Ok(Some(name.to_owned())),
            None => Err(Error::new(
                ErrorCode::JobFailed,
                format!("{}; try again", self.what("QEMU has no mirror of")),
            )),
        }
    }

    /// Asks a READY mirror to end, whole. `job` is what [`get_mirror_to_end`](Self::get_mirror_to_end) said.
    pub(crate) fn end_mirror(&self, job: Option<&str>) -> Result<()> {
        let Some(job) = job else {
            return self.abort_job();
        };
        let command = json!({ "execute": "block-job-cancel", "arguments": { "device": job } });
        self.guest.command(&command)?;
        self.ask_for(Some(Asked::Abort));
        Ok(())
    }

    /// The job as it runs (virDomainGetBlockJobInfo); `None` where there is none. How the last one ended it does not say.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn get_job_info(&self) -> Result<Option<BlockJobInfo>> {
        self.guest.call(&self.what("cannot query the block job of"), |domain| {
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

    /// Asks for the READY job's destination to become the disk (virDomainBlockJobAbort with PIVOT and ASYNC), and returns
    /// before it has. The live and the stored definition name it then.
    ///
    /// # Errors
    /// What libvirt says, also of a job that is not ready.
    pub fn pivot(&self) -> Result<()> {
        self.guest
            .call(&self.what("cannot pivot"), |domain| domain.block_job_pivot(self.target))?;
        self.ask_for(match self.asked() {
            Some(Asked::Ready(Some(to))) => Some(Asked::Pivot(to)),
            _ => None,
        });
        Ok(())
    }

    /// Changes the virtual size (virDomainBlockResize), in bytes. The guest sees it at once.
    ///
    /// # Errors
    /// `BUSY` where the disk has a job, or what libvirt says.
    pub fn resize(&self, size: u64) -> Result<()> {
        self.guest.call(&self.what("cannot resize"), |domain| {
            domain.block_resize(self.target, size)
        })
    }

    /// Whether what this handle asked for last is complete: of [`copy`](Self::copy) and a [`commit`](Self::commit) of the
    /// active layer that it is ready, of all others that the job is over and the disk as asked.
    ///
    /// # Errors
    /// `JOB_FAILED` where the job is over and the disk is not as asked; QEMU's reason is in its log.
    /// `NO_OPERATION` where there is no job and this handle knows of none, so that nothing says how the last one ended.
    pub fn is_job_complete(&self) -> Result<bool> {
        let job = self.get_job_info()?;
        // Asked after the job: what has ended shows in the definition then.
        let disk = self.disk()?;
        let asked = self.asked();
        if let (Some(mirror), None | Some(Asked::Ready(_))) = (&disk.mirror, &asked) {
            if mirror.ready {
                self.ask_for(Some(Asked::Ready(Some(mirror.source.clone()))));
            }
            return Ok(mirror.ready);
        }
        if job.is_some() || disk.mirror.is_some() {
            return Ok(false);
        }
        let chain: Vec<_> = disk.chain.iter().map(|layer| &layer.source).collect();
        let as_asked = match &asked {
            None => {
                return Err(Error::new(
                    ErrorCode::NoOperation,
                    format!(
                        "{}, and how the last one ended is not known; look at the disk itself (virsh domblklist)",
                        self.what("there is no block job on")
                    ),
                ));
            }
            Some(Asked::Abort) => true,
            Some(Asked::Ready(_)) => false,
            Some(Asked::Chain(expected)) => chain == expected.iter().collect::<Vec<_>>(),
            Some(Asked::Pivot(to)) => chain.first() == Some(&to),
        };
        if as_asked {
            return Ok(true);
        }
        Err(Error::new(
            ErrorCode::JobFailed,
            format!(
                "{} vanished before it was complete; the disk is as it was; see QEMU's log for the reason",
                self.what("the block job of")
            ),
        ))
    }

    /// Waits until [`is_job_complete`](Self::is_job_complete), at most for `timeout` (`None`: for ever).
    ///
    /// # Errors
    /// `TIMEOUT`, and the job goes on; else as that call.
    pub fn wait_for_job(&self, timeout: Option<Duration>) -> Result<()> {
        // A time too far to be named is for ever.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut again = FIRST_LOOK;
        while !self.is_job_complete()? {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Error::new(
                    ErrorCode::Timeout,
                    format!(
                        "{} is not complete yet and continues; wait again, or end it",
                        self.what("the block job of")
                    ),
                ));
            }
            thread::sleep(left.map_or(again, |left| left.min(again)));
            again = (again * 2).min(LAST_LOOK);
        }
        Ok(())
    }

    fn disk(&self) -> Result<Disk> {
        let config = self.guest.get_config(false)?;
        config.disk(self.target).cloned().ok_or_else(|| {
            let what = self.what("there is no");
            Error::new(
                ErrorCode::NoDisk,
                format!("{what}; see its disks with 'virsh domblklist'"),
            )
        })
    }

    fn chain(&self) -> Result<Vec<Source>> {
        let layers = self.disk()?.chain.into_iter();
        Ok(layers.map(|layer| layer.source).collect())
    }

    fn position(&self, chain: &[Source], path: &str) -> Result<usize> {
        chain
            .iter()
            .position(|source| source.path() == Some(path))
            .ok_or_else(|| {
                let path = path.escape_debug();
                Error::new(
                    ErrorCode::InvalidArgument,
                    format!(
                        "{}; name one that is",
                        self.what(&format!("'{path}' is not an image of"))
                    ),
                )
            })
    }

    /// libvirt shows a job that does not exist, and lets no caller start, end or pivot one on the disk.
    pub(crate) fn dead_job(&self) -> Error {
        Error::new(
            ErrorCode::JobFailed,
            format!(
                "{}: libvirtd died as the job ended and did not record the end; the guest is well and nothing is lost, but \
                 libvirt will not touch the disk until the domain has been shut off; shut it off, then recover (livedisk \
                 recover)",
                self.what("libvirt shows a block job that no longer exists on")
            ),
        )
    }

    /// Starts to commit `top` (`None`: the active layer) into `base` (`None`: the image right below `top`), both images of
    /// the chain (virDomainBlockCommit). Of the active layer it is complete when it is ready, and ended by
    /// [`pivot`](Self::pivot); any other ends by itself.
    ///
    /// # Errors
    /// `BUSY` where the disk has a job, `UNSUPPORTED`, or what libvirt says.
    pub fn commit(&self, base: Option<&str>, top: Option<&str>) -> Result<()> {
        let asked = match top {
            None => Asked::Ready(None),
            Some(top) => {
                let mut expected = self.chain()?;
                let from = self.position(&expected, top)?;
                let to = base.map_or(Ok(from + 1), |base| self.position(&expected, base))?;
                expected.drain(from..to.max(from));
                Asked::Chain(expected)
            }
        };
        self.start_commit(base, top)?;
        self.ask_for(Some(asked));
        Ok(())
    }

    fn start_commit(&self, base: Option<&str>, top: Option<&str>) -> Result<()> {
        let start = || {
            self.guest.call(&self.what("cannot start the commit of"), |domain| {
                domain.block_commit(self.target, base, top)
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
