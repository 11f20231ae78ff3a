// SPDX-License-Identifier: LGPL-2.1-or-later
//! QEMU's locks on its images.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// The bytes that QEMU locks one by one, for what it does with an image and for what others may not (RAW_LOCK_PERM_BASE,
/// RAW_LOCK_SHARED_BASE).
pub(crate) const LOCK_BYTES: Range<u64> = 100..264;

/// Whether somebody holds one of QEMU's locks on the file.
pub(crate) fn is_locked_as_image(file: &File) -> io::Result<bool> {
    // SAFETY: all zeroes is a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    lock.l_whence = libc::SEEK_SET as _;
    lock.l_start = LOCK_BYTES.start as _;
    lock.l_len = (LOCK_BYTES.end - LOCK_BYTES.start) as _;
    // SAFETY: the descriptor and the struct live until the call returns, which asks and takes no lock.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock.l_type != libc::F_UNLCK as i16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_one_of_the_bytes_is_seen() {
        let path = std::env::temp_dir().join(format!("livedisk-lock-{}", std::process::id()));
        let holder = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        for (start, seen) in [(99, false), (103, true), (201, true), (264, false)] {
            let set = |kind: i32| {
                // SAFETY: as above.
                let mut lock: libc::flock = unsafe { std::mem::zeroed() };
                lock.l_type = kind as _;
                lock.l_start = start;
                lock.l_len = 1;
                // SAFETY: as above; the descriptor is this test's own.
                let result = unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
                assert_eq!(result, 0);
            };
            set(libc::F_WRLCK);
            assert_eq!(is_locked_as_image(&file).unwrap(), seen, "{start}");
            set(libc::F_UNLCK);
        }
        std::fs::remove_file(path).unwrap();
    }
}
