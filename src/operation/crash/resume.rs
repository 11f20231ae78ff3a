// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which procedure a record is of.

use std::sync::Arc;

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::operation::course::procedure::Procedure;
use crate::operation::course::run::{Course, Run};
use crate::operation::course::shared::Shared;
use crate::operation::migrate;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::Kind;
use crate::operation::snapshot::{backup, clone, mirror};
use crate::operation::types::Method;

/// An operation as its record and the world show it.
pub(in crate::operation) fn resume(guest: &Arc<Guest>, journal: Journal, shared: &Arc<Shared>) -> Result<Box<dyn Run>> {
    fn course<P: Procedure>(guest: &Arc<Guest>, journal: Journal, shared: &Arc<Shared>) -> Result<Box<dyn Run>> {
        Ok(Box::new(Course::<P>::resume(guest, journal, Arc::clone(shared))?))
    }
    let record = journal.read();
    match record.kind {
        Kind::Snapshot if record.method == Method::Backup => course::<backup::Engine>(guest, journal, shared),
        Kind::Snapshot if record.method == Method::Clone => course::<clone::Engine>(guest, journal, shared),
        Kind::Snapshot => course::<mirror::Engine>(guest, journal, shared),
        Kind::Migration => course::<migrate::Engine>(guest, journal, shared),
        Kind::Freeze => Err(Error::new(
            ErrorCode::NoOperation,
            format!(
                "domain '{}' has a freeze, which is thawed and not resumed",
                guest.name()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::driver::Host;
    use crate::libvirt::EventLoop;
    use crate::operation::ownership::claim::Claim;
    use crate::operation::ownership::record::Record;
    use crate::operation::state::Goal;

    /// A domain of libvirt's own test driver, which has QEMU's disks and no QEMU: whatever was under way is gone.
    fn guest(name: &str, runs: bool) -> Arc<Guest> {
        let state = if runs { 1 } else { 5 };
        let disks = [("vda", "a-vda.qcow2", "qcow2"), ("vdb", "a-vdb.raw", "raw")].map(|(target, file, format)| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='/srv/images/{file}'/>\
                 <target dev='{target}' bus='virtio'/></disk>"
            )
        });
        let xml = format!(
            "<node><domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>a</name>\
             <memory>8192</memory><os><type>hvm</type></os><devices>{}</devices>\
             <test:runstate>{state}</test:runstate></domain></node>",
            disks.concat()
        );
        let path = std::env::temp_dir().join(format!("livedisk-resume-{name}-{runs}-{}.xml", std::process::id()));
        std::fs::write(&path, xml).unwrap();
        let host = Host::open(Some(&format!("test://{}", path.display())), EventLoop::None);
        std::fs::remove_file(path).unwrap();
        Arc::new(host.unwrap().get_guest("a").unwrap())
    }

    /// What is next, forward, of the operation that `record` is of, and whether going on resolves it. `owned`: it was taken
    /// over; else it is looked at, as a dry run does.
    fn resumed(guest: &Arc<Guest>, record: Record, owned: bool) -> (&'static str, String, bool) {
        let mark = record.mark.name();
        let shared = Arc::new(Shared::new(record.started).unwrap());
        let journal = if owned {
            Journal::take_over(guest, record, &Claim::take(Arc::clone(guest)).unwrap()).unwrap()
        } else {
            Journal::look_at(guest, record)
        };
        let mut course = resume(guest, journal, &shared).unwrap();
        course.look(Goal::Forward).unwrap();
        (mark, format!("{:?}", course.step()), course.is_resolved_forward())
    }

    /// For each record that is read where the domain runs, or is off: its mark, the next step, whether that resolves it.
    fn must_resume(name: &str, records: &str, runs: bool, expected: &[(&str, &str, bool)]) {
        let guest = guest(name, runs);
        let records: Vec<Value> = serde_json::from_str(records).unwrap();
        let records = records.iter().map(|record| Record::deserialize(record).unwrap());
        let wanted = records.filter(|record| expected.iter().any(|(mark, ..)| *mark == record.mark.name()));
        let found: Vec<_> = wanted.map(|record| resumed(&guest, record, false)).collect();
        let found: Vec<_> = found
            .iter()
            .map(|(mark, step, resolved)| (*mark, step.as_str(), *resolved))
            .collect();
        assert_eq!(found, expected, "{name}, runs: {runs}");
    }

    #[test]
    fn records_of_snapshots_by_mirror_are_resumed() {
        let records = include_str!("../ownership/records/snapshot-mirror.json");
        let expected = [
            ("begun", "MakeImage(0)", false),
            ("copying", "StartCopy(0)", false),
            ("fixing", "Thaw", false),
            ("fixed", "Verify", true),
        ];
        must_resume("mirror", records, true, &expected);
    }

    #[test]
    fn records_of_snapshots_by_rebase_are_resumed() {
        let records = include_str!("../ownership/records/snapshot-rebase.json");
        let expected = [
            ("begun", "MakeImage(0)", false),
            ("copying", "SaveDefinition", false),
            ("fixing", "Thaw", false),
            ("fixed", "Flatten", true),
        ];
        must_resume("rebase", records, true, &expected);
    }

    /// With a checkpoint. From the window on it is looked for in QEMU or in the images: tests/recover does that.
    #[test]
    fn records_of_backups_are_resumed() {
        let records = include_str!("../ownership/records/snapshot-backup.json");
        must_resume("backup", records, true, &[("begun", "MakeImage(0)", false)]);
        must_resume("backup", records, false, &[("begun", "Fail(DomainGone)", false)]);
    }

    /// In push mode. The driver has no backups, so that of a running domain only what comes before is found.
    #[test]
    fn records_of_backups_of_release_0_1_are_resumed() {
        let records = include_str!("../ownership/records/snapshot-backup-0.1.json");
        must_resume("pushed", records, true, &[("begun", "MakeImage(0)", false)]);
        let expected = [
            ("begun", "Fail(DomainGone)", false),
            ("fixing", "Fail(DomainGone)", false),
            ("fixed", "Fail(DomainGone)", false),
        ];
        must_resume("pushed", records, false, &expected);
    }

    #[test]
    fn records_of_snapshots_by_clone_are_resumed() {
        let records = include_str!("../ownership/records/snapshot-clone.json");
        let expected = [
            ("begun", "MakeImage(0)", false),
            // The disk is on no overlay.
            ("copying", "Fail(ForeignChain(0))", false),
            ("fixing", "Thaw", false),
            ("fixed", "RemoveRecord", true),
        ];
        must_resume("clone", records, true, &expected);
    }

    #[test]
    fn records_with_a_throttled_guest_give_the_disk_its_own_limits_back() {
        let records = include_str!("../ownership/records/snapshot-clone-throttled.json");
        let guest = guest("throttled", true);
        let records: Vec<Record> = serde_json::from_str(records).unwrap();
        let found: Vec<_> = records
            .into_iter()
            .map(|record| resumed(&guest, record, true))
            .collect();
        let expected = [("copying", false), ("fixing", false), ("fixed", true)];
        assert_eq!(
            found,
            expected.map(|(mark, resolved)| (mark, "Unthrottle(0)".into(), resolved))
        );
    }

    #[test]
    fn records_of_migrations_are_resumed() {
        let records = include_str!("../ownership/records/migrate-mirror.json");
        let expected = [
            ("begun", "MakeDestination", false),
            ("copying", "MakeDestination", false),
        ];
        must_resume("migrate-mirror", records, true, &expected);
        let records = include_str!("../ownership/records/migrate-clone.json");
        let expected = ["begun", "copying", "fixing", "fixed"].map(|mark| (mark, "Fail(DomainGone)", false));
        must_resume("migrate-clone", records, false, &expected);
    }
}
