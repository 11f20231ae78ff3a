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

/// How the domain comes by its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Defined,
    /// The domain is not defined.
    Transient,
    /// It was plugged in, and the definition does not have it.
    Plugged,
}

/// `disk` is what stands in the `<disk>`, where `DIR` is the bed's directory; of `files` it has their names there.
pub fn odd<'a>(bed: &'a Bed, disk: &str, files: &[&str]) -> Odd<'a> {
    let target = "<target dev='vda' bus='virtio'/>";
    let disk = format!("<disk type='file' device='disk'>{disk}{target}</disk>");
    start(bed, How::Defined, &disk, files)
}

/// The same with the whole `<disk>`.
pub fn start<'a>(bed: &'a Bed, how: How, disk: &str, files: &[&str]) -> Odd<'a> {
    let disk = disk.replace("DIR", bed.dir.to_str().unwrap());
    let in_definition = if how == How::Plugged { "" } else { &disk };
    let domain = format!(
        "<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><iothreads>2</iothreads>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>{in_definition}\
         <controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/><controller type='usb' model='none'/><memballoon model='none'/>\
         </devices></domain>"
    );
    let odd = Odd {
        bed,
        files: files.iter().map(|name| bed.path(name)).collect(),
    };
    let xml = bed.path("odd.xml");
    let with = |text: &str, words: &[&str]| {
        fs::write(&xml, text).unwrap();
        bed.virsh(&[words, &[xml.to_str().unwrap()]].concat());
        fs::remove_file(&xml).unwrap();
    };
    match how {
        How::Transient => with(&domain, &["create"]),
        How::Defined | How::Plugged => {
            with(&domain, &["define"]);
            bed.virsh(&["start", NAME]);
        }
    }
    if how == How::Plugged {
        with(&disk, &["attach-device", NAME, "--live"]);
    }
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
