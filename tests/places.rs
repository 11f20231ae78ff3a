// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where people keep their images: under links, in files of odd sizes, owned by others, on a guest that is paused.

mod moving;
mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use livedisk::{
    CloneMethod, Consistency, ErrorCode, EventLoop, Method, MigrateOptions, Phase, Quiesce, SnapshotOptions,
};
use moving::{home, shown, to};
use support::bed::{Bare, Bed, Turn, fill, is_root, run};
use support::image::{LoopDevice, must_equal};
use support::{PATIENCE, await_phase, disk, must_tell, snapshot, until};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2-backed:64M+raw:32M,data=8M"])
}

/// Migrates and expects success.
fn moves(bed: &Bed, options: &MigrateOptions) {
    let before = home(bed, "a", &options.target);
    let acknowledged = before.acknowledged();
    let operation = bed.connection.migrate_disk("a", options).unwrap();
    println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
    before.must_have_moved(options, &[], acknowledged);
}

/// Its records are whole and in order, up to this one at least.
fn must_hold(bed: &Bed, image: &Path, format: &str, at_least: u64) {
    let found = run(bed.value("RECORDS"), &[shown(image), "--format", format, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    for fault in ["torn", "missing", "out_of_order"] {
        assert_eq!(found[fault], 0, "{}: {found}", shown(image));
    }
    let last = found["last"].as_u64().unwrap();
    assert!(
        last >= at_least,
        "{}: {found}, and {at_least} was acknowledged",
        shown(image)
    );
}

/// Each method's snapshot of vdb holds what was written.
fn snapshots(bed: &Bed, methods: &[Method], destination: &Path) {
    for &method in methods {
        let before = home(bed, "a", "vdb");
        let acknowledged = before.acknowledged();
        let options = SnapshotOptions {
            method,
            ..snapshot(vec![disk("vdb", destination, "raw")])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        println!("{report:?}");
        must_hold(bed, destination, "raw", acknowledged);
        if !destination.is_symlink() {
            fs::remove_file(destination).unwrap();
        }
        before.must_be_as_before();
    }
}

#[test]
fn a_link_to_a_block_device_is_a_place() {
    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    let bed = bed();
    let (file, link) = (bed.path("volume.raw"), bed.path("lv"));
    let device = LoopDevice::on(&file, "32M");
    symlink(&device.0, &link).unwrap();
    snapshots(&bed, &[Method::Mirror, Method::Backup, Method::Clone], &link);
    let original = home(&bed, "a", "vdb").chain[0].clone();

    println!("the disk moves to it, and is copied from there");
    moves(&bed, &to("vdb", &link));
    let out = bed.path("from-volume");
    snapshots(&bed, &[Method::Mirror, Method::Backup, Method::Auto], &out);
    println!("the guest's own device, by another link");
    let other = bed.path("other");
    symlink(&device.0, &other).unwrap();
    let error = bed.connection.migrate_disk("a", &to("vdb", &other)).err().unwrap();
    must_tell(&error, ErrorCode::Destination, &[shown(&other), "this very guest"]);
    fs::remove_file(&other).unwrap();

    println!("and back");
    fs::remove_file(&original).unwrap();
    moves(&bed, &to("vdb", &original));

    println!("one device under two names");
    symlink(&device.0, &other).unwrap();
    let options = snapshot(vec![disk("vda", &link, "raw"), disk("vdb", &other, "raw")]);
    let error = bed.connection.start_live_snapshot("a", &options).err().unwrap();
    must_tell(&error, ErrorCode::InvalidArgument, &["same destination"]);

    println!("a link to a file stays refused");
    fs::remove_file(&other).unwrap();
    symlink(&file, &other).unwrap();
    let error = bed.connection.migrate_disk("a", &to("vdb", &other)).err().unwrap();
    must_tell(&error, ErrorCode::Destination, &[shown(&other), "symbolic link"]);
    drop(device);
    for path in [file, link, other] {
        fs::remove_file(path).unwrap();
    }
}

/// Not of 512 bytes times anything.
const ODD: Bare = Bare {
    make: |path| fill(path, 8_388_708),
    ..Bare::RAW
};

/// The image shows what the disk's own does, whatever their sizes are on the file system.
fn must_show(format: &str, image: &Path, raw: &Path) {
    let (image, raw) = (shown(image), shown(raw));
    run(
        "qemu-img",
        &["compare", "-q", "-U", "-f", format, "-F", "raw", image, raw],
    );
}

#[test]
fn a_raw_image_may_end_anywhere() {
    let bed = bed();
    let bare = bed.bare("odd", &[ODD]);
    let original = bed.path("original");
    fs::copy(&bare.files[0], &original).unwrap();
    let image = bed.path("image");
    for method in [Method::Auto, Method::Mirror, Method::Backup, Method::Clone] {
        for format in ["raw", "qcow2"] {
            let options = SnapshotOptions {
                method,
                verify: true,
                ..snapshot(vec![disk("vda", &image, format)])
            };
            let operation = bed.connection.start_live_snapshot("odd", &options).unwrap();
            println!("{method:?} {format}: {:?}", operation.finish(Some(PATIENCE)).unwrap());
            must_show(format, &image, &original);
            fs::remove_file(&image).unwrap();
        }
    }
    for (number, (method, format)) in [
        (Method::Clone, "raw"),
        (Method::Mirror, "raw"),
        (Method::Mirror, "qcow2"),
        (Method::Clone, "qcow2"),
    ]
    .into_iter()
    .enumerate()
    {
        let destination = bed.path(&format!("odd-{number}"));
        let options = MigrateOptions {
            method,
            format: Some(format.into()),
            verify: method == Method::Clone,
            delete_source: true,
            ..to("vda", &destination)
        };
        let operation = bed.connection.migrate_disk("odd", &options).unwrap();
        println!("{method:?} {format}: {:?}", operation.finish(Some(PATIENCE)).unwrap());
        must_show(format, &destination, &original);
    }
    fs::remove_file(bed.path("odd-3")).unwrap();
    fs::remove_file(original).unwrap();
}

#[test]
fn an_image_and_the_links_to_it_are_deleted() {
    const LINKED: Bare = Bare {
        make: |path| {
            let (image, link) = (path.with_extension("real"), path.with_extension("link"));
            fill(&image, 4 << 20);
            symlink(image.file_name().unwrap(), &link).unwrap();
            symlink(link, path).unwrap();
        },
        ..Bare::RAW
    };
    let bed = bed();
    for (method, format) in [(Method::Clone, "raw"), (Method::Mirror, "qcow2")] {
        let bare = bed.bare("linked", &[LINKED]);
        let (link, destination) = (&bare.files[0], bed.path("moved"));
        let image = link.with_extension("real");
        let bystander = bed.path("bystander");
        fs::write(&bystander, "somebody else's").unwrap();
        let options = MigrateOptions {
            method,
            format: Some(format.into()),
            delete_source: true,
            ..to("vda", &destination)
        };
        let operation = bed.connection.migrate_disk("linked", &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        assert!(!image.exists(), "{method:?}: the image is still there");
        for link in [link, &link.with_extension("link")] {
            assert!(!link.is_symlink(), "{method:?}: {} is still there", shown(link));
        }
        assert!(
            home(&bed, "linked", "vda")
                .chain
                .contains(&shown(&destination).to_owned())
        );
        for path in [destination, bystander] {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The driver's configuration changed; as before at the end.
struct Configured<'a> {
    bed: &'a Bed,
    path: PathBuf,
    before: String,
}

impl<'a> Configured<'a> {
    fn with(bed: &'a Bed, from: &str, to: &str) -> Self {
        let path = run("find", &[shown(&bed.dir), "-name", "qemu.conf"]);
        let path = PathBuf::from(path.lines().next().unwrap());
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.contains(from), "{before}");
        fs::write(&path, before.replace(from, to)).unwrap();
        bed.restart_daemon(false);
        Self { bed, path, before }
    }
}

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        fs::write(&self.path, &self.before).unwrap();
        self.bed.restart_daemon(false);
    }
}

#[test]
fn where_libvirt_gives_nothing_away_we_do() {
    const OWNED: Bare = Bare {
        make: |path| {
            fill(path, 4 << 20);
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
            chown(path, Some(65534), Some(65534)).unwrap();
        },
        ..Bare::RAW
    };
    if !is_root() {
        println!("skipped: QEMU is another user for root alone");
        return;
    }
    let bed = bed();
    let configured = Configured::with(&bed, "dynamic_ownership = 1", "dynamic_ownership = 0");
    let bare = bed.bare("owned", &[OWNED]);
    let must_be_given = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        let owner = (found.uid(), found.gid(), found.mode() & 0o7777);
        assert_eq!(owner, (65534, 65534, 0o640), "{}", shown(path));
    };
    let image = bed.path("image");
    for method in [Method::Mirror, Method::Backup, Method::Clone] {
        for format in ["raw", "qcow2"] {
            let options = SnapshotOptions {
                method,
                ..snapshot(vec![disk("vda", &image, format)])
            };
            let operation = bed.connection.start_live_snapshot("owned", &options).unwrap();
            println!("{method:?}: {:?}", operation.finish(Some(PATIENCE)).unwrap());
            must_be_given(&image);
            must_show(format, &image, &bare.files[0]);
            fs::remove_file(&image).unwrap();
        }
    }
    for (number, method) in [Method::Clone, Method::Mirror].into_iter().enumerate() {
        let destination = bed.path(&format!("owned-{number}"));
        let options = MigrateOptions {
            method,
            delete_source: number > 0,
            ..to("vda", &destination)
        };
        let operation = bed.connection.migrate_disk("owned", &options).unwrap();
        println!("{method:?}: {:?}", operation.finish(Some(PATIENCE)).unwrap());
        must_be_given(&destination);
        must_show("raw", &destination, &bare.files[0]);
    }
    println!("by storage volumes");
    let now = bed.path("owned-2");
    bed.virsh(&["pool-create-as", "owned", "dir", "--target", shown(&bed.dir)]);
    let options = MigrateOptions {
        method: Method::Clone,
        clone: CloneMethod::Volume,
        delete_source: true,
        ..to("vda", &now)
    };
    let started = bed.connection.migrate_disk("owned", &options);
    let moved = started.and_then(|operation| operation.finish(Some(PATIENCE)));
    bed.virsh(&["pool-destroy", "owned"]);
    println!("{:?}", moved.unwrap());
    must_be_given(&now);
    must_show("raw", &now, &bare.files[0]);
    println!("an image that libvirt would not hand over for the commit");
    chown(&now, Some(0), Some(0)).unwrap();
    let clone = SnapshotOptions {
        method: Method::Clone,
        ..snapshot(vec![disk("vda", &image, "raw")])
    };
    let error = bed.connection.start_live_snapshot("owned", &clone).err().unwrap();
    must_tell(&error, ErrorCode::Permission, &[shown(&now), "chown 65534:65534"]);
    drop(bare);
    fs::remove_file(now).unwrap();
    drop(configured);
}

#[test]
fn an_image_that_qemu_may_not_open_again() {
    if !is_root() {
        println!("skipped: QEMU is another user for root alone");
        return;
    }
    let bed = bed();
    let before = home(&bed, "a", "vdb");
    let image = Path::new(&before.chain[0]);
    let owner = fs::metadata(image).unwrap();
    let out = bed.path("out");
    println!("its owner was changed before");
    chown(image, Some(0), Some(0)).unwrap();
    for method in [Method::Mirror, Method::Auto, Method::Clone] {
        let options = SnapshotOptions {
            method,
            ..snapshot(vec![disk("vdb", &out, "raw")])
        };
        let error = bed.connection.start_live_snapshot("a", &options).err().unwrap();
        println!("{error}");
        must_tell(
            &error,
            ErrorCode::Permission,
            &["'vdb'", shown(image), "chown", "BACKUP"],
        );
    }
    for method in [Method::Mirror, Method::Clone] {
        let options = MigrateOptions {
            method,
            ..to("vdb", &out)
        };
        let error = bed.connection.migrate_disk("a", &options).err().unwrap();
        must_tell(&error, ErrorCode::Permission, &["'vdb'", shown(image), "chown"]);
    }
    chown(image, Some(owner.uid()), Some(owner.gid())).unwrap();
    before.must_be_as_before();

    println!("while the mirror runs: QEMU aborts in the window");
    let bare = bed.bare("dies", &[Bare::RAW]);
    let options = snapshot(vec![disk("vda", &out, "raw")]);
    let operation = bed.connection.start_live_snapshot("dies", &options).unwrap();
    await_phase(&operation, Phase::Ready);
    chown(&bare.files[0], Some(0), Some(0)).unwrap();
    let began = Instant::now();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    println!("{error} after {:?}", began.elapsed());
    must_tell(&error, ErrorCode::DomainState, &["'dies'"]);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(!out.exists());
}

#[test]
fn a_paused_guest_is_as_still_as_it_gets() {
    let bed = bed();
    bed.virsh(&["suspend", "a"]);
    let image = bed.path("image");
    let before = home(&bed, "a", "vdb");
    for method in [Method::Mirror, Method::Backup, Method::Clone] {
        let mut options = SnapshotOptions {
            method,
            quiesce: Quiesce::Require,
            verify: true,
            ..snapshot(vec![disk("vdb", &image, "raw")])
        };
        let error = bed.connection.start_live_snapshot("a", &options).err().unwrap();
        must_tell(&error, ErrorCode::DomainState, &["paused", "PREFER"]);
        options.quiesce = Quiesce::Prefer;
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        assert_eq!(
            (report.consistency, report.freeze),
            (Consistency::Crash, Duration::ZERO)
        );
        assert_eq!(bed.virsh(&["domstate", "a"]).trim(), "paused");
        must_show("raw", &image, Path::new(&before.chain[0]));
        fs::remove_file(&image).unwrap();
    }
    bed.virsh(&["resume", "a"]);
    bed.must_write("a");
}

#[test]
fn progress_of_a_mirror_counts_data_and_not_holes() {
    let bed = bed();
    let sparse = Bare {
        make: |path| {
            fill(path, 32 << 20);
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(256 << 20)
                .unwrap();
        },
        ..Bare::RAW
    };
    let bare = bed.bare("holes", &[sparse]);
    let before = bed.watch("holes");
    let options = SnapshotOptions {
        method: Method::Mirror,
        bandwidth: 16 << 20,
        ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
    };
    let operation = bed.connection.start_live_snapshot("holes", &options).unwrap();
    let (mut last, mut between) = (0, false);
    until("READY", || {
        let progress = operation.poll(Some(Duration::from_millis(20)));
        let (done, total) = (progress.bytes_done, progress.bytes_total);
        assert!(done <= total && total < 40 << 20, "{done} of {total}");
        assert!(last <= done, "{done} after {last}");
        last = done;
        between |= (1 << 20..31 << 20).contains(&done);
        progress.phase == Phase::Ready
    });
    assert!(between && last >= 32 << 20, "{last}");
    let report = operation.finish(Some(PATIENCE)).unwrap();
    assert!((32 << 20..40 << 20).contains(&report.bytes_copied), "{report:?}");
    must_equal(&bed.path("out"), "qcow2", &bare.files[0]);
    before.must_be_as_before(&["out"]);
}

#[test]
fn a_large_disk_with_little_in_it() {
    const SIZE: u64 = 8 << 40;
    const AT: u64 = 5 << 40;
    const LARGE: Bare = Bare {
        make: |path| {
            fill(path, 1 << 20);
            let file = fs::File::options().read(true).write(true).open(path).unwrap();
            file.set_len(SIZE).unwrap();
            let mut data = vec![0; 1 << 20];
            file.read_exact_at(&mut data, 0).unwrap();
            file.write_all_at(&data, AT).unwrap();
        },
        ..Bare::RAW
    };
    let bed = bed();
    let bare = bed.bare("large", &[LARGE]);
    let image = bed.path("image");
    for format in ["raw", "qcow2"] {
        let operation = bed
            .connection
            .start_live_snapshot("large", &snapshot(vec![disk("vda", &image, format)]))
            .unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        println!("{format}: {report:?}");
        assert_eq!(report.method, Method::Clone);
        let metadata = fs::metadata(&image).unwrap();
        assert!(metadata.blocks() * 512 < 64 << 20, "{format}: holes were filled");
        if format == "raw" {
            assert_eq!(metadata.len(), SIZE);
            let read = |path: &Path, at| {
                let mut data = vec![0; 2 << 20];
                fs::File::open(path).unwrap().read_exact_at(&mut data, at).unwrap();
                data
            };
            for at in [0, AT] {
                assert!(read(&image, at) == read(&bare.files[0], at), "at {at}");
            }
        }
        fs::remove_file(&image).unwrap();
    }
    // The metadata of a full image of that size would take 1.25 GiB.
    for method in [Method::Backup, Method::Clone] {
        let options = SnapshotOptions {
            method,
            ..snapshot(vec![disk("vda", &image, "qcow2")])
        };
        let operation = bed.connection.start_live_snapshot("large", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        println!("{report:?}");
        assert_eq!(report.bytes_copied, 2 << 20);
        fs::remove_file(&image).unwrap();
    }
}
