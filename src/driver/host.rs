// SPDX-License-Identifier: LGPL-2.1-or-later
//! A connection that outlives its daemon's restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::{explain, one_line};
use super::turns::{Turn, Turns};
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::{Machine, supports};
use crate::libvirt::{Connection, EventLoop, Quiet, must_not_hang};

/// A libvirt host. Its connection is made anew where libvirtd was restarted.
pub struct Host {
    connection: Mutex<Connection>,
    uri: String,
    event_loop: EventLoop,
    /// libvirt's, once it was asked for; a connection that is made anew may lead to another one.
    version: Mutex<Option<u32>>,
    stopping: Turns,
}

impl Host {
    /// Opens a libvirt URI; `None` is libvirt's own default (virConnectOpen).
    ///
    /// # Errors
    /// `NO_CONNECTION`, with libvirt's reason; `INVALID_ARGUMENT` for the embedded driver without an event loop;
    /// `UNSUPPORTED` in a forked child where libvirt could hang.
    pub fn open(uri: Option<&str>, event_loop: EventLoop) -> Result<Arc<Self>> {
        let _quiet = Quiet::new();
        must_not_hang(event_loop)?;
        if event_loop == EventLoop::None && uri.is_some_and(|uri| uri.starts_with("qemu:///embed")) {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                "the embedded driver (qemu:///embed) needs libvirt's event loop: open with RUN_EVENT_LOOP, \
                 or run one and open with USE_EVENTS",
            ));
        }
        let shown = uri.unwrap_or("(libvirt's default)");
        let connection = Connection::open(uri, event_loop)
            .map_err(|error| no_connection(&error, &format!("cannot connect to {shown}")))?;
        Ok(Arc::new(Self::new(connection, event_loop)))
    }

    pub(crate) fn new(connection: Connection, event_loop: EventLoop) -> Self {
        let uri = connection.uri().unwrap_or_default();
        Self {
            connection: Mutex::new(connection),
            uri,
            event_loop,
            version: Mutex::default(),
            stopping: Turns::default(),
        }
    }

    /// The connection as it is now.
    pub(super) fn connection(&self) -> Connection {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The URI as libvirt completed it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Waits until another guest may be stopped; it is while this lives.
    pub(crate) fn stop_one(&self) -> Turn<'_> {
        self.stopping.take()
    }

    /// Whether the guests' files are this machine's files.
    pub(crate) fn is_local(&self) -> bool {
        let (_, rest) = self.uri.split_once("://").unwrap_or(("", "/"));
        rest.starts_with('/')
    }

    pub(crate) fn has_events(&self) -> bool {
        self.event_loop != EventLoop::None
    }

    /// Its virDomainBlockJobAbort has QEMU drop a READY mirror, whatever of it is not copied yet.
    pub(crate) fn drops_mirrors(&self) -> Result<bool> {
        /// At the latest.
        const ENDS_THEM: u32 = 8_000_000;
        Ok(self.version()? < ENDS_THEM)
    }

    fn version(&self) -> Result<u32> {
        // Not held while libvirt is asked: whoever connects anew has the connection, and forgets this.
        let known = || self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let last = *known();
        if let Some(version) = last {
            return Ok(version);
        }
        let asked = self.connection().version();
        let version = asked.map_err(|error| self.failed(&error, "cannot query libvirt's version"))?;
        *known() = Some(version);
        Ok(version)
    }

    /// Returns when the embedded driver has resumed all guests: a process that ends before that may end them.
    pub(crate) fn await_taking_up(&self) {
        for domain in self.connection().domains().unwrap_or_default() {
            if domain.id().is_some() {
                domain.await_jobs();
            }
        }
    }

    /// Whether virDomainBackupBegin works for such a machine.
    pub(crate) fn has_backup(&self, machine: &Machine) -> Result<bool> {
        let text = self
            .connection()
            .domain_capabilities(machine)
            .map_err(|error| self.failed(&error, "cannot query the domain capabilities"))?;
        supports(&text, "backup").map_err(|error| {
            Error::new(
                ErrorCode::Internal,
                format!("the domain capabilities cannot be read: {error}"),
            )
        })
    }

    /// A connection that died is distinguished from a call that failed, because only then connecting again helps.
    pub(super) fn failed(&self, error: &crate::libvirt::Error, what: &str) -> Error {
        let explained = explain(error, what);
        if self.lock().is_alive() {
            explained
        } else {
            no_connection(error, what)
        }
    }

    /// The same host over another connection.
    pub(super) fn apart(&self) -> Result<Arc<Self>> {
        Self::open(Some(&self.uri), self.event_loop)
    }

    /// Connects anew if the connection is dead. Several guests may ask at once; one of them does it.
    pub(super) fn reconnect(&self) -> Result<Connection> {
        let mut connection = self.lock();
        if !connection.is_alive() {
            *connection = Connection::open(Some(&self.uri), self.event_loop)
                .map_err(|error| no_connection(&error, &format!("cannot connect to {} again", self.uri)))?;
            *self.version.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(connection.clone())
    }
}

fn no_connection(error: &crate::libvirt::Error, what: &str) -> Error {
    Error::new(
        ErrorCode::NoConnection,
        format!(
            "{what}: {}; check the URI and that the daemon runs",
            one_line(error.message())
        ),
    )
    .with_libvirt_code(error.code().to_raw() as i32)
}
