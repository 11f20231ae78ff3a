// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest: its state, definition, agent, backup job and metadata.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::failure::one_line;
use super::host::Host;
use crate::error::{Error, ErrorCode, Result};
use crate::image::Layer;
use crate::libvirt::xml::{DomainXml, disk_on, qemu_user, without_overlay};
use crate::libvirt::{self, Domain, Event, JobStats, Quiet, State, Subscription};

/// How long the agent is given for a plain question, in seconds.
const AGENT_PATIENCE: u32 = 5;

/// How long a restarted daemon is given to resume its domains.
const TAKING_UP: Duration = Duration::from_secs(10);
const TAKING_UP_AGAIN: Duration = Duration::from_millis(100);

/// How long libvirt is given to notice that QEMU is gone.
const NOTICING: Duration = Duration::from_secs(2);
const NOTICING_AGAIN: Duration = Duration::from_millis(50);

/// What the guest agent says of the file systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AgentStatus {
    Thawed,
    Frozen,
    /// It does not answer, and why.
    Silent(String),
}

/// A guest of a [`Host`].
///
/// Nova's known faults, and what is done instead:
/// - Nova freezes, and leaves the thaw to whoever asked for the freeze. If the API or nova-compute dies, the guest stays
///   frozen. Here a process of its own guards the freeze, which has a limit.
/// - Nova aborts any job that it finds on a disk before it starts its own. Here a job that is in the way is `BUSY`.
/// - After a swap, Nova writes a stored definition back from memory, even an outdated one. Here libvirt records the new
///   disk itself.
pub struct Guest {
    host: Arc<Host>,
    domain: Mutex<Domain>,
    name: String,
    uuid: String,
    /// The running instance: a domain that was restarted has another one.
    id: Option<u32>,
    cut_off: AtomicBool,
}

impl Host {
    /// The guest of that name or UUID, running or not.
    ///
    /// # Errors
    /// `NO_DOMAIN`, or what libvirt says.
    pub fn get_guest(self: &Arc<Self>, domain: &str) -> Result<Guest> {
        let _quiet = Quiet::new();
        let found = self
            .reconnect()?
            .lookup(domain)
            .map_err(|error| self.failed(&error, &format!("cannot find domain '{domain}'")))?;
        Guest::new(Arc::clone(self), found)
    }

    /// The guest of that UUID, over a new connection where the old one died.
    pub(crate) fn get_guest_by_uuid(self: &Arc<Self>, uuid: &str) -> Result<Guest> {
        let found = self
            .reconnect()?
            .lookup_uuid(uuid)
            .map_err(|error| self.failed(&error, &format!("cannot find the domain with UUID {uuid}")))?;
        Guest::new(Arc::clone(self), found)
    }

    /// All guests, running or not.
    pub(crate) fn list_guests(self: &Arc<Self>) -> Result<Vec<Guest>> {
        let domains = self
            .reconnect()?
            .domains()
            .map_err(|error| self.failed(&error, "cannot list the domains"))?;
        domains
            .into_iter()
            .map(|domain| Guest::new(Arc::clone(self), domain))
            .collect()
    }
}

impl Guest {
    pub(super) fn new(host: Arc<Host>, domain: Domain) -> Result<Self> {
        let read = |result: std::result::Result<String, libvirt::Error>| {
            result.map_err(|error| host.failed(&error, "cannot read a domain's name"))
        };
        let (name, uuid, id) = (read(domain.name())?, read(domain.uuid())?, domain.id());
        Ok(Self {
            host,
            domain: Mutex::new(domain),
            name,
            uuid,
            id,
            cut_off: AtomicBool::new(false),
        })
    }

    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The domain's UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.id
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn domain(&self) -> Domain {
        self.domain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn call<T>(
        &self,
        what: &str,
        call: impl FnOnce(&Domain) -> std::result::Result<T, libvirt::Error>,
    ) -> Result<T> {
        let _quiet = Quiet::new();
        call(&self.domain()).map_err(|error| self.host.failed(&error, what))
    }

    pub(super) fn what(&self, what: &str) -> String {
        format!("{what} domain '{}'", self.name)
    }

    /// Finds the guest again over a new connection, where the old one died. A daemon that has just started may not know its
    /// running domains yet, so a guest that seems to be off is given some time.
    pub(crate) fn reconnect(&self) -> Result<()> {
        self.cut_off.store(true, Ordering::SeqCst);
        let connection = self.host.reconnect()?;
        let deadline = Instant::now() + TAKING_UP;
        loop {
            let domain = connection
                .lookup_uuid(&self.uuid)
                .map_err(|error| self.host.failed(&error, &self.what("cannot find")))?;
            if domain.id() == self.id || Instant::now() >= deadline {
                *self.domain.lock().unwrap_or_else(PoisonError::into_inner) = domain;
                return Ok(());
            }
            thread::sleep(TAKING_UP_AGAIN);
        }
    }

    /// The connection died at some time, and libvirtd perhaps with it.
    pub(crate) fn was_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::SeqCst)
    }

    /// Another handle of the same guest.
    pub(crate) fn again(&self) -> Result<Self> {
        self.host.get_guest_by_uuid(&self.uuid)
    }

    /// The same guest over a connection of its own, for a call that may take long: on a shared one others wait for it.
    pub(crate) fn apart(&self) -> Result<Self> {
        self.host.apart()?.get_guest_by_uuid(&self.uuid)
    }

    /// Events go to `sink` as long as the subscription lives; `None` without an event loop.
    pub(crate) fn subscribe(&self, sink: Arc<dyn Fn(Event) + Send + Sync>) -> Result<Option<Subscription>> {
        if !self.host.has_events() {
            return Ok(None);
        }
        Subscription::new(&self.host.connection(), &self.domain(), sink)
            .map(Some)
            .map_err(|error| self.not_subscribed(&error))
    }

    /// libvirt takes each of our callbacks once a domain and connection, so an operation has it that was started just
    /// now and has not left its record yet.
    fn not_subscribed(&self, error: &libvirt::Error) -> Error {
        let failure = self.host.failed(error, &self.what("cannot get the events of"));
        if error.code().to_raw() as i32 != libvirt::code::INVALID_ARG {
            return failure;
        }
        let message = format!(
            "domain '{}' is in use by an operation that was just started on this connection; wait for it or cancel it, \
             or try again in a moment for another disk",
            self.name
        );
        Error::new(ErrorCode::Busy, message).with_libvirt_code(failure.libvirt_code())
    }

    /// What the domain does now. `Off` too where it is gone, or where another instance of it runs than when the handle was
    /// made.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn get_power_state(&self) -> Result<State> {
        Ok(self.get_instance()?.unwrap_or(State::Off))
    }

    /// What the instance does that runs now, `Off` where it is another one than when the handle was made; `None` where none
    /// runs.
    pub(crate) fn get_instance(&self) -> Result<Option<State>> {
        let _quiet = Quiet::new();
        // Looked up anew, because a virDomainPtr keeps the id it was made with.
        let found = self.host.connection().lookup_uuid(&self.uuid);
        let state = found.and_then(|domain| match domain.id() {
            None => Ok(None),
            id if id == self.id => domain.state().map(Some),
            Some(_) => Ok(Some(State::Off)),
        });
        match state {
            Err(error) if error.code().to_raw() as i32 == libvirt::code::NO_DOMAIN => Ok(None),
            other => other.map_err(|error| self.host.failed(&error, &self.what("cannot read the state of"))),
        }
    }

    /// What is asked of an instance that runs, by `state`; `None` where there is none, or it went away between two calls, which
    /// makes the second one fail.
    pub(crate) fn ask_while_alive<T>(&self, state: State, ask: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        if state == State::Off {
            return Ok(None);
        }
        match ask() {
            Err(error) if self.get_power_state()? != State::Off => Err(error),
            asked => Ok(asked.ok()),
        }
    }

    /// Whether an instance of the domain runs, this one or a later one. A transient one that is off is gone.
    pub(crate) fn is_active(&self) -> Result<bool> {
        match self.host.connection().lookup_uuid(&self.uuid) {
            Err(error) if error.code().to_raw() as i32 == libvirt::code::NO_DOMAIN => Ok(false),
            found => found
                .map(|domain| domain.id().is_some())
                .map_err(|error| self.host.failed(&error, &self.what("cannot find"))),
        }
    }

    /// Whether the guest is about to be seen as gone: between QEMU's death and libvirt's noticing it calls fail oddly.
    pub(crate) fn goes_away(&self) -> bool {
        let deadline = Instant::now() + NOTICING;
        loop {
            if matches!(self.get_power_state(), Ok(State::Off)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(NOTICING_AGAIN);
        }
    }

    /// Whether the domain is defined, and so outlives its shutdown.
    ///
    /// # Errors
    /// `NO_DOMAIN`, or what libvirt says.
    pub fn has_persistent_configuration(&self) -> Result<bool> {
        self.call(&self.what("cannot ask about"), Domain::is_persistent)
    }

    /// The definition, live or inactive.
    pub(crate) fn get_config(&self, inactive: bool) -> Result<DomainXml> {
        let text = self.call(&self.what("cannot read the definition of"), |domain| {
            domain.xml(inactive)
        })?;
        DomainXml::parse(&text).map_err(|reason| {
            Error::new(
                ErrorCode::Internal,
                format!("the definition of domain '{}' cannot be read: {reason}", self.name),
            )
        })
    }

    /// User and group that QEMU runs as, by number or name; `None` where libvirt does not say.
    pub(crate) fn get_qemu_user(&self) -> Result<Option<(String, String)>> {
        let what = self.what("cannot read the definition of");
        let text = self.call(&what, |domain| domain.xml(false))?;
        qemu_user(&text).map_err(|reason| Error::new(ErrorCode::Internal, format!("{what}: {reason}")))
    }

    /// Pauses the vCPUs.
    pub(crate) fn pause(&self) -> Result<()> {
        self.call(&self.what("cannot pause"), Domain::suspend)
    }

    pub(crate) fn resume(&self) -> Result<()> {
        self.call(&self.what("cannot resume"), Domain::resume)
    }

    /// virDomainFSFreeze of all file systems, unguarded; how many were frozen.
    pub(crate) fn fs_freeze(&self) -> Result<u32> {
        self.call(&self.what("cannot freeze the file systems of"), Domain::fs_freeze)
    }

    /// virDomainFSThaw of all file systems; how many were thawed.
    pub(crate) fn fs_thaw(&self) -> Result<u32> {
        self.call(&self.what("cannot thaw the file systems of"), Domain::fs_thaw)
    }

    /// virDomainAgentSetResponseTimeout; `None` is libvirt's default, no limit.
    pub(crate) fn set_agent_timeout(&self, seconds: Option<u32>) -> Result<()> {
        self.call(&self.what("cannot set the agent timeout of"), |domain| {
            domain.set_agent_timeout(seconds)
        })
    }

    /// One question answers three: does the agent live, can it freeze, has somebody else frozen already.
    pub(crate) fn get_agent_status(&self) -> AgentStatus {
        let answer = self
            .domain()
            .agent_command(r#"{"execute":"guest-fsfreeze-status"}"#, AGENT_PATIENCE);
        // What the agent says comes from the guest and is not trusted to be well-formed.
        match answer {
            Err(error) => AgentStatus::Silent(one_line(error.message())),
            Ok(text) => match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(value) if value["return"] == "thawed" => AgentStatus::Thawed,
                Ok(value) if value["return"] == "frozen" => AgentStatus::Frozen,
                _ => AgentStatus::Silent("its answer to guest-fsfreeze-status makes no sense".into()),
            },
        }
    }

    /// The domain's own job: backup, migration, save.
    pub(crate) fn get_job_stats(&self) -> Result<JobStats> {
        self.call(&self.what("cannot query the job of"), Domain::job_stats)
    }

    /// Whether the live definition has a metadata element of this namespace.
    pub(crate) fn has_metadata(&self, uri: &str) -> Result<bool> {
        self.call(&self.what("cannot read the metadata of"), |domain| {
            domain.has_metadata(uri)
        })
    }

    /// Sets or (`None`) removes the metadata element of this namespace, in the live and in the inactive definition.
    pub(crate) fn set_metadata(&self, uri: &str, element: Option<&str>, live: bool, config: bool) -> Result<()> {
        self.call(&self.what("cannot set the metadata of"), |domain| {
            domain.set_metadata(uri, element, live, config)
        })
    }

    /// In the inactive definition this element replaces the disk's. libvirt changes nothing else in it, whoever changed the
    /// rest since it was read.
    pub(crate) fn define_disk(&self, disk: &str) -> Result<()> {
        self.call(&self.what("cannot change the definition of"), |domain| {
            domain.define_device(disk)
        })
    }

    /// In the inactive definition `base` becomes the disk's image, where `overlay` was.
    pub(crate) fn drop_overlay(&self, target: &str, overlay: &str, base: &Layer) -> Result<()> {
        let Some(disk) = self.get_disk_definition(target, Some(overlay))? else {
            return Ok(());
        };
        let what = self.what("cannot change the definition of");
        let base = (base.path.as_str(), base.format.as_str(), base.slice.as_ref());
        let disk = without_overlay(&disk, base)
            .map_err(|reason| Error::new(ErrorCode::Internal, format!("{what}: {reason}")))?;
        self.define_disk(&disk)
    }

    /// The disk's element in the inactive definition, where its active layer has this path. `None` of a transient domain.
    pub(crate) fn get_disk_definition(&self, target: &str, active: Option<&str>) -> Result<Option<String>> {
        if !self.has_persistent_configuration()? {
            return Ok(None);
        }
        let what = self.what("cannot read the definition of");
        let definition = self.call(&what, Domain::whole_definition)?;
        disk_on(&definition, target, active)
            .map_err(|reason| Error::new(ErrorCode::Internal, format!("{what}: {reason}")))
    }

    /// An external snapshot onto overlays that exist, without metadata (virDomainSnapshotCreateXML).
    pub(crate) fn snapshot(&self, snapshot_xml: &CStr) -> Result<()> {
        self.call(&self.what("cannot take the external snapshot of"), |domain| {
            domain.external_snapshot(snapshot_xml)
        })
    }

    /// The names of the snapshots that libvirt keeps metadata of.
    pub(crate) fn snapshots(&self) -> Result<Vec<String>> {
        self.call(&self.what("cannot list the snapshots of"), Domain::snapshots)
    }

    /// Removes the metadata element of this namespace, in the inactive definition first. libvirt keeps an empty `<metadata/>`
    /// where it was the last one.
    pub(crate) fn remove_metadata(&self, uri: &str) -> Result<()> {
        let removed = self.has_persistent_configuration().and_then(|persistent| {
            if persistent {
                self.set_metadata(uri, None, false, true)?;
            }
            if self.is_active()? {
                self.set_metadata(uri, None, true, false)?;
            }
            Ok(())
        });
        match removed {
            // A transient domain takes its metadata with it.
            Err(error) if error.code() == ErrorCode::NoDomain => Ok(()),
            other => other,
        }
    }
}
