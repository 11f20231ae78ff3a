// SPDX-License-Identifier: LGPL-2.1-or-later
//! Records that the first release wrote (`tests/records`, one for each method and mark) are understood, and what they are of is
//! resumed and recovered.

use std::fs;
use std::path::Path;
use std::time::Duration;

use livedisk::Settlement;
use serde_json::Value;

use crate::agent::{Agent, Work};
use crate::moving::{disk_of, home};
use crate::support::bed::{Bed, run};
use crate::support::image::edge;
use crate::support::{PATIENCE, until};
use crate::{MIB, attach, bed, recover, rewrite_record};

/// Kind, method and mark of each, and whether it is completed where nothing runs: the images of a snapshot that has its point in
/// time are whole by then.
const RECORDS: [(&str, &str, &str, bool); 18] = [
    ("snapshot", "mirror", "begun", false),
    ("snapshot", "mirror", "copying", false),
    ("snapshot", "mirror", "fixing", false),
    ("snapshot", "mirror", "fixed", true),
    ("snapshot", "backup", "begun", false),
    ("snapshot", "backup", "fixing", false),
    // libvirt does not know how its job ended.
    ("snapshot", "backup", "fixed", false),
    ("snapshot", "clone", "begun", false),
    ("snapshot", "clone", "fixing", false),
    ("snapshot", "clone", "copying", false),
    ("snapshot", "clone", "fixed", true),
    ("migration", "mirror", "begun", false),
    ("migration", "mirror", "copying", false),
    ("migration", "mirror", "fixing", false),
    ("migration", "clone", "begun", false),
    ("migration", "clone", "copying", false),
    ("migration", "clone", "fixing", false),
    ("migration", "clone", "fixed", false),
];
/// In the fixtures.
const ID: &str = "00000000-0000-4000-8000-000000000001";

/// As it would be on this bed; the images that it knows by their inodes are those that stand there now.
fn record(bed: &Bed, name: &str, id: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/records/{name}.json"));
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace("@DIR@", bed.dir.to_str().unwrap()).replace(ID, id);
    let mut record = serde_json::from_str(&text).unwrap();
    find_images(&mut record);
    record
}

fn find_images(value: &mut Value) {
    use std::os::unix::fs::MetadataExt;
    let path = value["path"].as_str().map(str::to_owned);
    if let (Some(path), true) = (path, value.get("inode").is_some())
        && let Ok(found) = fs::symlink_metadata(path)
    {
        (value["device"], value["inode"], value["born"]) = (found.dev().into(), found.ino().into(), Value::Null);
    }
    match value {
        Value::Array(values) => values.iter_mut().for_each(find_images),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, value)| find_images(value)),
        _ => {}
    }
}

fn note(bed: &Bed, uri: &str, record: &Value) {
    for definition in ["--live", "--config"] {
        let element = bed.path("element.xml");
        let text = record.to_string().replace('&', "&amp;").replace('<', "&lt;");
        fs::write(&element, format!("<operation version='1'>{text}</operation>")).unwrap();
        let set = fs::read_to_string(&element).unwrap();
        bed.virsh(&["metadata", "a", uri, "--key", "livedisk", "--set", &set, definition]);
        fs::remove_file(element).unwrap();
    }
}

#[test]
fn each_is_understood() {
    let bed = bed();
    let uri = format!("urn:livedisk:operation:{ID}");
    for (kind, method, mark, completes) in RECORDS {
        let name = format!("{kind}-{method}-{mark}");
        let record = record(&bed, &name, ID);
        note(&bed, &uri, &record);
        let recovery = bed.connection.recover(Some("a"), true).unwrap();
        let [found] = &recovery.operations[..] else {
            panic!("{name}: {recovery:?}");
        };
        println!("{name}: {:?}: {:#?}", found.settlement, found.plan);
        assert_eq!((found.kind, found.mark, found.id.as_str()), (kind, mark, ID));
        assert_eq!(format!("{:?}", found.method).to_lowercase(), method);
        let settlement = if completes {
            Settlement::Completed
        } else {
            Settlement::TakenBack
        };
        assert_eq!(found.settlement, settlement, "{name}");
        for definition in ["--live", "--config"] {
            bed.virsh(&["metadata", "a", &uri, "--remove", definition]);
        }
    }
}

/// The operation that was killed there has such a record now, with its own owner.
fn rewrite(bed: &Bed, name: &str) {
    rewrite_record(bed, "a", |now| {
        let mut record = record(bed, name, now["id"].as_str().unwrap());
        for field in ["owner", "started", "live"] {
            record[field] = now[field].clone();
        }
        *now = record;
    });
}

#[test]
fn a_snapshot_goes_on_from_one() {
    let bed = bed();
    let out = bed.path("out");
    for (what, word, bandwidth, name) in [
        ("mirror", "Ready", 0, "snapshot-mirror-copying"),
        ("quiet", "copying", 4 * MIB, "snapshot-clone-copying"),
        ("quiet", "Ready", 0, "snapshot-clone-fixed"),
    ] {
        for attaching in [true, false] {
            println!("{name}, attached to: {attaching}");
            let before = bed.watch("a");
            let work = Work {
                domain: "a",
                target: "vdb",
                what,
                bandwidth,
                finish: false,
            };
            let mut agent = Agent::start(&bed, work, &out);
            agent.says(word);
            until("it is on record", || {
                let known = bed.connection.operations(Some("a")).unwrap();
                name.ends_with(known[0].mark)
            });
            agent.kill();
            rewrite(&bed, name);
            if attaching {
                let report = attach(&bed, "a", "vdb").finish(Some(PATIENCE)).unwrap();
                assert!(report.point_in_time.elapsed().is_ok(), "{report:?}");
                if what == "mirror" {
                    edge(&bed, "a", "vdb", &out, "qcow2").must_be_at(&report, Duration::ZERO);
                }
                before.must_be_as_before(&["out"]);
            } else {
                let completed = recover(&bed, "a").completed() == 1;
                assert_eq!(completed, name.ends_with("fixed"));
                before.must_be_as_before(if completed { &["out"] } else { &[] });
            }
        }
    }
}

/// A push backup, as the first release made it.
#[test]
fn a_push_backup_is_recovered() {
    let bed = bed();
    let out = bed.path("out");
    let xml = bed.path("backup.xml");
    let shown = out.to_str().unwrap();
    for name in [
        "snapshot-backup-begun",
        "snapshot-backup-fixing",
        "snapshot-backup-fixed",
    ] {
        let before = bed.watch("a");
        run("qemu-img", &["create", "-q", "-f", "qcow2", shown, "32M"]);
        run("chmod", &["666", shown]);
        if name == "snapshot-backup-fixed" {
            let text = format!(
                "<domainbackup mode='push'><disks><disk name='vda' backup='no'/><disk name='vdb' backup='yes' type='file'>\
                 <target file='{shown}'/><driver type='qcow2'/></disk></disks></domainbackup>"
            );
            fs::write(&xml, text).unwrap();
            bed.virsh(&["backup-begin", "a", xml.to_str().unwrap(), "--reuse-external"]);
            fs::remove_file(&xml).unwrap();
        }
        note(&bed, &format!("urn:livedisk:operation:{ID}"), &record(&bed, name, ID));
        let recovery = recover(&bed, "a");
        assert_eq!(recovery.operations.len(), 1);
        // The backup may have ended before it was looked for.
        before.must_be_as_before(if recovery.completed() == 1 { &["out"] } else { &[] });
    }
}

#[test]
fn a_migration_goes_on_from_one() {
    let bed = bed();
    for (what, name) in [
        ("copy", "migration-mirror-copying"),
        ("clone", "migration-clone-copying"),
    ] {
        for attaching in [false, true] {
            println!("{name}, attached to: {attaching}");
            let before = bed.watch("a");
            let place = home(&bed, "a", "vdb");
            let work = Work {
                domain: "a",
                target: "vdb",
                what,
                bandwidth: 0,
                finish: false,
            };
            let mut agent = Agent::start(&bed, work, &bed.path("out"));
            agent.says("Ready");
            agent.kill();
            rewrite(&bed, name);
            if !attaching {
                assert_eq!(recover(&bed, "a").taken_back(), 1);
                before.must_be_as_before(&[]);
                continue;
            }
            attach(&bed, "a", "vdb").finish(Some(PATIENCE)).unwrap();
            let live = bed.virsh(&["dumpxml", "a"]);
            assert!(disk_of(&live, "vdb").contains(bed.path("out").to_str().unwrap()));
            bed.must_write("a");
            // Back, for the next.
            fs::remove_file(&place.chain[0]).unwrap();
            let back = crate::migration("copy", "vdb", Path::new(&place.chain[0]), 0);
            bed.connection
                .migrate_disk("a", &back)
                .unwrap()
                .finish(Some(PATIENCE))
                .unwrap();
            fs::remove_file(bed.path("out")).unwrap();
        }
    }
}
