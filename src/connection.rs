// SPDX-License-Identifier: LGPL-2.1-or-later
//! The public face of a connection.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crate::driver::{Checkpoint, Host};
use crate::error::Result;
use crate::libvirt::{self, EventLoop, Quiet};
use crate::operation::{self, DomainDisk, MigrateOptions, Operation, OperationStatus, Recovery, SnapshotOptions};

/// A connection to libvirt. Clones share it; operations keep it open.
#[derive(Clone)]
pub struct Connection {
    host: Arc<Host>,
}

impl Connection {
    /// Opens a libvirt URI; `None` is libvirt's own default (virConnectOpen).
    ///
    /// # Errors
    /// [`ErrorCode::NoConnection`](crate::ErrorCode::NoConnection), with libvirt's reason.
    pub fn open(uri: Option<&str>, event_loop: EventLoop) -> Result<Self> {
        let _quiet = Quiet::new();
        let host = Host::open(uri, event_loop)?;
        Ok(Self { host })
    }

    pub(crate) fn from_libvirt(connection: libvirt::Connection, event_loop: EventLoop) -> Self {
        let host = Arc::new(Host::new(connection, event_loop));
        Self { host }
    }

    /// The URI as libvirt completed it.
    pub fn uri(&self) -> &str {
        self.host.uri()
    }

    /// The disks of a domain, in the order of its definition; of a running one, as they are now.
    ///
    /// # Errors
    /// [`ErrorCode::NoDomain`](crate::ErrorCode::NoDomain), or what libvirt says.
    pub fn disks(&self, domain: &str) -> Result<Vec<DomainDisk>> {
        let _quiet = Quiet::new();
        operation::disks(&self.host.get_guest(domain)?)
    }

    /// The names of all domains, running or not.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn domains(&self) -> Result<Vec<String>> {
        let _quiet = Quiet::new();
        let guests = self.host.list_guests()?;
        Ok(guests.iter().map(|guest| guest.name().to_owned()).collect())
    }

    /// Starts a live snapshot of a running domain, named by name or UUID, and returns as soon as it runs.
    ///
    /// # Errors Whatever can be checked beforehand is checked first. A call that fails has changed nothing.
    pub fn start_live_snapshot(&self, domain: &str, options: &SnapshotOptions) -> Result<Operation> {
        let _quiet = Quiet::new();
        Operation::start_live_snapshot(self.host.get_guest(domain)?, options)
    }

    /// Moves a disk of a running domain to other storage, and returns as soon as the operation runs.
    ///
    /// # Errors Whatever can be checked beforehand is checked first. A call that fails has changed nothing.
    pub fn migrate_disk(&self, domain: &str, options: &MigrateOptions) -> Result<Operation> {
        let _quiet = Quiet::new();
        Operation::migrate_disk(self.host.get_guest(domain)?, options)
    }

    /// Resumes the operation that has this disk, after the process that ran it has ended or released it. Progress and
    /// finish continue as if nothing had happened. [`SnapshotOptions::auto_finish`] and the other options still apply.
    ///
    /// # Errors
    /// [`ErrorCode::NoOperation`](crate::ErrorCode::NoOperation) where there is none,
    /// [`ErrorCode::Busy`](crate::ErrorCode::Busy) while another process runs it,
    /// [`ErrorCode::DomainState`](crate::ErrorCode::DomainState) where the domain is off.
    pub fn attach(&self, domain: &str, target: &str) -> Result<Operation> {
        let _quiet = Quiet::new();
        Operation::attach(self.host.get_guest(domain)?, target)
    }

    /// Asks the process that runs an operation, by its [`OperationStatus::id`], to cancel it, and waits until it has rolled the
    /// operation back. `patience` bounds the wait for that process's answer, which takes about a second where it lives and is
    /// not in a freeze. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::NoOperation`](crate::ErrorCode::NoOperation) where it is not there, or ended before the request was seen,
    /// [`ErrorCode::Busy`](crate::ErrorCode::Busy) where its process is dead ([`attach`](Self::attach) to it and cancel that),
    /// [`ErrorCode::Timeout`](crate::ErrorCode::Timeout) where the process does not answer (the request is withdrawn),
    /// [`ErrorCode::JobFailed`](crate::ErrorCode::JobFailed) where something could not be rolled back.
    pub fn cancel(&self, domain: &str, id: &str, patience: Duration) -> Result<()> {
        let _quiet = Quiet::new();
        operation::cancel(&self.host.get_guest(domain)?, id, patience)
    }

    /// Cleans up operations whose process has ended, on a domain (`None`: on every domain) that is running or not. It
    /// thaws frozen guests, completes operations that are past their point of no return, and rolls back the rest.
    /// Operations whose process is alive are left alone. A dry run reports what would be done and changes nothing.
    ///
    /// # Errors [`ErrorCode::NoDomain`](crate::ErrorCode::NoDomain), or what libvirt says. An operation that cannot be
    /// resolved is not an error: see [`Recovery::failed`].
    pub fn recover(&self, domain: Option<&str>, dry_run: bool) -> Result<Recovery> {
        let _quiet = Quiet::new();
        operation::recover(&self.host, domain, dry_run)
    }

    /// Freezes the file systems of a running domain, given by name or UUID, while something else takes a snapshot, such
    /// as a volume service or a storage array, and returns how many were frozen. The freeze ends with
    /// [`thaw`](Self::thaw), by any process over any connection, when `limit` (zero: 10 s) has passed, or when this
    /// process dies, because the guard then thaws the guest.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`](crate::ErrorCode::Busy) while an operation or another freeze holds the domain (the message says
    /// whose), [`ErrorCode::Agent`](crate::ErrorCode::Agent) where no agent answers,
    /// [`ErrorCode::Freeze`](crate::ErrorCode::Freeze) where the freeze fails, which is undone, or no guard can run that is
    /// required, [`ErrorCode::DomainState`](crate::ErrorCode::DomainState) where the domain does not run.
    pub fn freeze(&self, domain: &str, limit: Duration) -> Result<u32> {
        let _quiet = Quiet::new();
        operation::freeze(self.host.get_guest(domain)?, limit)
    }

    /// Ends a [`freeze`](Self::freeze) that any process began, and returns how many file systems were thawed.
    ///
    /// # Errors
    /// [`ErrorCode::Freeze`](crate::ErrorCode::Freeze) if the guest was thawed before, so that what was taken meanwhile
    /// is not consistent, or if the thaw fails; [`ErrorCode::NoOperation`](crate::ErrorCode::NoOperation) where the domain
    /// has no freeze.
    pub fn thaw(&self, domain: &str) -> Result<u32> {
        let _quiet = Quiet::new();
        operation::thaw(&self.host.get_guest(domain)?)
    }

    /// The checkpoints of a domain, running or off, each after its parent. The state of their bitmaps comes from QEMU
    /// or, if the domain is off, from the images.
    ///
    /// # Errors
    /// [`ErrorCode::NoDomain`](crate::ErrorCode::NoDomain), or what libvirt says.
    pub fn checkpoints(&self, domain: &str) -> Result<Vec<Checkpoint>> {
        let _quiet = Quiet::new();
        self.host.get_guest(domain)?.checkpoints()
    }

    /// Deletes a checkpoint with its bitmaps, even if some of them are missing or inconsistent. Its child then records
    /// what changed since its parent; if there is no child, that record is lost.
    ///
    /// # Errors
    /// [`ErrorCode::NoCheckpoint`](crate::ErrorCode::NoCheckpoint) where there is none of that name,
    /// [`ErrorCode::Busy`](crate::ErrorCode::Busy) while an operation or a job holds the domain,
    /// [`ErrorCode::DomainState`](crate::ErrorCode::DomainState) where the domain is off and its images are on another host.
    pub fn delete_checkpoint(&self, domain: &str, name: &str) -> Result<()> {
        let _quiet = Quiet::new();
        operation::delete_checkpoint(&self.host.get_guest(domain)?, name)
    }

    /// The operations of a domain (`None`: of every domain): those that run, in whichever process, and those whose
    /// process has ended.
    ///
    /// # Errors
    /// [`ErrorCode::NoDomain`](crate::ErrorCode::NoDomain), or what libvirt says.
    pub fn operations(&self, domain: Option<&str>) -> Result<Vec<OperationStatus>> {
        let _quiet = Quiet::new();
        operation::operations(&self.host, domain)
    }
}
