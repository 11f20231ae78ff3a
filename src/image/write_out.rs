// SPDX-License-Identifier: LGPL-2.1-or-later
//! Brings a file to the disk while it is still being written. Left to the end, gigabytes go out at once, and a guest that
//! syncs a few bytes on the same file system waits for all of them: ext4 commits its journal after the data that it
//! ordered, and the disk has a queue besides.

use std::fs::File;
use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

/// Receives how much was copied of how much; false ends the copy.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// What goes out at once, and so what a guest waits for at the worst. Each costs a commit and a flush of the disk.
const STRETCH: u64 = 64 << 20;

/// Runs `write` and, beside it, brings to the disk what it reports to its watch as written. What is after the last whole
/// stretch is left to the caller's own sync. An error is one of this writing out, which ends `write`; where `watch` has
/// ended it, the file is not wanted any more, and its errors are not reported.
pub(super) fn beside<T>(file: &File, watch: Watch<'_>, write: impl FnOnce(Watch<'_>) -> T) -> io::Result<T> {
    // Without a queue: while one stretch goes out one is written, and no more than that.
    let (sender, stretches) = sync_channel(0);
    thread::scope(|scope| {
        let going_out = thread::Builder::new()
            .name("livedisk-write".into())
            .spawn_scoped(scope, move || stretches.iter().try_for_each(|()| file.sync_data()))?;
        let (mut sent, mut wanted) = (0, true);
        let written = write(&mut |done, total| {
            wanted = watch(done, total);
            if !wanted {
                return false;
            }
            if done.saturating_sub(sent) < STRETCH {
                return true;
            }
            sent = done;
            sender.send(()).is_ok()
        });
        drop(sender);
        let gone_out = going_out
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
        if wanted {
            // The kernel reports it once: the caller's sync would not hear of it.
            gone_out?;
        }
        Ok(written)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// One that takes no sync.
    fn socket() -> File {
        let (socket, _) = UnixStream::pair().unwrap();
        File::from(OwnedFd::from(socket))
    }

    #[test]
    fn its_error_ends_the_writing_and_is_told() {
        let mut looks = Vec::new();
        let ended = beside(&socket(), &mut |_, _| true, |watch| {
            looks.extend((1..=3).map(|stretch| watch(stretch * STRETCH, 3 * STRETCH)));
        });
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(looks, [true, false, false]);
    }

    #[test]
    fn its_error_is_not_reported_of_an_unwanted_file() {
        let looks = beside(&socket(), &mut |done, _| done == STRETCH, |watch| {
            [watch(STRETCH, 2 * STRETCH), watch(2 * STRETCH, 2 * STRETCH)]
        });
        assert_eq!(looks.unwrap(), [true, false]);
    }

    #[test]
    fn less_than_a_stretch_is_left_to_the_caller() {
        let file = socket();
        let looks = beside(&file, &mut |_, _| true, |watch| watch(STRETCH - 1, STRETCH));
        assert!(looks.unwrap());
        assert!(!beside(&file, &mut |_, _| false, |watch| watch(STRETCH, STRETCH)).unwrap());
    }
}
