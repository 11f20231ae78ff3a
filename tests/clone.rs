// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots of real guests by clone: what the images hold, and that the guest is back on its own images.

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{CloneMethod, Consistency, ErrorCode, EventLoop, Method, Phase, Quiesce, SnapshotDisk, SnapshotOptions};
use support::bed::{Bare, Bed, Server, Turn, is_root, run};
use support::image::{LoopDevice, create, edge, info};
use support::scenario;
use support::{PATIENCE, await_copying, await_phase, disk, must_tell, snapshot, until};

const MIB: u64 = 1 << 20;

/// `a` with an agent and three disks, `b` transient, without an agent and with two.
fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &[
            "name=a,disks=qcow2-backed:64M+qcow2:32M+raw:32M,data=8M",
            "name=b,disks=qcow2:32M+raw:32M,data=4M,persistent=no,agent=no",
        ],
    )
}

fn cloning(clone: CloneMethod, disks: Vec<SnapshotDisk>) -> SnapshotOptions {
    SnapshotOptions {
        method: Method::Clone,
        clone,
        ..snapshot(disks)
    }
}

fn calling(disks: Vec<SnapshotDisk>, callback: impl Fn(&str, &str) -> i32 + Send + Sync + 'static) -> SnapshotOptions {
    SnapshotOptions {
        clone_callback: Some(Arc::new(callback)),
        ..cloning(CloneMethod::Callback, disks)
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A clone as a caller's function would make it.
fn copy_of(source: &str, destination: &str) -> i32 {
    run("cp", &["--sparse=always", "--", source, destination]);
    0
}

/// Takes it, and checks the records of each disk of guest `a` at `images`.
fn take(bed: &Bed, options: &SnapshotOptions, images: &[&Path]) {
    let operation = bed.connection.start_live_snapshot("a", options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    println!("{report:?}");
    assert_eq!(report.method, Method::Clone);
    assert_eq!(report.consistency, Consistency::Filesystem);
    assert!(report.pause.is_zero());
    for (disk, image) in options.disks.iter().zip(images) {
        let edge = edge(bed, "a", &disk.target, image, disk.format.as_deref().unwrap());
        edge.must_be_at(&report, Duration::ZERO);
    }
}

/// It must fail, at the start or later, and leave everything as it was.
fn fails(bed: &Bed, options: &SnapshotOptions, code: ErrorCode, parts: &[&str]) {
    let before = bed.watch("a");
    let started = bed.connection.start_live_snapshot("a", options);
    let error = started
        .and_then(|operation| operation.finish(Some(PATIENCE)))
        .unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
    before.must_be_as_before(&[]);
}

/// Flattened, converted and as they are, all of one point in time.
#[test]
fn every_format() {
    scenario::every_format(&bed(), Method::Clone);
}

#[test]
fn one_point_in_time_without_a_freeze_or_a_pause() {
    let bed = bed();
    scenario::one_point_unfrozen(&bed, "a", Quiesce::None, Method::Clone);
    // Transient, and no agent to prefer.
    scenario::one_point_unfrozen(&bed, "b", Quiesce::Prefer, Method::Clone);
}

#[test]
fn shallow_keeps_the_backing_file_and_holes_stay_holes() {
    let bed = bed();
    let before = bed.watch("a");
    let images = ["one", "two", "three"].map(|name| bed.path(name));
    let options = SnapshotOptions {
        shallow: true,
        verify: true,
        ..cloning(
            CloneMethod::Copy,
            vec![
                disk("vda", &images[0], "qcow2"),
                disk("vdb", &images[1], "qcow2"),
                disk("vdc", &images[2], "raw"),
            ],
        )
    };
    take(&bed, &options, &[&images[0], &images[1], &images[2]]);
    let found = info(&images[0], "qcow2");
    assert_eq!(found["backing-filename"], bed.of_guest("a", "BASE vda"));
    assert_eq!(found["backing-filename-format"], "qcow2");
    let metadata = fs::metadata(&images[2]).unwrap();
    assert_eq!(metadata.len(), 32 * MIB);
    assert!(metadata.blocks() * 512 < 30 * MIB, "holes were filled: {metadata:?}");
    before.must_be_as_before(&["one", "two", "three"]);

    let onto = cloning(CloneMethod::Auto, vec![disk("vda", &images[0], "raw")]);
    let raw = SnapshotOptions { shallow: true, ..onto };
    fails(&bed, &raw, ErrorCode::Unsupported, &["'vda'", "raw"]);
    let flattened = cloning(CloneMethod::Reflink, vec![disk("vda", &images[0], "qcow2")]);
    fails(&bed, &flattened, ErrorCode::Unsupported, &["'vda'", "flattened"]);
}

#[test]
fn to_whatever_can_be_written_to() {
    let bed = bed();
    let file = bed.path("file");
    let mut options = cloning(CloneMethod::Auto, vec![disk("vda", &file, "qcow2")]);
    options.verify = true;

    println!("an image that exists, and holds something else");
    create(&file, "qcow2", "64M");
    run(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -q -P 170 30M 20M", shown(&file)],
    );
    let before = bed.watch("a");
    options.disks[0].reuse_existing = true;
    take(&bed, &options, &[&file]);
    before.must_be_as_before(&[]);
    options.disks[0].reuse_existing = false;
    fs::remove_file(&file).unwrap();

    println!("an NBD export");
    create(&file, "raw", "64M");
    let socket = bed.path("nbd.sock");
    let arguments = ["--persistent", "-f", "raw", "-x", "an export", "--shared", "0"];
    let server = Server::start(
        "qemu-nbd",
        &[&arguments[..], &["-k", shown(&socket), shown(&file)]].concat(),
    );
    until("the export is there", || socket.exists());
    let before = bed.watch("a");
    options.disks[0].destination = format!("nbd+unix:///an%20export?socket={}", shown(&socket));
    options.disks[0].format = Some("raw".into());
    take(&bed, &options, &[&file]);
    before.must_be_as_before(&[]);
    drop(server);
    let _ = fs::remove_file(&socket);
    fs::remove_file(&file).unwrap();

    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    for (format, size) in [("raw", "64M"), ("qcow2", "80M")] {
        println!("a block device, {format}");
        let device = LoopDevice::on(&file, size);
        let before = bed.watch("a");
        options.disks[0].destination.clone_from(&device.0);
        options.disks[0].format = Some(format.into());
        take(&bed, &options, &[Path::new(&device.0)]);
        before.must_be_as_before(&[]);
        drop(device);
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn callback() {
    let bed = bed();
    let before = bed.watch("a");
    let out = bed.path("out");
    let to = |target: &str, format: &str| vec![disk(target, &out, format)];
    let good = SnapshotOptions {
        verify: true,
        ..calling(to("vdc", "raw"), copy_of)
    };
    take(&bed, &good, &[&out]);
    before.must_be_as_before(&["out"]);
    // Of another format, compressed, and from a disk with a backing file: what a caller's function alone can.
    let packing = calling(to("vda", "qcow2"), |source, destination| {
        let arguments = ["convert", "-c", "-f", "qcow2", "-O", "qcow2", source, destination];
        run("qemu-img", &arguments);
        0
    });
    let packing = SnapshotOptions {
        verify: true,
        ..packing
    };
    take(&bed, &packing, &[&out]);
    before.must_be_as_before(&["out"]);

    println!("it fails, with and without a file left");
    fails(
        &bed,
        &calling(to("vdb", "qcow2"), |_, _| 7),
        ErrorCode::JobFailed,
        &["7", "'vdb'", "/out"],
    );
    let half = calling(to("vdb", "qcow2"), |_, destination| {
        fs::write(destination, "half").unwrap();
        7
    });
    fails(&bed, &half, ErrorCode::JobFailed, &["7", "/out"]);

    println!("it says that it succeeded, and did not");
    fails(
        &bed,
        &calling(to("vdb", "qcow2"), |_, _| 0),
        ErrorCode::JobFailed,
        &["/out"],
    );
    let not_flattened = calling(to("vda", "qcow2"), copy_of);
    fails(&bed, &not_flattened, ErrorCode::JobFailed, &["/out", "backing file"]);
    let corrupting = calling(to("vdc", "raw"), |source, destination| {
        copy_of(source, destination);
        let file = fs::File::options().write(true).open(destination).unwrap();
        file.write_all_at(b"not what was there", 5 << 20).unwrap();
        0
    });
    let verified = SnapshotOptions {
        verify: true,
        ..corrupting
    };
    fails(&bed, &verified, ErrorCode::Verify, &["/out", "'vdc'"]);
}

#[test]
fn cancel_in_each_phase() {
    let bed = bed();
    for domain in ["a", "b"] {
        let before = bed.watch(domain);
        for phase in [Phase::Preparing, Phase::Copying, Phase::Ready] {
            for format in ["qcow2", "raw"] {
                println!("{domain} {phase:?} to {format}");
                let mut options = cloning(
                    CloneMethod::Copy,
                    vec![
                        disk("vda", bed.path("one"), "qcow2"),
                        disk("vdb", bed.path("two"), format),
                    ],
                );
                options.bandwidth = if phase == Phase::Copying { MIB } else { 0 };
                let operation = bed.connection.start_live_snapshot(domain, &options).unwrap();
                match phase {
                    Phase::Copying => await_copying(&operation),
                    Phase::Ready => await_phase(&operation, phase),
                    _ => {}
                }
                let began = Instant::now();
                operation.cancel().unwrap();
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
                assert_eq!(operation.poll(None).phase, Phase::Cancelled);
                must_tell(&operation.finish(None).unwrap_err(), ErrorCode::Cancelled, &[domain]);
                before.must_be_as_before(&[]);
            }
        }
    }
}

/// The commit is the only way out, so it is completed, and then the rest is rolled back.
#[test]
fn cancel_while_committing() {
    let bed = bed();
    let before = bed.watch("a");
    let cloned = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&cloned);
    let options = calling(
        vec![disk("vda", bed.path("out"), "qcow2")],
        move |source, destination| {
            // What the guest writes meanwhile makes the commit take its time.
            thread::sleep(Duration::from_secs(1));
            let arguments = ["convert", "-f", "qcow2", "-O", "qcow2", source, destination];
            run("qemu-img", &arguments);
            seen.store(true, Ordering::SeqCst);
            0
        },
    );
    bed.ctl("a", &["writer", "burst", "20"]);
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    until("the image is whole", || cloned.load(Ordering::SeqCst));
    until("it commits", || {
        bed.virsh(&["blockjob", "--raw", "a", "vda"]).contains("Commit") || operation.poll(None).phase == Phase::Ready
    });
    let cancelled = operation.cancel();
    bed.ctl("a", &["writer", "burst", "0"]);
    cancelled.unwrap();
    assert_eq!(operation.poll(None).phase, Phase::Cancelled);
    before.must_be_as_before(&[]);
}

#[test]
fn overlays_are_there_until_libvirt_has_done_with_them() {
    let bed = bed();
    let log = || fs::read_to_string(bed.value("DAEMON_LOG")).unwrap();
    let before = log().len();
    for _ in 0..5 {
        let options = cloning(CloneMethod::Auto, vec![disk("vda", bed.path("out"), "qcow2")]);
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        fs::remove_file(bed.path("out")).unwrap();
    }
    let log = log();
    let said: Vec<_> = log[before..]
        .lines()
        .filter(|line| line.contains("security label"))
        .collect();
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_full_file_system_never_reaches_the_guest() {
    scenario::file_system_full(&bed(), Method::Clone);
}

#[test]
fn the_daemon_restarts() {
    let bed = bed();
    for kill in [false, true] {
        scenario::daemon_restarts(&bed, Method::Clone, kill);
    }
}

/// QEMU dies with the guest on its overlay: what it wrote there goes home all the same.
#[test]
fn qemu_killed_while_cloning() {
    let bed = bed();
    let bare = bed.bare("victim", &[Bare::BIG]);
    let mut options = cloning(CloneMethod::Copy, vec![disk("vda", bed.path("out"), "raw")]);
    options.bandwidth = 64 * MIB;
    let operation = bed.connection.start_live_snapshot("victim", &options).unwrap();
    await_copying(&operation);
    let chain = bed.virsh(&["domblklist", "victim"]);
    assert!(chain.contains("/.livedisk-"), "{chain}");
    run("bash", &["-c", &format!("kill -KILL {}", bed.qemu_pid("victim"))]);
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    println!("{error}");
    must_tell(&error, ErrorCode::DomainState, &["'victim'", "start again"]);
    assert!(!bed.path("out").exists());
    assert_eq!(bed.connection.operations(Some("victim")).unwrap(), []);
    let names = fs::read_dir(bed.path(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name());
    let mut left = names.filter(|name| name != ".livedisk-bed" && name.to_string_lossy().starts_with(".livedisk-"));
    assert_eq!(left.next(), None);

    bed.virsh(&["start", "victim"]);
    let chain = bed.virsh(&["domblklist", "victim"]);
    assert!(chain.contains(shown(&bare.files[0])), "{chain}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let bed = bed();
    let before = bed.watch("a");
    let options = SnapshotOptions {
        dry_run: true,
        ..cloning(
            CloneMethod::Auto,
            vec![
                disk("vda", bed.path("out"), "qcow2"),
                disk("vdc", bed.path("too"), "raw"),
            ],
        )
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let plan = operation.plan().join("\n");
    println!("{plan}");
    for part in [
        "/out'",
        "/too'",
        "freeze",
        "external snapshot",
        "in one pass",
        "shared blocks",
        "commit",
    ] {
        assert!(plan.contains(part), "'{part}' is not in the plan:\n{plan}");
    }
    assert_eq!(operation.finish(None).unwrap().method, Method::Clone);
    before.must_be_as_before(&[]);
}
