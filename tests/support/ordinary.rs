// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tests of this binary, run by an ordinary user of a group that may talk to a system daemon, whose QEMU is yet another
//! user: as nova-compute runs.

use std::path::Path;
use std::process::{Command, Stdio};

use super::bed::{is_root, run, script};

/// Every Debian has this user and this group.
const USER: &str = "daemon";

/// For the tests that are run so.
const TOLD: &str = "LIVEDISK_TEST_ORDINARY";

struct SystemBed(String);

impl Drop for SystemBed {
    fn drop(&mut self) {
        script(&["down", "--dir", &self.0]);
    }
}

/// In a bed of its own, with these guests.
pub fn run_tests(tests: &[&str], guests: &[&str]) {
    if !is_root() {
        println!("skipped: a system daemon takes root");
        return;
    }
    let template = std::env::temp_dir().join("livedisk-user.XXXXXX");
    let bed = SystemBed(run("mktemp", &["-d", template.to_str().unwrap()]).trim().to_owned());
    let mut arguments = vec!["up", "--dir", &bed.0, "--group", USER];
    arguments.extend(guests.iter().flat_map(|guest| ["--guest", guest]));
    script(&arguments);
    let program = std::env::current_exe().unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .arg(&program)
        .args(tests)
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .env("LIVEDISK_TEST_DIR", &bed.0)
        .env("HOME", Path::new(&bed.0).join("c"))
        .env("TMPDIR", &bed.0)
        .env(TOLD, "yes")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{tests:?} as user {USER}: {}", output.status);
    // One that there is not would pass.
    assert!(said.contains(&format!("{} passed", tests.len())), "{tests:?}");
}

/// Whether this test is run so, and what QEMU's user needs a socket for is refused.
pub fn is_without_backup(what: &str) -> bool {
    let is_ordinary = std::env::var_os(TOLD).is_some();
    if is_ordinary {
        println!("skipped: {what}: only root can give another user's QEMU the socket of a backup");
    }
    is_ordinary
}
