// SPDX-License-Identifier: LGPL-2.1-or-later
//! A command that another process gives to libvirt again and again.

use std::io::Write;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::bed::Bed;

/// One virsh, until it is dropped.
pub struct Repeated {
    shell: Child,
    thread: Option<JoinHandle<()>>,
}

impl Repeated {
    pub fn start(bed: &Bed, command: &str, pause: Duration) -> Self {
        let mut virsh = bed.virsh_command();
        virsh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = virsh.spawn().unwrap();
        let mut input = shell.stdin.take().unwrap();
        let line = format!("{command}\n");
        // It ends with the process that reads it.
        let thread = thread::spawn(move || {
            while input.write_all(line.as_bytes()).is_ok() {
                thread::sleep(pause);
            }
        });
        Self {
            shell,
            thread: Some(thread),
        }
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
