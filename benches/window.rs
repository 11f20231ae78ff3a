// SPDX-License-Identifier: LGPL-2.1-or-later
//! The freeze window, measured against a bare freeze-and-thaw pair of the same guest under the same load, in the same
//! run: `make bench`. It needs a guest of the test bed in LIVEDISK_TEST_URI and the like.
//!
//! The host's view is the report's `freeze` (request sent to thaw answered), the guest's the writer's own latencies.

mod guest;

use std::fs;
use std::time::{Duration, Instant};

use guest::{Bed, Outcome, bed, longest_stall, median};
use livedisk::{Connection, EventLoop, Method, Quiesce, SnapshotDisk, SnapshotOptions};
use virt::connect::Connect;
use virt_sys as sys;

/// What one round of one kind took.
#[derive(Default)]
struct Series {
    window: Vec<Duration>,
    stall: Vec<Duration>,
    total: Vec<Duration>,
}

/// Freeze, `work`, thaw by plain libvirt calls: with nothing to do the floor, with a whole copy the usual way.
fn frozen(connect: &Connect, domain: &str, work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let domain = connect.lookup_domain_by_name(domain)?;
    let check = |result: i32| {
        if result < 0 {
            Err(virt::error::Error::last_error())
        } else {
            Ok(())
        }
    };
    let start = Instant::now();
    // SAFETY: the domain is alive and no mount points are passed.
    check(unsafe { sys::virDomainFSFreeze(domain.as_ptr(), std::ptr::null_mut(), 0, 0) })?;
    let worked = work();
    // SAFETY: as above.
    check(unsafe { sys::virDomainFSThaw(domain.as_ptr(), std::ptr::null_mut(), 0, 0) })?;
    worked?;
    Ok(start.elapsed())
}

fn snapshot(connection: &Connection, bed: &Bed, method: Method, quiesce: Quiesce) -> Outcome<(Duration, Duration)> {
    let destination = bed.directory.join("bench.qcow2");
    let options = SnapshotOptions {
        disks: vec![SnapshotDisk {
            target: "vda".into(),
            destination: destination.to_string_lossy().into_owned(),
            format: Some("qcow2".into()),
            ..SnapshotDisk::default()
        }],
        method,
        quiesce,
        ..SnapshotOptions::default()
    };
    let report = connection.start_live_snapshot(&bed.domain, &options)?.finish(None);
    // Also after a failure that left it.
    let _ = fs::remove_file(&destination);
    let report = report?;
    Ok((report.freeze, report.elapsed))
}

fn main() -> Outcome<()> {
    let bed = bed(1)?;
    let rounds: usize = std::env::var("LIVEDISK_BENCH_ROUNDS").map_or(Ok(15), |text| text.parse())?;
    let connection = Connection::open(Some(&bed.uri), EventLoop::Own)?;
    let connect = Connect::open(Some(&bed.uri))?;
    let names = ["nothing", "bare pair", "MIRROR", "BACKUP", "frozen copy"];
    let mut series: [Series; 5] = Default::default();
    // Taken in turn, so that whatever else the machine does falls on all alike.
    for _ in 0..rounds {
        for (kind, series) in series.iter_mut().enumerate() {
            let ((window, total), stall) = longest_stall(&bed.writer, || match kind {
                0 => {
                    std::thread::sleep(Duration::from_millis(500));
                    Ok((Duration::ZERO, Duration::ZERO))
                }
                1 => frozen(&connect, &bed.domain, || Ok(())).map(|window| (window, window)),
                2 => snapshot(&connection, &bed, Method::Mirror, Quiesce::Require),
                3 => snapshot(&connection, &bed, Method::Backup, Quiesce::Require),
                _ => {
                    let copy = || snapshot(&connection, &bed, Method::Mirror, Quiesce::None).map(drop);
                    frozen(&connect, &bed.domain, copy).map(|window| (window, window))
                }
            })?;
            series.window.push(window);
            series.stall.push(stall);
            series.total.push(total);
        }
    }
    let bare = median(&mut series[1].window).as_secs_f64();
    println!("medians of {rounds} rounds, taken in turn; worst in parentheses");
    println!(
        "{:12} {:>10} {:>7} {:>24} {:>10}",
        "", "window", "ratio", "longest guest write", "total"
    );
    for (name, series) in names.iter().zip(&mut series) {
        let window = median(&mut series.window);
        let stall = median(&mut series.stall);
        let worst = series.stall.last().copied().unwrap_or_default();
        println!(
            "{name:12} {:>7.1} ms {:>7.2} {:>9.1} ms ({:>6.1} ms) {:>7.0} ms",
            window.as_secs_f64() * 1e3,
            window.as_secs_f64() / bare,
            stall.as_secs_f64() * 1e3,
            worst.as_secs_f64() * 1e3,
            median(&mut series.total).as_secs_f64() * 1e3
        );
    }
    Ok(())
}
