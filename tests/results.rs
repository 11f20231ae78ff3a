// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a live snapshot of a real guest holds, and that the guest is as before.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{
    Connection, Consistency, ErrorCode, EventLoop, Method, Operation, Phase, Quiesce, SnapshotDisk, SnapshotOptions,
};
use support::bed::{Bare, Bed, Server, Turn, is_root, run};
use support::image::{LoopDevice, create, edge, info, must_equal};
use support::scenario::{self, METHODS};
use support::{PATIENCE, await_copying, await_phase, disk, must_tell, snapshot, until};

/// `a` with an agent and three disks, `b` transient, without an agent and with two.
fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &[
            "name=a,disks=qcow2-backed:64M+qcow2:64M+raw:64M,data=8M",
            "name=b,disks=qcow2:32M+raw:32M,data=4M,persistent=no,agent=no",
        ],
    )
}

fn reuse(disk: SnapshotDisk) -> SnapshotDisk {
    SnapshotDisk {
        reuse_existing: true,
        ..disk
    }
}

/// Takes it, and checks the records of a disk of guest `a` at its destination.
fn take_and_check(bed: &Bed, options: &SnapshotOptions, image: &Path) {
    let began = bed.connection.start_live_snapshot("a", options).unwrap();
    let report = began.finish(Some(PATIENCE)).unwrap();
    println!("{report:?}");
    assert_eq!(report.consistency, Consistency::Filesystem);
    let disk = &options.disks[0];
    let edge = edge(bed, "a", &disk.target, image, disk.format.as_deref().unwrap());
    edge.must_be_at(&report, Duration::ZERO);
}

#[test]
fn mirror_of_every_format() {
    scenario::every_format(&bed(), Method::Mirror);
}

#[test]
fn backup_of_every_format() {
    scenario::every_format(&bed(), Method::Backup);
}

#[test]
fn shallow_keeps_the_backing_file_and_its_format() {
    let bed = bed();
    let before = bed.watch("a");
    let mut options = SnapshotOptions {
        shallow: true,
        ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
    };
    take_and_check(&bed, &options, &bed.path("out"));
    let found = info(&bed.path("out"), "qcow2");
    assert_eq!(found["backing-filename"], bed.of_guest("a", "BASE vda"));
    assert_eq!(found["backing-filename-format"], "qcow2");
    before.must_be_as_before(&["out"]);

    options.disks[0].format = Some("raw".into());
    let error = bed.connection.start_live_snapshot("a", &options).unwrap_err();
    must_tell(&error, ErrorCode::Unsupported, &["'a'", "'vda'", "raw"]);
    options.method = Method::Backup;
    let error = bed.connection.start_live_snapshot("a", &options).unwrap_err();
    must_tell(&error, ErrorCode::Unsupported, &["SHALLOW", "BACKUP"]);
    before.must_be_as_before(&[]);
}

#[test]
fn to_a_block_device() {
    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    let bed = bed();
    for (method, format, size) in [
        (Method::Mirror, "raw", "64M"),
        (Method::Backup, "raw", "64M"),
        (Method::Mirror, "qcow2", "80M"),
        (Method::Backup, "qcow2", "80M"),
    ] {
        println!("{method:?} {format}");
        let file = bed.path("device.raw");
        let device = LoopDevice::on(&file, size);
        let before = bed.watch("a");
        let options = SnapshotOptions {
            method,
            ..snapshot(vec![disk("vdb", &device.0, format)])
        };
        take_and_check(&bed, &options, Path::new(&device.0));
        before.must_be_as_before(&[]);
        drop(device);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_block_device_of_another_size_is_refused() {
    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    let bed = bed();
    let file = bed.path("device.raw");
    let device = LoopDevice::on(&file, "63M");
    let before = bed.watch("a");
    let options = snapshot(vec![disk("vdb", &device.0, "raw")]);
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    must_tell(&error, ErrorCode::Destination, &[&device.0, "size"]);
    before.must_be_as_before(&[]);
    drop(device);
    fs::remove_file(file).unwrap();
}

#[test]
fn to_an_nbd_export() {
    let bed = bed();
    let file = bed.path("export.raw");
    let shown = file.to_str().unwrap().to_owned();
    let socket = bed.path("nbd.sock").to_str().unwrap().to_owned();
    let port = "10829";
    for over_tcp in [false, true] {
        create(&file, "raw", "64M");
        let mut arguments = vec!["--persistent", "-f", "raw", "-x", "an export", "--shared", "0"];
        let uri = if over_tcp {
            arguments.extend(["-b", "127.0.0.1", "-p", port]);
            format!("nbd://127.0.0.1:{port}/an%20export")
        } else {
            arguments.extend(["-k", &socket]);
            format!("nbd+unix:///an%20export?socket={socket}")
        };
        arguments.push(&shown);
        println!("{uri}");
        let server = Server::start("qemu-nbd", &arguments);
        until("the export answers", || {
            let asked = std::process::Command::new("qemu-img")
                .args(["info", "-f", "raw", &uri])
                .output();
            asked.unwrap().status.success()
        });
        if !over_tcp {
            run("chmod", &["777", &socket]);
        }
        let before = bed.watch("a");
        let mut options = snapshot(vec![disk("vda", &uri, "raw")]);
        options.disks[0].destination.clone_from(&uri);
        take_and_check(&bed, &options, &file);
        before.must_be_as_before(&[]);
        options.method = Method::Backup;
        take_and_check(&bed, &options, &file);
        before.must_be_as_before(&[]);
        drop(server);
        let _ = fs::remove_file(&socket);
        // Nobody serves it any more.
        options.method = Method::Mirror;
        let started = bed.connection.start_live_snapshot("a", &options);
        let error = started
            .and_then(|operation| operation.finish(Some(PATIENCE)))
            .unwrap_err();
        must_tell(&error, ErrorCode::Destination, &["nbd"]);
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn onto_an_existing_image() {
    let bed = bed();
    for method in METHODS {
        for format in ["qcow2", "raw"] {
            println!("{method:?} {format}");
            let image = bed.path("mine");
            create(&image, format, "64M");
            let before = bed.watch("a");
            let options = SnapshotOptions {
                method,
                ..snapshot(vec![reuse(disk("vda", &image, format))])
            };
            take_and_check(&bed, &options, &image);
            // It is the caller's: a cancel does not remove it.
            let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
            operation.cancel().unwrap();
            before.must_be_as_before(&[]);
            fs::remove_file(image).unwrap();
        }
    }
}

#[test]
fn several_disks_have_one_point_in_time_without_a_freeze() {
    let bed = bed();
    for method in METHODS {
        scenario::one_point_unfrozen(&bed, "a", Quiesce::None, method);
        // Transient, and no agent to prefer.
        scenario::one_point_unfrozen(&bed, "b", Quiesce::Prefer, method);
    }
}

#[test]
fn quiesce_is_reported_as_it_was() {
    let bed = bed();
    let before = bed.watch("a");
    for quiesce in [Quiesce::Prefer, Quiesce::None] {
        let options = SnapshotOptions {
            quiesce,
            ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        let frozen = quiesce == Quiesce::Prefer;
        assert_eq!(report.consistency == Consistency::Filesystem, frozen, "{report:?}");
        assert_eq!(report.filesystems_frozen, if frozen { 3 } else { 0 });
        assert_eq!(report.freeze.is_zero(), !frozen);
        assert_eq!(report.method, Method::Mirror, "what AUTO takes");
        let edge = edge(&bed, "a", "vda", &bed.path("out"), "qcow2");
        edge.must_be_at(&report, Duration::from_secs(1));
        before.must_be_as_before(&["out"]);
    }
}

/// About as slow as a limit of 4 MiB/s makes it.
fn must_be_slow(operation: &Operation, method: Method) {
    thread::sleep(Duration::from_secs(1));
    let copied = || (operation.poll(Some(Duration::ZERO)).bytes_done, Instant::now());
    let (from, began) = copied();
    // A mirror copies 16 MiB at once, then nothing for as long as they may take.
    thread::sleep(Duration::from_secs(8));
    let (to, ended) = copied();
    let rate = (to - from) as f64 / (ended - began).as_secs_f64() / f64::from(1 << 20);
    println!("{method:?}: {rate:.1} MiB/s");
    assert!((1.0..12.0).contains(&rate), "{method:?}: {rate:.1} MiB/s");
}

#[test]
fn the_bandwidth_limit_is_kept() {
    let bed = bed();
    let _bare = bed.bare("limited", &[Bare::BIG]);
    for method in METHODS {
        let before = bed.watch("limited");
        let options = SnapshotOptions {
            method,
            bandwidth: 4 << 20,
            ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
        };
        let operation = bed.connection.start_live_snapshot("limited", &options).unwrap();
        await_copying(&operation);
        must_be_slow(&operation, method);
        operation.cancel().unwrap();
        before.must_be_as_before(&[]);
    }
}

/// What QEMU limits the jobs of a guest to.
fn speeds(bed: &Bed, domain: &str) -> Vec<u64> {
    let answer = bed.virsh(&["qemu-monitor-command", domain, r#"{"execute":"query-block-jobs"}"#]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let jobs = answer["return"].as_array().unwrap();
    jobs.iter().map(|job| job["speed"].as_u64().unwrap()).collect()
}

#[test]
fn the_bandwidth_is_shared_by_the_disks() {
    let bed = bed();
    let _bare = bed.bare("shared", &[Bare::BIG, Bare::BIG]);
    for method in METHODS {
        let before = bed.watch("shared");
        let disks = ["vda", "vdb"].map(|target| disk(target, bed.path(target), "qcow2"));
        let options = SnapshotOptions {
            method,
            bandwidth: 8 << 20,
            ..snapshot(disks.to_vec())
        };
        let operation = bed.connection.start_live_snapshot("shared", &options).unwrap();
        await_copying(&operation);
        if method == Method::Mirror {
            until("each disk has its share", || speeds(&bed, "shared") == [4 << 20; 2]);
        } else {
            // livedisk reads a backup's disks itself. Each at the whole bandwidth, they would have twice as much.
            must_be_slow(&operation, method);
        }
        operation.cancel().unwrap();
        before.must_be_as_before(&[]);
    }
}

#[test]
fn auto_finish_needs_no_finish() {
    let bed = bed();
    for method in METHODS {
        let before = bed.watch("a");
        let options = SnapshotOptions {
            method,
            auto_finish: true,
            ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        await_phase(&operation, Phase::Done);
        let report = operation.finish(Some(Duration::ZERO)).unwrap();
        assert_eq!(report.consistency, Consistency::Filesystem);
        let error = operation.cancel().unwrap_err();
        must_tell(&error, ErrorCode::NoOperation, &[]);
        before.must_be_as_before(&["out"]);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let bed = bed();
    for method in METHODS {
        let before = bed.watch("a");
        let options = SnapshotOptions {
            method,
            dry_run: true,
            ..snapshot(vec![
                disk("vda", bed.path("out"), "qcow2"),
                disk("vdc", bed.path("too"), "raw"),
            ])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        assert_eq!(operation.poll(Some(Duration::ZERO)).phase, Phase::Done);
        let plan = operation.plan().join("\n");
        println!("{plan}");
        for part in [
            "/out'",
            "/too'",
            "freeze",
            if method == Method::Backup { "backup" } else { "mirror" },
        ] {
            assert!(plan.contains(part), "'{part}' is not in the plan:\n{plan}");
        }
        assert_eq!(operation.finish(None).unwrap().method, method);
        before.must_be_as_before(&[]);
    }
}

#[test]
fn verify_compares_a_paused_guest() {
    let bed = bed();
    let bare = bed.bare("still", &[Bare::RAW, Bare::RAW]);
    bed.virsh(&["suspend", "still"]);
    let before = bed.watch("still");
    for method in METHODS {
        for format in ["qcow2", "raw"] {
            println!("{method:?} {format}");
            let options = SnapshotOptions {
                method,
                quiesce: Quiesce::None,
                verify: true,
                ..snapshot(vec![
                    disk("vda", bed.path("one"), format),
                    disk("vdb", bed.path("two"), format),
                ])
            };
            let operation = bed.connection.start_live_snapshot("still", &options).unwrap();
            let report = operation.finish(Some(PATIENCE)).unwrap();
            assert_eq!((report.pause, report.freeze), (Duration::ZERO, Duration::ZERO));
            must_equal(&bed.path("one"), format, &bare.files[0]);
            must_equal(&bed.path("two"), format, &bare.files[1]);
            before.must_be_as_before(&["one", "two"]);
            // It was compared with its export before it was READY.
            if method == Method::Backup {
                continue;
            }

            let operation = bed.connection.start_live_snapshot("still", &options).unwrap();
            await_phase(&operation, Phase::Ready);
            corrupt(&bed.path("two"), 3 << 20);
            let error = operation.finish(Some(PATIENCE)).unwrap_err();
            println!("{error}");
            must_tell(&error, ErrorCode::Verify, &["/two"]);
            before.must_be_as_before(&[]);
        }
    }
}

/// Without QEMU's knowledge.
fn corrupt(image: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(&[0x5a; 4096], at).unwrap();
}

#[test]
fn verify_of_a_guest_that_writes_is_no_failure() {
    let bed = bed();
    for method in METHODS {
        let before = bed.watch("a");
        let options = SnapshotOptions {
            method,
            verify: true,
            ..snapshot(vec![disk("vdc", bed.path("out"), "qcow2")])
        };
        take_and_check(&bed, &options, &bed.path("out"));
        before.must_be_as_before(&["out"]);
    }
}

#[test]
fn an_image_replaced_or_removed_meanwhile_is_no_success() {
    let bed = bed();
    let bare = bed.bare("plain", &[Bare::RAW]);
    let before = bed.watch("plain");
    for replace in [false, true] {
        let options = snapshot(vec![disk("vda", bed.path("out"), "raw")]);
        let operation = bed.connection.start_live_snapshot("plain", &options).unwrap();
        await_phase(&operation, Phase::Ready);
        fs::remove_file(bed.path("out")).unwrap();
        if replace {
            fs::write(bed.path("out"), "somebody else's").unwrap();
        }
        let error = operation.finish(Some(PATIENCE)).unwrap_err();
        must_tell(&error, ErrorCode::Destination, &["/out", "copy again"]);
        // What is not its own it leaves alone.
        before.must_be_as_before(if replace { &["out"] } else { &[] });
    }
    drop(bare);
}

#[test]
fn odd_names_reach_exactly_the_file_meant() {
    let bed = bed();
    let bare = bed.bare("plain", &[Bare::RAW]);
    let before = bed.watch("plain");
    let long = "l".repeat(255);
    let names = [
        "single'quote",
        "double\"quote",
        "a<b>&amp;c",
        "comma,,driver=raw",
        "nbd:colon",
        "json:{}",
        "-dash",
        "--help",
        "%s%n%d",
        "new\nline",
        " space ",
        "ünïcödé-雪",
        "back\\slash",
        "$(id)`id`",
        "file?query#part",
        &long,
    ];
    for (index, name) in names.iter().enumerate() {
        println!("{name:?}");
        let method = METHODS[index % 2];
        for format in ["qcow2", "raw"] {
            let options = SnapshotOptions {
                method,
                verify: true,
                ..snapshot(vec![disk("vda", bed.path(name), format)])
            };
            let operation = bed.connection.start_live_snapshot("plain", &options).unwrap();
            operation.finish(Some(PATIENCE)).unwrap();
            let copied = bed.path("plain copy");
            fs::rename(bed.path(name), &copied).unwrap();
            must_equal(&copied, format, &bare.files[0]);
            before.must_be_as_before(&["plain copy"]);
        }
    }
}

#[test]
fn the_image_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let bed = bed();
    let bare = bed.bare("plain", &[Bare::RAW]);
    for method in METHODS {
        for format in ["qcow2", "raw"] {
            let options = SnapshotOptions {
                method,
                ..snapshot(vec![disk("vda", bed.path("out"), format)])
            };
            let operation = bed.connection.start_live_snapshot("plain", &options).unwrap();
            operation.finish(Some(PATIENCE)).unwrap();
            let metadata = fs::metadata(bed.path("out")).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
            fs::remove_file(bed.path("out")).unwrap();
        }
    }
    drop(bare);
}

#[test]
fn a_raw_disk_that_looks_like_qcow2_is_raw() {
    let bed = bed();
    let disguised = Bare {
        make: |path| {
            let secret = path.with_extension("secret");
            fs::write(&secret, vec![0x5e; 1 << 20]).unwrap();
            let (path, secret) = (path.to_str().unwrap(), secret.to_str().unwrap());
            run(
                "qemu-img",
                &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, path, "1M"],
            );
            run("truncate", &["-s", "4M", path]);
        },
        ..Bare::RAW
    };
    let bare = bed.bare("disguised", &[disguised]);
    let before = bed.watch("disguised");
    for method in METHODS {
        for format in ["qcow2", "raw"] {
            println!("{method:?} {format}");
            let options = SnapshotOptions {
                method,
                verify: true,
                ..snapshot(vec![disk("vda", bed.path("out"), format)])
            };
            let operation = bed.connection.start_live_snapshot("disguised", &options).unwrap();
            operation.finish(Some(PATIENCE)).unwrap();
            must_equal(&bed.path("out"), format, &bare.files[0]);
            before.must_be_as_before(&["out"]);
        }
    }
    fs::remove_file(bare.files[0].with_extension("secret")).unwrap();
}

#[test]
fn by_uuid_and_several_guests_at_once() {
    let bed = bed();
    let (a, b) = (bed.watch("a"), bed.watch("b"));
    let uuid = bed.virsh(&["domuuid", "a"]);
    let first = snapshot(vec![disk("vda", bed.path("of a"), "qcow2")]);
    let second = snapshot(vec![disk("vda", bed.path("of b"), "qcow2")]);
    let first = bed.connection.start_live_snapshot(uuid.trim(), &first).unwrap();
    let second = bed.connection.start_live_snapshot("b", &second).unwrap();
    await_phase(&first, Phase::Ready);
    await_phase(&second, Phase::Ready);
    let known: HashSet<_> = bed
        .connection
        .operations(None)
        .unwrap()
        .into_iter()
        .map(|known| known.domain)
        .collect();
    assert_eq!(known, HashSet::from(["a".to_owned(), "b".to_owned()]));
    second.finish(Some(PATIENCE)).unwrap();
    first.finish(Some(PATIENCE)).unwrap();
    for (domain, image) in [("a", "of a"), ("b", "of b")] {
        edge(&bed, domain, "vda", &bed.path(image), "qcow2");
    }
    fs::remove_file(bed.path("of b")).unwrap();
    a.must_be_as_before(&["of a"]);
    b.must_be_as_before(&[]);
}

#[test]
fn an_operation_outlives_its_connection() {
    let bed = bed();
    let before = bed.watch("a");
    let connection = Connection::open(Some(&bed.uri), EventLoop::Own).unwrap();
    let options = snapshot(vec![disk("vda", bed.path("out"), "qcow2")]);
    let operation = connection.start_live_snapshot("a", &options).unwrap();
    drop(connection);
    operation.finish(Some(PATIENCE)).unwrap();
    before.must_be_as_before(&["out"]);
}
