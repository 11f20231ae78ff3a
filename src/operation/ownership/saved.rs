// SPDX-License-Identifier: LGPL-2.1-or-later
//! Definitions of domains that are not defined while an operation needs it. Each is a file that only its user can read, on
//! disk before the domain is undefined and until it is defined again: if the guest ends meanwhile, nothing else knows of
//! the domain, nor of the operation.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::driver::Host;
use crate::error::{Error, ErrorCode, Result};
use crate::operation::ownership::record::Record;

/// Of root.
const OF_SYSTEM: &str = "/var/lib";
/// Below a state directory.
const OURS: &str = "livedisk/definitions";
const EXTENSION: &str = "json";

/// A definition that was taken away from libvirt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::operation) struct Saved {
    /// Of the daemon ([`Host::identity`]): another one may have a domain of the same UUID.
    host: String,
    pub(in crate::operation) name: String,
    pub(in crate::operation) uuid: String,
    pub(in crate::operation) autostart: bool,
    /// With its secrets, and with the operation's record in its metadata.
    pub(in crate::operation) definition: String,
    /// As it was when the definition was taken away.
    pub(in crate::operation) record: Record,
}

/// What a domain's definition is beside its text.
pub(in crate::operation) struct Of<'a> {
    pub(in crate::operation) name: &'a str,
    pub(in crate::operation) uuid: &'a str,
    pub(in crate::operation) autostart: bool,
}

impl Saved {
    pub(in crate::operation) fn new(host: &Host, of: &Of<'_>, definition: String, record: Record) -> Result<Self> {
        Ok(Self {
            host: host.identity()?,
            name: of.name.to_owned(),
            uuid: of.uuid.to_owned(),
            autostart: of.autostart,
            definition,
            record,
        })
    }

    /// Every one that this user has of this daemon.
    pub(in crate::operation) fn all(host: &Host) -> Result<Vec<Self>> {
        let Ok(directory) = directory() else {
            return Ok(Vec::new());
        };
        let found = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found.map_err(|error| cannot("read", &directory, &error))?,
        };
        let mut all = Vec::new();
        for entry in found.flatten().map(|entry| entry.path()) {
            if entry.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            match fs::read(&entry) {
                // Its domain was defined again meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cannot("read", &entry, &error)),
                Ok(text) => all.push(
                    serde_json::from_slice::<Self>(&text)
                        .map_err(|error| cannot("read", &entry, &io::Error::other(error)))?,
                ),
            }
        }
        if !all.is_empty() {
            let identity = host.identity()?;
            all.retain(|saved| saved.host == identity);
        }
        Ok(all)
    }

    /// Of this operation, if it has taken one away.
    pub(in crate::operation) fn of(host: &Host, operation: &str) -> Result<Option<Self>> {
        let mut all = Self::all(host)?.into_iter();
        Ok(all.find(|saved| saved.record.id == operation))
    }

    /// Must not be undefined before it returns.
    pub(in crate::operation) fn write(&self) -> Result<()> {
        let directory = directory()?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| cannot("make", &directory, &error))?;
        let (path, part) = (self.path(&directory, EXTENSION), self.path(&directory, "part"));
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::new(ErrorCode::Internal, format!("cannot write a definition: {error}")))?;
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&part)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            // Each directory may be new.
            for directory in directory.ancestors().take(3) {
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|error| cannot("write", &path, &error))
    }

    /// Its domain is defined again.
    pub(in crate::operation) fn remove(&self) -> Result<()> {
        let directory = directory()?;
        let path = self.path(&directory, EXTENSION);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    fn path(&self, directory: &Path, extension: &str) -> PathBuf {
        directory.join(format!("{}.{extension}", self.record.id))
    }
}

/// The user's own; it need not exist.
pub(in crate::operation) fn directory() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new(OF_SYSTEM).join(OURS));
    }
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join(OURS)).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidArgument,
            "there is no directory to save a definition in: neither XDG_STATE_HOME nor HOME is set; set one of them",
        )
    })
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    let code = ErrorCode::of_io(error.kind());
    Error::new(code, format!("cannot {what} '{}': {error}", path.display()))
}
