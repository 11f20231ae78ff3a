// SPDX-License-Identifier: LGPL-2.1-or-later
//! The operations under test and where they write.

use std::fmt;

use super::stand::Place;

/// What each backup makes besides.
pub const CHECKPOINT: &str = "fault";

/// One operation by one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation {
    pub kind: Kind,
    pub method: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Snapshot,
    Migrate,
    /// livedisk freeze, which lasts until its limit.
    Freeze,
}

/// What the operation is about when the fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Course {
    /// It goes on.
    Forward,
    /// It was cancelled with SIGTERM, and is being rolled back.
    Cancelled,
    /// Its process was killed, and `livedisk recover` is cleaning it up.
    Recovering,
    /// Its process and libvirtd were killed in the pivot of its copy, and `livedisk recover` is cleaning it up.
    Astray,
}

const fn snapshot(method: &'static str) -> Operation {
    Operation {
        kind: Kind::Snapshot,
        method,
    }
}

const fn migrate(method: &'static str) -> Operation {
    Operation {
        kind: Kind::Migrate,
        method,
    }
}

pub const OPERATIONS: [Operation; 7] = [
    snapshot("mirror"),
    snapshot("backup"),
    snapshot("clone"),
    snapshot("rebase"),
    migrate("clone"),
    migrate("mirror"),
    Operation {
        kind: Kind::Freeze,
        method: "",
    },
];

pub const COURSES: [Course; 4] = [Course::Forward, Course::Cancelled, Course::Recovering, Course::Astray];

impl Operation {
    /// Only a migration pivots to its copy, and a freeze does not wait to be cancelled.
    pub fn has(self, course: Course) -> bool {
        match course {
            Course::Forward | Course::Recovering => true,
            Course::Cancelled => self.kind != Kind::Freeze,
            Course::Astray => self.kind == Kind::Migrate,
        }
    }

    /// Where it is cancelled, or its process killed: as late as there is a way back.
    pub fn turning_point(self, course: Course) -> &'static str {
        match (self.kind, self.method) {
            _ if course == Course::Astray => "before PivotCopy",
            (Kind::Freeze, _) => "after Freeze",
            (Kind::Snapshot, "backup" | "clone") => "before WriteRecord(Fixed)",
            _ => "before WriteRecord(Fixing)",
        }
    }

    /// The names of the images it is to make, in the stand's counting.
    pub fn destinations(self, place: Place, number: u32) -> Vec<String> {
        match (self.kind, place) {
            (Kind::Freeze, _) => Vec::new(),
            // One disk is all that a small place takes.
            (Kind::Snapshot, Place::Bed | Place::Scratch) => {
                vec![format!("cell{number}-vda"), format!("cell{number}-vdb")]
            }
            _ => vec![format!("cell{number}-vda")],
        }
    }

    /// Where vda is copied alone it may be raw, and such a disk keeps no bitmap.
    pub fn makes_checkpoint(self, destinations: &[String]) -> bool {
        (self.kind, self.method) == (Kind::Snapshot, "backup") && destinations.len() == 2
    }

    /// The command's words. Slow enough for its waiting to be met.
    pub fn words(self, destinations: &[String], scratch: Option<&str>) -> Vec<String> {
        if self.kind == Kind::Freeze {
            // By the process that stays for it.
            return ["freeze", "a", "--limit", "2s", "--hold", "--verbose"]
                .map(str::to_owned)
                .into();
        }
        let mut words: Vec<String> = match self.kind {
            Kind::Snapshot => vec!["snapshot".into(), "a".into(), "--freeze-limit".into(), "2s".into()],
            _ => vec!["migrate".into(), "a".into(), "vda".into(), destinations[0].clone()],
        };
        if self.kind == Kind::Snapshot {
            for (target, destination) in ["vda", "vdb"].iter().zip(destinations) {
                words.extend(["--disk".into(), format!("{target}={destination}")]);
            }
        }
        if self.makes_checkpoint(destinations) {
            words.extend(["--checkpoint", CHECKPOINT].map(str::to_owned));
        }
        if let Some(scratch) = scratch {
            words.extend(["--scratch".into(), scratch.to_owned()]);
        }
        words.extend(["--method", self.method, "--bandwidth", "24M", "--quiet", "--verbose"].map(str::to_owned));
        words
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Snapshot => "snapshot",
            Kind::Migrate => "migrate",
            Kind::Freeze => return f.write_str("freeze"),
        };
        write!(f, "{kind} {}", self.method)
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Cancelled => "cancelled",
            Self::Recovering => "recovering",
            Self::Astray => "astray",
        })
    }
}
