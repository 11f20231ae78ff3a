// SPDX-License-Identifier: LGPL-2.1-or-later
//! Many guests at once through one process: `scale URI METHOD DIRECTORY THREADS DOMAIN...` takes a snapshot of each domain's vda
//! into DIRECTORY, all side by side and started by so many threads, and prints JSON. With METHOD `hold` it begins slow mirrors,
//! says so in a line, and waits to be killed. `make bench` runs it.

use std::error::Error;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{Connection, ErrorCode, EventLoop, Method, Operation, SnapshotDisk, SnapshotOptions};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LOOK: Duration = Duration::from_millis(20);
/// So slow that a killed process leaves it in the middle of its copy.
const SLOW: u64 = 1 << 20;

/// Threads, descriptors, and memory in KiB.
fn process() -> [u64; 3] {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    let descriptors = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    [field("Threads:"), descriptors, field("VmRSS:")]
}

fn named([threads, descriptors, memory]: [u64; 3]) -> serde_json::Value {
    serde_json::json!({"threads": threads, "descriptors": descriptors, "memory_kib": memory})
}

/// The most of each while `ended` is not set.
fn most(ended: &AtomicBool) -> [u64; 3] {
    let mut most = [0; 3];
    while !ended.load(Ordering::SeqCst) {
        for (most, now) in most.iter_mut().zip(process()) {
            *most = now.max(*most);
        }
        thread::sleep(LOOK);
    }
    most
}

struct Job<'a> {
    connection: &'a Connection,
    domains: &'a [String],
    directory: &'a str,
    method: Method,
    bandwidth: u64,
}

impl Job<'_> {
    fn start(&self, domain: &str) -> Result<(Operation, Duration)> {
        let options = SnapshotOptions {
            disks: vec![SnapshotDisk {
                target: "vda".into(),
                destination: format!("{}/{domain}.copy", self.directory),
                format: Some("qcow2".into()),
                ..SnapshotDisk::default()
            }],
            method: self.method,
            bandwidth: self.bandwidth,
            ..SnapshotOptions::default()
        };
        let began = Instant::now();
        let operation = self.connection.start_live_snapshot(domain, &options)?;
        Ok((operation, began.elapsed()))
    }

    /// Each domain's operation and how long its start took.
    fn start_all(&self, threads: usize) -> Result<Vec<(Operation, Duration)>> {
        let (next, started) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(domain) = self.domains.get(next.fetch_add(1, Ordering::SeqCst)) {
                        let one = self.start(domain);
                        started.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                    }
                });
            }
        });
        let started = started.into_inner().unwrap_or_else(PoisonError::into_inner);
        started.into_iter().collect()
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [uri, method, directory, threads, domains @ ..] = &words[..] else {
        return Err("expected URI METHOD DIRECTORY THREADS DOMAIN...".into());
    };
    let hold = method == "hold";
    let connection = Connection::open(Some(uri), EventLoop::Own)?;
    let job = Job {
        connection: &connection,
        domains,
        directory,
        method: match method.as_str() {
            "mirror" | "hold" => Method::Mirror,
            "clone" => Method::Clone,
            "backup" => Method::Backup,
            _ => return Err("METHOD is mirror, clone, backup or hold".into()),
        },
        bandwidth: if hold { SLOW } else { 0 },
    };
    let (idle, ended) = (process(), AtomicBool::new(false));
    let (began, threads) = (Instant::now(), threads.parse()?);
    let (found, most) = thread::scope(|scope| -> Result<_> {
        let watch = scope.spawn(|| most(&ended));
        let found = measured(&job, threads, hold);
        ended.store(true, Ordering::SeqCst);
        Ok((found?, watch.join().unwrap_or_default()))
    })?;
    let (starts, reports) = found;
    let all_of = |figure: &dyn Fn(&livedisk::Report) -> f64| reports.iter().map(figure).collect::<Vec<_>>();
    let found = serde_json::json!({
        "wall_s": milliseconds(began.elapsed()) / 1e3,
        "start_ms": starts.into_iter().map(milliseconds).collect::<Vec<_>>(),
        "elapsed_s": all_of(&|report| milliseconds(report.elapsed) / 1e3),
        "window_ms": reports.iter().filter(|report| report.filesystems_frozen > 0).map(|report| milliseconds(report.freeze)).collect::<Vec<_>>(),
        "idle": named(idle),
        "most": named(most),
        "after": named(process()),
    });
    println!("{found}");
    Ok(())
}

fn measured(job: &Job<'_>, threads: usize, hold: bool) -> Result<(Vec<Duration>, Vec<livedisk::Report>)> {
    let started = job.start_all(threads)?;
    if hold {
        println!("held");
        loop {
            thread::park();
        }
    }
    for (operation, _) in &started {
        match operation.finish(Some(Duration::ZERO)) {
            Err(error) if error.code() != ErrorCode::Timeout => return Err(error.into()),
            _ => {}
        }
    }
    let (mut starts, mut reports) = (Vec::new(), Vec::new());
    for (operation, took) in &started {
        reports.push(operation.finish(None)?);
        starts.push(*took);
    }
    Ok((starts, reports))
}
