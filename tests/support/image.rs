// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an image holds, against what its guest wrote.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use livedisk::{Consistency, Report};

use super::bed::{Bed, run};
use super::until;

/// A line of the writer's log.
pub struct Line {
    pub sequence: u64,
    pub disk: String,
    pub acknowledged: SystemTime,
}

pub fn log_of(bed: &Bed, domain: &str) -> Vec<Line> {
    let text = fs::read(bed.of_guest(domain, "WRITER")).unwrap();
    let text = String::from_utf8_lossy(&text);
    // The last line may be in the making.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let mut next = || fields.next();
            Some(Line {
                sequence: next()?.parse().ok()?,
                disk: next()?.to_owned(),
                acknowledged: UNIX_EPOCH + Duration::from_nanos(next()?.parse().ok()?),
            })
        })
        .collect()
}

/// How far the guest's clock and its log may be off, and a record be on its way.
const SLACK: Duration = Duration::from_millis(30);

/// Around the point in time as one disk's image shows it, by the guest's clock: the second last record in it, and the
/// first that is not.
pub struct Edge {
    pub disk: String,
    pub inside: SystemTime,
    pub outside: SystemTime,
    pub clean: bool,
}

/// The image's records are whole and in order, and the file system needs at most a replay.
pub fn edge(bed: &Bed, domain: &str, disk: &str, image: &Path, format: &str) -> Edge {
    let found = run(
        bed.value("RECORDS"),
        &[image.to_str().unwrap(), "--format", format, "--json"],
    );
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    for fault in ["torn", "missing", "out_of_order"] {
        assert_eq!(found[fault], 0, "{disk} in {}: {found}", image.display());
    }
    let last = found["last"].as_u64().unwrap();
    assert!(last > 1, "{disk}: {found}");
    let acknowledged = |sequence| {
        let mut at = None;
        until(&format!("record {sequence} of {disk} is in the log"), || {
            let log = log_of(bed, domain);
            let line = log.iter().find(|line| line.disk == disk && line.sequence == sequence);
            at = line.map(|line| line.acknowledged);
            at.is_some()
        });
        at.unwrap()
    };
    Edge {
        disk: disk.to_owned(),
        inside: acknowledged(last - 1),
        outside: acknowledged(last + 1),
        clean: found["fs_clean"] == true,
    }
}

impl Edge {
    /// Everything acknowledged before the point in time is in it, and nothing written after it. `width` is how
    /// exactly the point in time is known.
    pub fn must_be_at(&self, report: &Report, width: Duration) {
        let (from, to) = (
            report.point_in_time - width - report.freeze.max(report.pause) - SLACK,
            report.point_in_time + width + report.freeze.max(report.pause) + SLACK,
        );
        let disk = &self.disk;
        assert!(
            self.outside > from,
            "{disk}: acknowledged before the point in time and not in the image"
        );
        assert!(
            self.inside < to,
            "{disk}: written after the point in time and in the image"
        );
        if report.consistency == Consistency::Filesystem {
            assert!(self.clean, "{disk}: the file system is not clean");
        }
    }
}

/// One point in time for all: what any image has is older than what another lacks.
pub fn must_be_one_point(edges: &[Edge]) {
    for a in edges {
        for b in edges {
            assert!(a.inside < b.outside, "{} is newer than {}", a.disk, b.disk);
        }
    }
}

pub fn info(image: &Path, format: &str) -> serde_json::Value {
    let text = run(
        "qemu-img",
        &["info", "-f", format, "--output=json", image.to_str().unwrap()],
    );
    serde_json::from_str(&text).unwrap()
}

pub fn create(image: &Path, format: &str, size: &str) {
    run(
        "qemu-img",
        &["create", "-q", "-f", format, image.to_str().unwrap(), size],
    );
}

/// The image shows byte for byte what `raw` holds.
pub fn must_equal(image: &Path, format: &str, raw: &Path) {
    if format == "raw" {
        run("cmp", &[image.to_str().unwrap(), raw.to_str().unwrap()]);
        return;
    }
    let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
    // -U: a domain that writes nothing may hold the lock.
    run(
        "qemu-img",
        &["compare", "-q", "-U", "-f", format, "-F", "raw", image, raw],
    );
}

/// An overlay of qcow2.
pub fn create_overlay(image: &Path, backing: &Path, format: &str) {
    let (image, backing) = (image.to_str().unwrap(), backing.to_str().unwrap());
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", format, "-b", backing, image],
    );
}

/// A loop device on a file of that size; detached at the end.
pub struct LoopDevice(pub String);

impl LoopDevice {
    pub fn on(file: &Path, size: &str) -> Self {
        create(file, "raw", size);
        let file = file.to_str().unwrap();
        Self(run("losetup", &["--find", "--show", file]).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["--detach", &self.0])
            .status();
    }
}
