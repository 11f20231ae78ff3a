// SPDX-License-Identifier: LGPL-2.1-or-later
//! The domain calls that livedisk makes: `virt`'s own where it has them, `virt-sys` for the rest.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::raw::c_char;
use std::ptr;

use virt::error::Error;
use virt_sys as sys;

use super::params;
use super::stats::{self, BackupEnd, JobStats};

/// What a domain does right now, as far as livedisk distinguishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are paused, or the guest suspended itself.
    Paused,
    /// Shut off, crashed, shutting down: no guest to work with.
    Off,
}

/// The kind of a block job (`virDomainBlockJobType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockJobType {
    /// Backing images are drawn into the active layer.
    Pull,
    /// A mirror.
    Copy,
    /// A layer below the active one goes into one further below.
    Commit,
    /// The active layer goes into one below.
    ActiveCommit,
    /// The disk's part of a backup.
    Backup,
    /// One that livedisk does not know.
    Unknown,
}

/// A block job as it runs (virDomainGetBlockJobInfo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockJobInfo {
    /// What it does.
    pub kind: BlockJobType,
    /// Bytes done, in a measure of the job's own.
    pub done: u64,
    /// Bytes to do, as far as known now. That both are equal, or 0, says nothing about an end.
    pub total: u64,
}

/// What virDomainBlockCopy is asked for. It is always a transient job, so that a persistent domain stays defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockCopy<'a> {
    /// What messages call the destination.
    pub destination: &'a str,
    /// The destination as libvirt's `<disk>`: type, source and driver.
    pub destination_xml: &'a str,
    /// Bytes per second, 0 for no limit.
    pub bandwidth: u64,
    /// Copy the active layer alone; the destination rests on the same backing image.
    pub shallow: bool,
    /// The destination is an image already, of exactly the disk's virtual size; else libvirt makes one of the (empty) file.
    pub reuse_existing: bool,
    /// The guest's writes wait until they are in the destination too, so that the job always converges; a destination that
    /// hangs then stalls the guest.
    pub write_blocking: bool,
}

/// A virDomainPtr; it may be used from any thread.
#[derive(Clone)]
pub(crate) struct Domain {
    pub(super) inner: virt::domain::Domain,
}

pub(super) fn check(result: i32) -> Result<i32, Error> {
    if result < 0 {
        Err(Error::last_error())
    } else {
        Ok(result)
    }
}

impl Domain {
    pub(super) fn new(inner: virt::domain::Domain) -> Self {
        Self { inner }
    }

    pub(super) fn ptr(&self) -> sys::virDomainPtr {
        // SAFETY: the copy never outlives `self.inner`, which holds the reference.
        unsafe { self.inner.as_ptr() }
    }

    pub(crate) fn name(&self) -> Result<String, Error> {
        self.inner.name()
    }

    pub(crate) fn uuid(&self) -> Result<String, Error> {
        self.inner.uuid_string()
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.inner.id()
    }

    pub(crate) fn is_persistent(&self) -> Result<bool, Error> {
        self.inner.is_persistent()
    }

    pub(crate) fn state(&self) -> Result<State, Error> {
        let (state, _reason) = self.get_state()?;
        Ok(match state {
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => State::Running,
            sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => State::Paused,
            _ => State::Off,
        })
    }

    /// Its disk's error policy stopped it: the write is tried again when the domain is resumed.
    pub(crate) fn is_paused_by_io_error(&self) -> Result<bool, Error> {
        let reason = sys::VIR_DOMAIN_PAUSED_IOERROR;
        Ok(self.get_state()? == (sys::VIR_DOMAIN_PAUSED, reason))
    }

    /// virDomainGetState. That of `virt` 0.5 drops the call's error, so a connection that dies in it is a state of -1.
    fn get_state(&self) -> Result<(sys::virDomainState, u32), Error> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: both live until the call returns.
        check(unsafe { sys::virDomainGetState(self.ptr(), &mut state, &mut reason, 0) })?;
        Ok((state as sys::virDomainState, reason as u32))
    }

    /// The live definition, or the inactive one. Never with secrets.
    pub(crate) fn xml(&self, inactive: bool) -> Result<String, Error> {
        let flags = if inactive { sys::VIR_DOMAIN_XML_INACTIVE } else { 0 };
        self.inner.xml_desc(flags)
    }

    /// virDomainUpdateDeviceFlags of the inactive definition.
    pub(crate) fn define_device(&self, device: &str) -> Result<(), Error> {
        self.inner.update_device_flags(device, sys::VIR_DOMAIN_AFFECT_CONFIG)
    }

    /// virDomainBlockCopy with TRANSIENT_JOB.
    pub(crate) fn block_copy(&self, target: &str, copy: &BlockCopy<'_>) -> Result<(), Error> {
        let target = CString::new(target)?;
        let xml = CString::new(copy.destination_xml)?;
        let mut flags = sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
        if copy.reuse_existing {
            flags |= sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT;
        }
        if copy.shallow {
            flags |= sys::VIR_DOMAIN_BLOCK_COPY_SHALLOW;
        }
        if copy.write_blocking {
            flags |= sys::VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES;
        }
        let mut params: sys::virTypedParameterPtr = ptr::null_mut();
        let (mut count, mut capacity) = (0, 0);
        // SAFETY: libvirt allocates the parameters and this function frees them; all strings live until the calls return.
        unsafe {
            if copy.bandwidth > 0 {
                check(sys::virTypedParamsAddULLong(
                    &mut params,
                    &mut count,
                    &mut capacity,
                    sys::VIR_DOMAIN_BLOCK_COPY_BANDWIDTH.as_ptr(),
                    copy.bandwidth,
                ))?;
            }
            let result = check(sys::virDomainBlockCopy(
                self.ptr(),
                target.as_ptr(),
                xml.as_ptr(),
                params,
                count,
                flags,
            ));
            sys::virTypedParamsFree(params, count);
            result.map(drop)
        }
    }

    /// virDomainBlockJobAbort, always ASYNC: a synchronous one hangs as long as the destination does.
    pub(crate) fn block_job_abort(&self, target: &str) -> Result<(), Error> {
        let target = CString::new(target)?;
        // SAFETY: the string lives until the call returns.
        check(unsafe {
            sys::virDomainBlockJobAbort(self.ptr(), target.as_ptr(), sys::VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)
        })
        .map(drop)
    }

    /// virDomainBlockJobAbort with PIVOT: the READY copy or active commit becomes the disk.
    pub(crate) fn block_job_pivot(&self, target: &str) -> Result<(), Error> {
        let target = CString::new(target)?;
        let flags = sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT | sys::VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC;
        // SAFETY: the string lives until the call returns.
        check(unsafe { sys::virDomainBlockJobAbort(self.ptr(), target.as_ptr(), flags) }).map(drop)
    }

    /// virDomainBlockCommit of `top` (`None`: the active layer) into `base` (`None`: the one below it).
    pub(crate) fn block_commit(&self, target: &str, base: Option<&str>, top: Option<&str>) -> Result<(), Error> {
        let target = CString::new(target)?;
        let (base, top) = (base.map(CString::new).transpose()?, top.map(CString::new).transpose()?);
        let mut flags = 0;
        if base.is_none() {
            flags |= sys::VIR_DOMAIN_BLOCK_COMMIT_SHALLOW;
        }
        if top.is_none() {
            flags |= sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE;
        }
        let pointer = |name: &Option<CString>| name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        let (base, top) = (pointer(&base), pointer(&top));
        // SAFETY: the strings live until the call returns; null base and top are the layer below and the active one.
        check(unsafe { sys::virDomainBlockCommit(self.ptr(), target.as_ptr(), base, top, 0, flags) }).map(drop)
    }

    /// virDomainBlockRebase without COPY: the active layer gets what lies between it and `base` (`None`: everything).
    pub(crate) fn block_rebase(&self, target: &str, base: Option<&str>) -> Result<(), Error> {
        let target = CString::new(target)?;
        let base = base.map(CString::new).transpose()?;
        let base = base.as_ref().map_or(ptr::null(), |base| base.as_ptr());
        // SAFETY: the strings live until the call returns; a null base is none.
        check(unsafe { sys::virDomainBlockRebase(self.ptr(), target.as_ptr(), base, 0, 0) }).map(drop)
    }

    /// virDomainBlockResize, in bytes.
    pub(crate) fn block_resize(&self, target: &str, size: u64) -> Result<(), Error> {
        self.inner
            .block_resize(target, size, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    }

    /// virDomainSnapshotCreateXML: disks only, all or none, onto overlays that exist, and no snapshot metadata.
    pub(crate) fn external_snapshot(&self, snapshot_xml: &CStr) -> Result<(), Error> {
        let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA;
        // SAFETY: the string lives until the call returns; the object that comes back is released at once.
        unsafe {
            let snapshot = sys::virDomainSnapshotCreateXML(self.ptr(), snapshot_xml.as_ptr(), flags);
            if snapshot.is_null() {
                return Err(Error::last_error());
            }
            sys::virDomainSnapshotFree(snapshot);
        }
        Ok(())
    }

    /// The names of the snapshots that libvirt keeps metadata of.
    pub(crate) fn snapshots(&self) -> Result<Vec<String>, Error> {
        let snapshots = self.inner.list_all_snapshots(0)?;
        snapshots.iter().map(|snapshot| snapshot.name()).collect()
    }

    /// virDomainGetBlockJobInfo; `None` where the disk has no job.
    pub(crate) fn block_job_info(&self, target: &str) -> Result<Option<BlockJobInfo>, Error> {
        let target = CString::new(target)?;
        let mut info = MaybeUninit::<sys::virDomainBlockJobInfo>::zeroed();
        // SAFETY: the string and the struct live until the call returns; a result of 1 says the struct was filled.
        let info = unsafe {
            let found = check(sys::virDomainGetBlockJobInfo(
                self.ptr(),
                target.as_ptr(),
                info.as_mut_ptr(),
                sys::VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES,
            ))?;
            if found == 0 {
                return Ok(None);
            }
            info.assume_init()
        };
        Ok(Some(BlockJobInfo {
            kind: BlockJobType::from_raw(info.type_),
            done: info.cur,
            total: info.end,
        }))
    }

    /// virDomainBlockJobSetSpeed in bytes per second, 0 for no limit.
    pub(crate) fn block_job_set_speed(&self, target: &str, bandwidth: u64) -> Result<(), Error> {
        let target = CString::new(target)?;
        // SAFETY: the string lives until the call returns.
        check(unsafe {
            sys::virDomainBlockJobSetSpeed(
                self.ptr(),
                target.as_ptr(),
                bandwidth as _,
                sys::VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES,
            )
        })
        .map(drop)
    }

    /// virDomainBackupBegin with scratch files that exist, and with a new checkpoint at its point in time, if one is wanted.
    pub(crate) fn backup_begin(&self, backup_xml: &CStr, checkpoint_xml: Option<&CStr>) -> Result<(), Error> {
        // SAFETY: the strings live until the call returns; without a checkpoint it is NULL.
        check(unsafe {
            sys::virDomainBackupBegin(
                self.ptr(),
                backup_xml.as_ptr(),
                checkpoint_xml.map_or(ptr::null(), CStr::as_ptr),
                sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL,
            )
        })
        .map(drop)
    }

    /// virDomainSetBlockThreshold: an event when an image (`vda[4]`) has been written to beyond so many bytes.
    pub(crate) fn set_block_threshold(&self, image: &str, bytes: u64) -> Result<(), Error> {
        let image = CString::new(image)?;
        // SAFETY: the string lives until the call returns.
        check(unsafe { sys::virDomainSetBlockThreshold(self.ptr(), image.as_ptr(), bytes, 0) }).map(drop)
    }

    /// virDomainBackupGetXMLDesc of the backup that runs now; `None` where none does.
    pub(crate) fn backup_xml(&self) -> Result<Option<String>, Error> {
        // SAFETY: libvirt allocates the text with malloc on success; it is copied and freed here.
        unsafe {
            let text = sys::virDomainBackupGetXMLDesc(self.ptr(), 0);
            if text.is_null() {
                let error = Error::last_error();
                let none = error.code().to_raw() as i32 == super::code::NO_DOMAIN_BACKUP;
                return if none { Ok(None) } else { Err(error) };
            }
            let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            Ok(Some(owned))
        }
    }

    /// virDomainGetJobStats of the job that runs now.
    pub(crate) fn job_stats(&self) -> Result<JobStats, Error> {
        let (kind, map) = self.read_job_stats(0)?;
        Ok(stats::current(kind, &map))
    }

    /// How the last backup ended; kept, so that others may ask too. `None` where libvirt no longer knows.
    pub(crate) fn last_backup(&self) -> Result<Option<BackupEnd>, Error> {
        let flags = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
        let (kind, map) = self.read_job_stats(flags)?;
        Ok(stats::ended(kind, &map))
    }

    fn read_job_stats(&self, flags: u32) -> Result<(i32, std::collections::HashMap<String, params::Value>), Error> {
        let (mut kind, mut count) = (0, 0);
        let mut list: sys::virTypedParameterPtr = ptr::null_mut();
        // SAFETY: libvirt fills the outputs on success and allocates the list, which is read and then freed here.
        unsafe {
            check(sys::virDomainGetJobStats(
                self.ptr(),
                &mut kind,
                &mut list,
                &mut count,
                flags,
            ))?;
            let map = params::read(list, count);
            sys::virTypedParamsFree(list, count);
            Ok((kind, map))
        }
    }

    /// virDomainAbortJob: ends a backup.
    pub(crate) fn abort_job(&self) -> Result<(), Error> {
        // SAFETY: no pointers but the domain's.
        check(unsafe { sys::virDomainAbortJob(self.ptr()) }).map(drop)
    }

    /// virDomainFSFreeze of all file systems; how many were frozen.
    pub(crate) fn fs_freeze(&self) -> Result<u32, Error> {
        // SAFETY: no mount points are passed.
        let frozen = check(unsafe { sys::virDomainFSFreeze(self.ptr(), ptr::null_mut(), 0, 0) })?;
        Ok(frozen.unsigned_abs())
    }

    /// virDomainFSThaw of all file systems; how many were thawed.
    pub(crate) fn fs_thaw(&self) -> Result<u32, Error> {
        // SAFETY: no mount points are passed.
        let thawed = check(unsafe { sys::virDomainFSThaw(self.ptr(), ptr::null_mut(), 0, 0) })?;
        Ok(thawed.unsigned_abs())
    }

    /// virDomainAgentSetResponseTimeout; `None` is libvirt's default.
    pub(crate) fn set_agent_timeout(&self, seconds: Option<u32>) -> Result<(), Error> {
        let timeout = match seconds {
            Some(seconds) => i32::try_from(seconds).unwrap_or(i32::MAX),
            None => sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK,
        };
        // SAFETY: no pointers but the domain's.
        check(unsafe { sys::virDomainAgentSetResponseTimeout(self.ptr(), timeout, 0) }).map(drop)
    }

    /// virDomainQemuAgentCommand.
    pub(crate) fn agent_command(&self, command: &str, timeout_seconds: u32) -> Result<String, Error> {
        let timeout = i32::try_from(timeout_seconds).unwrap_or(i32::MAX);
        self.inner.qemu_agent_command(command, timeout, 0)
    }

    /// virDomainQemuMonitorCommand, in QMP.
    pub(crate) fn monitor_command(&self, command: &str) -> Result<String, Error> {
        let command = CString::new(command)?;
        let mut answer: *mut c_char = ptr::null_mut();
        // SAFETY: libvirt allocates the answer with malloc on success; it is copied and freed here.
        unsafe {
            check(sys::virDomainQemuMonitorCommand(
                self.ptr(),
                command.as_ptr(),
                &mut answer,
                0,
            ))?;
            let text = CStr::from_ptr(answer).to_string_lossy().into_owned();
            libc::free(answer.cast());
            Ok(text)
        }
    }

    pub(crate) fn suspend(&self) -> Result<(), Error> {
        self.inner.suspend().map(drop)
    }

    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.inner.resume().map(drop)
    }

    /// The disk's virtual size in bytes, from virDomainGetBlockInfo.
    pub(crate) fn capacity(&self, target: &str) -> Result<u64, Error> {
        Ok(self.inner.block_info(target, 0)?.capacity)
    }

    /// Waits for what libvirt itself does with the domain, such as resuming it after a restart: a question that needs the domain's job.
    pub(crate) fn await_jobs(&self) {
        if let Err(error) = self.inner.memory_stats(0) {
            log::debug!("memory statistics: {}", error.message());
        }
    }

    /// How many write requests the guest has made to the disk, from virDomainBlockStats.
    pub(crate) fn write_requests(&self, target: &str) -> Result<i64, Error> {
        Ok(self.inner.block_stats(target)?.wr_req)
    }

    /// Whether the live definition has a metadata element of namespace `uri`.
    pub(crate) fn has_metadata(&self, uri: &str) -> Result<bool, Error> {
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
        match self.inner.metadata(kind, Some(uri), sys::VIR_DOMAIN_AFFECT_LIVE) {
            Ok(_) => Ok(true),
            Err(error) if error.code().to_raw() as i32 == super::code::NO_DOMAIN_METADATA => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets or (`None`) removes the metadata element of namespace `uri`, live and, where asked, in the configuration.
    pub(crate) fn set_metadata(&self, uri: &str, element: Option<&str>, live: bool, config: bool) -> Result<(), Error> {
        let mut flags = 0;
        if live {
            flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
        }
        if config {
            flags |= sys::VIR_DOMAIN_AFFECT_CONFIG;
        }
        self.inner.set_metadata(
            sys::VIR_DOMAIN_METADATA_ELEMENT as i32,
            element,
            Some("livedisk"),
            Some(uri),
            flags,
        )
    }
}

impl BlockJobType {
    pub(super) fn from_raw(raw: i32) -> Self {
        match raw as u32 {
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_PULL => Self::Pull,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COPY => Self::Copy,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT => Self::Commit,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT => Self::ActiveCommit,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP => Self::Backup,
            _ => Self::Unknown,
        }
    }
}
