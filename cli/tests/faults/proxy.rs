// SPDX-License-Identifier: LGPL-2.1-or-later
//! A way to libvirtd that can be cut.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub struct Proxy {
    pub socket: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    open: AtomicBool,
    streams: Mutex<Vec<UnixStream>>,
}

impl Proxy {
    pub fn start(socket: PathBuf, daemon: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        let shared = Arc::new(Shared {
            open: AtomicBool::new(true),
            streams: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Refused while cut: closed at once.
                if accepting.open.load(Ordering::SeqCst)
                    && let Ok(server) = UnixStream::connect(&daemon)
                {
                    let _ = accepting.join(&client, &server);
                }
            }
        });
        Ok(Self { socket, shared })
    }

    pub fn cut(&self) {
        self.shared.open.store(false, Ordering::SeqCst);
        let mut streams = self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn repair(&self) {
        self.shared.open.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn join(&self, client: &UnixStream, server: &UnixStream) -> io::Result<()> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, to) in [(client, server), (server, client)] {
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            streams.push(from.try_clone()?);
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        let _ = std::fs::remove_file(&self.socket);
    }
}
