// SPDX-License-Identifier: LGPL-2.1-or-later
//! A full backup and its increments, of a guest with vda (qcow2) and vdb (raw). Each point in time is kept by other means too,
//! and compared.

use std::path::{Path, PathBuf};

use livedisk::{Method, Quiesce, Report, SnapshotDisk, SnapshotOptions};
use serde_json::Value;

use crate::support::bed::{Bed, Turn, run};
use crate::support::image::{edge, info, must_be_one_point};
use crate::support::{PATIENCE, disk, snapshot};

pub struct Series<'a> {
    pub bed: &'a Bed,
    /// The points in time so far.
    pub points: Vec<Point>,
    targets: Vec<&'static str>,
}

pub struct Point {
    pub name: String,
    images: Vec<PathBuf>,
    /// The disks as the paused guest had them.
    truth: Option<Vec<PathBuf>>,
}

pub fn bed() -> Turn {
    let bed = crate::support::bed::turn(
        livedisk::EventLoop::Own,
        &["name=a,disks=qcow2:48M+raw:16M,data=8M,agent=no"],
    );
    for left in bed.connection.checkpoints("a").unwrap() {
        bed.connection.delete_checkpoint("a", &left.name).unwrap();
    }
    bed
}

/// Format and path of each disk's image now.
fn images_now(bed: &Bed) -> Vec<(String, String, String)> {
    let list = bed.virsh(&["dumpxml", "a"]);
    let root = xmltree::Element::parse(list.as_bytes()).unwrap();
    let devices = root.get_child("devices").unwrap();
    let disks = devices.children.iter().filter_map(|node| node.as_element());
    let of_disk = |disk: &xmltree::Element| {
        let path = disk.get_child("source")?.attributes.get("file")?.clone();
        let target = disk.get_child("target")?.attributes["dev"].clone();
        Some((target, disk.get_child("driver")?.attributes["type"].clone(), path))
    };
    disks.filter(|disk| disk.name == "disk").filter_map(of_disk).collect()
}

/// Names of all bitmaps that QEMU has.
pub fn bitmaps(bed: &Bed) -> Vec<String> {
    let question = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;
    let answer: Value = serde_json::from_str(&bed.virsh(&["qemu-monitor-command", "a", question])).unwrap();
    let nodes = answer["return"].as_array().unwrap();
    let bitmaps = nodes.iter().filter_map(|node| node["dirty-bitmaps"].as_array());
    let names = bitmaps
        .flatten()
        .map(|bitmap| bitmap["name"].as_str().unwrap().to_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

impl<'a> Series<'a> {
    pub fn new(bed: &'a Bed, targets: &[&'static str]) -> Self {
        Self {
            bed,
            points: Vec::new(),
            targets: targets.to_vec(),
        }
    }

    fn image(&self, name: &str, target: &str) -> PathBuf {
        self.bed.path(&format!(
            "{name}-{target}.{}",
            if target == "vdb" { "raw" } else { "qcow2" }
        ))
    }

    /// What is asked for of the next point in time: since the last one, on its images.
    pub fn options(&self, name: &str) -> SnapshotOptions {
        let last = self.points.last();
        let disks = self.targets.iter().enumerate().map(|(index, target)| {
            let format = if *target == "vdb" { "raw" } else { "qcow2" };
            SnapshotDisk {
                backing: last.map(|last| last.images[index].to_str().unwrap().to_owned()),
                ..disk(target, self.image(name, target), format)
            }
        });
        SnapshotOptions {
            method: Method::Backup,
            quiesce: Quiesce::None,
            auto_finish: true,
            verify: true,
            checkpoint: Some(name.into()),
            since: last.map(|last| last.name.clone()),
            ..snapshot(disks.collect())
        }
    }

    fn run(&self, options: &SnapshotOptions) -> Report {
        let operation = self.bed.connection.start_live_snapshot("a", options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        println!("{:?} since {:?}: {report:?}", options.checkpoint, options.since);
        assert_eq!(report.method, Method::Backup);
        report
    }

    /// Of the paused guest, whose disks are kept.
    pub fn take(&mut self, name: &str, change: impl Fn(&mut SnapshotOptions)) -> Report {
        let mut options = self.options(name);
        change(&mut options);
        self.bed.must_write("a");
        self.bed.virsh(&["suspend", "a"]);
        let report = self.run(&options);
        let now = images_now(self.bed);
        let truth = self.targets.iter().map(|target| {
            let (_, format, path) = now.iter().find(|disk| disk.0 == **target).unwrap();
            let kept = self.bed.path(&format!("{name}-{target}.truth"));
            run(
                "qemu-img",
                &["convert", "-U", "-f", format, "-O", "raw", path, kept.to_str().unwrap()],
            );
            kept
        });
        let truth = truth.collect();
        self.bed.virsh(&["resume", "a"]);
        self.note(name, Some(truth));
        report
    }

    /// Of the guest that writes: by what its writer says.
    pub fn take_running(&mut self, name: &str) -> Report {
        self.bed.ctl("a", &["clock"]);
        self.bed.must_write("a");
        let report = self.run(&self.options(name));
        self.bed.must_write("a");
        self.note(name, None);
        let point = self.points.last().unwrap();
        let formats = self
            .targets
            .iter()
            .map(|target| if *target == "vdb" { "raw" } else { "qcow2" });
        let images = self.targets.iter().zip(&point.images).zip(formats);
        let edges: Vec<_> = images
            .map(|((target, image), format)| edge(self.bed, "a", target, image, format))
            .collect();
        let width = std::time::Duration::from_secs(1);
        edges.iter().for_each(|edge| edge.must_be_at(&report, width));
        must_be_one_point(&edges);
        report
    }

    fn note(&mut self, name: &str, truth: Option<Vec<PathBuf>>) {
        let images = self.targets.iter().map(|target| self.image(name, target)).collect();
        self.points.push(Point {
            name: name.into(),
            images,
            truth,
        });
        self.must_have_no_bitmaps_but_of_checkpoints();
    }

    pub fn must_have_no_bitmaps_but_of_checkpoints(&self) {
        let checkpoints = self.bed.connection.checkpoints("a").unwrap();
        for bitmap in bitmaps(self.bed) {
            assert!(
                checkpoints.iter().any(|found| found.name == bitmap),
                "{bitmap} belongs to no checkpoint"
            );
        }
    }

    /// Bytes of the image itself.
    pub fn allocated(&self, name: &str, target: &str) -> u64 {
        info(&self.image(name, target), "qcow2")["actual-size"]
            .as_u64()
            .unwrap()
    }

    /// Each point in time opens as the disks were then.
    pub fn must_be_right(&self) {
        for point in &self.points {
            let truth = point.truth.iter().flatten();
            for ((image, truth), target) in point.images.iter().zip(truth).zip(&self.targets) {
                let format = if *target == "vdb" { "raw" } else { "qcow2" };
                println!("{} of {target}", point.name);
                let (image, truth) = (image.to_str().unwrap(), truth.to_str().unwrap());
                run("qemu-img", &["compare", "-f", format, "-F", "raw", image, truth]);
                if format == "qcow2" {
                    run("qemu-img", &["check", "-q", "-f", "qcow2", image]);
                }
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let points = self.points.iter();
        points.flat_map(|point| point.images.iter().chain(point.truth.iter().flatten()))
    }
}

impl Drop for Series<'_> {
    fn drop(&mut self) {
        self.files().for_each(|file| remove(file));
    }
}

fn remove(file: &Path) {
    let _ = std::fs::remove_file(file);
}
