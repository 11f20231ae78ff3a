// SPDX-License-Identifier: LGPL-2.1-or-later
//! A real guest's disk moves under its writer, or stays as it was.

mod moving;
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{CloneMethod, ErrorCode, EventLoop, Method, MigrateOptions, Operation, Phase};
use moving::{copy_of, disk_of, home, shown, to};
use support::bed::{Bare, Bed, Server, SmallFileSystem, Turn, is_root, run};
use support::image::{create, info, log_of, must_equal};
use support::sealed::Sealed;
use support::{PATIENCE, await_copying, await_phase, must_tell, remote, until};

const MIB: u64 = 1 << 20;

/// `a`, and `b`, which is transient.
fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &[
            "name=a,disks=qcow2-backed:64M+raw:32M+qcow2:32M,data=8M,agent=no",
            "name=b,disks=qcow2-backed:32M+raw:32M,data=4M,persistent=no,agent=no",
        ],
    )
}

/// Migrates, expects success, checks everything, and removes the old image.
fn moves(bed: &Bed, domain: &str, options: &MigrateOptions) {
    let before = home(bed, domain, &options.target);
    let acknowledged = before.acknowledged();
    let operation = bed.connection.migrate_disk(domain, options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    println!("{domain} {} to {}: {report:?}", options.target, options.destination);
    assert_eq!(report.disk_count, 1);
    assert_ne!(report.method, Method::Auto);
    assert_eq!(operation.poll(None).phase, Phase::Done);
    let below = match report.method {
        Method::Clone => before.chain[1..].to_vec(),
        _ => Vec::new(),
    };
    before.must_have_moved(options, &below, acknowledged);
    if options.delete_source {
        assert!(!Path::new(&before.chain[0]).exists());
    } else if before.is_file() {
        fs::remove_file(&before.chain[0]).unwrap();
    }
}

/// It must fail, at the start or later, and leave everything as it was.
fn fails(bed: &Bed, domain: &str, options: &MigrateOptions, code: ErrorCode, parts: &[&str]) {
    let before = home(bed, domain, &options.target);
    let started = bed.connection.migrate_disk(domain, options);
    let error = started
        .and_then(|operation| operation.finish(Some(PATIENCE)))
        .unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
    before.must_be_as_before();
}

fn copying(target: &str, destination: impl AsRef<Path>) -> MigrateOptions {
    MigrateOptions {
        method: Method::Clone,
        clone: CloneMethod::Copy,
        ..to(target, destination)
    }
}

fn mirroring(target: &str, destination: impl AsRef<Path>, format: &str) -> MigrateOptions {
    MigrateOptions {
        method: Method::Mirror,
        format: Some(format.into()),
        ..to(target, destination)
    }
}

fn calling(
    target: &str,
    destination: impl AsRef<Path>,
    callback: impl Fn(&str, &str) -> i32 + Send + Sync + 'static,
) -> MigrateOptions {
    MigrateOptions {
        method: Method::Clone,
        clone: CloneMethod::Callback,
        clone_callback: Some(Arc::new(callback)),
        ..to(target, destination)
    }
}

/// A directory of its own below the bed's, which QEMU's user gets into.
fn directory(bed: &Bed, name: &str) -> PathBuf {
    let path = bed.path(name);
    let _ = fs::create_dir(&path);
    run("chmod", &["755", shown(&path)]);
    path
}

#[test]
fn clone_by_copy_of_every_kind() {
    let bed = bed();
    let other = directory(&bed, "other");
    for (domain, target) in [("a", "vda"), ("a", "vdb"), ("a", "vdc"), ("b", "vda"), ("b", "vdb")] {
        println!("{domain} {target}");
        let first = other.join(format!("{domain}-{target}"));
        moves(&bed, domain, &copying(target, first));
        moves(
            &bed,
            domain,
            &copying(target, bed.path(&format!("{domain}-{target}-back"))),
        );
    }
}

#[test]
fn the_default_moves_and_what_it_moves_is_what_was_there() {
    let bed = bed();
    for (domain, target) in [("a", "vda"), ("b", "vdb")] {
        let before = home(&bed, domain, target);
        let acknowledged = before.acknowledged();
        let options = to(target, bed.path(&format!("{domain}-content")));
        let operation = bed.connection.migrate_disk(domain, &options).unwrap();
        await_phase(&operation, Phase::Ready);
        // Both are quiet until the pivot.
        run("cmp", &[&before.chain[0], &options.destination]);
        assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Clone);
        before.must_have_moved(&options, &before.chain[1..], acknowledged);
        fs::remove_file(&before.chain[0]).unwrap();
    }
}

#[test]
fn relative_backing_names() {
    let bed = bed();
    let other = directory(&bed, "elsewhere");
    let mut number = 0;
    for destination in [bed.dir.clone(), other] {
        number += 1;
        let before = home(&bed, "a", "vda");
        let (image, base) = (&before.chain[0], &before.chain[1]);
        bed.virsh(&["destroy", "a"]);
        let name = Path::new(base).file_name().unwrap().to_str().unwrap();
        assert_eq!(Path::new(image).parent(), Path::new(base).parent());
        run(
            "qemu-img",
            &["rebase", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", image],
        );
        bed.virsh(&["start", "a"]);
        bed.must_write("a");
        let options = copying("vda", destination.join(format!("relative-{number}")));
        moves(&bed, "a", &options);
        let copy = Path::new(&options.destination).with_file_name("header");
        fs::copy(&options.destination, &copy).unwrap();
        let found = info(&copy, "qcow2");
        fs::remove_file(copy).unwrap();
        let resolved = found["full-backing-filename"].as_str().unwrap();
        assert_eq!(fs::canonicalize(resolved).unwrap(), fs::canonicalize(base).unwrap());
        assert_eq!(found["backing-filename-format"], "qcow2");
        let kept = if destination == bed.dir { name } else { base };
        assert_eq!(found["backing-filename"], kept);
    }
    moves(&bed, "a", &copying("vda", bed.path("relative-back")));
}

/// A storage pool on a directory, for as long as it lives.
struct Pool<'a>(&'a Bed, &'a str);

impl<'a> Pool<'a> {
    fn on(bed: &'a Bed, name: &'a str, directory: &Path) -> Self {
        bed.virsh(&["pool-create-as", name, "dir", "--target", shown(directory)]);
        Self(bed, name)
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_virsh(&["pool-destroy", self.1]);
    }
}

fn by_volume(target: &str, destination: impl AsRef<Path>) -> MigrateOptions {
    MigrateOptions {
        clone: CloneMethod::Volume,
        ..to(target, destination)
    }
}

#[test]
fn clone_by_storage_volumes() {
    let bed = bed();
    let pooled = directory(&bed, "pooled");
    let outside = by_volume("vda", pooled.join("vda"));
    fails(
        &bed,
        "a",
        &outside,
        ErrorCode::Unsupported,
        &["pooled/vda", "pool-create-as"],
    );
    let _home = Pool::on(&bed, "home", &bed.dir);
    let _other = Pool::on(&bed, "other", &pooled);
    for (domain, target) in [("a", "vda"), ("b", "vdb")] {
        println!("{domain} {target}");
        moves(&bed, domain, &by_volume(target, pooled.join("it's <&>")));
        let options = MigrateOptions {
            delete_source: true,
            ..by_volume(target, bed.path(&format!("{domain}-{target}-volume")))
        };
        moves(&bed, domain, &options);
    }

    println!("refused");
    let existing = pooled.join("existing");
    fs::write(&existing, "somebody's").unwrap();
    fails(
        &bed,
        "a",
        &by_volume("vda", &existing),
        ErrorCode::Destination,
        &["existing"],
    );
    let options = MigrateOptions {
        verify: true,
        ..by_volume("vda", pooled.join("never"))
    };
    fails(&bed, "a", &options, ErrorCode::Unsupported, &["VERIFY"]);
    assert_eq!(fs::read(&existing).unwrap(), b"somebody's");
    fs::remove_file(existing).unwrap();

    println!("cancelled");
    let before = home(&bed, "a", "vda");
    let operation = bed
        .connection
        .migrate_disk("a", &by_volume("vda", pooled.join("never")))
        .unwrap();
    await_phase(&operation, Phase::Ready);
    operation.cancel().unwrap();
    before.must_be_as_before();
}

#[test]
fn a_remote_connection_clones_by_storage_volumes() {
    let bed = bed();
    let remote = remote::connect(&bed);
    let pooled = directory(&bed, "far");
    let move_to = |options: &MigrateOptions| {
        let operation = remote.migrate_disk("a", options)?;
        operation.finish(Some(PATIENCE))
    };
    let _home = Pool::on(&bed, "home", &bed.dir);
    let before = home(&bed, "a", "vda");
    println!("what takes this machine's files is refused, and so is a place that is no pool");
    let there = pooled.join("moved");
    for (options, parts) in [
        (copying("vda", &there), &["'vda'", "remote", "VOLUME"][..]),
        (mirroring("vda", &there, "qcow2"), &["'vda'", "remote", "VOLUME"]),
        (to("vda", &there), &["far/moved", "pool-create-as"]),
    ] {
        must_tell(&move_to(&options).unwrap_err(), ErrorCode::Unsupported, parts);
    }
    before.must_be_as_before();

    let _far = Pool::on(&bed, "far", &pooled);
    println!("cancelled");
    let operation = remote.migrate_disk("a", &to("vda", &there)).unwrap();
    await_phase(&operation, Phase::Ready);
    assert_eq!(remote.operations(Some("a")).unwrap().len(), 1);
    operation.cancel().unwrap();
    before.must_be_as_before();

    println!("there by AUTO, and back");
    let acknowledged = before.acknowledged();
    let options = MigrateOptions {
        delete_source: true,
        ..to("vda", &there)
    };
    assert_eq!(move_to(&options).unwrap().method, Method::Clone);
    before.must_have_moved(&options, &before.chain[1..], acknowledged);
    let before = home(&bed, "a", "vda");
    let back = MigrateOptions {
        delete_source: true,
        ..by_volume("vda", bed.path("back-from-far"))
    };
    move_to(&back).unwrap();
    before.must_have_moved(&back, &before.chain[1..], acknowledged);
}

/// A directory that only the daemon and QEMU see filled.
struct Hidden {
    /// As they call it.
    seen: PathBuf,
    /// Where its files are for us.
    real: PathBuf,
    processes: Vec<String>,
}

impl Hidden {
    fn of(bed: &Bed, domain: &str) -> Self {
        let hidden = Self {
            seen: directory(bed, "hidden"),
            real: directory(bed, "real"),
            processes: vec![
                fs::read_to_string(bed.value("DAEMON_PIDFILE")).unwrap().trim().into(),
                bed.qemu_pid(domain).to_string(),
            ],
        };
        for process in &hidden.processes {
            // In one namespace, unless the daemon was restarted since.
            let mounted = format!(
                "mountpoint -q '{}' || mount --bind '{}' '{0}'",
                shown(&hidden.seen),
                shown(&hidden.real)
            );
            run("nsenter", &["-t", process, "-m", "bash", "-c", &mounted]);
        }
        hidden
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        for process in &self.processes {
            let _ = std::process::Command::new("nsenter")
                .args(["-t", process, "-m", "umount", "-q", shown(&self.seen)])
                .status();
        }
    }
}

#[test]
fn a_daemon_whose_files_we_do_not_see() {
    if !is_root() {
        println!("skipped: to mount takes root");
        return;
    }
    let bed = bed();
    let hidden = Hidden::of(&bed, "a");
    let _home = Pool::on(&bed, "home", &bed.dir);
    let _hidden = Pool::on(&bed, "hidden", &hidden.seen);
    let before = home(&bed, "a", "vda");
    let acknowledged = before.acknowledged();
    let there = by_volume("vda", hidden.seen.join("there"));
    let back = MigrateOptions {
        delete_source: true,
        ..by_volume("vda", bed.path("visible"))
    };
    for (options, files) in [(&there, 1), (&back, 0)] {
        let operation = bed.connection.migrate_disk("a", options).unwrap();
        println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
        assert_eq!(home(&bed, "a", "vda").chain[0], options.destination);
        assert_eq!(fs::read_dir(&hidden.real).unwrap().count(), files);
        assert_eq!(fs::read_dir(&hidden.seen).unwrap().count(), 0);
    }
    // That source was another.
    let options = MigrateOptions {
        delete_source: false,
        ..back
    };
    before.must_have_moved(&options, &before.chain[1..], acknowledged);
    fs::remove_file(&before.chain[0]).unwrap();
}

#[test]
fn callback() {
    let bed = bed();
    let called = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&called);
    let options = calling("vda", bed.path("called"), move |source, destination| {
        seen.store(true, Ordering::SeqCst);
        copy_of(source, destination)
    });
    moves(
        &bed,
        "a",
        &MigrateOptions {
            verify: true,
            ..options
        },
    );
    assert!(called.load(Ordering::SeqCst));

    println!("it fails, with and without a file left");
    let options = calling("vda", bed.path("called-2"), |_, _| 7);
    fails(
        &bed,
        "a",
        &options,
        ErrorCode::JobFailed,
        &["7", "called-2", "disk 'vda' of domain 'a'"],
    );
    let options = calling("vda", bed.path("called-2"), |_, destination| {
        fs::write(destination, "half").unwrap();
        7
    });
    fails(
        &bed,
        "a",
        &options,
        ErrorCode::JobFailed,
        &["7", "called-2", "disk 'vda' of domain 'a'"],
    );

    println!("it says it succeeded and made nothing");
    let options = calling("vda", bed.path("called-2"), |_, _| 0);
    fails(&bed, "a", &options, ErrorCode::JobFailed, &["called-2"]);

    println!("it corrupts");
    let corrupting = calling("vdb", bed.path("called-2"), |source, destination| {
        copy_of(source, destination);
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(destination).unwrap();
        file.write_all_at(b"not what was there", 5 << 20).unwrap();
        0
    });
    let options = MigrateOptions {
        verify: true,
        ..corrupting
    };
    fails(&bed, "a", &options, ErrorCode::Verify, &["called-2"]);
}

#[test]
fn cancel_while_the_callback_runs() {
    let bed = bed();
    let before = home(&bed, "a", "vda");
    let running = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&running);
    let options = calling("vda", bed.path("never"), move |source, destination| {
        seen.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_secs(1));
        copy_of(source, destination)
    });
    let operation = bed.connection.migrate_disk("a", &options).unwrap();
    until("the callback runs", || running.load(Ordering::SeqCst));
    operation.cancel().unwrap();
    must_tell(&operation.finish(None).unwrap_err(), ErrorCode::Cancelled, &["'a'"]);
    before.must_be_as_before();
}

#[test]
fn cancel_while_cloning_and_when_ready() {
    let bed = bed();
    for (domain, target) in [("a", "vdb"), ("b", "vdb"), ("a", "vda")] {
        let before = home(&bed, domain, target);
        for method in [Method::Clone, Method::Mirror] {
            for phase in [Phase::Preparing, Phase::Copying, Phase::Ready] {
                if target == "vda" && phase == Phase::Copying {
                    // There is too little in the overlay to be caught.
                    continue;
                }
                println!("{domain} {target} {method:?} {phase:?}");
                let options = MigrateOptions {
                    method,
                    clone: CloneMethod::Copy,
                    bandwidth: if phase == Phase::Copying { MIB } else { 0 },
                    ..to(target, bed.path("never"))
                };
                let operation = bed.connection.migrate_disk(domain, &options).unwrap();
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
                before.must_be_as_before();
            }
        }
    }
}

#[test]
fn cancel_behind_the_pivot_completes() {
    let bed = bed();
    let mut behind = false;
    for attempt in 0..4 {
        let before = home(&bed, "a", "vda");
        let acknowledged = before.acknowledged();
        // What the guest writes meanwhile makes the commit take its time.
        let options = calling("vda", bed.path(&format!("behind-{attempt}")), |source, destination| {
            thread::sleep(Duration::from_secs(2));
            copy_of(source, destination)
        });
        bed.ctl("a", &["writer", "burst", "20"]);
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        await_phase(&operation, Phase::Ready);
        bed.ctl("a", &["writer", "burst", "0"]);
        let (finished, cancelled) = thread::scope(|scope| {
            let finishing = scope.spawn(|| operation.finish(Some(PATIENCE)));
            until("it is moved", || {
                let list = bed.virsh(&["domblklist", "a"]);
                !list.contains("-source.qcow2")
            });
            let cancelled = operation.cancel();
            (finishing.join().unwrap(), cancelled)
        });
        println!("{finished:?} {cancelled:?}");
        finished.unwrap();
        let error = cancelled.unwrap_err();
        behind |= error.code() == ErrorCode::NoOperation;
        assert_eq!(error.code(), ErrorCode::NoOperation);
        before.must_have_moved(&options, &before.chain[1..], acknowledged);
        fs::remove_file(&before.chain[0]).unwrap();
    }
    assert!(behind);
}

/// A loop device on a file of that size; detached at the end.
struct LoopDevice(String);

impl LoopDevice {
    fn on(file: &Path, size: &str) -> Self {
        create(file, "raw", size);
        Self(run("losetup", &["--find", "--show", shown(file)]).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["--detach", &self.0])
            .status();
    }
}

#[test]
fn mirror_to_a_block_device_and_back() {
    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    let bed = bed();
    for domain in ["a", "b"] {
        let file = bed.path("device.raw");
        let device = LoopDevice::on(&file, "32M");
        moves(&bed, domain, &to("vdb", &device.0));
        let back = to("vdb", bed.path(&format!("{domain}-from-device")));
        let clone = MigrateOptions {
            method: Method::Clone,
            ..back.clone()
        };
        fails(
            &bed,
            domain,
            &clone,
            ErrorCode::Unsupported,
            &["'vdb'", "not a file", "MIRROR"],
        );
        moves(&bed, domain, &back);
        assert!(Path::new(&device.0).exists());
        drop(device);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn mirror_to_an_nbd_export() {
    let bed = bed();
    let (file, socket) = (bed.path("export.raw"), bed.path("nbd.sock"));
    create(&file, "raw", "32M");
    let _server = Server::start(
        "qemu-nbd",
        &[
            "--persistent",
            "-f",
            "raw",
            "-x",
            "e",
            "--shared",
            "0",
            "-k",
            shown(&socket),
            shown(&file),
        ],
    );
    until("the export is there", || socket.exists());
    run("chmod", &["777", shown(&socket)]);
    let uri = format!("nbd+unix:///e?socket={}", shown(&socket));
    let before = home(&bed, "a", "vdb");
    let acknowledged = before.acknowledged();
    let options = to("vdb", &uri);
    let operation = bed.connection.migrate_disk("a", &options).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    let now = home(&bed, "a", "vdb");
    assert_eq!(now.chain, ["e"]);
    now.must_be_whole(&file, "raw", acknowledged);
    fs::remove_file(&before.chain[0]).unwrap();

    println!("and back");
    let clone = MigrateOptions {
        method: Method::Clone,
        ..to("vdb", bed.path("never"))
    };
    for (options, part) in [(&clone, "MIRROR"), (&to("vdb", &uri), "no path")] {
        let error = bed.connection.migrate_disk("a", options).err().unwrap();
        println!("{error}");
        must_tell(&error, ErrorCode::Unsupported, &["'vdb'", part]);
    }
    let before = home(&bed, "a", "vdb");
    let acknowledged = before.acknowledged();
    let back = MigrateOptions {
        bandwidth: 8 * MIB,
        ..to("vdb", bed.path("from-export"))
    };
    let cancelled = bed.connection.migrate_disk("a", &back).unwrap();
    await_copying(&cancelled);
    cancelled.cancel().unwrap();
    assert_eq!(home(&bed, "a", "vdb").chain, ["e"]);
    let back = MigrateOptions {
        delete_source: true,
        ..to("vdb", bed.path("from-export"))
    };
    let operation = bed.connection.migrate_disk("a", &back).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    before.must_have_moved(&back, &[], acknowledged);
    // What is no file of this machine is nobody's to delete.
    fs::remove_file(file).unwrap();
}

/// What libvirt and QEMU know of a disk besides its images.
fn properties(bed: &Bed, domain: &str, target: &str) -> Vec<String> {
    // The image and what it rests on stand in between.
    let outside = |xml: &str| {
        let disk = disk_of(xml, target);
        let (driver, _) = disk.split_once("<source ").unwrap();
        format!("{driver}<target {}", disk.split_once("<target ").unwrap().1)
    };
    let blocks = bed.virsh(&["qemu-monitor-command", domain, r#"{"execute":"query-block"}"#]);
    let blocks: serde_json::Value = serde_json::from_str(&blocks).unwrap();
    let blocks = blocks["return"].as_array().unwrap();
    let live = bed.virsh(&["dumpxml", domain]);
    let disk = disk_of(&live, target);
    let (_, alias) = disk.split_once("<alias name='").unwrap();
    let alias = format!("/{}/", alias.split_once('\'').unwrap().0);
    let is_it = |block: &&serde_json::Value| block["qdev"].as_str().is_some_and(|path| path.contains(&alias));
    let block = blocks.iter().find(is_it).unwrap();
    // Not detect_zeroes: libvirt gives it to active layers only, and an active commit does not turn its base into one.
    let is_kept = |key: &str| ["cache", "group", "ro"].contains(&key) || key.contains("ps");
    let known = block["inserted"].as_object().unwrap().iter();
    let known = known.filter(|(key, _)| is_kept(key));
    let mut all: Vec<_> = known.map(|(key, value)| format!("{key} {value}")).collect();
    all.push(outside(&live));
    all.push(outside(&bed.virsh(&["dumpxml", "--inactive", domain])));
    all
}

#[test]
fn the_disks_own_properties_stay() {
    let bed = bed();
    let image = home(&bed, "a", "vdc").chain[0].clone();
    // Memory may not do it.
    let direct = std::process::Command::new("dd")
        .args([
            &format!("if={image}"),
            "of=/dev/null",
            "iflag=direct",
            "bs=4096",
            "count=1",
        ])
        .status();
    let cache = if direct.unwrap().success() {
        "cache='none' io='native'"
    } else {
        "cache='writethrough' io='threads'"
    };
    let xml = bed.virsh(&["dumpxml", "--inactive", "a"]);
    let plain = disk_of(&xml, "vdc");
    let tuned = plain
        .replace(" discard='unmap'", &format!(" {cache} discard='unmap' detect_zeroes='unmap' error_policy='report'"))
        .replace(
            "<target dev='vdc' bus='virtio'/>",
            "<target dev='vdc' bus='virtio'/>\n      <iotune>\n        <write_bytes_sec>300000000</write_bytes_sec>\n        \
             <read_iops_sec>50000</read_iops_sec>\n      </iotune>\n      <serial>serial-vdc</serial>\n      <boot order='1'/>",
        );
    assert!(tuned.contains(cache) && tuned.contains("iotune"), "{tuned}");
    let definition = bed.path("tuned.xml");
    fs::write(&definition, xml.replace(&plain, &tuned).replace("<boot dev='hd'/>", "")).unwrap();
    bed.virsh(&["destroy", "a"]);
    bed.virsh(&["define", shown(&definition)]);
    fs::remove_file(definition).unwrap();
    bed.virsh(&["start", "a"]);
    bed.must_write("a");

    let before = properties(&bed, "a", "vdc");
    println!("{before:#?}");
    for (index, options) in [
        copying("vdc", bed.path("tuned-0")),
        mirroring("vdc", bed.path("tuned-1"), "qcow2"),
        copying("vdc", bed.path("tuned-2")),
    ]
    .iter()
    .enumerate()
    {
        let image = fs::metadata(&home(&bed, "a", "vdc").chain[0]).unwrap();
        moves(&bed, "a", options);
        assert_eq!(properties(&bed, "a", "vdc"), before, "{index}");
        let moved = fs::metadata(&options.destination).unwrap();
        assert_eq!(
            (moved.uid(), moved.gid(), moved.mode() & 0o7777),
            (image.uid(), image.gid(), 0o600)
        );
    }
    println!("the next start finds it so, too");
    bed.virsh(&["destroy", "a"]);
    bed.virsh(&["start", "a"]);
    bed.must_write("a");
    assert_eq!(properties(&bed, "a", "vdc"), before);
}

/// It has moved, encrypted as before, and holds what it held: as it runs, and when it is started from there.
fn moves_sealed(bed: &Bed, sealed: &Sealed, options: &MigrateOptions) {
    let old = home(bed, Sealed::NAME, "vda").chain[0].clone();
    let operation = start_sealed(bed, options);
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    must_be_sealed_at(bed, sealed, options);
    fs::remove_file(old).unwrap();
    bed.virsh(&["destroy", Sealed::NAME]);
    bed.virsh(&["start", Sealed::NAME]);
    must_be_sealed_at(bed, sealed, options);
}

/// Once it copies.
fn start_sealed(bed: &Bed, options: &MigrateOptions) -> Operation {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let operation = bed.connection.migrate_disk(Sealed::NAME, options).unwrap();
        let mut phase = Phase::Preparing;
        until("it copies", || {
            let progress = operation.poll(None);
            phase = progress.phase;
            progress.bytes_done > 0 || phase.is_final()
        });
        if phase != Phase::Failed {
            return operation;
        }
        let error = operation.finish(None).unwrap_err();
        // QEMU measures itself with a clock that now and then has not moved on.
        let again = error.message().contains("accurate CPU usage") && Instant::now() < give_up;
        assert!(again, "{error}");
    }
}

fn must_be_sealed_at(bed: &Bed, sealed: &Sealed, options: &MigrateOptions) {
    let format = options.format.as_deref().unwrap_or("raw");
    let path = &options.destination;
    for xml in [&["dumpxml", Sealed::NAME][..], &["dumpxml", "--inactive", Sealed::NAME]] {
        let disk = disk_of(&bed.virsh(xml), "vda");
        for part in [
            &format!("type='{format}'"),
            &format!("file='{path}'"),
            "<encryption format='luks'",
        ] {
            assert!(disk.contains(part), "{part}: {disk}");
        }
        assert!(disk.contains(Sealed::SECRET) && !disk.contains("<mirror"), "{disk}");
    }
    sealed.must_hold(Path::new(path), format);
}

#[test]
fn encrypted_disk() {
    let bed = bed();
    let sealed = Sealed::start(&bed);
    let never = bed.path("never");
    let clone = MigrateOptions {
        method: Method::Clone,
        ..to("vda", &never)
    };
    let parts = ["'vda'", "encrypted", "plain text", "MIRROR"];
    fails(&bed, Sealed::NAME, &clone, ErrorCode::Unsupported, &parts);
    let export = to("vda", "nbd://localhost/never");
    let parts = ["'vda'", "encrypted", "new file", "ALLOW_PLAINTEXT"];
    fails(&bed, Sealed::NAME, &export, ErrorCode::Unsupported, &parts);

    println!("cancelled while it copies and when READY");
    let before = home(&bed, Sealed::NAME, "vda");
    let slowly = |destination| MigrateOptions {
        bandwidth: MIB,
        ..to("vda", destination)
    };
    for phase in [Phase::Copying, Phase::Ready] {
        let operation = start_sealed(&bed, &slowly(&never));
        await_phase(&operation, phase);
        operation.cancel().unwrap();
        must_tell(
            &operation.finish(None).unwrap_err(),
            ErrorCode::Cancelled,
            &[Sealed::NAME],
        );
        before.must_be_as_before();
    }
    println!("and by recover");
    drop(start_sealed(&bed, &slowly(&never)));
    assert_eq!(
        bed.connection.recover(Some(Sealed::NAME), false).unwrap().taken_back(),
        1
    );
    before.must_be_as_before();

    println!("attached to");
    let old = &before.chain[0];
    let options = slowly(&bed.path("attached"));
    drop(start_sealed(&bed, &options));
    let operation = bed.connection.attach(Sealed::NAME, "vda").unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    must_be_sealed_at(&bed, &sealed, &options);
    fs::remove_file(old).unwrap();

    println!("to the other format and back");
    moves_sealed(&bed, &sealed, &mirroring("vda", bed.path("sealed-qcow2"), "qcow2"));
    let options = MigrateOptions {
        write_blocking: true,
        ..mirroring("vda", bed.path("sealed-raw"), "raw")
    };
    moves_sealed(&bed, &sealed, &options);

    println!("to plain text");
    let destination = bed.path("unsealed");
    let mut options = to("vda", &destination);
    options.allow_plaintext = true;
    moves(&bed, Sealed::NAME, &options);
    must_equal(&destination, "raw", &sealed.plain);
    for xml in [&["dumpxml", Sealed::NAME][..], &["dumpxml", "--inactive", Sealed::NAME]] {
        assert!(!bed.virsh(xml).contains("encryption"));
    }
    println!("it starts from there");
    bed.virsh(&["destroy", Sealed::NAME]);
    bed.virsh(&["start", Sealed::NAME]);
    drop(sealed);
    fs::remove_file(destination).unwrap();
}

#[test]
fn mirror_to_the_other_format() {
    let bed = bed();
    moves(&bed, "a", &mirroring("vdc", bed.path("to-raw"), "raw"));
    moves(&bed, "a", &mirroring("vdc", bed.path("to-qcow2"), "qcow2"));
    let options = MigrateOptions {
        write_blocking: true,
        auto_finish: true,
        ..mirroring("vdc", bed.path("same"), "qcow2")
    };
    moves(&bed, "a", &options);
}

#[test]
fn verify_and_delete_source() {
    let bed = bed();
    for (index, (domain, target)) in [("a", "vda"), ("a", "vdb"), ("b", "vda")].into_iter().enumerate() {
        let options = MigrateOptions {
            verify: true,
            delete_source: true,
            ..to(target, bed.path(&format!("kept-{index}")))
        };
        moves(&bed, domain, &options);
    }
    let options = MigrateOptions {
        delete_source: true,
        ..mirroring("vdb", bed.path("kept-mirror"), "raw")
    };
    moves(&bed, "a", &options);
}

#[test]
fn odd_names() {
    let bed = bed();
    let names = ["it's \"odd\" <&> a,b:c", "-leading %s", "json:{}", "é ✓"];
    let directory = directory(&bed, "a dir, <odd> & 'so'");
    for (index, name) in names.iter().enumerate() {
        println!("{name}");
        let target = ["vda", "vdb"][index % 2];
        moves(&bed, "a", &to(target, directory.join(name)));
    }
    moves(&bed, "a", &to("vda", bed.path("even-1")));
    moves(&bed, "a", &mirroring("vdb", directory.join(names[0]), "raw"));
    moves(&bed, "a", &to("vdb", bed.path("even-2")));
}

#[test]
fn dry_run_changes_nothing() {
    let bed = bed();
    for (method, word) in [
        (Method::Clone, "virDomainSnapshotCreateXML"),
        (Method::Mirror, "virDomainBlockCopy"),
    ] {
        let before = home(&bed, "a", "vda");
        let options = MigrateOptions {
            method,
            dry_run: true,
            ..to("vda", bed.path("never"))
        };
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        let plan = operation.plan();
        println!("{plan:#?}");
        assert!(plan.iter().any(|step| step.contains(word)));
        assert_eq!(operation.finish(None).unwrap().method, method);
        before.must_be_as_before();
    }
}

#[test]
fn refused_destinations_and_disks() {
    let bed = bed();
    let image = home(&bed, "a", "vda").chain[0].clone();
    let existing = bed.path("existing");
    fs::write(&existing, "somebody's").unwrap();
    let link = bed.path("link");
    std::os::unix::fs::symlink(bed.path("nowhere"), &link).unwrap();
    let refused = |domain: &str, options: &MigrateOptions, code, parts: &[&str]| {
        let error = bed.connection.migrate_disk(domain, options).err().unwrap();
        println!("{error}");
        must_tell(&error, code, parts);
    };
    let before = home(&bed, "a", "vda");
    for destination in [
        existing.clone(),
        link.clone(),
        PathBuf::from(&image),
        bed.path("no-such-directory/x"),
        bed.dir.clone(),
    ] {
        for method in [Method::Clone, Method::Mirror] {
            let options = MigrateOptions {
                method,
                ..to("vda", &destination)
            };
            refused("a", &options, ErrorCode::Destination, &[shown(&destination)]);
        }
    }
    before.must_be_as_before();
    assert_eq!(fs::read(&existing).unwrap(), b"somebody's");
    fs::remove_file(existing).unwrap();
    fs::remove_file(link).unwrap();

    let free = to("vdz", bed.path("free"));
    refused("a", &free, ErrorCode::NoDisk, &["'a'", "'vdz'"]);
    refused("nobody", &free, ErrorCode::NoDomain, &["'nobody'"]);
    for method in [Method::Backup, Method::Rebase] {
        let options = MigrateOptions {
            method,
            ..to("vda", bed.path("free"))
        };
        refused("a", &options, ErrorCode::InvalidArgument, &["CLONE", "MIRROR"]);
    }
    let options = MigrateOptions {
        clone: CloneMethod::Callback,
        ..to("vda", bed.path("free"))
    };
    refused("a", &options, ErrorCode::InvalidArgument, &["CALLBACK"]);
    let options = MigrateOptions {
        format: Some("vmdk".into()),
        ..to("vda", bed.path("free"))
    };
    refused("a", &options, ErrorCode::Unsupported, &["vmdk"]);
    let options = MigrateOptions {
        method: Method::Clone,
        format: Some("raw".into()),
        ..to("vda", bed.path("free"))
    };
    refused("a", &options, ErrorCode::Unsupported, &["'vda'", "MIRROR"]);
}

#[test]
fn snapshot_metadata_is_in_the_way() {
    let bed = bed();
    let bare = bed.bare("kept", &[Bare::RAW]);
    let file = format!("vda,file={}", shown(&bed.path("kept-overlay")));
    bed.virsh(&[
        "snapshot-create-as",
        "kept",
        "s",
        "--disk-only",
        "--diskspec",
        &file,
        "--diskspec",
        "sda,snapshot=no",
    ]);
    fails(
        &bed,
        "kept",
        &to("vda", bed.path("never")),
        ErrorCode::Busy,
        &["'kept'", "1 snapshots", "snapshot-delete"],
    );
    bed.virsh(&["snapshot-delete", "kept", "s", "--metadata"]);
    drop(bare);
    fs::remove_file(bed.path("kept-overlay")).unwrap();
}

#[test]
fn another_job_is_in_the_way() {
    let bed = bed();
    let before = home(&bed, "a", "vdb");
    println!("a job of somebody else");
    let mine = bed.path("mine");
    let copy = [
        "blockcopy",
        "a",
        "vdb",
        shown(&mine),
        "--transient-job",
        "--bytes",
        "1000000",
    ];
    bed.virsh(&copy);
    let options = to("vdb", bed.path("never"));
    let error = bed.connection.migrate_disk("a", &options).err().unwrap();
    println!("{error}");
    must_tell(&error, ErrorCode::Busy, &["'a'", "'vdb'"]);
    bed.virsh(&["blockjob", "a", "vdb", "--abort"]);
    fs::remove_file(mine).unwrap();
    before.must_be_as_before();

    println!("a migration of the same disk");
    let slow = MigrateOptions {
        bandwidth: MIB,
        ..copying("vdb", bed.path("slow"))
    };
    let first = bed.connection.migrate_disk("a", &slow).unwrap();
    await_copying(&first);
    let error = bed.connection.migrate_disk("a", &options).err().unwrap();
    println!("{error}");
    must_tell(&error, ErrorCode::Busy, &["'a'"]);
    first.cancel().unwrap();
    before.must_be_as_before();
}

#[test]
fn two_disks_at_once() {
    let bed = bed();
    let before = ["vdb", "vdc"].map(|target| home(&bed, "a", target));
    let plain = bed.virsh(&["dumpxml", "--inactive", "a"]).contains("<metadata");
    let options = [
        MigrateOptions {
            bandwidth: 4 * MIB,
            ..copying("vdb", bed.path("first-of-two"))
        },
        mirroring("vdc", bed.path("second-of-two"), "qcow2"),
    ];
    let started = |count| bed.connection.operations(Some("a")).unwrap().len() == count;
    let operations = [1, 2].map(|count| {
        let operation = bed.connection.migrate_disk("a", &options[count - 1]).unwrap();
        until("it is noted", || started(count));
        operation
    });
    let busy = bed.connection.migrate_disk("a", &options[0]).err().unwrap();
    must_tell(&busy, ErrorCode::Busy, &["'a'", "wait for it, or cancel it"]);
    let last = log_of(&bed, "a").last().unwrap().sequence;
    for operation in operations.iter().rev() {
        println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
    }
    for (before, options) in before.iter().zip(&options) {
        let now = home(&bed, "a", &options.target);
        assert_eq!(now.chain, std::slice::from_ref(&options.destination));
        now.must_be_whole(
            Path::new(&options.destination),
            &now.format,
            last.min(now.acknowledged() - 1),
        );
        fs::remove_file(&before.chain[0]).unwrap();
    }
    assert!(bed.connection.operations(Some("a")).unwrap().is_empty());
    assert_eq!(bed.virsh(&["dumpxml", "--inactive", "a"]).contains("<metadata"), plain);
}

#[test]
fn file_system_full() {
    let bed = bed();
    let Some(SmallFileSystem(small)) = &bed.small else {
        println!("skipped: to mount a small file system takes root and a bed of one's own");
        return;
    };
    for (domain, method) in [("a", Method::Clone), ("b", Method::Clone), ("a", Method::Mirror)] {
        let options = MigrateOptions {
            method,
            ..to("vdb", small.join("out"))
        };
        fails(
            &bed,
            domain,
            &options,
            ErrorCode::NoSpace,
            &["No space left on device", "/out"],
        );
        assert_eq!(fs::read_dir(small).unwrap().count(), 0);
    }
}

#[test]
fn libvirtd_restarted_in_mid_copy() {
    let bed = bed();
    for (index, (method, kill)) in [
        (Method::Clone, true),
        (Method::Clone, false),
        (Method::Mirror, true),
        (Method::Mirror, false),
    ]
    .into_iter()
    .enumerate()
    {
        println!("{method:?}, SIGKILL: {kill}");
        let before = home(&bed, "a", "vdb");
        let acknowledged = before.acknowledged();
        let options = MigrateOptions {
            method,
            clone: CloneMethod::Copy,
            bandwidth: 4 * MIB,
            auto_finish: true,
            ..to("vdb", bed.path(&format!("restarted-{index}")))
        };
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        await_copying(&operation);
        bed.restart_daemon(kill);
        assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, method);
        before.must_have_moved(&options, &[], acknowledged);
        fs::remove_file(&before.chain[0]).unwrap();
    }
}
