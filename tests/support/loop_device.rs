// SPDX-License-Identifier: LGPL-2.1-or-later
//! A block device to test with.

use std::path::Path;

use super::bed::run;

/// A loop device on a file that exists; detached at the end.
pub struct LoopDevice(pub String);

impl LoopDevice {
    pub fn on(file: &Path) -> Self {
        let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        Self(device.trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["--detach", &self.0])
            .status();
    }
}
