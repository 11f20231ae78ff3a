// SPDX-License-Identifier: LGPL-2.1-or-later
//! How the guard's process lets go of what it inherits.

use std::fs;

/// What this process executes gets the standard descriptors and no others: a caller's that are not close-on-exec came
/// along with us.
pub(crate) fn keep_descriptors() {
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            && number > libc::STDERR_FILENO
        {
            // SAFETY: a flag that changes nothing for those who use the descriptor in this process.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

/// What ends the agent is often sent to all that it started. Kept over an exec.
pub(crate) fn ignore_requests_to_end() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: SIG_IGN is no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
