// SPDX-License-Identifier: LGPL-2.1-or-later
//! Standard error: messages, the log and, at the foot of a terminal, a line of progress. No operation
//! waits for its reader, and none fails because it cannot be written: a thread of its own writes, and what cannot be written is dropped.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

/// A reader may be slow by this many messages before some are dropped.
const QUEUE: usize = 4096;

static QUEUED: OnceLock<SyncSender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static FOOT: AtomicBool = AtomicBool::new(false);

/// To the start of the line, and clear it.
const CLEAR: &str = "\r\x1b[K";

enum Message {
    Text(String),
    /// The line at the foot; lines are written above it.
    Foot(String),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Starts the thread; without it `say` writes itself.
pub fn open() {
    let (queued, messages) = sync_channel(QUEUE);
    let started = thread::Builder::new()
        .name("stderr".into())
        .spawn(move || write_all(&messages));
    if started.is_ok() {
        let _ = QUEUED.set(queued);
    }
}

/// Writes a line, soon.
pub fn say(line: &str) {
    write(format!("{line}\n"));
}

fn write(text: String) {
    match QUEUED.get() {
        Some(queued) => {
            if let Err(TrySendError::Full(_)) = queued.try_send(Message::Text(text)) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => put(&text),
    }
}

/// Whether there is a line at the foot; it is cleared where there is none.
pub fn show_foot(shown: bool) {
    if FOOT.swap(shown, Ordering::SeqCst) && !shown {
        put_foot("");
    }
}

/// Changes the line at the foot, if there is one. It must be narrower than the terminal.
pub fn set_foot(text: &str) {
    if FOOT.load(Ordering::SeqCst) {
        put_foot(text);
    }
}

fn put_foot(text: &str) {
    if let Some(queued) = QUEUED.get() {
        // The next one comes soon.
        let _ = queued.try_send(Message::Foot(text.to_owned()));
    }
}

/// Waits until everything that was said is written.
pub fn flush() {
    let Some(queued) = QUEUED.get() else { return };
    let (done, written) = sync_channel(1);
    // The thread lives as long as the process.
    let _ = queued.send(Message::Flush(done));
    let _ = written.recv();
}

fn write_all(messages: &Receiver<Message>) {
    let mut foot = String::new();
    for message in messages {
        match message {
            Message::Text(text) if foot.is_empty() => put(&text),
            Message::Text(text) => put(&format!("{CLEAR}{text}{foot}")),
            Message::Foot(text) => {
                if text != foot {
                    put(&format!("{CLEAR}{text}"));
                    foot = text;
                }
            }
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            put(&format!(
                "livedisk: {dropped} lines were dropped here because they were not read in time\n"
            ));
        }
    }
}

fn put(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// What env_logger writes to; it gives one record a write.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
