// SPDX-License-Identifier: LGPL-2.1-or-later
//! A clone of a quiet file: shared blocks where the file system can, else a copy that keeps holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, SeekFrom, copy_file_range, ioctl_ficlone, openat, seek};
use rustix::io::Errno;

use super::write_out::{self, Watch};

/// Large enough to be quick, small enough to be cancelled soon.
const PIECE: u64 = 8 << 20;

/// What a copy came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cloned {
    Whole,
    /// The watch ended it.
    Cancelled,
}

/// FICLONE; `Ok(false)` where these files cannot share blocks.
pub(crate) fn reflink(source: &File, destination: &File) -> io::Result<bool> {
    match ioctl_ficlone(destination, source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether files of the one directory can share blocks with files of the other: tried on two that have no name, so that
/// nothing is left of them.
pub(crate) fn can_share_blocks(from: &Path, to: &Path) -> bool {
    let unnamed = |directory: &Path| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    };
    let (Ok(source), Ok(destination)) = (unnamed(from), unnamed(to)) else {
        return false;
    };
    source.write_all_at(&[1; 4096], 0).is_ok() && matches!(reflink(&source, &destination), Ok(true))
}

/// Copies the data of a file, or of a slice of it, and keeps holes, at `bandwidth` bytes per second at most (0: no limit).
pub(crate) fn copy(
    source: &File,
    slice: Option<&Range<u64>>,
    destination: &File,
    bandwidth: u64,
    watch: Watch<'_>,
) -> io::Result<Cloned> {
    let slice = match slice {
        Some(slice) => slice.clone(),
        None => 0..source.metadata()?.len(),
    };
    write_out::beside(destination, watch, |watch| {
        copy_data(source, &slice, destination, bandwidth, watch)
    })?
}

fn copy_data(
    source: &File,
    slice: &Range<u64>,
    destination: &File,
    bandwidth: u64,
    watch: Watch<'_>,
) -> io::Result<Cloned> {
    let (start, end) = (slice.start, slice.end);
    destination.set_len(end - start)?;
    let total = data_bytes(source, slice)?;
    // Under a limit the watch must be asked often all the same.
    let piece = match bandwidth {
        0 => PIECE,
        limit => (limit / 10).clamp(64 << 10, PIECE),
    };
    let (mut done, began) = (0, Instant::now());
    let mut offset = start;
    while let Some((from, to)) = next_data(source, offset, end)? {
        let mut at = from;
        while at < to {
            let copied = copy_piece((source, at), (destination, at - start), (to - at).min(piece))?;
            if copied == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the source became shorter",
                ));
            }
            at += copied;
            done += copied;
            if !watch(done, total) {
                return Ok(Cloned::Cancelled);
            }
            if bandwidth > 0 {
                let due = Duration::from_secs_f64(done as f64 / bandwidth as f64);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
        offset = to;
    }
    Ok(Cloned::Whole)
}

/// The next stretch of data from `offset` on, before `end`.
fn next_data(file: &File, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    if offset >= end {
        return Ok(None);
    }
    let from = match seek(file, SeekFrom::Data(offset)) {
        Ok(from) if from >= end => return Ok(None),
        Ok(from) => from,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that does not know holes has none.
        Err(Errno::INVAL) => return Ok(Some((offset, end))),
        Err(error) => return Err(error.into()),
    };
    let to = seek(file, SeekFrom::Hole(from))?;
    Ok(Some((from, to.min(end))))
}

fn data_bytes(file: &File, slice: &Range<u64>) -> io::Result<u64> {
    let (mut bytes, mut offset) = (0, slice.start);
    while let Some((from, to)) = next_data(file, offset, slice.end)? {
        bytes += to - from;
        offset = to;
    }
    Ok(bytes)
}

/// In the kernel where it can, else through memory.
fn copy_piece(from: (&File, u64), to: (&File, u64), length: u64) -> io::Result<u64> {
    let ((source, start), (destination, at)) = (from, to);
    let (mut from, mut to) = (start, at);
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    match copy_file_range(source, Some(&mut from), destination, Some(&mut to), wanted) {
        Ok(copied) => return Ok(copied as u64),
        Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::TXTBSY) => {}
        Err(error) => return Err(error.into()),
    }
    let mut buffer = vec![0; wanted.min(1 << 20)];
    let read = source.read_at(&mut buffer, start)?;
    destination.write_all_at(&buffer[..read], at)?;
    Ok(read as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn scratch(name: &str) -> (File, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("livedisk-clone-{}-{name}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        (file, path)
    }

    #[test]
    fn content_and_holes_are_kept() {
        let ((source, from), (destination, to)) = (scratch("a"), scratch("b"));
        source.set_len(64 << 20).unwrap();
        source.write_all_at(&[7; 4096], 1 << 20).unwrap();
        source.write_all_at(&[9; 10_000], 40 << 20).unwrap();
        let mut seen = Vec::new();
        let watch = &mut |done, total| {
            seen.push((done, total));
            true
        };
        assert_eq!(copy(&source, None, &destination, 0, watch).unwrap(), Cloned::Whole);
        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
        assert!(
            destination.metadata().unwrap().blocks() * 512 < 1 << 20,
            "holes were filled"
        );
        let (done, total) = *seen.last().unwrap();
        assert_eq!(done, total);
        std::fs::remove_file(from).unwrap();
        std::fs::remove_file(to).unwrap();
    }

    #[test]
    fn a_slice_is_copied_and_nothing_beside_it() {
        let ((source, from), (destination, to)) = (scratch("e"), scratch("f"));
        source.set_len(64 << 20).unwrap();
        for (at, byte) in [(0, 1), (2 << 20, 2), (40 << 20, 3)] {
            source.write_all_at(&vec![byte; 2 << 20], at).unwrap();
        }
        // From the middle of some data to the middle of some.
        let slice = (3 << 20) + 512..(41 << 20) + 1024;
        let whole = std::fs::read(&from).unwrap();
        let wanted = &whole[slice.start as usize..slice.end as usize];
        copy(&source, Some(&slice), &destination, 0, &mut |_, _| true).unwrap();
        assert!(std::fs::read(&to).unwrap() == wanted);
        assert!(
            destination.metadata().unwrap().blocks() * 512 < 4 << 20,
            "holes were filled"
        );
        // One that ends in a hole.
        let slice = (41 << 20)..(50 << 20);
        copy(&source, Some(&slice), &destination, 0, &mut |_, _| true).unwrap();
        assert_eq!(destination.metadata().unwrap().len(), 9 << 20);
        std::fs::remove_file(from).unwrap();
        std::fs::remove_file(to).unwrap();
    }

    #[test]
    fn the_watch_ends_it() {
        let ((source, from), (destination, to)) = (scratch("c"), scratch("d"));
        source.write_all_at(&vec![1; 20 << 20], 0).unwrap();
        assert_eq!(
            copy(&source, None, &destination, 0, &mut |_, _| false).unwrap(),
            Cloned::Cancelled
        );
        std::fs::remove_file(from).unwrap();
        std::fs::remove_file(to).unwrap();
    }
}
