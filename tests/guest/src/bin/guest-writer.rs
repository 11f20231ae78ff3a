// SPDX-License-Identifier: LGPL-2.1-or-later
//! The guest's first process once the disks are mounted: writes records on every disk, runs the guest agent, and obeys
//! the control port. Usage: `guest-writer vda=/mnt vdb=/mnt2 ...`
#![forbid(unsafe_code)]

use livedisk_guest::log::Line;
use livedisk_guest::record::{Record, Summary};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CONTROL: &str = "/dev/virtio-ports/org.livedisk.bed.0";
const LOG: &str = "/dev/virtio-ports/org.livedisk.writer.0";
const AGENT: [&str; 6] = [
    "-m",
    "virtio-serial",
    "-p",
    "/dev/virtio-ports/org.qemu.guest_agent.0",
    "-t",
    "/run",
];
/// Every record costs an emulated processor milliseconds, and many guests share the host's.
const INTERVAL_MS: u64 = 100;
const BURST_CHUNK: usize = 64 * 1024;

struct Disk {
    name: String,
    directory: PathBuf,
    running: AtomicBool,
    interval_ms: AtomicU64,
    burst_mib: AtomicU64,
    last: AtomicU64,
    longest_us: AtomicU64,
    /// CLOCK_MONOTONIC at which the write that is under way began, 0: none. Shows a freeze from inside.
    writing_since_ns: AtomicU64,
    /// For who waits until something else is asked of it: an emulated processor that looks now and then costs the host's tests.
    told: (Mutex<()>, Condvar),
}

impl Disk {
    fn new(argument: &str) -> Result<Arc<Self>> {
        let (name, directory) = argument.split_once('=').ok_or("expected disk=directory")?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            directory: directory.into(),
            running: true.into(),
            interval_ms: INTERVAL_MS.into(),
            burst_mib: 0.into(),
            last: 0.into(),
            longest_us: 0.into(),
            writing_since_ns: 0.into(),
            told: Default::default(),
        }))
    }

    fn write_records(&self, log: &Mutex<File>) -> Result<()> {
        let path = self.directory.join("records");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut earlier = Vec::new();
        file.read_to_end(&mut earlier)?;
        let mut sequence = Summary::of(&earlier).last;
        drop(earlier);
        loop {
            self.wait_while(|disk| !disk.running.load(Relaxed));
            sequence += 1;
            let started_ns = now_ns(ClockId::Monotonic);
            self.writing_since_ns.store(started_ns, Relaxed);
            let record = Record {
                sequence,
                realtime_ns: now_ns(ClockId::Realtime),
                monotonic_ns: started_ns,
            };
            file.write_all_at(&record.encode(), Record::offset(sequence))?;
            file.sync_all()?;
            let latency_us = (now_ns(ClockId::Monotonic) - started_ns) / 1000;
            self.writing_since_ns.store(0, Relaxed);
            self.last.store(sequence, Relaxed);
            self.longest_us.fetch_max(latency_us, Relaxed);
            let realtime_ns = now_ns(ClockId::Realtime);
            let line = Line {
                sequence,
                disk: self.name.clone(),
                realtime_ns,
                latency_us,
            };
            log.lock()
                .map_err(|_| "log")?
                .write_all(format!("{line}\n").as_bytes())?;
            sleep(Duration::from_millis(self.interval_ms.load(Relaxed)));
        }
    }

    /// Dirties random places of a big file at the wanted rate, and makes the kernel write them ten times a second.
    fn write_bursts(&self) -> Result<()> {
        let mut file: Option<(File, u64)> = None;
        let mut chunk = vec![0; BURST_CHUNK];
        loop {
            self.wait_while(|disk| disk.burst_mib.load(Relaxed) == 0);
            let rate = self.burst_mib.load(Relaxed) << 20;
            if file.is_none() {
                file = Some(burst_file(&self.directory)?);
            }
            let Some((file, chunks)) = &file else {
                continue;
            };
            let round = Instant::now();
            let mut written = 0;
            while written < rate / 10 && round.elapsed() < Duration::from_millis(100) {
                fastrand::fill(&mut chunk);
                file.write_all_at(&chunk, fastrand::u64(..chunks) * BURST_CHUNK as u64)?;
                written += BURST_CHUNK as u64;
            }
            file.sync_data()?;
            sleep(Duration::from_millis(100).saturating_sub(round.elapsed()));
        }
    }

    fn wait_while(&self, condition: impl Fn(&Self) -> bool) {
        let guard = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.told.1.wait_while(guard, |()| condition(self)));
    }

    fn change(&self, change: impl Fn(&Self)) {
        let _guard = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(self);
        self.told.1.notify_all();
    }

    fn stats(&self) -> String {
        let since = self.writing_since_ns.load(Relaxed);
        let writing_us = if since == 0 {
            0
        } else {
            (now_ns(ClockId::Monotonic) - since) / 1000
        };
        format!(
            "{}:last={},longest_us={},writing_us={writing_us},running={},interval_ms={},burst_mib={}",
            self.name,
            self.last.load(Relaxed),
            self.longest_us.load(Relaxed),
            self.running.load(Relaxed),
            self.interval_ms.load(Relaxed),
            self.burst_mib.load(Relaxed),
        )
    }
}

/// Half of what is free, written once, so that a burst allocates nothing.
fn burst_file(directory: &Path) -> Result<(File, u64)> {
    let space = rustix::fs::statvfs(directory)?;
    let chunks = (space.f_bavail * space.f_frsize / 2 / BURST_CHUNK as u64).max(1);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join("burst"))?;
    if file.metadata()?.len() > 0 {
        let chunks = file.metadata()?.len() / BURST_CHUNK as u64;
        return Ok((file, chunks.max(1)));
    }
    for index in 0..chunks {
        file.write_all_at(&[0; BURST_CHUNK], index * BURST_CHUNK as u64)?;
    }
    file.sync_all()?;
    Ok((file, chunks))
}

fn now_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

struct Control {
    disks: Vec<Arc<Disk>>,
    agent: Option<Child>,
}

impl Control {
    fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["agent", "start"] => self.start_agent()?,
            ["agent", "stop"] => self.signal_agent(Signal::STOP)?,
            ["agent", "cont"] => self.signal_agent(Signal::CONT)?,
            ["agent", "kill"] => {
                self.signal_agent(Signal::KILL)?;
                if let Some(mut agent) = self.agent.take() {
                    agent.wait()?;
                }
            }
            ["writer", "stop", ref disk @ ..] => self.each(disk, |disk| disk.running.store(false, Relaxed))?,
            ["writer", "start", ref disk @ ..] => self.each(disk, |disk| disk.running.store(true, Relaxed))?,
            ["writer", "rate", ms, ref disk @ ..] => {
                let ms = ms.parse()?;
                self.each(disk, |disk| disk.interval_ms.store(ms, Relaxed))?
            }
            ["writer", "burst", mib, ref disk @ ..] => {
                let mib = mib.parse()?;
                self.each(disk, |disk| disk.burst_mib.store(mib, Relaxed))?
            }
            ["stats"] => {
                let all: Vec<String> = self.disks.iter().map(|disk| disk.stats()).collect();
                return Ok(all.join(" "));
            }
            ["clock", ns] => {
                let ns: i64 = ns.parse()?;
                let time = Timespec {
                    tv_sec: ns / 1_000_000_000,
                    tv_nsec: ns % 1_000_000_000,
                };
                clock_settime(ClockId::Realtime, time)?
            }
            ["poweroff"] => {
                rustix::fs::sync();
                reboot(RebootCommand::PowerOff)?
            }
            _ => return Err("expected agent stop|cont|kill|start, writer stop|start|rate MS|burst MIB [DISK], clock NS, stats or poweroff".into()),
        }
        Ok(String::new())
    }

    fn each(&self, wanted: &[&str], change: impl Fn(&Disk)) -> Result<()> {
        let mut matched = false;
        for disk in self
            .disks
            .iter()
            .filter(|disk| wanted.is_empty() || wanted == [disk.name.as_str()])
        {
            disk.change(&change);
            matched = true;
        }
        matched.then_some(()).ok_or_else(|| "no such disk".into())
    }

    fn start_agent(&mut self) -> Result<()> {
        if self.agent.is_none() {
            self.agent = Some(Command::new("qemu-ga").args(AGENT).spawn()?);
        }
        Ok(())
    }

    fn signal_agent(&self, signal: Signal) -> Result<()> {
        let agent = self.agent.as_ref().ok_or("the agent is not running")?;
        let pid = Pid::from_raw(agent.id() as i32).ok_or("the agent has no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// A read gives 0 while nobody on the host is connected.
    fn serve(&mut self, port: &mut File) -> Result<()> {
        let mut pending = Vec::new();
        let mut buffer = [0; 512];
        loop {
            let count = port.read(&mut buffer)?;
            if count == 0 {
                pending.clear();
                sleep(Duration::from_millis(50));
                continue;
            }
            pending.extend_from_slice(&buffer[..count]);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let answer = match self.obey(&String::from_utf8_lossy(&line)) {
                    Ok(text) => format!("ok {text}").trim_end().to_owned(),
                    Err(error) => format!("error {error}"),
                };
                port.write_all(format!("{answer}\n").as_bytes())?;
            }
        }
    }
}

fn main() -> Result<()> {
    let disks = std::env::args()
        .skip(1)
        .map(|argument| Disk::new(&argument))
        .collect::<Result<Vec<_>>>()?;
    let log = Arc::new(Mutex::new(OpenOptions::new().write(true).open(LOG)?));
    for disk in &disks {
        let (records, bursts, log) = (disk.clone(), disk.clone(), log.clone());
        std::thread::spawn(move || complain(&records.name, records.write_records(&log)));
        std::thread::spawn(move || complain(&bursts.name, bursts.write_bursts()));
    }
    let mut control = Control { disks, agent: None };
    if !std::fs::read_to_string("/proc/cmdline")?
        .split_whitespace()
        .any(|word| word == "agent=no")
    {
        control.start_agent()?;
    }
    let mut port = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    control.serve(&mut port)
}

/// The serial console is the only place left to say it; an I/O error from the disk is what a test wants to see there.
fn complain(disk: &str, result: Result<()>) {
    if let Err(error) = result {
        eprintln!("guest-writer: {disk}: {error}");
    }
}
