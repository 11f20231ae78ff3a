// SPDX-License-Identifier: LGPL-2.1-or-later
//! What must hold with libvirt's events and without: run by a test binary of each kind, because libvirt has one event
//! loop a process.

use std::thread;
use std::time::{Duration, Instant};

use livedisk::{Consistency, ErrorCode, Method, Phase, Quiesce, SnapshotOptions};

use super::bed::{Bare, Bed, run};
use super::definition::plain;
use super::image::{edge, must_be_one_point, must_equal};
use super::{PATIENCE, await_copying, await_phase, disk, must_tell, snapshot};

pub const METHODS: [Method; 2] = [Method::Mirror, Method::Backup];
const MIB: u64 = 1 << 20;

/// A guest `a` with an agent and the disks vda (qcow2 on a backing file), vdb (qcow2), vdc (raw), each to both formats.
pub fn every_format(bed: &Bed, method: Method) {
    for formats in [["qcow2", "raw", "qcow2"], ["raw", "qcow2", "raw"]] {
        println!("{method:?} to {formats:?}");
        let before = bed.watch("a");
        let images = ["vda", "vdb", "vdc"];
        let disks = images
            .iter()
            .zip(formats)
            .map(|(target, format)| disk(target, bed.path(target), format));
        let options = SnapshotOptions {
            method,
            quiesce: Quiesce::Require,
            ..snapshot(disks.collect())
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        println!("{report:?}");
        assert_eq!((report.method, report.disk_count), (method, 3));
        assert_eq!(report.consistency, Consistency::Filesystem);
        assert_eq!(report.filesystems_frozen, 3);
        assert!(!report.freeze.is_zero() && report.pause.is_zero());
        assert!(report.bytes_copied > 0);
        assert_eq!(
            operation.finish(None).unwrap(),
            report,
            "once done it says the same again"
        );
        let edges: Vec<_> = images
            .iter()
            .zip(formats)
            .map(|(target, format)| edge(bed, "a", target, &bed.path(target), format))
            .collect();
        for edge in &edges {
            edge.must_be_at(&report, Duration::ZERO);
        }
        must_be_one_point(&edges);
        before.must_be_as_before(&images);
    }
}

/// Both disks of a guest whose file systems are not frozen, at one point in time.
pub fn one_point_unfrozen(bed: &Bed, domain: &str, quiesce: Quiesce, method: Method) {
    println!("{method:?} of {domain} with {quiesce:?}");
    let before = bed.watch(domain);
    let images = ["one", "two"];
    let options = SnapshotOptions {
        method,
        quiesce,
        ..snapshot(vec![
            disk("vda", bed.path("one"), "qcow2"),
            disk("vdb", bed.path("two"), "raw"),
        ])
    };
    let operation = bed.connection.start_live_snapshot(domain, &options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    println!("{report:?}");
    assert_eq!(report.consistency, Consistency::Crash);
    assert_eq!((report.filesystems_frozen, report.freeze), (0, Duration::ZERO));
    let is_mirror = matches!(method, Method::Mirror | Method::Rebase);
    assert_eq!(report.pause.is_zero(), !is_mirror);
    let edges = [
        edge(bed, domain, "vda", &bed.path("one"), "qcow2"),
        edge(bed, domain, "vdb", &bed.path("two"), "raw"),
    ];
    for edge in &edges {
        // Where nothing is paused, the moment lies somewhere in the call.
        edge.must_be_at(&report, Duration::from_secs(1));
    }
    must_be_one_point(&edges);
    before.must_be_as_before(&images);
}

/// The daemon goes away in mid-copy; livedisk finds it again and goes on.
pub fn daemon_restarts(bed: &Bed, method: Method, kill: bool) {
    println!("{method:?}, SIGKILL: {kill}");
    let bare = bed.bare("victim", &[Bare::BIG]);
    let before = bed.watch("victim");
    let options = SnapshotOptions {
        method,
        bandwidth: 32 * MIB,
        ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
    };
    let operation = bed.connection.start_live_snapshot("victim", &options).unwrap();
    await_copying(&operation);
    bed.restart_daemon(kill);
    operation.finish(Some(PATIENCE)).unwrap();
    must_equal(&bed.path("out"), "qcow2", &bare.files[0]);
    before.must_be_as_before(&["out"]);
}

/// The domain goes away in mid-copy.
pub fn domain_goes(bed: &Bed, method: Method, kill: bool) {
    println!("{method:?}, SIGKILL: {kill}");
    let bare = bed.bare("victim", &[Bare::BIG]);
    let inactive = || plain(&bed.virsh(&["dumpxml", "--inactive", "victim"]));
    let before = inactive();
    let options = SnapshotOptions {
        method,
        bandwidth: 2 * MIB,
        ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
    };
    let operation = bed.connection.start_live_snapshot("victim", &options).unwrap();
    await_copying(&operation);
    if kill {
        run("bash", &["-c", &format!("kill -KILL {}", bed.qemu_pid("victim"))]);
    } else {
        bed.virsh(&["destroy", "victim"]);
    }
    let began = Instant::now();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    must_tell(&error, ErrorCode::DomainState, &["victim"]);
    assert_eq!(operation.poll(None).phase, Phase::Failed);
    assert!(!bed.path("out").exists());
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(inactive(), before);
    bed.virsh(&["start", "victim"]);
    drop(bare);
}

/// Too small a file system is refused before the guest is frozen, and one that gets full in mid-copy fails the copy.
pub fn file_system_full(bed: &Bed, method: Method) {
    let Some(small) = &bed.small else {
        println!("skipped: to mount a small file system takes root and a bed of one's own");
        return;
    };
    let _big = bed.bare("big", &[Bare::BIG]);
    for format in ["qcow2", "raw"] {
        println!("{method:?} to {format}");
        let before = bed.watch("a");
        let options = SnapshotOptions {
            method,
            ..snapshot(vec![disk("vdb", small.0.join("out"), format)])
        };
        let error = bed.connection.start_live_snapshot("a", &options).unwrap_err();
        println!("{error}");
        must_tell(
            &error,
            ErrorCode::NoSpace,
            &["'a'", "'vdb'", "MiB free", "/out", "make room"],
        );
        before.must_be_as_before(&[]);

        let before = bed.watch("big");
        assert!(small.resize(512));
        let options = SnapshotOptions {
            method,
            bandwidth: 16 * MIB,
            ..snapshot(vec![disk("vda", small.0.join("out"), format)])
        };
        let operation = bed.connection.start_live_snapshot("big", &options).unwrap();
        await_copying(&operation);
        let full = (6..512).find(|size| small.resize(*size));
        println!("full at {full:?} MiB");
        let error = operation.finish(Some(PATIENCE)).unwrap_err();
        println!("{error}");
        must_tell(
            &error,
            ErrorCode::NoSpace,
            &["'big'", "No space left on device", "/out"],
        );
        assert_eq!(std::fs::read_dir(&small.0).unwrap().count(), 0);
        assert!(small.resize(6));
        before.must_be_as_before(&[]);
    }
}

/// The agent is stopped inside the guest when the window opens, and wakes later.
pub fn agent_hangs_in_the_window(bed: &Bed, quiesce: Quiesce) {
    let before = bed.watch("a");
    let options = SnapshotOptions {
        quiesce,
        freeze_limit: Duration::from_secs(2),
        ..snapshot(vec![disk("vdb", bed.path("out"), "qcow2")])
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    await_phase(&operation, Phase::Ready);
    bed.ctl("a", &["agent", "stop"]);
    let began = Instant::now();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    let took = began.elapsed();
    println!("{error} after {took:?}");
    assert!(!bed.path("out").exists());
    bed.ctl("a", &["agent", "cont"]);
    must_tell(&error, ErrorCode::Freeze, &["'a'"]);
    assert!(took < Duration::from_secs(30), "{took:?}");
    // It may freeze now, and must be thawed for good.
    thread::sleep(Duration::from_secs(6));
    before.must_be_as_before(&[]);
}

/// From another thread, while `finish` waits.
pub fn cancel_while_finish_waits(bed: &Bed, method: Method) {
    let _bare = bed.bare("left", &[Bare::BIG, Bare::BIG]);
    let before = bed.watch("left");
    let options = SnapshotOptions {
        method,
        bandwidth: MIB,
        ..snapshot(vec![
            disk("vda", bed.path("one"), "qcow2"),
            disk("vdb", bed.path("two"), "raw"),
        ])
    };
    let operation = bed.connection.start_live_snapshot("left", &options).unwrap();
    await_copying(&operation);
    let (cancelled, finished) = thread::scope(|scope| {
        let waiting = scope.spawn(|| operation.finish(None));
        thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        let cancelled = operation.cancel();
        println!("{method:?}: cancelled in {:?}: {cancelled:?}", began.elapsed());
        (cancelled, waiting.join().unwrap())
    });
    cancelled.unwrap();
    must_tell(&finished.unwrap_err(), ErrorCode::Cancelled, &["'left'"]);
    assert_eq!(operation.poll(None).phase, Phase::Cancelled);
    operation.cancel().unwrap();
    before.must_be_as_before(&[]);
}
