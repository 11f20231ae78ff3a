// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt and QEMU know of a disk besides its images stays.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::moving::{disk_of, home, shown};
use crate::support::bed::Bed;
use crate::{bed, copying, mirroring, moves};

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
            (image.uid(), image.gid(), image.mode() & 0o7777)
        );
    }
    println!("the next start finds it so, too");
    bed.virsh(&["destroy", "a"]);
    bed.virsh(&["start", "a"]);
    bed.must_write("a");
    assert_eq!(properties(&bed, "a", "vdc"), before);
}
