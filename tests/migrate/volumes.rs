// SPDX-License-Identifier: LGPL-2.1-or-later
//! By storage volumes, which libvirt copies where we do not see the files.

use std::fs;
use std::path::{Path, PathBuf};

use livedisk::{CloneMethod, ErrorCode, Method, MigrateOptions, Phase};

use crate::moving::{home, shown, to};
use crate::support::bed::{Bed, is_root, run};
use crate::support::{PATIENCE, await_phase, must_tell, remote};
use crate::{bed, copying, directory, fails, mirroring, moves};

/// A storage pool on a directory, for as long as it lives.
struct Pool<'a>(&'a Bed, &'a str);

impl<'a> Pool<'a> {
    fn on(bed: &'a Bed, name: &'a str, directory: &Path) -> Self {
        bed.virsh(&["pool-create-as", name, "dir", "--target", shown(directory)]);
        Self(bed, name)
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_virsh(&["pool-destroy", self.1]);
    }
}

pub fn by_volume(target: &str, destination: impl AsRef<Path>) -> MigrateOptions {
    MigrateOptions {
        clone: CloneMethod::Volume,
        ..to(target, destination)
    }
}

#[test]
fn clone_by_storage_volumes() {
    let bed = bed();
    let pooled = directory(&bed, "pooled");
    let outside = by_volume("vda", pooled.join("vda"));
    fails(
        &bed,
        "a",
        &outside,
        ErrorCode::Unsupported,
        &["pooled/vda", "pool-create-as"],
    );
    let _home = Pool::on(&bed, "home", &bed.dir);
    let _other = Pool::on(&bed, "other", &pooled);
    for (domain, target) in [("a", "vda"), ("b", "vdb")] {
        println!("{domain} {target}");
        moves(&bed, domain, &by_volume(target, pooled.join("it's <&>")));
        let options = MigrateOptions {
            delete_source: true,
            ..by_volume(target, bed.path(&format!("{domain}-{target}-volume")))
        };
        moves(&bed, domain, &options);
    }

    println!("refused");
    let existing = pooled.join("existing");
    fs::write(&existing, "somebody's").unwrap();
    fails(
        &bed,
        "a",
        &by_volume("vda", &existing),
        ErrorCode::Destination,
        &["existing"],
    );
    let options = MigrateOptions {
        verify: true,
        ..by_volume("vda", pooled.join("never"))
    };
    fails(&bed, "a", &options, ErrorCode::Unsupported, &["VERIFY"]);
    assert_eq!(fs::read(&existing).unwrap(), b"somebody's");
    fs::remove_file(existing).unwrap();

    println!("cancelled");
    let before = home(&bed, "a", "vda");
    let operation = bed
        .connection
        .migrate_disk("a", &by_volume("vda", pooled.join("never")))
        .unwrap();
    await_phase(&operation, Phase::Ready);
    operation.cancel().unwrap();
    before.must_be_as_before();
}

#[test]
fn a_remote_connection_clones_by_storage_volumes() {
    let bed = bed();
    let remote = remote::connect(&bed);
    let pooled = directory(&bed, "far");
    let move_to = |options: &MigrateOptions| {
        let operation = remote.migrate_disk("a", options)?;
        operation.finish(Some(PATIENCE))
    };
    let _home = Pool::on(&bed, "home", &bed.dir);
    let before = home(&bed, "a", "vda");
    println!("what takes this machine's files is refused, and so is a place that is no pool");
    let there = pooled.join("moved");
    for (options, parts) in [
        (copying("vda", &there), &["'vda'", "remote", "VOLUME"][..]),
        (mirroring("vda", &there, "qcow2"), &["'vda'", "remote", "VOLUME"]),
        (to("vda", &there), &["far/moved", "pool-create-as"]),
    ] {
        must_tell(&move_to(&options).unwrap_err(), ErrorCode::Unsupported, parts);
    }
    before.must_be_as_before();

    let _far = Pool::on(&bed, "far", &pooled);
    println!("cancelled");
    let operation = remote.migrate_disk("a", &to("vda", &there)).unwrap();
    await_phase(&operation, Phase::Ready);
    assert_eq!(remote.operations(Some("a")).unwrap().len(), 1);
    operation.cancel().unwrap();
    before.must_be_as_before();

    println!("there by AUTO, and back");
    let acknowledged = before.acknowledged();
    let options = MigrateOptions {
        delete_source: true,
        ..to("vda", &there)
    };
    assert_eq!(move_to(&options).unwrap().method, Method::Clone);
    before.must_have_moved(&options, &before.chain[1..], acknowledged);
    let before = home(&bed, "a", "vda");
    let back = MigrateOptions {
        delete_source: true,
        ..by_volume("vda", bed.path("back-from-far"))
    };
    move_to(&back).unwrap();
    before.must_have_moved(&back, &before.chain[1..], acknowledged);
}

/// A directory that only the daemon and QEMU see filled.
struct Hidden {
    /// As they call it.
    seen: PathBuf,
    /// Where its files are for us.
    real: PathBuf,
    processes: Vec<String>,
}

impl Hidden {
    fn of(bed: &Bed, domain: &str) -> Self {
        let hidden = Self {
            seen: directory(bed, "hidden"),
            real: directory(bed, "real"),
            processes: vec![
                fs::read_to_string(bed.value("DAEMON_PIDFILE")).unwrap().trim().into(),
                bed.qemu_pid(domain).to_string(),
            ],
        };
        for process in &hidden.processes {
            // In one namespace, unless the daemon was restarted since.
            let mounted = format!(
                "mountpoint -q '{}' || mount --bind '{}' '{0}'",
                shown(&hidden.seen),
                shown(&hidden.real)
            );
            run("nsenter", &["-t", process, "-m", "bash", "-c", &mounted]);
        }
        hidden
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        for process in &self.processes {
            let _ = std::process::Command::new("nsenter")
                .args(["-t", process, "-m", "umount", "-q", shown(&self.seen)])
                .status();
        }
    }
}

#[test]
fn a_daemon_whose_files_we_do_not_see() {
    if !is_root() {
        println!("skipped: to mount takes root");
        return;
    }
    let bed = bed();
    let hidden = Hidden::of(&bed, "a");
    let _home = Pool::on(&bed, "home", &bed.dir);
    let _hidden = Pool::on(&bed, "hidden", &hidden.seen);
    let before = home(&bed, "a", "vda");
    let acknowledged = before.acknowledged();
    let there = by_volume("vda", hidden.seen.join("there"));
    let back = MigrateOptions {
        delete_source: true,
        ..by_volume("vda", bed.path("visible"))
    };
    for (options, files) in [(&there, 1), (&back, 0)] {
        let operation = bed.connection.migrate_disk("a", options).unwrap();
        println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
        assert_eq!(home(&bed, "a", "vda").chain[0], options.destination);
        assert_eq!(fs::read_dir(&hidden.real).unwrap().count(), files);
        assert_eq!(fs::read_dir(&hidden.seen).unwrap().count(), 0);
    }
    // That source was another.
    let options = MigrateOptions {
        delete_source: false,
        ..back
    };
    before.must_have_moved(&options, &before.chain[1..], acknowledged);
    fs::remove_file(&before.chain[0]).unwrap();
}
