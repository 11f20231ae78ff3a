// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest's stored definition as a whole: taken away, and given back.

use super::guest::Guest;
use super::host::Host;
use crate::error::{Error, ErrorCode, Result};
use crate::libvirt::xml::{has_fleeting_tpm, host_uuid, is_same_definition};
use crate::libvirt::{Domain, Quiet};

fn unreadable(what: &str, reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Internal, format!("{what} cannot be read: {reason}"))
}

impl Host {
    /// The same for every URI that leads to the same daemon of this machine.
    pub(crate) fn identity(&self) -> Result<String> {
        let _quiet = Quiet::new();
        let asked = self.connection().capabilities();
        let text = asked.map_err(|error| self.failed(&error, "cannot query the host's capabilities"))?;
        let uuid = host_uuid(&text).map_err(|error| unreadable("the host's capabilities", error))?;
        let place = self.uri().split_once("://").map_or("", |(_, place)| place);
        // What follows is the root of the embedded driver, and of the others how its socket is reached.
        let place = match place.split_once('?') {
            Some((path, _)) if path != "/embed" => path,
            _ => place,
        };
        Ok(format!("{}{place}", uuid.unwrap_or_default()))
    }

    /// Defines the domain, which may run.
    pub(crate) fn define(&self, name: &str, definition: &str) -> Result<()> {
        let _quiet = Quiet::new();
        let defined = self.reconnect()?.define(definition).map(drop);
        defined.map_err(|error| self.failed(&error, &format!("cannot define domain '{name}'")))
    }
}

impl Guest {
    /// libvirt starts it with its daemon.
    pub(crate) fn set_autostart(&self) -> Result<()> {
        self.call(&self.what("cannot set the autostart of"), |domain| {
            domain.set_autostart(true)
        })
    }

    /// The stored definition with all its secrets: only to be given back.
    pub(crate) fn get_whole_definition(&self) -> Result<String> {
        self.call(&self.what("cannot read the definition of"), Domain::whole_definition)
    }

    /// Whether its stored definition is this one, apart from livedisk's own metadata.
    pub(crate) fn is_defined_as(&self, definition: &str) -> Result<bool> {
        is_same_definition(&self.get_whole_definition()?, definition)
            .map_err(|error| unreadable(&self.what("the definition of"), error))
    }

    /// Its TPM's state would go if it ended while it is not defined.
    pub(crate) fn has_fleeting_tpm(&self) -> Result<bool> {
        has_fleeting_tpm(&self.get_whole_definition()?)
            .map_err(|error| unreadable(&self.what("the definition of"), error))
    }

    /// Its NVRAM stays. While it runs, so does all else that libvirt keeps of it.
    pub(crate) fn undefine(&self) -> Result<()> {
        self.call(&self.what("cannot undefine"), Domain::undefine)
    }

    pub(crate) fn is_autostarted(&self) -> Result<bool> {
        self.call(&self.what("cannot query the autostart of"), Domain::autostart)
    }

    /// A checkpoint or snapshot that libvirt would forget if the guest ended while it is not defined, in words.
    pub(crate) fn what_would_be_forgotten(&self) -> Result<Option<String>> {
        if let Some(name) = self.snapshots()?.first() {
            return Ok(Some(format!("snapshot '{}'", name.escape_debug())));
        }
        let checkpoints = match self.checkpoints() {
            // A libvirt that knows of none.
            Err(error) if error.code() == ErrorCode::Unsupported => Vec::new(),
            checkpoints => checkpoints?,
        };
        let first = checkpoints.first();
        Ok(first.map(|checkpoint| format!("checkpoint '{}'", checkpoint.name.escape_debug())))
    }
}
