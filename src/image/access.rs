// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether QEMU could open an image again.

use std::process::{Command, Stdio};

use rustix::fs::{Access, access};
use rustix::process::geteuid;

/// Whether it is certain that this user and group (names or numbers) may not write to the file. Asked of the kernel, for
/// all groups of the user, access lists and directories on the way count.
pub(crate) fn is_closed_to(user: &str, group: &str, path: &str) -> bool {
    if !geteuid().is_root() {
        // QEMU runs as the same user.
        return access(path, Access::WRITE_OK).is_err_and(|error| error == rustix::io::Errno::ACCESS);
    }
    if user == "0" || user == "root" {
        return false;
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
}
