// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an operation did, in words and as JSON, whichever command ended it.

use std::time::Duration;

use indicatif::BinaryBytes;
use livedisk::{Consistency, Report, Warnings};
use serde_json::{Map, Value, json};

use crate::output::Output;
use crate::units::{local, nanoseconds, put_time};

/// An operation that is done.
pub struct Done<'a> {
    pub domain: &'a str,
    pub kind: Kind,
    pub disks: Vec<Disk>,
    pub report: &'a Report,
    pub remarks: Vec<String>,
}

pub enum Kind {
    Snapshot,
    Migration {
        /// `None` where it is on no file or block device.
        old_image: Option<String>,
        to_remove: bool,
    },
}

pub struct Disk {
    pub target: String,
    pub destination: String,
}

pub fn disks_json(disks: &[Disk]) -> Value {
    let object = |disk: &Disk| json!({ "target": disk.target, "destination": disk.destination });
    disks.iter().map(object).collect()
}

impl Done<'_> {
    pub fn output(&self) -> Output {
        let text = match &self.kind {
            Kind::Snapshot => self.snapshot_words(),
            Kind::Migration { old_image, .. } => self.migration_words(old_image.as_deref()),
        };
        let mut object = self.common_json();
        match &self.kind {
            Kind::Snapshot => self.put_snapshot(&mut object),
            Kind::Migration { old_image, .. } => {
                put_time(&mut object, "moved_at", self.report.point_in_time);
                object.insert("old_image".into(), json!(old_image));
                object.insert("old_image_removed".into(), json!(self.is_removed()));
            }
        }
        Output {
            text,
            json: Value::Object(object),
        }
    }

    /// As [`output`](Self::output), with what attach says of every operation.
    pub fn attached(&self, target: &str) -> Output {
        let mut output = self.output();
        if let Some(object) = output.json.as_object_mut() {
            let kind = match self.kind {
                Kind::Snapshot => "snapshot",
                Kind::Migration { .. } => "migration",
            };
            object.insert("target".into(), target.into());
            object.insert("kind".into(), kind.into());
            self.put_snapshot(object);
        }
        output
    }

    fn common_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("domain".into(), self.domain.into());
        object.insert("method".into(), self.report.method.name().into());
        object.insert("bytes_copied".into(), self.report.bytes_copied.into());
        object.insert("elapsed_ns".into(), nanoseconds(self.report.elapsed).into());
        object.insert("disks".into(), disks_json(&self.disks));
        let names: Vec<_> = warnings(self.report.warnings).map(|(name, _)| name).collect();
        object.insert("warnings".into(), json!(names));
        object.insert("remarks".into(), json!(self.remarks));
        object
    }

    fn put_snapshot(&self, object: &mut Map<String, Value>) {
        let report = self.report;
        put_time(object, "point_in_time", report.point_in_time);
        object.insert("consistency".into(), report.consistency.name().into());
        object.insert("filesystems_frozen".into(), report.filesystems_frozen.into());
        object.insert("freeze_ns".into(), nanoseconds(report.freeze).into());
        object.insert("pause_ns".into(), nanoseconds(report.pause).into());
        object.insert("full_disks".into(), report.full_disks.into());
    }

    fn snapshot_words(&self) -> String {
        let report = self.report;
        let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
        let mut lines = vec![
            format!("snapshot of domain '{}' done", self.domain),
            line("method", report.method.name()),
            line("consistency", report.consistency.name()),
            line("as of", &local(report.point_in_time, 6)),
        ];
        if report.freeze > Duration::ZERO {
            let frozen = report.filesystems_frozen;
            lines.push(line(
                "freeze",
                &format!("{}, file systems: {frozen}", milliseconds(report.freeze)),
            ));
        }
        if report.pause > Duration::ZERO {
            lines.push(line("pause", &milliseconds(report.pause)));
        }
        lines.extend(self.amounts());
        if report.full_disks > 0 {
            lines.push(line(
                "copied whole",
                &format!("{} of {} disks", report.full_disks, report.disk_count),
            ));
        }
        lines.extend(self.warnings());
        if report.consistency == Consistency::Crash {
            lines.push(
                "warning: the guest was not frozen at the point in time: the images are as after a power failure; \
                 to freeze it, run the guest agent and use --quiesce require"
                    .into(),
            );
        }
        lines.join("\n")
    }

    /// The old image of a migration.
    fn is_removed(&self) -> bool {
        matches!(self.kind, Kind::Migration { to_remove: true, .. }) && !self.report.warnings.source_kept
    }

    fn migration_words(&self, old_image: Option<&str>) -> String {
        let targets: Vec<String> = self.disks.iter().map(|disk| format!("'{}'", disk.target)).collect();
        let mut lines = vec![
            format!("disk {} of domain '{}' moved", targets.join(", "), self.domain),
            line("method", self.report.method.name()),
            line("moved at", &local(self.report.point_in_time, 6)),
        ];
        lines.extend(self.amounts());
        if let Some(old) = old_image {
            let fate = if self.is_removed() {
                "removed"
            } else {
                "left in place, unused"
            };
            lines.push(line("old image", &format!("{old} ({fate})")));
        }
        lines.extend(self.warnings());
        lines.join("\n")
    }

    fn warnings(&self) -> impl Iterator<Item = String> {
        warnings(self.report.warnings).map(|(_, words)| format!("warning: {words}"))
    }

    fn amounts(&self) -> Vec<String> {
        let mut lines = vec![
            line("copied", &BinaryBytes(self.report.bytes_copied).to_string()),
            line("time", &format!("{:.1} s", self.report.elapsed.as_secs_f64())),
        ];
        lines.extend(self.disks.iter().map(|disk| line(&disk.target, &disk.destination)));
        lines
    }
}

/// Each that the report has: its name and its words.
fn warnings(report: Warnings) -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = [
        (
            report.unidentified_image,
            "unidentified_image",
            "it could not be confirmed that QEMU has the image of this name open: check that no other file has taken \
             its name",
        ),
        (
            report.label_lost,
            "label_lost",
            "the new image lacks the <seclabel> that the old one had: add it to the definition before the domain's \
             next start",
        ),
        (
            report.zeroes_undetected,
            "zeroes_undetected",
            "QEMU no longer detects zeroes on the disk (detect_zeroes) until the domain's next start",
        ),
        (
            report.source_kept,
            "source_kept",
            "the old image was not removed, because it is not a file or its name now leads to another file: remove it \
             yourself",
        ),
    ];
    all.into_iter()
        .filter(|(is_set, ..)| *is_set)
        .map(|(_, name, words)| (name, words))
}

fn line(name: &str, value: &str) -> String {
    format!("{name:12} {value}")
}
