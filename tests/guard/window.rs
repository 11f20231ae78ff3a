// SPDX-License-Identifier: LGPL-2.1-or-later
//! The window, held open, and how long a guest is silent in it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::bed::Server;
use crate::support::{PATIENCE, until};

// The window, held open.

/// An export that can be paused: a mirror to it then does not end, and the window stays open.
pub struct Export {
    _server: Server,
    pub uri: String,
    control: PathBuf,
    image: PathBuf,
}

impl Export {
    pub fn new(directory: &Path, name: &str) -> Self {
        let path = |kind: &str| directory.join(format!("{name}.{kind}"));
        let (socket, control, image) = (path("nbd"), path("pause"), path("raw"));
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        let pause = format!("pause-control={}", shown(&control));
        let server = Server::nbdkit(&socket, &["--filter=pause", "file", &shown(&image), &pause]);
        until("the export can be paused", || control.exists());
        Self {
            _server: server,
            uri: format!("nbd+unix:///?socket={}", shown(&socket)),
            control,
            image,
        }
    }

    /// `p` or `r`, answered by the upper-case letter.
    pub fn control(&self, command: u8) {
        let mut control = UnixStream::connect(&self.control).unwrap();
        let mut answer = [0];
        control.write_all(&[command]).unwrap();
        control.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], command.to_ascii_uppercase());
    }

    pub fn pause(&self) {
        self.control(b'p');
    }

    pub fn resume(&self) {
        self.control(b'r');
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        for path in [&self.image, &self.control, &self.control.with_extension("nbd")] {
            let _ = fs::remove_file(path);
        }
    }
}

/// From `since` on, for a while: the longest time that nothing came from the guest's writer.
pub fn longest_silence(log: &str, since: Instant) -> Duration {
    let (mut last, mut longest, mut length) = (since, Duration::ZERO, 0);
    // A while, but at least until something came.
    while since.elapsed() < Duration::from_millis(1500) || (last == since && since.elapsed() < PATIENCE) {
        let now = fs::metadata(log).unwrap().len();
        longest = longest.max(last.elapsed());
        if now != length && length != 0 {
            last = Instant::now();
        }
        length = now;
        thread::sleep(Duration::from_millis(1));
    }
    longest
}
