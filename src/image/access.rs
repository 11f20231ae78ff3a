// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether QEMU could open an image again.

use std::process::{Command, Stdio};

use rustix::fs::{Access, Mode, access, getxattr, stat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// On a file that has an access list beside its mode.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// Whether it is certain that this user and group (names or numbers) may not write to the file. Root asks the kernel, for
/// which all groups of the user, access lists and directories on the way count.
pub(crate) fn is_closed_to(user: &str, group: &str, path: &str) -> bool {
    if user == "0" || user == "root" {
        return false;
    }
    let us = geteuid();
    if !us.is_root() {
        return match number_of(user) {
            Some(user) if user == us.as_raw() => !may(path, Access::WRITE_OK),
            Some(number) => is_closed_by_mode(number, &groups_of(user, group), path),
            None => false,
        };
    }
    let asked = Command::new("setpriv")
        .args(["--reuid", user, "--regid", group, "--init-groups"])
        .args(["test", "!", "-w", path])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match asked {
        Ok(status) => status.success(),
        Err(error) => {
            log::debug!(
                "it is unknown whether {user} may write to '{}': setpriv: {error}",
                path.escape_debug()
            );
            false
        }
    }
}

/// Whether this process may read the file.
pub(crate) fn is_readable(path: &str) -> bool {
    may(path, Access::READ_OK)
}

fn may(path: &str, wanted: Access) -> bool {
    !access(path, wanted).is_err_and(|error| error == Errno::ACCESS)
}

/// As owner and mode say, where nothing else counts.
fn is_closed_by_mode(user: u32, groups: &[u32], path: &str) -> bool {
    let Ok(stat) = stat(path) else { return false };
    if getxattr(path, ACCESS_LIST, &mut [0u8; 0]).is_ok() {
        return false;
    }
    let deciding = if stat.st_uid == user {
        Mode::WUSR
    } else if groups.contains(&stat.st_gid) {
        Mode::WGRP
    } else {
        Mode::WOTH
    };
    !Mode::from_raw_mode(stat.st_mode).contains(deciding)
}

fn number_of(user: &str) -> Option<u32> {
    user.parse().ok().or_else(|| ask_id("-u", user).first().copied())
}

/// The groups that the user has by name, and the one that it runs with.
fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let mut groups = ask_id("-G", user);
    groups.extend(group.parse::<u32>());
    groups
}

fn ask_id(what: &str, user: &str) -> Vec<u32> {
    let output = Command::new("id")
        .args([what, "--", user])
        .stdin(Stdio::null())
        .output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let numbers = output.unwrap_or_default();
    numbers
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn the_kernel_says_who_may_write() {
        if !geteuid().is_root() {
            println!("skipped: to ask for another user takes root");
            return;
        }
        let path = std::env::temp_dir().join(format!("livedisk-access-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let shown = path.to_str().unwrap();
        let mode = |mode| file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(is_closed_to("nobody", "nogroup", shown));
        assert!(is_closed_to("65534", "65534", shown));
        assert!(!is_closed_to("root", "root", shown));
        mode(0o666);
        assert!(!is_closed_to("nobody", "nogroup", shown));
        mode(0o640);
        chown(&path, Some(65534), None).unwrap();
        assert!(!is_closed_to("nobody", "nogroup", shown));
        // Who is not known is not refused.
        assert!(!is_closed_to("no such user", "nogroup", shown));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn owner_and_mode_say_it_to_those_who_may_not_ask() {
        let path = std::env::temp_dir().join(format!("livedisk-mode-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let (shown, found) = (path.to_str().unwrap(), rustix::fs::fstat(&file).unwrap());
        let (user, group) = (found.st_uid, found.st_gid);
        for (mode, owner, member, other) in [
            (0o644, false, true, true),
            (0o660, false, false, true),
            (0o464, true, false, true),
            (0o606, false, true, false),
        ] {
            file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_closed_by_mode(user, &[], shown), owner, "{mode:o}");
            assert_eq!(is_closed_by_mode(user + 1, &[4711, group], shown), member, "{mode:o}");
            assert_eq!(is_closed_by_mode(user + 1, &[group + 1], shown), other, "{mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!is_closed_by_mode(user, &[], shown), "nobody knows");
        assert_eq!((number_of("root"), number_of("4711")), (Some(0), Some(4711)));
        assert!(groups_of("root", "815").starts_with(&[0]));
        assert!(groups_of("root", "815").ends_with(&[815]));
    }
}
