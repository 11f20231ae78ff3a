// SPDX-License-Identifier: LGPL-2.1-or-later
//! The connections to a backup's export. They are ours: a reader gets a duplicate of each.
//!
//! QEMU ends an export only when its clients are gone, and the whole guest waits for that. A reader may hang on its
//! destination, where not even SIGKILL reaches it, with answers of QEMU before it that nobody takes. Before a backup is ended
//! its connections are therefore shut down, and what QEMU has written into them is read.

use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{Shutdown, shutdown};

use crate::error::{Error, ErrorCode, Result};

#[derive(Debug)]
pub(in crate::operation) struct Line {
    socket: String,
    /// None once it is cut.
    open: Mutex<Option<Vec<UnixStream>>>,
}

impl Line {
    pub(in crate::operation) fn new(socket: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            open: Mutex::new(Some(Vec::new())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<UnixStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection, for a reader.
    pub(super) fn connect(&self) -> Result<OwnedFd> {
        let mut open = self.lock();
        let Some(open) = open.as_mut() else {
            return Err(Error::new(ErrorCode::Cancelled, "cancelled"));
        };
        let connected = UnixStream::connect(&self.socket).and_then(|stream| Ok((stream.try_clone()?, stream)));
        let (ours, readers) = connected.map_err(|error| {
            Error::new(
                ErrorCode::Io,
                format!("cannot connect to the backup's export at '{}': {error}", self.socket),
            )
        })?;
        open.push(ours);
        Ok(readers.into())
    }

    /// Ends all connections, whatever their readers do, and allows no more.
    pub(super) fn cut(&self) {
        for stream in self.lock().take().into_iter().flatten() {
            drain(stream);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Ends a connection for all who have it, and frees QEMU of what it has written into it.
pub(super) fn drain(mut stream: UnixStream) {
    // One that QEMU has ended is as good.
    let _ = shutdown(&stream, Shutdown::Both);
    let _ = stream.set_nonblocking(true);
    let mut piece = vec![0; 1 << 16];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    /// As QEMU does that waits with an answer.
    #[test]
    fn whoever_writes_into_a_full_connection_is_freed() {
        let socket = std::env::temp_dir().join(format!("livedisk-line-{}", std::process::id()));
        let listener = UnixListener::bind(&socket).unwrap();
        let line = Line::new(socket.to_str().unwrap());
        let reader = line.connect().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let writing = std::thread::spawn(move || while server.write_all(&[7; 1 << 16]).is_ok() {});
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!writing.is_finished());
        line.cut();
        writing.join().unwrap();
        assert_eq!(line.connect().unwrap_err().code(), ErrorCode::Cancelled);
        drop(reader);
        std::fs::remove_file(socket).unwrap();
    }
}
