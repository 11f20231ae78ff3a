// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a disk may have, of docs/compatibility.md: it is as before after a snapshot, and goes along with a migration.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use livedisk::{CloneMethod, ErrorCode, EventLoop, Method, MigrateOptions, Quiesce, SnapshotOptions, Warnings};
use support::bed::{Bare, Bed, Turn, fill, is_root, run};
use support::definition::unnumbered;
use support::image::{create_overlay, must_equal};
use support::loop_device::LoopDevice;
use support::odd::{NAME, Odd, odd};
use support::{PATIENCE, disk, must_tell, snapshot};

const SIZE: u64 = 4 << 20;

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=raw:16M,agent=no"])
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn to(bed: &Bed, method: Method, name: &str) -> MigrateOptions {
    MigrateOptions {
        target: "vda".into(),
        destination: shown(&bed.path(name)).into(),
        method,
        ..MigrateOptions::default()
    }
}

/// Both definitions, with the name of the disk's image taken out, and the end of its chain, which a pivot writes down.
fn definitions(bed: &Bed, image: &Path) -> [String; 2] {
    let image = format!("'{}'", shown(image));
    [&["dumpxml", NAME][..], &["dumpxml", "--inactive", NAME]].map(|words| {
        let definition = unnumbered(&bed.virsh(words)).replace(&image, "@DISK@");
        let lines = definition.lines().filter(|line| line.trim() != "<backingStore/>");
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn move_to(bed: &Bed, options: &MigrateOptions) -> Warnings {
    let operation = bed.connection.migrate_disk(NAME, options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    assert_eq!(report.method, options.method);
    report.warnings
}

/// A disk with these, and its content in `content`.
fn disk_with<'a>(bed: &'a Bed, source: &str, driver: &str, beside: &str) -> Odd<'a> {
    let (content, image) = (bed.path("content"), bed.path("image"));
    fill(&content, SIZE);
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", shown(&content), shown(&image)];
    run("qemu-img", &arguments);
    // For a source that nobody is to relabel.
    fs::set_permissions(&image, fs::Permissions::from_mode(0o666)).unwrap();
    let driver = format!("<driver name='qemu' type='qcow2' {driver}</driver>");
    let element = format!("{driver}<source file='DIR/image' {source}</source>{beside}");
    odd(bed, &element, &["content", "image", "one", "two"])
}

fn by(bed: &Bed, method: Method) -> SnapshotOptions {
    SnapshotOptions {
        method,
        quiesce: Quiesce::None,
        ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
    }
}

/// By each method, and the disk is as it was.
fn snapshots(bed: &Bed) {
    snapshots_by(bed, &[Method::Mirror, Method::Backup, Method::Clone]);
}

fn snapshots_by(bed: &Bed, methods: &[Method]) {
    for method in methods {
        println!("snapshot by {method:?}");
        let before = bed.watch(NAME);
        let options = by(bed, *method);
        let operation = bed.connection.start_live_snapshot(NAME, &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        must_equal(&bed.path("out"), "qcow2", &bed.path("content"));
        before.must_be_as_before(&["out"]);
    }
}

/// By both methods, and all that the disk has goes along.
fn migrations(bed: &Bed) {
    let mut at = bed.path("image");
    let before = definitions(bed, &at);
    for (method, name) in [(Method::Clone, "one"), (Method::Mirror, "two")] {
        println!("migrate by {method:?}");
        move_to(bed, &to(bed, method, name));
        fs::remove_file(&at).unwrap();
        at = bed.path(name);
        for (now, before) in definitions(bed, &at).iter().zip(&before) {
            assert_eq!(now, before, "{method:?}");
        }
    }
    bed.virsh(&["destroy", NAME]);
    must_equal(&at, "qcow2", &bed.path("content"));
}

#[test]
fn how_an_image_is_opened_and_when_it_may_be_gone() {
    let bed = bed();
    let _domain = disk_with(
        &bed,
        "startupPolicy='optional'>",
        "cache='none' io='native' discard='unmap' error_policy='report' rerror_policy='stop' iothread='1'>",
        "<iotune><total_iops_sec>100000</total_iops_sec></iotune><serial>a serial</serial>",
    );
    snapshots_by(&bed, &[Method::Mirror, Method::Clone]);
    let Err(error) = bed.connection.start_live_snapshot(NAME, &by(&bed, Method::Backup)) else {
        panic!("it was not refused");
    };
    must_tell(&error, ErrorCode::Unsupported, &["'vda'", "I/O thread", "MIRROR"]);
    migrations(&bed);
}

/// libvirt gives the destination no label of the image's own.
#[test]
fn a_label_is_lost_by_a_migration() {
    let bed = bed();
    let _domain = disk_with(&bed, "><seclabel model='dac' relabel='no'/>", ">", "");
    snapshots(&bed);
    for (method, name) in [(Method::Clone, "one"), (Method::Mirror, "two")] {
        let warnings = move_to(&bed, &to(&bed, method, name));
        // The new image has none to lose.
        let label_lost = method == Method::Clone;
        assert_eq!(
            warnings,
            Warnings {
                label_lost,
                ..Warnings::default()
            }
        );
    }
    fs::remove_file(bed.path("one")).unwrap();
    bed.virsh(&["destroy", NAME]);
    bed.virsh(&["start", NAME]);
    bed.virsh(&["destroy", NAME]);
    must_equal(&bed.path("two"), "qcow2", &bed.path("content"));
}

#[test]
fn how_large_qemus_caches_are() {
    let bed = bed();
    let cache = "><metadata_cache><max_size unit='bytes'>1048576</max_size></metadata_cache>";
    let _domain = disk_with(&bed, ">", cache, "");
    snapshots(&bed);
    migrations(&bed);
}

/// libvirt gives it to the active layer only, and a clone becomes that by a commit.
#[test]
fn zeroes_are_not_detected_in_a_clone() {
    let bed = bed();
    let _domain = disk_with(&bed, ">", "detect_zeroes='on'>", "");
    let detected = || {
        let answer = bed.virsh(&["qemu-monitor-command", NAME, r#"{"execute":"query-block"}"#]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["return"][0]["inserted"]["detect_zeroes"] == "on"
    };
    let lost = |zeroes_undetected| Warnings {
        zeroes_undetected,
        ..Warnings::default()
    };
    for method in [Method::Mirror, Method::Backup, Method::Clone] {
        assert!(detected(), "{method:?}");
        let operation = bed.connection.start_live_snapshot(NAME, &by(&bed, method)).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        assert_eq!(report.warnings, lost(false));
        must_equal(&bed.path("out"), "qcow2", &bed.path("content"));
        fs::remove_file(bed.path("out")).unwrap();
    }
    assert!(detected());
    assert_eq!(move_to(&bed, &to(&bed, Method::Mirror, "one")), lost(false));
    assert!(detected());
    assert_eq!(move_to(&bed, &to(&bed, Method::Clone, "two")), lost(true));
    assert!(!detected());
    fs::remove_file(bed.path("one")).unwrap();
    bed.virsh(&["destroy", NAME]);
    must_equal(&bed.path("two"), "qcow2", &bed.path("content"));
}

/// A block device cannot be removed.
#[test]
fn a_source_that_is_no_file_stays() {
    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    let device = LoopDevice::on(&content);
    let bare = bed.bare("source", &[Bare::RAW]);
    let copy = |from: &str, to: &str| {
        let options = MigrateOptions {
            target: "vda".into(),
            destination: to.into(),
            delete_source: true,
            ..MigrateOptions::default()
        };
        let operation = bed.connection.migrate_disk("source", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        assert_eq!(report.warnings.source_kept, Path::new(from).exists());
        report.warnings.source_kept
    };
    let moved = bed.path("moved");
    assert!(!copy(shown(&bare.files[0]), &device.0));
    assert!(copy(&device.0, shown(&moved)));
    drop(bare);
    fs::remove_file(moved).unwrap();
    drop(device);
    fs::remove_file(content).unwrap();
}

#[test]
fn a_disk_that_is_not_in_libvirts_snapshots() {
    let bed = bed();
    let bare = bed.bare("kept", &[Bare::RAW]);
    let text = bed.virsh(&["dumpxml", "--inactive", "kept"]);
    let text = text.replace("device='disk'>", "device='disk' snapshot='no'>");
    let definition = bed.path("kept.xml");
    fs::write(&definition, text).unwrap();
    bed.virsh(&["destroy", "kept"]);
    bed.virsh(&["define", shown(&definition)]);
    fs::remove_file(&definition).unwrap();
    bed.virsh(&["start", "kept"]);
    let before = bed.watch("kept");
    for method in [Method::Mirror, Method::Backup, Method::Clone] {
        let options = SnapshotOptions {
            method,
            quiesce: Quiesce::None,
            ..snapshot(vec![disk("vda", bed.path("out"), "raw")])
        };
        let operation = bed.connection.start_live_snapshot("kept", &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        must_equal(&bed.path("out"), "raw", &bare.files[0]);
        before.must_be_as_before(&["out"]);
    }
    let operation = bed
        .connection
        .migrate_disk("kept", &to(&bed, Method::Clone, "moved"))
        .unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    must_equal(&bed.path("moved"), "raw", &bare.files[0]);
    fs::remove_file(bed.path("moved")).unwrap();
}

#[test]
fn a_disk_that_is_only_read() {
    let bed = bed();
    let (content, image) = (bed.path("content"), bed.path("image"));
    fill(&content, SIZE);
    fs::copy(&content, &image).unwrap();
    let element = "<driver name='qemu' type='raw'/><source file='DIR/image'/><readonly/>";
    let _domain = odd(&bed, element, &["content", "image", "moved"]);
    let before = bed.watch(NAME);
    for method in [Method::Mirror, Method::Backup] {
        let options = SnapshotOptions {
            method,
            quiesce: Quiesce::None,
            ..snapshot(vec![disk("vda", bed.path("out"), "raw")])
        };
        let operation = bed.connection.start_live_snapshot(NAME, &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        must_equal(&bed.path("out"), "raw", &content);
        before.must_be_as_before(&["out"]);
    }
    let refused = bed.connection.migrate_disk(NAME, &to(&bed, Method::Clone, "moved"));
    must_tell(
        &refused.err().unwrap(),
        ErrorCode::Unsupported,
        &["'vda'", NAME, "read-only", "MIRROR"],
    );
    before.must_be_as_before(&[]);
    let before = definitions(&bed, &image);
    let auto = to(&bed, Method::Auto, "moved");
    let operation = bed.connection.migrate_disk(NAME, &auto).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    assert_eq!(definitions(&bed, &bed.path("moved")), before);
    bed.virsh(&["destroy", NAME]);
    bed.virsh(&["start", NAME]);
    must_equal(&bed.path("moved"), "raw", &content);
}

#[test]
fn nothing_is_copied_of_an_overlay_with_nothing_in_it() {
    let bed = bed();
    let (content, image) = (bed.path("content"), bed.path("image"));
    fill(&content, SIZE);
    create_overlay(&image, &content, "raw");
    let element = "<driver name='qemu' type='qcow2'/><source file='DIR/image'/>";
    let _domain = odd(&bed, element, &["content", "image"]);
    let before = bed.watch(NAME);
    let options = SnapshotOptions {
        shallow: true,
        ..by(&bed, Method::Mirror)
    };
    let operation = bed.connection.start_live_snapshot(NAME, &options).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().bytes_copied, 0);
    must_equal(&bed.path("out"), "qcow2", &content);
    before.must_be_as_before(&["out"]);
}

/// The layers below keep their kind.
#[test]
fn a_block_device_below_stays_one() {
    if !is_root() {
        println!("skipped: a loop device takes root");
        return;
    }
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    let device = LoopDevice::on(&content);
    let path = device.0.as_str();
    let image = bed.path("image");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", path, shown(&image)],
    );
    let below =
        format!("<backingStore type='block'><format type='raw'/><source dev='{path}'/><backingStore/></backingStore>");
    let element = format!("<driver name='qemu' type='qcow2'/><source file='DIR/image'/>{below}");
    let domain = odd(&bed, &element, &["content", "image", "moved"]);
    let before = definitions(&bed, &image);
    for definition in &before {
        assert!(definition.contains("<backingStore type='block'>"), "{definition}");
    }
    move_to(&bed, &to(&bed, Method::Clone, "moved"));
    assert_eq!(definitions(&bed, &bed.path("moved")), before);
    bed.virsh(&["destroy", NAME]);
    bed.virsh(&["start", NAME]);
    must_equal(&bed.path("moved"), "qcow2", &content);
    drop(domain);
}

/// The image is another file by the time that it is read.
#[test]
fn a_name_that_is_given_away_meanwhile() {
    let bed = bed();
    let bare = bed.bare("two", &[Bare::RAW, Bare::RAW]);
    let before = bed.watch("two");
    let (image, aside, theirs) = (bare.files[1].clone(), bed.path("aside"), bed.path("theirs"));
    fill(&theirs, SIZE);
    let (from, to, other) = (image.clone(), aside.clone(), theirs.clone());
    let options = SnapshotOptions {
        method: Method::Clone,
        clone: CloneMethod::Callback,
        // As the first disk is cloned, the second one's name goes to somebody else's file.
        clone_callback: Some(Arc::new(move |source, destination| {
            fs::copy(source, destination).unwrap();
            if !to.exists() {
                fs::rename(&from, &to).unwrap();
                fs::rename(&other, &from).unwrap();
            }
            0
        })),
        quiesce: Quiesce::None,
        ..snapshot(vec![
            disk("vda", bed.path("one"), "raw"),
            disk("vdb", bed.path("two"), "raw"),
        ])
    };
    let operation = bed.connection.start_live_snapshot("two", &options).unwrap();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    must_tell(
        &error,
        ErrorCode::Unsupported,
        &["'vdb'", shown(&image), "another file"],
    );
    fs::remove_file(&image).unwrap();
    fs::rename(&aside, &image).unwrap();
    before.must_be_as_before(&[]);
}
