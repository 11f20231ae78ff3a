// SPDX-License-Identifier: LGPL-2.1-or-later
//! A domain without a system, whose disk has whatever a test wants it to have.

use std::fs;
use std::path::PathBuf;

use super::bed::Bed;

pub const NAME: &str = "odd";

/// A running domain without a system, and its image files; gone with them at the end.
pub struct Odd<'a> {
    bed: &'a Bed,
    files: Vec<PathBuf>,
}

/// `disk` is what stands in the `<disk>`, where `DIR` is the bed's directory; of `files` it has their names there.
pub fn odd<'a>(bed: &'a Bed, disk: &str, files: &[&str]) -> Odd<'a> {
    let disk = disk.replace("DIR", bed.dir.to_str().unwrap());
    let definition = bed.path("odd.xml");
    fs::write(
        &definition,
        format!(
            "<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><iothreads>2</iothreads>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>\
             <disk type='file' device='disk'>{disk}<target dev='vda' bus='virtio'/></disk>\
             <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
        ),
    )
    .unwrap();
    let odd = Odd {
        bed,
        files: files.iter().map(|name| bed.path(name)).collect(),
    };
    bed.virsh(&["define", definition.to_str().unwrap()]);
    fs::remove_file(definition).unwrap();
    bed.virsh(&["start", NAME]);
    odd
}

impl Drop for Odd<'_> {
    fn drop(&mut self) {
        // It may be off already.
        let _ = self.bed.try_virsh(&["destroy", NAME]);
        let _ = self.bed.try_virsh(&["undefine", NAME]);
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}
