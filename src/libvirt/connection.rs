// SPDX-License-Identifier: LGPL-2.1-or-later
//! A connection to libvirt, and libvirt's event loop.

use std::os::raw::c_void;
use std::sync::Mutex;
use std::thread;

use once_cell::sync::OnceCell;
use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::domain::Domain;
use super::fork::note_event_loop;
use super::quiet::Quiet;
use super::xml::Machine;

/// How livedisk learns what QEMU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventLoop {
    /// It asks libvirt at an adaptive interval. Always works, but not on `qemu:///embed`.
    #[default]
    None,
    /// It runs libvirt's default event loop in a thread of its own, which lives as long as the process: libvirt has
    /// one event loop a process and no way to end it.
    Own,
    /// The caller runs one already, and had registered it before the connection was opened.
    Caller,
}

/// A virConnectPtr; it may be used from any thread.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(super) connect: Connect,
}

impl Connection {
    /// virConnectOpen; `None` is libvirt's own default URI.
    pub(crate) fn open(uri: Option<&str>, event_loop: EventLoop) -> Result<Self, Error> {
        if event_loop == EventLoop::Own {
            run_event_loop()?;
        }
        // The crate takes an empty URI for the default one.
        let connect = Connect::open(Some(uri.unwrap_or("")))?;
        Ok(Self { connect })
    }

    /// Takes a reference of the caller's connection.
    ///
    /// # Safety
    /// `connect` is a valid virConnectPtr for the length of this call.
    pub(crate) unsafe fn from_raw(connect: *mut c_void, event_loop: EventLoop) -> Result<Self, Error> {
        if event_loop == EventLoop::Own {
            run_event_loop()?;
        }
        let connect = connect.cast::<sys::_virConnect>();
        // SAFETY: valid by the caller's promise; on success the new reference is ours.
        if unsafe { sys::virConnectRef(connect) } < 0 {
            return Err(Error::last_error());
        }
        Ok(Self {
            // SAFETY: the reference taken above is handed over.
            connect: unsafe { Connect::from_ptr(connect) },
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    pub(crate) fn uri(&self) -> Result<String, Error> {
        self.connect.uri()
    }

    /// By name, else by UUID, like virsh.
    pub(crate) fn lookup(&self, domain: &str) -> Result<Domain, Error> {
        let by_name = self.connect.lookup_domain_by_name(domain);
        let found = by_name.or_else(|error| self.connect.lookup_domain_by_uuid_string(domain).map_err(|_| error))?;
        Ok(Domain::new(found))
    }

    /// By UUID alone: a question for a name that nobody has would stand in libvirt's log as an error.
    pub(crate) fn lookup_uuid(&self, uuid: &str) -> Result<Domain, Error> {
        self.connect.lookup_domain_by_uuid_string(uuid).map(Domain::new)
    }

    /// virConnectGetDomainCapabilities, as XML.
    pub(crate) fn domain_capabilities(&self, machine: &Machine) -> Result<String, Error> {
        self.connect.domain_capabilities(
            machine.emulator.as_deref(),
            machine.arch.as_deref(),
            machine.machine.as_deref(),
            machine.virt_type.as_deref(),
            0,
        )
    }

    /// libvirt's, of the daemon: major * 1000000 + minor * 1000 + release.
    pub(crate) fn version(&self) -> Result<u32, Error> {
        self.connect.lib_version()
    }

    pub(crate) fn domains(&self) -> Result<Vec<Domain>, Error> {
        Ok(self.connect.list_all_domains(0)?.into_iter().map(Domain::new).collect())
    }
}

/// libvirt has one event loop a process; it is never ended, as libvirt offers no way to unregister it.
fn run_event_loop() -> Result<(), Error> {
    static RUNNING: OnceCell<()> = OnceCell::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if RUNNING.get().is_some() {
        return Ok(());
    }
    virt::event::event_register_default_impl()?;
    let spawned = thread::Builder::new().name("livedisk-events".into()).spawn(|| {
        let _quiet = Quiet::for_ever();
        loop {
            if let Err(error) = virt::event::event_run_default_impl() {
                log::error!("libvirt's event loop: {error}");
            }
        }
    });
    if let Err(error) = spawned {
        log::error!("cannot start a thread for libvirt's event loop: {error}");
        return Err(Error::last_error());
    }
    let _ = RUNNING.set(());
    note_event_loop();
    Ok(())
}
