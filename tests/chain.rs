// SPDX-License-Identifier: LGPL-2.1-or-later
//! Disks whose chain is more than its paths say, or other than they say: what is refused by name before anything is done, and
//! what goes on working.

mod support;

use std::fs;
use std::path::Path;

use livedisk::{Error, ErrorCode, EventLoop, Method, MigrateOptions, Operation, Quiesce, SnapshotOptions};
use support::bed::{Bed, Turn, fill, run};
use support::image::{create, create_overlay, info, must_equal};
use support::odd::{NAME, odd};
use support::{PATIENCE, disk, must_tell, snapshot};

const SIZE: u64 = 4 << 20;

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=raw:16M,agent=no"])
}

fn by(method: Method, bed: &Bed, format: &str) -> SnapshotOptions {
    SnapshotOptions {
        method,
        quiesce: Quiesce::None,
        ..snapshot(vec![disk("vda", bed.path("out"), format)])
    }
}

fn to(bed: &Bed, method: Method) -> MigrateOptions {
    MigrateOptions {
        target: "vda".into(),
        destination: bed.path("moved").to_str().unwrap().into(),
        method,
        ..MigrateOptions::default()
    }
}

/// Refused when it is started, and nothing is left of it.
fn refused(bed: &Bed, started: impl FnOnce() -> Result<Operation, Error>, code: ErrorCode, parts: &[&str]) {
    let before = bed.watch(NAME);
    let Err(error) = started() else {
        panic!("it was not refused");
    };
    println!("{error}");
    must_tell(&error, code, parts);
    must_tell(&error, code, &["'vda'", NAME]);
    before.must_be_as_before(&[]);
}

fn snapshot_refused(bed: &Bed, options: &SnapshotOptions, parts: &[&str]) {
    refused(
        bed,
        || bed.connection.start_live_snapshot(NAME, options),
        ErrorCode::Unsupported,
        parts,
    );
}

fn migration_refused(bed: &Bed, options: &MigrateOptions, parts: &[&str]) {
    refused(
        bed,
        || bed.connection.migrate_disk(NAME, options),
        ErrorCode::Unsupported,
        parts,
    );
}

/// It holds what `content` does, and the guest is as it was.
fn taken(bed: &Bed, options: &SnapshotOptions, content: &Path) {
    let before = bed.watch(NAME);
    let operation = bed.connection.start_live_snapshot(NAME, options).unwrap();
    println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
    let format = options.disks[0].format.as_deref().unwrap();
    must_equal(&bed.path("out"), format, content);
    before.must_be_as_before(&["out"]);
}

/// It is on the destination, which holds what `content` does.
fn moved(bed: &Bed, options: &MigrateOptions, format: &str, content: &Path) {
    let operation = bed.connection.migrate_disk(NAME, options).unwrap();
    println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
    let definition = bed.virsh(&["dumpxml", "--inactive", NAME]);
    assert!(definition.contains(&options.destination), "{definition}");
    bed.virsh(&["destroy", NAME]);
    must_equal(Path::new(&options.destination), format, content);
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_data_file_is_flattened_or_refused() {
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    let options = format!("data_file={},data_file_raw=on", shown(&bed.path("data")));
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            &options,
            shown(&content),
            shown(&bed.path("top")),
        ],
    );
    run("chmod", &["666", shown(&bed.path("data"))]);
    let disk = "<driver name='qemu' type='qcow2'/><source file='DIR/top'/>";
    let _domain = odd(&bed, disk, &["content", "data", "top", "moved"]);
    snapshot_refused(
        &bed,
        &by(Method::Clone, &bed, "qcow2"),
        &["data file", "/data'", "MIRROR"],
    );
    for method in [Method::Mirror, Method::Backup, Method::Auto] {
        taken(&bed, &by(method, &bed, "qcow2"), &content);
    }
    migration_refused(&bed, &to(&bed, Method::Clone), &["data file", "MIRROR"]);
    let delete = MigrateOptions {
        delete_source: true,
        ..to(&bed, Method::Mirror)
    };
    migration_refused(&bed, &delete, &["data file", "DELETE_SOURCE"]);
    moved(&bed, &to(&bed, Method::Auto), "qcow2", &content);
    let header = info(&bed.path("moved"), "qcow2");
    assert!(header["format-specific"]["data"]["data-file"].is_null(), "{header}");
}

#[test]
fn an_image_in_several_files_is_written_into_one_or_refused() {
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    let (content_path, top) = (shown(&content).to_owned(), bed.path("top.vmdk"));
    let form = ["-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat"];
    run(
        "qemu-img",
        &[&["convert"], &form[..], &[&content_path, shown(&top)]].concat(),
    );
    run("chmod", &["666", shown(&bed.path("top-flat.vmdk"))]);
    let disk = "<driver name='qemu' type='vmdk'/><source file='DIR/top.vmdk'/>";
    let _domain = odd(&bed, disk, &["content", "top.vmdk", "top-flat.vmdk", "moved"]);
    snapshot_refused(
        &bed,
        &by(Method::Clone, &bed, "qcow2"),
        &["data file", "/top-flat.vmdk'", "MIRROR"],
    );
    for method in [Method::Mirror, Method::Backup, Method::Auto] {
        taken(&bed, &by(method, &bed, "qcow2"), &content);
    }
    let into_one = |method| MigrateOptions {
        format: Some("qcow2".into()),
        ..to(&bed, method)
    };
    let delete = MigrateOptions {
        delete_source: true,
        ..into_one(Method::Mirror)
    };
    migration_refused(&bed, &delete, &["data file", "DELETE_SOURCE"]);
    moved(&bed, &into_one(Method::Auto), "qcow2", &content);
}

#[test]
fn nothing_pivots_under_copy_on_read_and_no_job_starts_at_an_old_node() {
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    fs::copy(&content, bed.path("image")).unwrap();
    let disk = "<driver name='qemu' type='raw' copy_on_read='on'/><source file='DIR/image'/>";
    let _domain = odd(&bed, disk, &["content", "image", "moved"]);
    for method in [Method::Auto, Method::Clone, Method::Mirror] {
        migration_refused(&bed, &to(&bed, method), &["copy_on_read"]);
    }
    snapshot_refused(&bed, &by(Method::Clone, &bed, "raw"), &["copy_on_read", "MIRROR"]);
    for method in [Method::Mirror, Method::Backup, Method::Auto] {
        taken(&bed, &by(method, &bed, "raw"), &content);
    }
    let moved = bed.path("moved");
    bed.virsh(&[
        "blockcopy",
        NAME,
        "vda",
        "--dest",
        shown(&moved),
        "--format",
        "raw",
        "--wait",
        "--pivot",
        "--transient-job",
    ]);
    for method in [Method::Mirror, Method::Auto, Method::Clone] {
        snapshot_refused(
            &bed,
            &by(method, &bed, "raw"),
            &["copy_on_read", "old content", "BACKUP"],
        );
    }
    taken(&bed, &by(Method::Backup, &bed, "raw"), &content);
}

/// Somebody's QMP, or a libvirtd that died in a pivot.
#[test]
fn a_device_that_is_elsewhere_than_libvirt_says_is_left_alone() {
    let bed = bed();
    fill(&bed.path("image"), SIZE);
    create(&bed.path("other"), "raw", "4M");
    run("chmod", &["666", shown(&bed.path("other"))]);
    let disk = "<driver name='qemu' type='raw'/><source file='DIR/image'/>";
    let _domain = odd(&bed, disk, &["image", "other"]);
    let qmp = |command: &str| {
        let command = command.replace("DIR", shown(&bed.dir));
        println!("{}", bed.virsh(&["qemu-monitor-command", NAME, &command]));
    };
    let node = qmp_root(&bed);
    qmp(r#"{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"elsewhere","filename":"DIR/other"}}"#);
    qmp(&format!(
        r#"{{"execute":"blockdev-mirror","arguments":{{"job-id":"j","device":"{node}","target":"elsewhere","sync":"full"}}}}"#
    ));
    support::until("the mirror is ready", || {
        let jobs = bed.virsh(&["qemu-monitor-command", NAME, r#"{"execute":"query-jobs"}"#]);
        jobs.contains("\"ready\"")
    });
    qmp(r#"{"execute":"job-complete","arguments":{"id":"j"}}"#);
    support::until("it pivots", || qmp_root(&bed) == "elsewhere");
    for method in [Method::Mirror, Method::Backup, Method::Clone, Method::Auto] {
        snapshot_refused(&bed, &by(method, &bed, "raw"), &["old content", "query-block"]);
    }
    migration_refused(&bed, &to(&bed, Method::Auto), &["old content", "query-block"]);
}

/// The node that the only device is on.
fn qmp_root(bed: &Bed) -> String {
    let answer = bed.virsh(&["qemu-monitor-command", NAME, r#"{"execute":"query-block"}"#]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    answer["return"][0]["inserted"]["node-name"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn replace(bed: &Bed, name: &str) {
    let new = bed.path("new");
    fill(&new, SIZE);
    run("chmod", &["666", shown(&new)]);
    fs::rename(new, bed.path(name)).unwrap();
}

#[test]
fn another_file_under_the_images_name_is_not_taken_for_it() {
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    fs::copy(&content, bed.path("image")).unwrap();
    let disk = "<driver name='qemu' type='raw'/><source file='DIR/image'/>";
    let _domain = odd(&bed, disk, &["content", "image", "moved"]);
    replace(&bed, "image");
    // A mirror too: at its end QEMU opens a raw image anew, by its name.
    for (method, advice) in [
        (Method::Clone, "MIRROR"),
        (Method::Mirror, "BACKUP"),
        (Method::Auto, "BACKUP"),
    ] {
        snapshot_refused(&bed, &by(method, &bed, "raw"), &["/image'", "another file", advice]);
        migration_refused(&bed, &to(&bed, method), &["/image'", "another file"]);
    }
    // A backup reads, and is compared with, what QEMU exports.
    for verify in [false, true] {
        let options = SnapshotOptions {
            verify,
            ..by(Method::Backup, &bed, "raw")
        };
        taken(&bed, &options, &content);
    }
}

#[test]
fn another_backing_file_under_the_name_is_not_taken_for_it() {
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    fs::copy(&content, bed.path("base")).unwrap();
    create_overlay(&bed.path("top"), &bed.path("base"), "raw");
    let disk = "<driver name='qemu' type='qcow2'/><source file='DIR/top'/>";
    let _domain = odd(&bed, disk, &["content", "base", "top", "moved"]);
    replace(&bed, "base");
    snapshot_refused(
        &bed,
        &by(Method::Clone, &bed, "qcow2"),
        &["/base'", "another file", "MIRROR"],
    );
    let shallow = SnapshotOptions {
        shallow: true,
        ..by(Method::Mirror, &bed, "qcow2")
    };
    snapshot_refused(&bed, &shallow, &["/base'", "another file", "SHALLOW"]);
    migration_refused(&bed, &to(&bed, Method::Clone), &["/base'", "another file", "MIRROR"]);
    for method in [Method::Mirror, Method::Backup, Method::Auto] {
        taken(&bed, &by(method, &bed, "qcow2"), &content);
    }
    moved(&bed, &to(&bed, Method::Auto), "qcow2", &content);
}

#[test]
fn a_name_that_is_gone_is_reported_before_anything_is_done() {
    let bed = bed();
    let content = bed.path("content");
    fill(&content, SIZE);
    fs::copy(&content, bed.path("base")).unwrap();
    create_overlay(&bed.path("top"), &bed.path("base"), "raw");
    let disk = "<driver name='qemu' type='qcow2'/><source file='DIR/top'/>";
    let _domain = odd(&bed, disk, &["content", "base", "top", "away", "moved"]);
    for name in ["base", "top"] {
        fs::rename(bed.path(name), bed.path("away")).unwrap();
        let named = format!("/{name}'");
        let clone = by(Method::Clone, &bed, "qcow2");
        let snapshot = || bed.connection.start_live_snapshot(NAME, &clone);
        refused(&bed, snapshot, ErrorCode::Io, &[&named, "MIRROR"]);
        let migration = || bed.connection.migrate_disk(NAME, &to(&bed, Method::Clone));
        refused(&bed, migration, ErrorCode::Io, &[&named, "MIRROR"]);
        taken(&bed, &by(Method::Auto, &bed, "qcow2"), &content);
        fs::rename(bed.path("away"), bed.path(name)).unwrap();
    }
}

/// The definition states the chain; the header of `top` names `stale` (or nothing), and QEMU uses `base`.
fn on_stale_header(bed: &Bed) {
    let (content, base, stale) = (bed.path("content"), bed.path("base"), bed.path("stale"));
    fill(&content, SIZE);
    fs::copy(&content, &base).unwrap();
    fill(&stale, SIZE);
    create_overlay(&bed.path("top"), &stale, "raw");
}

#[test]
fn the_definition_names_the_backing_file_and_the_headers_follow() {
    let bed = bed();
    on_stale_header(&bed);
    let (content, base) = (bed.path("content"), bed.path("base"));
    let disk = "<driver name='qemu' type='qcow2'/><source file='DIR/top'/><backingStore type='file'><format type='raw'/>\
                <source file='DIR/base'/><backingStore/></backingStore>";
    let _domain = odd(&bed, disk, &["content", "base", "stale", "top", "moved"]);
    for (method, verify) in [(Method::Mirror, false), (Method::Clone, true)] {
        let shallow = SnapshotOptions {
            shallow: true,
            verify,
            ..by(method, &bed, "qcow2")
        };
        let before = bed.watch(NAME);
        let operation = bed.connection.start_live_snapshot(NAME, &shallow).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        assert_eq!(info(&bed.path("out"), "qcow2")["backing-filename"], shown(&base));
        must_equal(&bed.path("out"), "qcow2", &content);
        before.must_be_as_before(&["out"]);
    }
    let options = MigrateOptions {
        verify: true,
        ..to(&bed, Method::Clone)
    };
    moved(&bed, &options, "qcow2", &content);
    assert_eq!(info(&bed.path("moved"), "qcow2")["backing-filename"], shown(&base));
}

#[test]
fn a_chain_that_the_definition_ends_ends_in_the_copy() {
    let bed = bed();
    on_stale_header(&bed);
    let disk = "<driver name='qemu' type='qcow2'/><source file='DIR/top'/><backingStore/>";
    let _domain = odd(&bed, disk, &["content", "base", "stale", "top", "moved"]);
    // It wrote nothing and rests on nothing.
    let zeroes = bed.path("content");
    fs::write(&zeroes, vec![0; SIZE as usize]).unwrap();
    taken(&bed, &by(Method::Clone, &bed, "qcow2"), &zeroes);
    moved(&bed, &to(&bed, Method::Clone), "qcow2", &zeroes);
    assert!(info(&bed.path("moved"), "qcow2")["backing-filename"].is_null());
}

#[test]
fn a_header_below_that_names_an_old_layer_cannot_be_kept() {
    let bed = bed();
    on_stale_header(&bed);
    create_overlay(&bed.path("upper"), &bed.path("top"), "qcow2");
    let disk = "<driver name='qemu' type='qcow2'/><source file='DIR/upper'/><backingStore type='file'>\
                <format type='qcow2'/><source file='DIR/top'/><backingStore type='file'><format type='raw'/>\
                <source file='DIR/base'/><backingStore/></backingStore></backingStore>";
    let _domain = odd(&bed, disk, &["content", "base", "stale", "top", "upper", "moved"]);
    for method in [Method::Mirror, Method::Clone] {
        let shallow = SnapshotOptions {
            shallow: true,
            ..by(method, &bed, "qcow2")
        };
        snapshot_refused(&bed, &shallow, &["header", "/top'", "SHALLOW"]);
        taken(&bed, &by(method, &bed, "qcow2"), &bed.path("content"));
    }
    // The definition goes on naming the layers, and the copy is compared with what they show.
    let options = MigrateOptions {
        verify: true,
        ..to(&bed, Method::Clone)
    };
    let operation = bed.connection.migrate_disk(NAME, &options).unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    for definition in [&["dumpxml", NAME][..], &["dumpxml", "--inactive", NAME]] {
        let definition = bed.virsh(definition);
        for name in ["moved", "top", "base"] {
            assert!(definition.contains(shown(&bed.path(name))), "{definition}");
        }
    }
    bed.virsh(&["destroy", NAME]);
    bed.virsh(&["start", NAME]);
    taken(&bed, &by(Method::Mirror, &bed, "qcow2"), &bed.path("content"));
}
