// SPDX-License-Identifier: LGPL-2.1-or-later
//! Moving a disk: whether the time depends on its size where blocks are shared, what a copy costs beside `cp`, and what
//! the guest feels of it beside one external snapshot; all in one run. It needs a bed on a file system that shares blocks,
//! with three guests on raw disks of growing size, and in LIVEDISK_BENCH_ELSEWHERE a directory on another file system:
//! `make bench`.

mod guest;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use guest::{Bed, Outcome, bed, longest_stall, median};
use livedisk::{CloneMethod, Connection, EventLoop, Method, MigrateOptions};

const COPIES: usize = 6;

/// What was measured with one guest.
#[derive(Default)]
struct Series {
    total: Vec<Duration>,
    /// The longest guest write during a migration, during one external snapshot, and in a quiet stretch.
    moving: Vec<Duration>,
    snapshot: Vec<Duration>,
    quiet: Vec<Duration>,
}

fn to(destination: &Path, clone: CloneMethod) -> MigrateOptions {
    MigrateOptions {
        target: "vda".into(),
        destination: destination.to_string_lossy().into_owned(),
        method: Method::Clone,
        clone,
        auto_finish: true,
        delete_source: true,
        ..MigrateOptions::default()
    }
}

fn migrate(connection: &Connection, bed: &Bed, options: &MigrateOptions) -> Outcome<Duration> {
    let began = Instant::now();
    connection.migrate_disk(&bed.domain, options)?.finish(None)?;
    Ok(began.elapsed())
}

fn run<I: AsRef<OsStr>>(program: &str, arguments: &[I]) -> Outcome<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn virsh(bed: &Bed, arguments: &[&str]) -> Outcome<()> {
    run("virsh", &[&["-q", "-c", bed.uri.as_str()], arguments].concat())
}

/// What `virsh snapshot-create-as` costs the guest, and then back to the image.
fn snapshot(bed: &Bed) -> Outcome<Duration> {
    let overlay = bed.directory.join(format!("{}-overlay", bed.domain));
    let overlay = overlay.to_string_lossy();
    let disk = format!("vda,file={overlay}");
    let take = [
        "snapshot-create-as",
        &bed.domain,
        "--disk-only",
        "--atomic",
        "--no-metadata",
        "--diskspec",
        &disk,
    ];
    let ((), stall) = longest_stall(&bed.writer, || virsh(bed, &take))?;
    virsh(bed, &["blockcommit", &bed.domain, "vda", "--active", "--pivot"])?;
    fs::remove_file(overlay.as_ref())?;
    Ok(stall)
}

/// How long `cp --sparse=always` takes, and how long until the copy is on the disk, as a migration's is.
fn cp(source: &Path, destination: &Path) -> Outcome<(Duration, Duration)> {
    let began = Instant::now();
    run("cp", &[Path::new("--sparse=always"), source, destination])?;
    let copied = began.elapsed();
    run("sync", &[destination])?;
    let synced = began.elapsed();
    fs::remove_file(destination)?;
    Ok((copied, synced))
}

/// The next read is from the disk.
fn forget(file: &Path) -> Outcome<()> {
    run("sync", &[file])?;
    run("dd", &[&format!("if={}", file.display()), "iflag=nocache", "count=0"])
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Median and worst.
fn shown(values: &mut [Duration]) -> String {
    let middle = milliseconds(median(values));
    let worst = milliseconds(values.last().copied().unwrap_or_default());
    format!("{middle:.0} ms ({worst:.0} ms)")
}

fn by_shared_blocks(connection: &Connection, guests: &[Bed], rounds: usize) -> Outcome<()> {
    let mut series: Vec<Series> = guests.iter().map(|_| Series::default()).collect();
    let path = |bed: &Bed, round: usize| bed.directory.join(format!("{}-{round}", bed.domain));
    // Taken in turn, so that whatever else the machine does falls on all alike.
    for round in 0..rounds {
        for (bed, series) in guests.iter().zip(&mut series) {
            let move_it = || migrate(connection, bed, &to(&path(bed, round), CloneMethod::Reflink));
            let (total, moving) = longest_stall(&bed.writer, move_it)?;
            let ((), quiet) = longest_stall(&bed.writer, || {
                thread::sleep(total);
                Ok(())
            })?;
            series.total.push(total);
            series.moving.push(moving);
            series.quiet.push(quiet);
            series.snapshot.push(snapshot(bed)?);
        }
    }
    println!("by shared blocks: medians of {rounds} rounds, taken in turn; worst in parentheses");
    println!(
        "{:>6} {:>20} {:>6}   longest guest write: {:>16} {:>19} {:>19}",
        "disk", "migration", "ratio", "migration", "one snapshot", "quiet"
    );
    let smallest = median(&mut series[0].total).as_secs_f64();
    for (bed, series) in guests.iter().zip(&mut series) {
        let size = fs::metadata(path(bed, rounds - 1))?.len() >> 30;
        println!(
            "{size:>2} GiB {:>20} {:>6.2} {:>39} {:>19} {:>19}",
            shown(&mut series.total),
            median(&mut series.total).as_secs_f64() / smallest,
            shown(&mut series.moving),
            shown(&mut series.snapshot),
            shown(&mut series.quiet),
        );
    }
    Ok(())
}

fn by_a_copy(connection: &Connection, bed: &Bed, elsewhere: &Path) -> Outcome<()> {
    let path = |round: usize| elsewhere.join(format!("{}-{round}", bed.domain));
    migrate(connection, bed, &to(&path(0), CloneMethod::Copy))?;
    let size = fs::metadata(path(0))?.len() >> 30;
    let (mut copied, mut synced, mut copying) = (Vec::new(), Vec::new(), Vec::new());
    let (mut totals, mut moving) = (Vec::new(), Vec::new());
    for round in 0..COPIES {
        let mut copy = || -> Outcome<()> {
            forget(&path(round))?;
            let ((cp, sync), stall) = longest_stall(&bed.writer, || cp(&path(round), &elsewhere.join("cp")))?;
            copied.push(cp);
            synced.push(sync);
            copying.push(stall);
            Ok(())
        };
        // What came before makes a difference of seconds, such as whose memory it leaves to the next.
        if round % 2 == 0 {
            copy()?;
        }
        forget(&path(round))?;
        // Neither removes its source within the time.
        let options = MigrateOptions {
            delete_source: false,
            ..to(&path(round + 1), CloneMethod::Copy)
        };
        let (total, stall) = longest_stall(&bed.writer, || migrate(connection, bed, &options))?;
        totals.push(total);
        moving.push(stall);
        if round % 2 == 1 {
            copy()?;
        }
        fs::remove_file(path(round))?;
    }
    let total = median(&mut totals).as_secs_f64();
    println!("by a copy, {size} GiB within a file system that shares no blocks: medians of {COPIES} rounds");
    println!("migration                   {}", shown(&mut totals));
    for (name, values) in [
        ("cp --sparse=always, sync", &mut synced),
        ("cp --sparse=always", &mut copied),
    ] {
        let ratio = total / median(values).as_secs_f64();
        println!("{name:27} {}; the migration takes {ratio:.2} times that", shown(values));
    }
    let (moving, copying) = (shown(&mut moving), shown(&mut copying));
    println!("longest guest write         {moving} during the migration, {copying} during cp and sync");
    Ok(())
}

fn main() -> Outcome<()> {
    let rounds: usize = std::env::var("LIVEDISK_BENCH_ROUNDS").map_or(Ok(9), |text| text.parse())?;
    let elsewhere = PathBuf::from(std::env::var("LIVEDISK_BENCH_ELSEWHERE")?);
    let guests = [bed(1)?, bed(2)?, bed(3)?];
    let connection = Connection::open(Some(&guests[0].uri), EventLoop::Own)?;
    by_shared_blocks(&connection, &guests, rounds)?;
    by_a_copy(&connection, &guests[1], &elsewhere)
}
