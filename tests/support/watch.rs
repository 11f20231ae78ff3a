// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a guest is as it was before the test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::bed::Bed;
use super::definition::plain;
use super::until;

/// What a domain and the directory were like.
pub struct Watch<'a> {
    bed: &'a Bed,
    domain: String,
    state: String,
    live: String,
    inactive: String,
    persistent: bool,
    files: BTreeSet<String>,
}

impl Bed {
    /// Notes what is, for [`Watch::must_be_as_before`].
    pub fn watch(&self, domain: &str) -> Watch<'_> {
        let state = self.virsh(&["domstate", domain]);
        if self.number(domain).is_some() && state.trim() == "running" {
            // A guest that booted on a busy machine does not know how fast its clock runs.
            self.ctl(domain, &["clock"]);
        }
        Watch {
            bed: self,
            domain: domain.into(),
            state,
            live: self.virsh(&["dumpxml", "--security-info", domain]),
            inactive: self.virsh(&["dumpxml", "--inactive", "--security-info", domain]),
            persistent: is_persistent(self, domain),
            files: files(&self.dir),
        }
    }

    /// The last sequence in the writer's log of each disk.
    fn written(&self, domain: &str) -> Vec<(String, u64)> {
        let log = super::image::log_of(self, domain);
        let disks: BTreeSet<_> = log.iter().map(|line| line.disk.clone()).collect();
        let last = |disk: &String| {
            log.iter()
                .rfind(|line| line.disk == *disk)
                .map_or(0, |line| line.sequence)
        };
        disks.into_iter().map(|disk| (disk.clone(), last(&disk))).collect()
    }

    /// It writes on all of its disks.
    pub fn must_write(&self, domain: &str) {
        let before = self.written(domain);
        until("the guest writes on each disk", || {
            self.written(domain)
                .iter()
                .zip(&before)
                .all(|(now, before)| now.1 > before.1 + 2)
        });
    }
}

fn is_persistent(bed: &Bed, domain: &str) -> bool {
    let info = bed.virsh(&["dominfo", domain]);
    info.lines()
        .any(|line| line.starts_with("Persistent:") && line.ends_with("yes"))
}

fn files(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    // virsh's own.
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "c").collect()
}

impl Watch<'_> {
    /// The one check after every test. `images` were asked for: they must be there, and are removed.
    pub fn must_be_as_before(&self, images: &[&str]) {
        let (bed, domain) = (self.bed, self.domain.as_str());
        let mut expected = self.files.clone();
        expected.extend(images.iter().map(|name| (*name).to_owned()));
        assert_eq!(files(&bed.dir), expected, "files");
        for image in images {
            fs::remove_file(bed.path(image)).unwrap();
        }
        assert_eq!(bed.virsh(&["domstate", domain]), self.state);
        let jobs = bed.virsh(&["domjobinfo", domain]);
        assert!(jobs.contains("None"), "{jobs}");
        for disk in bed
            .virsh(&["domblklist", domain])
            .lines()
            .filter_map(|line| line.split_whitespace().next())
        {
            let job = bed.virsh(&["blockjob", "--raw", domain, disk]);
            assert!(job.trim().is_empty(), "{disk}: {job}");
        }
        let live = bed.virsh(&["dumpxml", "--security-info", domain]);
        assert_eq!(plain(&live), plain(&self.live), "the live definition");
        let inactive = bed.virsh(&["dumpxml", "--inactive", "--security-info", domain]);
        assert_eq!(is_persistent(bed, domain), self.persistent);
        if self.persistent {
            assert_eq!(plain(&inactive), plain(&self.inactive), "the inactive definition");
        }
        let known = bed.connection.operations(Some(domain)).unwrap();
        assert!(known.is_empty(), "{known:?}");
        if self.state.trim() == "running" && bed.number(domain).is_some() {
            if live.contains("org.qemu.guest_agent.0") {
                assert_eq!(self.fsfreeze_status(), "thawed");
            }
            bed.must_write(domain);
        }
    }

    pub fn fsfreeze_status(&self) -> String {
        let question = r#"{"execute":"guest-fsfreeze-status"}"#;
        let answer = self
            .bed
            .virsh(&["qemu-agent-command", "--timeout", "10", &self.domain, question]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["return"].as_str().unwrap().to_owned()
    }
}
