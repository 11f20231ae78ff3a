// SPDX-License-Identifier: LGPL-2.1-or-later
//! Set-ups as people have them, each through every method: the content is what the guest sees, and the guest is as before. What
//! cannot be done is refused by name beforehand.

mod devices;
mod formats;
mod names;
mod qcow2;
mod sources;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use livedisk::{ErrorCode, EventLoop, Method, MigrateOptions, Quiesce, SnapshotOptions};
use support::bed::{Bed, Turn, fill, run};
use support::image::must_equal;
use support::odd::{How, NAME, start};
use support::{PATIENCE, disk, must_tell, snapshot};

const SIZE: u64 = 4 << 20;

/// A domain's disk, and what becomes of it.
struct SetUp {
    what: &'static str,
    how: How,
    /// Of the `<disk>`, whose target is vda unless `target` has another.
    attributes: &'static str,
    target: &'static str,
    driver: &'static str,
    /// The name of its image, which a plain `<source>` has.
    image: &'static str,
    source: Option<&'static str>,
    /// What else stands in the `<disk>`.
    beside: &'static str,
    format: &'static str,
    /// Makes the image with the content of the file `content`.
    make: fn(&Bed, &Path),
    /// What `make` leaves beside the image.
    more: &'static [&'static str],
    /// livedisk cannot name its images itself, and so compares no mirror with them.
    unnamed: bool,
    /// What is refused by this operation and method, and what the refusal says.
    refused: &'static [(Operation, Method, &'static str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Snapshot,
    Migration,
}

const COMMON: SetUp = SetUp {
    what: "",
    how: How::Defined,
    attributes: "type='file' device='disk'",
    target: "<target dev='vda' bus='virtio'/>",
    driver: "",
    image: "image",
    source: None,
    beside: "",
    format: "qcow2",
    make: |bed, image| convert(bed, image, "qcow2", ""),
    more: &[],
    unnamed: false,
    refused: &[],
};

const RAW: SetUp = SetUp {
    format: "raw",
    make: |bed, image| {
        fs::copy(bed.path("content"), image).unwrap();
    },
    ..COMMON
};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=raw:16M,agent=no"])
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The content as an image of this format, with these options.
fn convert(bed: &Bed, image: &Path, format: &str, options: &str) {
    let content = bed.path("content");
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    run("qemu-img", &[&arguments[..], &[shown(&content), shown(image)]].concat());
}

/// As it stands in an attribute.
fn escaped(text: &str) -> String {
    let mut text = text.replace('&', "&amp;");
    for (from, to) in [
        ("<", "&lt;"),
        (">", "&gt;"),
        ("'", "&apos;"),
        ("\"", "&quot;"),
        ("\n", "&#10;"),
        ("\t", "&#9;"),
    ] {
        text = text.replace(from, to);
    }
    text
}

impl SetUp {
    fn refusal(&self, operation: Operation, method: Method) -> Option<&str> {
        let mut refused = self.refused.iter();
        let found = refused.find(|refused| (refused.0, refused.1) == (operation, method));
        found.map(|refused| refused.2)
    }

    fn disk(&self) -> String {
        let Self {
            attributes,
            target,
            driver,
            beside,
            format,
            ..
        } = self;
        let plain = format!("<source file='DIR/{}'/>", escaped(self.image));
        let source = self.source.unwrap_or(&plain);
        format!("<disk {attributes}><driver name='qemu' type='{format}' {driver}/>{source}{beside}{target}</disk>")
    }

    fn go_through(&self, bed: &Bed) {
        println!("-- {}", self.what);
        let (content, image) = (bed.path("content"), bed.path(self.image));
        fill(&content, SIZE);
        (self.make)(bed, &image);
        let files = [&["content", self.image, "by-clone", "by-mirror"], self.more].concat();
        let _domain = start(bed, self.how, &self.disk(), &files);
        for method in [Method::Mirror, Method::Backup, Method::Clone] {
            self.snapshot(bed, method);
        }
        let mut at = None;
        for (method, name) in [(Method::Clone, "by-clone"), (Method::Mirror, "by-mirror")] {
            at = self.migrate(bed, method, name).or(at);
        }
        let Some((at, format)) = at else { return };
        bed.virsh(&["destroy", NAME]);
        must_equal(&at, format, &content);
        if self.how == How::Defined {
            bed.virsh(&["start", NAME]);
            self.snapshot(bed, Method::Mirror);
        }
    }

    fn target(&self) -> &str {
        let name = self.target.split('\'').nth(1);
        name.unwrap()
    }

    fn must_be_refused(&self, error: &livedisk::Error, why: &str) {
        println!("{error}");
        let named = format!("'{}'", self.target());
        must_tell(error, ErrorCode::Unsupported, &[&named, NAME, why]);
    }

    fn snapshot(&self, bed: &Bed, method: Method) {
        for format in ["raw", "qcow2"] {
            println!("snapshot by {method:?} to {format}");
            let options = SnapshotOptions {
                method,
                quiesce: Quiesce::None,
                verify: !self.unnamed || method == Method::Backup,
                ..snapshot(vec![disk(self.target(), bed.path("out"), format)])
            };
            let before = bed.watch(NAME);
            let started = bed.connection.start_live_snapshot(NAME, &options);
            if let Some(why) = self.refusal(Operation::Snapshot, method) {
                self.must_be_refused(&started.err().unwrap(), why);
                before.must_be_as_before(&[]);
                continue;
            }
            started.unwrap().finish(Some(PATIENCE)).unwrap();
            must_equal(&bed.path("out"), format, &bed.path("content"));
            before.must_be_as_before(&["out"]);
        }
    }

    /// Where the disk is then, unless it was refused, and in which format.
    fn migrate(&self, bed: &Bed, method: Method, name: &str) -> Option<(PathBuf, &'static str)> {
        println!("migrate by {method:?}");
        let destination = bed.path(name);
        let format = if matches!(self.format, "raw" | "qcow2") {
            self.format
        } else {
            "qcow2"
        };
        let options = MigrateOptions {
            target: self.target().into(),
            destination: shown(&destination).into(),
            format: Some(format.into()),
            method,
            verify: method == Method::Clone,
            ..MigrateOptions::default()
        };
        let before = bed.watch(NAME);
        let started = bed.connection.migrate_disk(NAME, &options);
        if let Some(why) = self.refusal(Operation::Migration, method) {
            self.must_be_refused(&started.err().unwrap(), why);
            before.must_be_as_before(&[]);
            return None;
        }
        started.unwrap().finish(Some(PATIENCE)).unwrap();
        let live = bed.virsh(&["domblklist", NAME]);
        assert!(live.contains(shown(&destination)), "{live}");
        let inactive = bed.virsh(&["dumpxml", "--inactive", NAME]);
        match self.how {
            // What the domain is started with has no such disk, and gets none.
            How::Plugged => assert!(!inactive.contains("<disk "), "{inactive}"),
            _ => assert!(inactive.contains(shown(&destination)), "{inactive}"),
        }
        Some((destination, format))
    }
}

fn all(set_ups: &[SetUp]) {
    let bed = bed();
    for set_up in set_ups {
        set_up.go_through(&bed);
    }
}
