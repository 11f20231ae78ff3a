// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where a disk lives: its chain in the live and the inactive definition, the files beside it, and what it holds.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use livedisk::MigrateOptions;

use crate::support::bed::{Bed, run};
use crate::support::definition::{plain, unnumbered};
use crate::support::image::log_of;

pub fn to(target: &str, destination: impl AsRef<Path>) -> MigrateOptions {
    MigrateOptions {
        target: target.into(),
        destination: shown(destination.as_ref()).into(),
        ..MigrateOptions::default()
    }
}

pub fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A clone as a caller's function would make it.
pub fn copy_of(source: &str, destination: &str) -> i32 {
    run("cp", &["--sparse=always", "--", source, destination]);
    0
}

pub struct Home<'a> {
    bed: &'a Bed,
    domain: String,
    target: String,
    persistent: bool,
    live: String,
    inactive: String,
    files: BTreeSet<String>,
    /// Paths, the active layer first; the name of an export.
    pub chain: Vec<String>,
    pub format: String,
}

/// Notes where a disk lives now.
pub fn home<'a>(bed: &'a Bed, domain: &str, target: &str) -> Home<'a> {
    let live = unnumbered(&bed.virsh(&["dumpxml", "--security-info", domain]));
    let disk = disk_of(&live, target);
    let persistent = bed.virsh(&["list", "--all", "--persistent", "--name"]);
    Home {
        chain: sources(&disk),
        format: attribute(&disk, "type='", 1),
        live,
        inactive: plain(&bed.virsh(&["dumpxml", "--inactive", "--security-info", domain])),
        files: files(bed),
        bed,
        domain: domain.into(),
        target: target.into(),
        persistent: persistent.lines().any(|name| name == domain),
    }
}

/// The element of one disk.
pub fn disk_of(xml: &str, target: &str) -> String {
    let disks = xml.split("<disk ").skip(1);
    let mut disks = disks.map(|disk| disk.split_once("</disk>").unwrap().0);
    let wanted = format!("<target dev='{target}'");
    disks.find(|disk| disk.contains(&wanted)).unwrap().to_owned()
}

/// The `number`th value after `start`, from 0.
fn attribute(text: &str, start: &str, number: usize) -> String {
    let value = text.split(start).nth(number + 1).unwrap();
    value.split_once('\'').unwrap().0.to_owned()
}

fn sources(disk: &str) -> Vec<String> {
    let elements = disk.split("<source ").skip(1);
    let value = |element: &str| {
        let element = element.split_once('>').unwrap().0;
        let names = [" file=", " dev=", " name="];
        let element = format!(" {element}");
        names.iter().find_map(|name| {
            let value = element.split_once(name)?.1;
            let quote = value.chars().next()?;
            let value = value[1..].split_once(quote)?.0;
            let plain = [
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&quot;", "\""),
                ("&apos;", "'"),
                ("&amp;", "&"),
            ];
            let value = plain
                .iter()
                .fold(value.to_owned(), |value, (from, to)| value.replace(from, to));
            Some(value)
        })
    };
    elements.filter_map(value).collect()
}

/// All in the bed, and one level deeper.
fn files(bed: &Bed) -> BTreeSet<String> {
    let found = run(
        "find",
        &[
            shown(&bed.dir),
            "-maxdepth",
            "2",
            "-not",
            "-path",
            "*/c/*",
            "-not",
            "-name",
            "c",
        ],
    );
    let state = |line: &&str| !line.contains("/s/") && !line.contains("/state/");
    found.lines().filter(state).map(str::to_owned).collect()
}

impl Home<'_> {
    pub fn is_file(&self) -> bool {
        fs::metadata(&self.chain[0]).is_ok_and(|metadata| metadata.is_file())
    }

    /// The last record of the disk that was acknowledged to the guest.
    pub fn acknowledged(&self) -> u64 {
        match self.bed.number(&self.domain) {
            Some(_) => {
                let log = log_of(self.bed, &self.domain);
                log.iter().rfind(|line| line.disk == self.target).unwrap().sequence
            }
            None => 0,
        }
    }

    /// The disk as an image shows it, read while the guest stands still. It holds all that was acknowledged till then.
    pub fn must_be_whole(&self, image: &Path, format: &str, at_least: u64) {
        let bed = self.bed;
        if bed.number(&self.domain).is_none() {
            return;
        }
        bed.must_write(&self.domain);
        // Beside it, for a backing file's relative name.
        let beside = if image.starts_with("/dev") {
            bed.path("read")
        } else {
            image.with_file_name("read")
        };
        bed.virsh(&["suspend", &self.domain]);
        let acknowledged = self.acknowledged();
        run("cp", &["--sparse=always", "--", shown(image), shown(&beside)]);
        bed.virsh(&["resume", &self.domain]);
        let found = run(bed.value("RECORDS"), &[shown(&beside), "--format", format, "--json"]);
        fs::remove_file(&beside).unwrap();
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        for fault in ["torn", "missing", "out_of_order"] {
            assert_eq!(found[fault], 0, "{found}");
        }
        let last = found["last"].as_u64().unwrap();
        assert!(
            last >= acknowledged && acknowledged > at_least,
            "{acknowledged} {at_least} {found}"
        );
    }

    fn must_be_idle(&self) {
        let (bed, domain) = (self.bed, self.domain.as_str());
        assert_eq!(bed.virsh(&["domstate", domain]).trim(), "running");
        let job = bed.virsh(&["blockjob", "--raw", domain, &self.target]);
        assert!(job.trim().is_empty(), "{job}");
        assert!(bed.virsh(&["domjobinfo", domain]).contains("None"));
        assert_eq!(bed.virsh(&["snapshot-list", domain, "--name"]).trim(), "");
        assert!(bed.connection.operations(Some(domain)).unwrap().is_empty());
        for xml in [
            bed.virsh(&["dumpxml", domain]),
            bed.virsh(&["dumpxml", "--inactive", domain]),
        ] {
            for left in [".livedisk-", "urn:livedisk", "<mirror"] {
                assert!(!xml.contains(left), "{left} in {xml}");
            }
        }
        let left: Vec<_> = files(bed)
            .into_iter()
            .filter(|name| name.contains("/.livedisk-"))
            .collect();
        assert!(
            left.len() <= 1 && left.iter().all(|name| name.ends_with("/.livedisk-bed")),
            "{left:?}"
        );
    }

    /// The disk is on its destination, which rests on `below`; nothing else changed.
    pub fn must_have_moved(&self, options: &MigrateOptions, below: &[String], at_least: u64) {
        self.must_be_idle();
        let now = home(self.bed, &self.domain, &self.target);
        let mut chain = vec![options.destination.clone()];
        chain.extend_from_slice(below);
        assert_eq!(now.chain, chain, "live");
        assert_eq!(&now.format, options.format.as_ref().unwrap_or(&self.format));
        if self.persistent {
            let inactive = sources(&disk_of(&now.inactive, &self.target));
            assert_eq!(inactive[0], options.destination, "inactive");
            assert!(inactive.len() == 1 || inactive == chain, "inactive: {inactive:?}");
        }
        assert_eq!(now.persistent, self.persistent);
        let mut expected = self.files.clone();
        if options.destination.starts_with(shown(&self.bed.dir)) {
            expected.insert(options.destination.clone());
        }
        if options.delete_source {
            expected.remove(&self.chain[0]);
        }
        assert_eq!(now.files, expected);
        now.must_be_whole(Path::new(&options.destination), &now.format, at_least);
    }

    pub fn must_be_as_before(&self) {
        let now = home(self.bed, &self.domain, &self.target);
        assert_eq!(now.chain, self.chain);
        assert_eq!(now.files, self.files);
        assert_eq!(now.live, self.live, "the live definition");
        if self.persistent {
            assert_eq!(now.inactive, self.inactive, "the inactive definition");
        }
        if !self
            .bed
            .virsh(&["snapshot-list", &self.domain, "--name"])
            .trim()
            .is_empty()
        {
            return;
        }
        self.must_be_idle();
        now.must_be_whole(Path::new(&now.chain[0]), &now.format, 0);
    }
}
