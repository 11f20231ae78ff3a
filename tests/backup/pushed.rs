// SPDX-License-Identifier: LGPL-2.1-or-later
//! Backups that release 0.1 began, in push mode.

use std::fs;
use std::path::Path;

use livedisk::{Method, SnapshotOptions};

use crate::support::bed::{Bare, Bed};
use crate::support::image::must_equal;
use crate::support::{await_copying, disk, until};
use crate::{MIB, backup, bed};

/// Makes of the record and the job of a pull backup what 0.1 would have left.
fn push(bed: &Bed, domain: &str, out: &Path) {
    let xml = bed.virsh(&["dumpxml", domain]);
    const NAMESPACE: &str = "urn:livedisk:operation:";
    let (_, rest) = xml.split_once(NAMESPACE).unwrap();
    let record_id = rest.split_once(['"', '\'']).unwrap().0;
    let uri = format!("{NAMESPACE}{record_id}");
    for definition in ["--live", "--config"] {
        let element = bed.virsh(&["metadata", domain, &uri, definition]);
        let (start, end) = (element.find('{').unwrap(), element.rfind('}').unwrap() + 1);
        let mut record: serde_json::Value = serde_json::from_str(&element[start..end]).unwrap();
        let details = record["details"].as_object_mut().unwrap();
        details.remove("copied");
        let request = details["request"].as_object_mut().unwrap();
        if let Some(base) = request.remove("server") {
            let base = Path::new(base.as_str().unwrap());
            let _ = fs::remove_dir_all(base.join(record_id));
            let _ = fs::remove_dir(base);
        }
        request.remove("compress");
        for disk in request["disks"].as_array_mut().unwrap() {
            disk.as_object_mut().unwrap().remove("scratch");
        }
        let element = format!("{}{record}{}", &element[..start], &element[end..]);
        bed.virsh(&[
            "metadata", domain, &uri, "--key", "livedisk", "--set", &element, definition,
        ]);
    }
    bed.virsh(&["domjobabort", domain]);
    until("the pull backup is over", || {
        bed.virsh(&["domjobinfo", domain]).contains("None")
    });
    for file in fs::read_dir(&bed.dir).unwrap().flatten() {
        if file.file_name().to_string_lossy().ends_with(".scratch") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    let xml = bed.path("push.xml");
    let text = format!(
        "<domainbackup mode='push'><disks><disk name='vda' backup='yes' type='file'><driver type='raw'/>\
         <target file='{}'/></disk></disks></domainbackup>",
        out.display()
    );
    fs::write(&xml, text).unwrap();
    bed.virsh(&["backup-begin", domain, xml.to_str().unwrap(), "--reuse-external"]);
    fs::remove_file(xml).unwrap();
}

#[test]
fn are_still_recovered() {
    let bed = bed();
    let bare = bed.bare("pushed", &[Bare::BIG]);
    let before = bed.watch("pushed");
    let out = bed.path("out");
    for ends in [true, false] {
        println!("it ends before: {ends}");
        let options = SnapshotOptions {
            bandwidth: MIB,
            ..backup(vec![disk("vda", &out, "raw")])
        };
        let operation = bed.connection.start_live_snapshot("pushed", &options).unwrap();
        await_copying(&operation);
        drop(operation);
        push(&bed, "pushed", &out);
        if ends {
            until("it has ended", || bed.virsh(&["domjobinfo", "pushed"]).contains("None"));
        }
        let recovery = bed.connection.recover(Some("pushed"), false).unwrap();
        println!("{recovery:?}");
        assert_eq!(recovery.operations[0].method, Method::Backup);
        let outcome = (recovery.completed(), recovery.taken_back());
        if ends {
            assert_eq!(outcome, (1, 0));
            must_equal(&out, "raw", &bare.files[0]);
            before.must_be_as_before(&["out"]);
        } else {
            // Unless it was quicker.
            assert!(outcome == (0, 1) || (outcome == (1, 0) && out.exists()), "{outcome:?}");
            let images: &[&str] = if outcome.0 == 1 { &["out"] } else { &[] };
            before.must_be_as_before(images);
        }
    }
}
