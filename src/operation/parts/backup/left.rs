// SPDX-License-Identifier: LGPL-2.1-or-later
//! Readers of a process that is gone. They were killed with it; one that hangs on its destination, where no signal reaches
//! it, still holds its connection to the export.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, fstat};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};

use super::line::drain;
use crate::error::{Error, ErrorCode, Result};

/// In a reader's environment: the operation that it reads for.
pub(super) const LABEL: &str = "LIVEDISK_OPERATION";

/// How long the kernel is given to end a process that can be ended.
const ENDING: Duration = Duration::from_secs(2);
const ENDING_AGAIN: Duration = Duration::from_millis(10);

struct Reader {
    pid: i32,
    process: OwnedFd,
}

/// Ends every reader of the operation, or frees QEMU of those that cannot be ended. An error says that one may still be in
/// QEMU's way.
pub(super) fn end_readers(operation: &str) -> Result<()> {
    let readers = find(operation);
    for reader in &readers {
        // It may have ended.
        let _ = pidfd_send_signal(&reader.process, Signal::KILL);
    }
    let deadline = Instant::now() + ENDING;
    for reader in readers {
        while is_reader(reader.pid, operation) && Instant::now() < deadline {
            thread::sleep(ENDING_AGAIN);
        }
        if is_reader(reader.pid, operation) {
            free(&reader)?;
        }
    }
    Ok(())
}

fn find(operation: &str) -> Vec<Reader> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_reader(*pid, operation))
        .filter_map(|pid| {
            let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // Not one that has got its number since.
            is_reader(pid, operation).then_some(Reader { pid, process })
        })
        .collect()
}

fn is_reader(pid: i32, operation: &str) -> bool {
    let wanted = format!("{LABEL}={operation}");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable == wanted.as_bytes())
    })
}

/// Its connections are taken from it.
fn free(reader: &Reader) -> Result<()> {
    let hangs = |why: &str| {
        Error::new(
            ErrorCode::JobFailed,
            format!(
                "process {}, which copied the backup, hangs on its destination and cannot be ended ({why}); ending \
                 the backup now would stop the guest; fix the destination's storage, then recover again",
                reader.pid
            ),
        )
    };
    let descriptors = fs::read_dir(format!("/proc/{}/fd", reader.pid)).map_err(|error| hangs(&error.to_string()))?;
    let numbers = descriptors.flatten();
    for number in numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let taken = pidfd_getfd(&reader.process, number, PidfdGetfdFlags::empty());
        let taken = taken.map_err(|error| hangs(&error.to_string()))?;
        let is_socket = fstat(&taken).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        if is_socket {
            drain(UnixStream::from(taken));
        }
    }
    log::warn!(
        "process {} hangs on the destination; its connection to the backup was ended",
        reader.pid
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_readers_of_one_operation_are_found_and_ended() {
        let id = format!("test-{}", std::process::id());
        let reader = |value: &str| Command::new("sleep").arg("60").env(LABEL, value).spawn().unwrap();
        let (mut ours, mut other) = (reader(&id), reader(&format!("{id}0")));
        let deadline = Instant::now() + Duration::from_secs(10);
        // Until it is sleep's.
        while find(&id).is_empty() && Instant::now() < deadline {
            thread::sleep(ENDING_AGAIN);
        }
        end_readers(&id).unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
