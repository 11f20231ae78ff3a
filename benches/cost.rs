// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an operation costs the process that has it: `cost URI DOMAIN DESTINATION` prints JSON. `make bench` runs it.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use livedisk::{Connection, EventLoop, Method, Phase, SnapshotDisk, SnapshotOptions};

const POLLS: u32 = 100_000;

/// Threads, descriptors, and memory in KiB.
fn process() -> Result<[u64; 3], Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let descriptors = fs::read_dir("/proc/self/fd")?.count() as u64;
    Ok([
        field("Threads:").unwrap_or(0),
        descriptors,
        field("VmRSS:").unwrap_or(0),
    ])
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [uri, domain, destination] = &words[..] else {
        return Err("expected URI DOMAIN DESTINATION".into());
    };
    let connection = Connection::open(Some(uri), EventLoop::Own)?;
    let idle = process()?;
    let options = SnapshotOptions {
        disks: vec![SnapshotDisk {
            target: "vda".into(),
            destination: destination.clone(),
            format: Some("qcow2".into()),
            ..SnapshotDisk::default()
        }],
        method: Method::Mirror,
        bandwidth: 16 << 20,
        ..SnapshotOptions::default()
    };
    let began = Instant::now();
    let operation = connection.start_live_snapshot(domain, &options)?;
    let start = began.elapsed();
    while operation.poll(Some(Duration::from_secs(1))).phase == Phase::Preparing {}
    let busy = process()?;
    let began = Instant::now();
    for _ in 0..POLLS {
        std::hint::black_box(operation.poll(Some(Duration::ZERO)));
    }
    let poll = began.elapsed() / POLLS;
    operation.cancel()?;
    drop(operation);
    let after = process()?;
    let named = |[threads, descriptors, memory]: [u64; 3]| serde_json::json!({"threads": threads, "descriptors": descriptors, "memory_kib": memory});
    let found = serde_json::json!({
        "poll_ns": poll.as_nanos() as u64,
        "start_ms": start.as_secs_f64() * 1e3,
        "idle": named(idle),
        "one_operation": named(busy),
        "after": named(after),
    });
    println!("{found}");
    Ok(())
}
