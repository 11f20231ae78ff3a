// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots by virDomainBlockRebase: what they hold, and that the domain's definition is as before. What becomes of it where
//! something dies meanwhile is in `cli/tests/faults`.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use livedisk::{Consistency, ErrorCode, EventLoop, Method, Quiesce, SnapshotDisk, SnapshotOptions};
use support::bed::{Bare, Bed, Turn, is_root};
use support::image::{LoopDevice, create, create_overlay, edge, info, must_equal};
use support::repeated::Repeated;
use support::{PATIENCE, await_copying, await_phase, disk, must_tell, scenario, snapshot};

const MIB: u64 = 1 << 20;

/// `a` with an agent and three disks, `b` transient, without an agent and with two.
fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &[
            "name=a,disks=qcow2-backed:64M+qcow2:64M+raw:64M,data=8M",
            "name=b,disks=qcow2:32M+raw:32M,data=4M,persistent=no,agent=no",
        ],
    )
}

/// What it saves lies elsewhere, and what a job writes to belongs to QEMU's user.
#[test]
fn as_an_ordinary_user() {
    let tests = [
        "a_new_image_is_flattened_after_the_thaw_unless_it_is_to_be_shallow",
        "it_can_be_cancelled",
    ];
    let guest = "name=a,disks=qcow2-backed:64M+qcow2:64M,data=8M";
    support::ordinary::run_tests(&tests, &[guest]);
}

fn rebase(disks: Vec<SnapshotDisk>) -> SnapshotOptions {
    SnapshotOptions {
        method: Method::Rebase,
        ..snapshot(disks)
    }
}

fn definition(bed: &Bed, domain: &str) -> String {
    bed.virsh(&["dumpxml", "--inactive", "--security-info", domain])
}

/// Nothing that was saved of this bed's domains is left.
fn nothing_is_saved(bed: &Bed) {
    let directory = if is_root() {
        "/var/lib/livedisk/definitions".into()
    } else {
        format!("{}/.local/state/livedisk/definitions", std::env::var("HOME").unwrap())
    };
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    for file in files {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        assert!(!text.contains(bed.path("").to_str().unwrap()), "{:?}", file.path());
    }
}

#[test]
fn every_format_at_one_point_in_time() {
    let bed = bed();
    scenario::every_format(&bed, Method::Rebase);
    nothing_is_saved(&bed);
}

#[test]
fn disks_that_are_not_frozen_have_one_point_in_time() {
    let bed = bed();
    scenario::one_point_unfrozen(&bed, "a", Quiesce::None, Method::Rebase);
    scenario::one_point_unfrozen(&bed, "b", Quiesce::Prefer, Method::Rebase);
}

#[test]
fn a_new_image_is_flattened_after_the_thaw_unless_it_is_to_be_shallow() {
    let bed = bed();
    let before = bed.watch("a");
    for (shallow, backing) in [(false, None), (true, Some(bed.of_guest("a", "BASE vda")))] {
        let options = SnapshotOptions {
            shallow,
            verify: true,
            ..rebase(vec![disk("vda", bed.path("out"), "qcow2")])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        let plan = operation.plan().join("\n");
        assert!(plan.contains("the active layer of disk 'vda'"), "{plan}");
        assert_eq!(plan.contains("qemu-img rebase"), !shallow, "{plan}");
        let report = operation.finish(Some(PATIENCE)).unwrap();
        assert_eq!(report.consistency, Consistency::Filesystem);
        edge(&bed, "a", "vda", &bed.path("out"), "qcow2").must_be_at(&report, Duration::ZERO);
        let found = info(&bed.path("out"), "qcow2");
        assert_eq!(found["backing-filename"].as_str(), backing);
        before.must_be_as_before(&["out"]);
    }
}

/// The mirror and what is copied after the thaw alike.
#[test]
fn the_bandwidth_limits_the_flattening_too() {
    let bed = bed();
    let before = bed.watch("a");
    let out = bed.path("out");
    // The active layer alone, which the mirror has copied.
    let active = fs::metadata(bed.of_guest("a", "IMAGE vda")).unwrap().blocks() * 512;
    let base = fs::metadata(bed.of_guest("a", "BASE vda")).unwrap().blocks() * 512;
    assert!(base > 4 * MIB, "{base}");
    let limit = 2 * MIB;
    let options = SnapshotOptions {
        bandwidth: limit,
        ..rebase(vec![disk("vda", &out, "qcow2")])
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    let after_thaw = report.point_in_time.elapsed().unwrap() - report.freeze;
    println!("{active} bytes, then {base} in {after_thaw:?}: {report:?}");
    // Some of it is hidden by the active layer.
    let copied = fs::metadata(&out).unwrap().blocks() * 512 - active.min(base);
    assert!(
        after_thaw > Duration::from_secs_f64(0.7 * copied as f64 / limit as f64),
        "{copied}"
    );
    edge(&bed, "a", "vda", &out, "qcow2").must_be_at(&report, Duration::ZERO);
    before.must_be_as_before(&["out"]);
}

#[test]
fn what_exists_is_taken_as_it_is() {
    let bed = bed();
    let bare = bed.bare("victim", &[Bare::BIG]);
    let before = bed.watch("victim");
    let reuse = |disk: SnapshotDisk| SnapshotDisk {
        reuse_existing: true,
        ..disk
    };
    let take = |options: SnapshotOptions| {
        let operation = bed.connection.start_live_snapshot("victim", &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
    };
    let size = fs::metadata(&bare.files[0]).unwrap().len().to_string();
    for format in ["qcow2", "raw"] {
        create(&bed.path("out"), format, &size);
        take(rebase(vec![reuse(disk("vda", bed.path("out"), format))]));
        must_equal(&bed.path("out"), format, &bare.files[0]);
        before.must_be_as_before(&["out"]);
    }
    if is_root() {
        let file = bed.path("loop");
        let device = LoopDevice::on(&file, &size);
        take(rebase(vec![disk("vda", &device.0, "raw")]));
        must_equal(Path::new(&device.0), "raw", &bare.files[0]);
        drop(device);
        before.must_be_as_before(&["loop"]);
    }
}

/// Byte for byte, with what libvirt hides and what somebody else noted; and so is what is not in it.
#[test]
fn the_definition_and_what_goes_with_it_come_back() {
    let bed = bed();
    let bare = bed.bare("victim", &[Bare::BIG]);
    bed.virsh(&["destroy", "victim"]);
    let (firmware, variables) = (bed.path("firmware"), bed.path("variables"));
    fs::copy("/usr/share/seabios/bios-256k.bin", &firmware).unwrap();
    fs::write(&variables, vec![0x5a; 64 << 10]).unwrap();
    let xml = definition(&bed, "victim");
    let boot = format!(
        "<loader readonly='yes' type='pflash'>{}</loader><nvram>{}</nvram></os>",
        firmware.display(),
        variables.display()
    );
    let graphics = "<graphics type='vnc' port='-1' autoport='yes' passwd='secret'/></devices>";
    let with = xml.replace("</os>", &boot).replace("</devices>", graphics).replace(
        "<memory",
        "<title>The title</title><metadata><x:x xmlns:x='urn:x' y=\"'\"><x:z/></x:x></metadata><memory",
    );
    fs::write(bed.path("new.xml"), with).unwrap();
    bed.virsh(&["define", bed.path("new.xml").to_str().unwrap()]);
    bed.virsh(&["start", "victim"]);
    bed.virsh(&["autostart", "victim"]);
    let before = definition(&bed, "victim");
    for part in ["passwd='secret'", "urn:x", "<nvram", "The title"] {
        assert!(before.contains(part), "{part}: {before}");
    }
    let options = rebase(vec![disk("vda", bed.path("out"), "qcow2")]);
    let operation = bed.connection.start_live_snapshot("victim", &options).unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    assert_eq!(definition(&bed, "victim"), before);
    let info = bed.virsh(&["dominfo", "victim"]);
    let says = |name: &str, value: &str| {
        let mut lines = info.lines();
        lines.any(|line| line.starts_with(name) && line.ends_with(value))
    };
    assert!(says("Persistent:", "yes") && says("Autostart:", "enable"), "{info}");
    assert_eq!(fs::read(&variables).unwrap(), vec![0x5a; 64 << 10]);
    // It starts with it.
    bed.virsh(&["destroy", "victim"]);
    bed.virsh(&["start", "victim"]);
    bed.virsh(&["destroy", "victim"]);
    bed.virsh(&["undefine", "--nvram", "victim"]);
    fs::write(bed.path("new.xml"), xml).unwrap();
    bed.virsh(&["define", bed.path("new.xml").to_str().unwrap()]);
    bed.virsh(&["start", "victim"]);
    for file in ["firmware", "new.xml", "out"] {
        fs::remove_file(bed.path(file)).unwrap();
    }
    nothing_is_saved(&bed);
    drop(bare);
}

/// Somebody else who defines the domain whenever it is not: another process, so that no order is guaranteed.
#[test]
fn a_domain_that_is_defined_again_and_again_is_refused_by_name() {
    let bed = bed();
    let bare = bed.bare("victim", &[Bare::BIG]);
    let theirs = bed.path("theirs.xml");
    fs::write(&theirs, definition(&bed, "victim")).unwrap();
    let before = bed.watch("victim");
    let defining = Repeated::start(&bed, &format!("define {}", theirs.display()), Duration::ZERO);
    let options = rebase(vec![disk("vda", bed.path("out"), "qcow2")]);
    let mut failures = Vec::new();
    for _ in 0..10 {
        let operation = bed.connection.start_live_snapshot("victim", &options).unwrap();
        match operation.finish(Some(PATIENCE)) {
            // It was quicker.
            Ok(_) => fs::remove_file(bed.path("out")).unwrap(),
            Err(error) => failures.push(error),
        }
    }
    drop(defining);
    assert!(!failures.is_empty());
    for error in &failures {
        must_tell(error, ErrorCode::Busy, &["'victim'", "another program"]);
    }
    before.must_be_as_before(&[]);
    nothing_is_saved(&bed);
    drop(bare);
    fs::remove_file(&theirs).unwrap();
}

#[test]
fn a_transient_domain_stays_as_it_is() {
    let bed = bed();
    let before = bed.watch("b");
    let options = rebase(vec![disk("vda", bed.path("out"), "qcow2")]);
    let operation = bed.connection.start_live_snapshot("b", &options).unwrap();
    let plan = operation.plan().join("\n");
    assert!(!plan.contains("undefine"), "{plan}");
    operation.finish(Some(PATIENCE)).unwrap();
    before.must_be_as_before(&["out"]);
}

#[test]
fn it_can_be_cancelled() {
    let bed = bed();
    let before = bed.watch("a");
    for ready in [false, true] {
        let options = SnapshotOptions {
            bandwidth: if ready { 0 } else { 2 * MIB },
            ..rebase(vec![
                disk("vda", bed.path("one"), "qcow2"),
                disk("vdb", bed.path("two"), "raw"),
            ])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        if ready {
            await_phase(&operation, livedisk::Phase::Ready);
        } else {
            await_copying(&operation);
        }
        operation.cancel().unwrap();
        before.must_be_as_before(&[]);
    }
    nothing_is_saved(&bed);
}

#[test]
fn a_full_file_system_fails_it() {
    scenario::file_system_full(&bed(), Method::Rebase);
}

#[test]
fn a_domain_that_goes_away_fails_it_and_stays_defined() {
    let bed = bed();
    for kill in [false, true] {
        scenario::domain_goes(&bed, Method::Rebase, kill);
    }
    nothing_is_saved(&bed);
}

#[test]
fn a_daemon_that_restarts_is_found_again() {
    let bed = bed();
    for kill in [false, true] {
        scenario::daemon_restarts(&bed, Method::Rebase, kill);
    }
}

/// libvirt forgets it with a domain that is not defined.
#[test]
fn what_could_be_lost_is_refused_by_name() {
    let bed = bed();
    let bare = bed.bare("victim", &[Bare::BIG]);
    let refused = |domain: &str, options: &SnapshotOptions, code, parts: &[&str]| {
        let error = bed.connection.start_live_snapshot(domain, options).unwrap_err();
        must_tell(&error, code, parts);
        nothing_is_saved(&bed);
    };
    let options = rebase(vec![disk("vda", bed.path("out"), "qcow2")]);
    let before = bed.watch("a");
    bed.virsh(&[
        "checkpoint-create-as",
        "a",
        "monday",
        "--diskspec",
        "vda",
        "--diskspec",
        "vdb",
        "--diskspec",
        "vdc,checkpoint=no",
    ]);
    refused(
        "a",
        &options,
        ErrorCode::Unsupported,
        &["'a'", "checkpoint 'monday'", "MIRROR"],
    );
    bed.virsh(&["checkpoint-delete", "a", "monday"]);
    let overlay = bed.path("overlay");
    create_overlay(&overlay, &bare.files[0], "raw");
    let spec = format!("vda,file={}", overlay.display());
    bed.virsh(&[
        "snapshot-create-as",
        "victim",
        "tuesday",
        "--disk-only",
        "--reuse-external",
        "--diskspec",
        &spec,
    ]);
    refused(
        "victim",
        &options,
        ErrorCode::Unsupported,
        &["'victim'", "snapshot 'tuesday'"],
    );
    bed.virsh(&["snapshot-delete", "--metadata", "victim", "tuesday"]);
    bed.virsh(&["blockcommit", "victim", "vda", "--active", "--pivot", "--wait"]);
    fs::remove_file(&overlay).unwrap();

    let nbd = rebase(vec![disk("vda", "nbd://localhost/out", "raw")]);
    let error = bed.connection.start_live_snapshot("a", &nbd).unwrap_err();
    assert!(
        matches!(error.code(), ErrorCode::Unsupported | ErrorCode::Destination),
        "{error}"
    );
    let blocking = SnapshotOptions {
        write_blocking: true,
        ..options.clone()
    };
    refused(
        "a",
        &blocking,
        ErrorCode::InvalidArgument,
        &["virDomainBlockRebase", "MIRROR"],
    );

    let with_tpm = definition(&bed, "victim").replace(
        "</devices>",
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>",
    );
    fs::write(bed.path("tpm.xml"), with_tpm).unwrap();
    match bed.try_virsh(&["define", bed.path("tpm.xml").to_str().unwrap()]) {
        Ok(_) => refused("victim", &options, ErrorCode::Unsupported, &["TPM", "MIRROR"]),
        Err(error) => println!("skipped, libvirt takes no emulated TPM: {error}"),
    }
    fs::remove_file(bed.path("tpm.xml")).unwrap();
    before.must_be_as_before(&[]);
}

#[test]
fn auto_never_takes_it() {
    let bed = bed();
    for shallow in [false, true] {
        let options = SnapshotOptions {
            shallow,
            dry_run: true,
            ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        assert_ne!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Rebase);
    }
}
