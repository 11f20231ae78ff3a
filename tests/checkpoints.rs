// SPDX-License-Identifier: LGPL-2.1-or-later
//! Checkpoints, listed and deleted: what libvirt believes of them is held against QEMU's bitmaps and the images'.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use livedisk::{Checkpoint, ErrorCode, EventLoop, Method, SnapshotOptions};
use serde_json::Value;
use support::bed::{Bed, Turn};
use support::{await_copying, disk, must_tell, snapshot, until};

const CLUSTER: u64 = 64 << 10;

fn bed() -> Turn {
    let guest = "name=a,disks=qcow2:24M+raw:16M+qcow2:16M,data=2M,agent=no";
    let bed = support::bed::turn(EventLoop::Own, &[guest]);
    for left in bed.connection.checkpoints("a").unwrap() {
        bed.connection.delete_checkpoint("a", &left.name).unwrap();
    }
    bed
}

/// Of vda and vdc; vdb is raw and has none.
fn create(bed: &Bed, name: &str) {
    let disks = "<disk name='vda'/><disk name='vdb' checkpoint='no'/><disk name='vdc'/>";
    let path = bed.path("checkpoint.xml");
    let text = format!("<domaincheckpoint><name>{name}</name><disks>{disks}</disks></domaincheckpoint>");
    std::fs::write(&path, text).unwrap();
    bed.virsh(&["checkpoint-create", "a", path.to_str().unwrap()]);
    std::fs::remove_file(path).unwrap();
}

fn list(bed: &Bed) -> Vec<Checkpoint> {
    let found = bed.connection.checkpoints("a").unwrap();
    found.iter().for_each(|found| println!("{found:?}"));
    found
}

/// Names and parents.
fn must_be(found: &[Checkpoint], expected: &[(&str, Option<&str>)]) {
    let found: Vec<_> = found
        .iter()
        .map(|found| (found.name.as_str(), found.parent.as_deref()))
        .collect();
    assert_eq!(found, expected);
}

fn must_be_usable(found: &Checkpoint) {
    assert_eq!(found.why_not(), None);
    let targets: Vec<_> = found.disks.iter().map(|disk| disk.target.as_str()).collect();
    assert_eq!(targets, ["vda", "vdc"]);
}

fn must_not_be_usable(found: &Checkpoint, target: &str, part: &str) {
    let disk = found.disks.iter().find(|disk| disk.target == target).unwrap();
    let why = disk.why_not.as_ref().unwrap();
    assert!(why.contains(part), "{why}");
    assert_eq!((disk.changed_bytes, found.changed_bytes()), (None, None));
    assert!(found.why_not().is_some());
}

/// Node and name of each bitmap that QEMU has.
fn bitmaps(bed: &Bed) -> Vec<(String, String)> {
    let question = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;
    let answer: Value = serde_json::from_str(&bed.virsh(&["qemu-monitor-command", "a", question])).unwrap();
    let nodes = answer["return"].as_array().unwrap().iter();
    let of_node = |node: &Value| {
        let bitmaps = node["dirty-bitmaps"].as_array().cloned().unwrap_or_default();
        let node = node["node-name"].as_str().unwrap().to_owned();
        let named = bitmaps.into_iter();
        named
            .map(move |bitmap| (node.clone(), bitmap["name"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    nodes.flat_map(of_node).collect()
}

fn remove_bitmap(bed: &Bed, node: &str, name: &str) {
    let command =
        serde_json::json!({ "execute": "block-dirty-bitmap-remove", "arguments": { "node": node, "name": name } });
    let answer = bed.virsh(&["qemu-monitor-command", "a", &command.to_string()]);
    assert!(answer.contains("return"), "{answer}");
}

fn start_again(bed: &Bed) {
    until("QEMU has ended", || bed.virsh(&["domstate", "a"]).contains("shut off"));
    bed.virsh(&["start", "a"]);
}

fn kill_qemu(bed: &Bed) {
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &bed.qemu_pid("a").to_string()])
            .status()
            .unwrap()
            .success()
    );
    until("libvirt has noticed", || {
        bed.virsh(&["domstate", "a"]).contains("shut off")
    });
}

#[test]
fn listed_with_what_has_changed_and_deleted_in_the_middle() {
    let bed = bed();
    assert_eq!(list(&bed), []);
    let before = SystemTime::now() - Duration::from_secs(1);
    for name in ["one", "two", "three"] {
        create(&bed, name);
        bed.must_write("a");
    }
    let found = list(&bed);
    must_be(&found, &[("one", None), ("two", Some("one")), ("three", Some("two"))]);
    for found in &found {
        must_be_usable(found);
        assert!(found.created >= before && found.created <= SystemTime::now());
        let changed = found.changed_bytes().unwrap();
        assert!(changed > 0 && changed % CLUSTER == 0 && changed < 40 << 20, "{changed}");
    }
    let changed: Vec<_> = found.iter().map(|found| found.changed_bytes().unwrap()).collect();
    assert!(changed[0] >= changed[1] && changed[1] >= changed[2], "{changed:?}");

    bed.connection.delete_checkpoint("a", "two").unwrap();
    let found = list(&bed);
    must_be(&found, &[("one", None), ("three", Some("one"))]);
    found.iter().for_each(must_be_usable);
    assert!(found[0].changed_bytes().unwrap() >= changed[0]);
    assert!(bitmaps(&bed).iter().all(|(_, name)| name != "two"));
    for gone in ["two", "never", ""] {
        let error = bed.connection.delete_checkpoint("a", gone).unwrap_err();
        must_tell(&error, ErrorCode::NoCheckpoint, &["'a'", "livedisk checkpoints a"]);
    }
    let error = bed.connection.checkpoints("nobody").unwrap_err();
    must_tell(&error, ErrorCode::NoDomain, &["nobody"]);

    // The guest is off and on again.
    bed.virsh(&["destroy", "a"]);
    let found = list(&bed);
    found.iter().for_each(must_be_usable);
    assert!(found.iter().all(|found| found.changed_bytes().is_none()));
    bed.connection.delete_checkpoint("a", "one").unwrap();
    must_be(&list(&bed), &[("three", None)]);
    start_again(&bed);
    let found = list(&bed);
    must_be_usable(&found[0]);
    assert!(found[0].changed_bytes().unwrap() >= changed[2]);
    let names: Vec<_> = bitmaps(&bed).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["three", "three"]);
}

#[test]
fn what_a_killed_qemu_leaves_is_no_use_and_can_be_deleted() {
    let bed = bed();
    create(&bed, "one");
    create(&bed, "two");
    // Only now they are written into the images.
    bed.virsh(&["destroy", "a"]);
    start_again(&bed);
    create(&bed, "zero");
    kill_qemu(&bed);
    let found = list(&bed);
    must_be(&found, &[("one", None), ("two", Some("one")), ("zero", Some("two"))]);
    must_not_be_usable(&found[0], "vda", "inconsistent");
    must_not_be_usable(&found[1], "vda", "inconsistent");
    must_not_be_usable(&found[2], "vda", "missing");
    // Off.
    bed.connection.delete_checkpoint("a", "one").unwrap();
    bed.connection.delete_checkpoint("a", "zero").unwrap();
    start_again(&bed);
    let found = list(&bed);
    must_be(&found, &[("two", None)]);
    must_not_be_usable(&found[0], "vdc", "inconsistent");
    create(&bed, "three");
    must_be_usable(&list(&bed)[1]);
    bed.connection.delete_checkpoint("a", "two").unwrap();
    let found = list(&bed);
    must_be(&found, &[("three", None)]);
    must_be_usable(&found[0]);
    assert_eq!(bitmaps(&bed).len(), 2);
}

#[test]
fn a_bitmap_that_is_missing_keeps_no_checkpoint() {
    let bed = bed();
    ["one", "two", "three"].iter().for_each(|name| create(&bed, name));
    let nodes: Vec<_> = bitmaps(&bed).into_iter().filter(|(_, name)| name == "one").collect();
    remove_bitmap(&bed, &nodes[0].0, "one");
    nodes.iter().for_each(|(node, _)| remove_bitmap(&bed, node, "two"));
    let found = list(&bed);
    let lost = found[0].disks.iter().find(|disk| disk.why_not.is_some()).unwrap();
    must_not_be_usable(&found[0], &lost.target, "missing");
    must_not_be_usable(&found[1], "vda", "missing");
    must_be_usable(&found[2]);
    // libvirt's own call refuses both.
    for name in ["one", "two"] {
        bed.connection.delete_checkpoint("a", name).unwrap();
    }
    let found = list(&bed);
    must_be(&found, &[("three", None)]);
    must_be_usable(&found[0]);
    assert_eq!(bitmaps(&bed).len(), 2);
}

#[test]
fn an_overlay_without_the_bitmap_makes_it_useless() {
    let bed = bed();
    create(&bed, "one");
    let overlay = bed.path("overlay");
    let spec = format!("vda,snapshot=external,file={}", overlay.display());
    bed.virsh(&[
        "snapshot-create-as",
        "a",
        "--disk-only",
        "--no-metadata",
        "--diskspec",
        &spec,
        "--diskspec",
        "vdb,snapshot=no",
        "--diskspec",
        "vdc,snapshot=no",
    ]);
    bed.must_write("a");
    let found = list(&bed);
    must_be_usable(&found[0]);
    let changed = found[0].changed_bytes().unwrap();
    // As an overlay has none that was made while the guest was off.
    let nodes = bitmaps(&bed);
    assert_eq!(nodes.len(), 3);
    let active = nodes.iter().max_by_key(|(node, _)| node.clone()).unwrap();
    remove_bitmap(&bed, &active.0, "one");
    must_not_be_usable(&list(&bed)[0], "vda", "writes to");
    bed.connection.delete_checkpoint("a", "one").unwrap();
    assert_eq!(list(&bed), []);
    assert_eq!(bitmaps(&bed), []);
    assert!(changed > 0);
    bed.virsh(&["blockcommit", "a", "vda", "--active", "--pivot", "--wait"]);
    std::fs::remove_file(overlay).unwrap();
}

#[test]
fn nothing_is_deleted_under_an_operation() {
    let bed = bed();
    create(&bed, "one");
    let options = SnapshotOptions {
        method: Method::Mirror,
        bandwidth: 1 << 20,
        ..snapshot(vec![disk("vdb", bed.path("copy"), "raw")])
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    await_copying(&operation);
    let error = bed.connection.delete_checkpoint("a", "one").unwrap_err();
    must_tell(&error, ErrorCode::Busy, &["'a'", "wait for it"]);
    let found = list(&bed);
    must_be_usable(&found[0]);
    assert!(found[0].changed_bytes().is_some());
    operation.cancel().unwrap();

    // Somebody else's backup. libvirt would wait for it.
    let directory = bed.path("backup");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    let backup = directory.join("backup.xml");
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{0}/socket'/><disks>\
         <disk name='vda' backup='yes' type='file'><scratch file='{0}/scratch'/></disk><disk name='vdb' backup='no'/>\
         <disk name='vdc' backup='no'/></disks></domainbackup>",
        directory.display()
    );
    std::fs::write(&backup, text).unwrap();
    bed.virsh(&["backup-begin", "a", backup.to_str().unwrap()]);
    let error = bed.connection.delete_checkpoint("a", "one").unwrap_err();
    must_tell(&error, ErrorCode::Busy, &["'a'", "virsh domjobabort"]);
    let found = list(&bed);
    must_be_usable(&found[0]);
    assert_eq!(found[0].changed_bytes(), None);
    bed.virsh(&["domjobabort", "a"]);
    until("the backup has ended", || {
        bed.virsh(&["domjobinfo", "a"]).contains("None")
    });
    std::fs::remove_dir_all(directory).unwrap();

    bed.connection.delete_checkpoint("a", "one").unwrap();
    assert_eq!(list(&bed), []);
}
