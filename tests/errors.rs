// SPDX-License-Identifier: LGPL-2.1-or-later
//! What goes wrong on a real guest: the right error that names what it is about, and nothing left behind.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use livedisk::{Connection, Consistency, ErrorCode, EventLoop, Method, Phase, Quiesce, SnapshotDisk, SnapshotOptions};
use support::bed::{Bare, Bed, Turn, is_root, run};
use support::image::{create, must_equal};
use support::scenario::{self, METHODS};
use support::sealed::Sealed;
use support::{PATIENCE, await_phase, disk, must_tell, snapshot};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2-backed:64M+qcow2:64M,data=16M"])
}

/// It must be refused with that code, and the message must name each of `parts`.
fn refused(bed: &Bed, domain: &str, options: &SnapshotOptions, code: ErrorCode, parts: &[&str]) {
    let error = bed.connection.start_live_snapshot(domain, options).unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
}

/// It must fail at the start or later.
fn fails(bed: &Bed, domain: &str, options: &SnapshotOptions, code: ErrorCode, parts: &[&str]) {
    let started = bed.connection.start_live_snapshot(domain, options);
    let error = started
        .and_then(|operation| operation.finish(Some(PATIENCE)))
        .unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
}

fn one(destination: impl AsRef<Path>) -> SnapshotOptions {
    snapshot(vec![disk("vda", destination, "raw")])
}

fn with(method: Method, options: &SnapshotOptions) -> SnapshotOptions {
    SnapshotOptions {
        method,
        ..options.clone()
    }
}

#[test]
fn unknown_uri_domain_and_disk() {
    let bed = bed();
    let error = Connection::open(Some("qemu+unix:///system?socket=/no/such/socket"), EventLoop::Own)
        .err()
        .unwrap();
    must_tell(&error, ErrorCode::NoConnection, &["/no/such/socket"]);
    let error = Connection::open(Some("nonsense://"), EventLoop::Own).err().unwrap();
    must_tell(&error, ErrorCode::NoConnection, &["nonsense"]);
    let before = bed.watch("a");
    refused(
        &bed,
        "nobody",
        &one(bed.path("out")),
        ErrorCode::NoDomain,
        &["'nobody'"],
    );
    let options = snapshot(vec![disk("vdz", bed.path("out"), "raw")]);
    refused(&bed, "a", &options, ErrorCode::NoDisk, &["'a'", "'vdz'"]);
    let error = bed.connection.operations(Some("nobody")).unwrap_err();
    must_tell(&error, ErrorCode::NoDomain, &["'nobody'"]);
    before.must_be_as_before(&[]);
}

#[test]
fn domain_that_does_not_run() {
    let bed = bed();
    let bare = bed.bare("idle", &[Bare::RAW]);
    for method in METHODS {
        let options = with(method, &one(bed.path("out")));
        bed.virsh(&["suspend", "idle"]);
        let before = bed.watch("idle");
        refused(&bed, "idle", &options, ErrorCode::DomainState, &["'idle'", "paused"]);
        before.must_be_as_before(&[]);
        bed.virsh(&["destroy", "idle"]);
        let inactive = bed.virsh(&["dumpxml", "idle"]);
        refused(
            &bed,
            "idle",
            &options,
            ErrorCode::DomainState,
            &["'idle'", "not running"],
        );
        assert_eq!(bed.virsh(&["dumpxml", "idle"]), inactive);
        bed.virsh(&["start", "idle"]);
    }
    drop(bare);
}

#[test]
fn domain_destroyed_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::domain_goes(&bed, method, false));
}

#[test]
fn qemu_killed_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::domain_goes(&bed, method, true));
}

#[test]
fn libvirtd_restarted_in_mid_copy() {
    let bed = bed();
    for kill in [false, true] {
        METHODS
            .into_iter()
            .for_each(|method| scenario::daemon_restarts(&bed, method, kill));
    }
}

#[test]
fn another_job_is_in_the_way() {
    let bed = bed();
    let bare = bed.bare("busy", &[Bare::SLOW, Bare::RAW]);
    let before = bed.watch("busy");
    let mine = bed.path("mine");
    let shown = mine.to_str().unwrap();
    let options = one(bed.path("out"));

    println!("a block job of somebody else");
    let copy = [
        "blockcopy",
        "busy",
        "vda",
        shown,
        "--transient-job",
        "--bytes",
        "1000000",
    ];
    bed.virsh(&copy);
    for method in METHODS {
        refused(
            &bed,
            "busy",
            &with(method, &options),
            ErrorCode::Busy,
            &["'busy'", "'vda'", "block job"],
        );
    }
    bed.virsh(&["blockjob", "busy", "vda", "--abort"]);
    fs::remove_file(&mine).unwrap();
    before.must_be_as_before(&[]);

    println!("a backup of somebody else");
    let xml = bed.path("backup.xml");
    let text = format!(
        "<domainbackup mode='pull'><server transport='tcp' name='127.0.0.1' port='10830'/>\
         <disks><disk name='vda' backup='yes' type='file'><scratch file='{shown}'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>"
    );
    fs::write(&xml, text).unwrap();
    bed.virsh(&["backup-begin", "busy", xml.to_str().unwrap()]);
    for method in METHODS {
        refused(
            &bed,
            "busy",
            &with(method, &options),
            ErrorCode::Busy,
            &["'busy'", "backup"],
        );
    }
    bed.virsh(&["domjobabort", "busy"]);
    fs::remove_file(&xml).unwrap();
    support::until("the backup is gone", || !mine.exists());
    before.must_be_as_before(&[]);

    println!("an operation of livedisk");
    for (first, second) in [(Method::Mirror, Method::Backup), (Method::Backup, Method::Mirror)] {
        let limited = SnapshotOptions {
            bandwidth: 1 << 20,
            ..with(first, &one(bed.path("first")))
        };
        let operation = bed.connection.start_live_snapshot("busy", &limited).unwrap();
        support::await_copying(&operation);
        let process = std::process::id().to_string();
        refused(
            &bed,
            "busy",
            &with(second, &options),
            ErrorCode::Busy,
            &["'busy'", "livedisk", &process],
        );
        operation.cancel().unwrap();
        before.must_be_as_before(&[]);
    }
    drop(bare);
}

#[test]
fn no_agent() {
    let bed = bed();
    let bare = bed.bare("mute", &[Bare::RAW]);
    let before = bed.watch("mute");
    for method in METHODS {
        let mut options = with(method, &one(bed.path("out")));
        options.quiesce = Quiesce::Require;
        refused(&bed, "mute", &options, ErrorCode::Agent, &["'mute'", "channel"]);
        before.must_be_as_before(&[]);
        options.quiesce = Quiesce::Prefer;
        let operation = bed.connection.start_live_snapshot("mute", &options).unwrap();
        assert_eq!(
            operation.finish(Some(PATIENCE)).unwrap().consistency,
            Consistency::Crash
        );
        before.must_be_as_before(&["out"]);
    }
    drop(bare);
}

#[test]
fn agent_that_hangs_from_the_start() {
    let bed = bed();
    let before = bed.watch("a");
    bed.ctl("a", &["agent", "stop"]);
    let mut options = one(bed.path("out"));
    options.quiesce = Quiesce::Require;
    refused(&bed, "a", &options, ErrorCode::Agent, &["'a'"]);
    options.quiesce = Quiesce::Prefer;
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    assert_eq!(
        (report.consistency, report.freeze),
        (Consistency::Crash, Duration::ZERO)
    );
    bed.ctl("a", &["agent", "cont"]);
    before.must_be_as_before(&["out"]);
}

#[test]
fn agent_that_hangs_in_the_window() {
    let bed = bed();
    scenario::agent_hangs_in_the_window(&bed, Quiesce::Require);
    scenario::agent_hangs_in_the_window(&bed, Quiesce::Prefer);
}

#[test]
fn frozen_by_somebody_else() {
    let bed = bed();
    let before = bed.watch("a");
    bed.virsh(&["domfsfreeze", "a"]);
    refused(&bed, "a", &one(bed.path("out")), ErrorCode::Busy, &["'a'", "frozen"]);
    assert_eq!(before.fsfreeze_status(), "frozen", "their freeze is theirs");
    bed.virsh(&["domfsthaw", "a"]);
    before.must_be_as_before(&[]);
}

#[test]
fn what_stands_at_the_destination() {
    let bed = bed();
    let before = bed.watch("a");
    let stands = bed.path("stands");
    let elsewhere = bed.path("elsewhere");
    let source = Path::new(bed.of_guest("a", "IMAGE vda"));
    let backing = Path::new(bed.of_guest("a", "BASE vda"));
    let other = Path::new(bed.of_guest("a", "IMAGE vdb"));
    type Make<'a> = &'a dyn Fn();
    let cases: [(&str, Make, bool); 8] = [
        ("exists", &|| fs::write(&stands, "dear").unwrap(), false),
        ("is a directory", &|| fs::create_dir(&stands).unwrap(), true),
        (
            "symbolic link",
            &|| {
                fs::write(&elsewhere, "dear").unwrap();
                std::os::unix::fs::symlink(&elsewhere, &stands).unwrap();
            },
            true,
        ),
        (
            "symbolic link",
            &|| std::os::unix::fs::symlink("/no/such/file", &stands).unwrap(),
            true,
        ),
        ("FIFO", &|| drop(run("mkfifo", &[stands.to_str().unwrap()])), true),
        ("this very guest", &|| fs::hard_link(source, &stands).unwrap(), true),
        ("this very guest", &|| fs::hard_link(backing, &stands).unwrap(), true),
        ("this very guest", &|| fs::hard_link(other, &stands).unwrap(), true),
    ];
    for (why, make, also_reused) in cases {
        make();
        for (method, reuse_existing) in [(Method::Mirror, false), (Method::Mirror, true), (Method::Backup, true)] {
            if reuse_existing && !also_reused {
                continue;
            }
            let mut options = with(method, &one(&stands));
            options.disks[0].reuse_existing = reuse_existing;
            refused(&bed, "a", &options, ErrorCode::Destination, &["/stands'", why]);
        }
        let kind = fs::symlink_metadata(&stands).unwrap().file_type();
        if why == "exists" {
            assert_eq!(fs::read(&stands).unwrap(), b"dear");
        }
        if kind.is_dir() {
            fs::remove_dir(&stands).unwrap();
        } else {
            fs::remove_file(&stands).unwrap();
        }
        let _ = fs::remove_file(&elsewhere);
    }
    for image in [source, backing, other] {
        for reuse_existing in [false, true] {
            let mut options = one(image);
            options.disks[0].reuse_existing = reuse_existing;
            refused(&bed, "a", &options, ErrorCode::Destination, &["this very guest"]);
        }
    }
    before.must_be_as_before(&[]);
}

#[test]
fn names_that_are_none() {
    let bed = bed();
    let before = bed.watch("a");
    let in_bed = |name: &str| bed.path(name).to_str().unwrap().to_owned();
    for (destination, code, part) in [
        (in_bed(&"x".repeat(4096)), ErrorCode::Destination, "xxx"),
        (in_bed(&"x".repeat(256)), ErrorCode::Destination, "xxx"),
        (
            in_bed("no such directory/out"),
            ErrorCode::Destination,
            "no such directory",
        ),
        (in_bed("bell\u{7}"), ErrorCode::InvalidArgument, "control character"),
        (
            in_bed("escape\u{1b}[2J"),
            ErrorCode::InvalidArgument,
            "control character",
        ),
        (in_bed("slash/"), ErrorCode::InvalidArgument, "slash"),
        ("relative".into(), ErrorCode::InvalidArgument, "absolute"),
        (String::new(), ErrorCode::InvalidArgument, "empty"),
        ("/dev/null".into(), ErrorCode::Destination, "/dev/null"),
    ] {
        let mut options = one("");
        options.disks[0].destination = destination;
        for method in METHODS {
            fails(&bed, "a", &with(method, &options), code, &[part]);
        }
    }
    before.must_be_as_before(&[]);
}

#[test]
fn lists_of_disks_that_make_no_sense() {
    let bed = bed();
    let before = bed.watch("a");
    refused(
        &bed,
        "a",
        &snapshot(Vec::new()),
        ErrorCode::InvalidArgument,
        &["no disk"],
    );
    let twice = snapshot(vec![
        disk("vda", bed.path("one"), "raw"),
        disk("vda", bed.path("two"), "raw"),
    ]);
    refused(&bed, "a", &twice, ErrorCode::InvalidArgument, &["'vda'", "twice"]);
    let out = bed.path("out");
    let same = snapshot(vec![disk("vda", &out, "raw"), disk("vdb", &out, "raw")]);
    refused(
        &bed,
        "a",
        &same,
        ErrorCode::InvalidArgument,
        &["'vda'", "'vdb'", "/out'"],
    );
    // The same file by another name is the same file.
    let detour = bed.dir.join("../").join(bed.dir.file_name().unwrap()).join("out");
    let same = snapshot(vec![disk("vda", &out, "raw"), disk("vdb", &detour, "raw")]);
    fails(&bed, "a", &same, ErrorCode::Destination, &["/out'"]);
    let mut odd = one(&out);
    odd.disks[0].format = Some("vmdk".into());
    refused(&bed, "a", &odd, ErrorCode::Unsupported, &["'vda'", "vmdk"]);
    before.must_be_as_before(&[]);
}

#[test]
fn file_system_full_in_mid_copy() {
    let bed = bed();
    METHODS
        .into_iter()
        .for_each(|method| scenario::file_system_full(&bed, method));
}

#[test]
fn image_of_another_size_or_kind() {
    let bed = bed();
    let before = bed.watch("a");
    let image = bed.path("mine");
    let base = bed.path("base");
    create(&base, "qcow2", "64M");
    let reused = |method, format: &str| {
        let mut options = with(method, &snapshot(vec![disk("vda", &image, format)]));
        options.disks[0].reuse_existing = true;
        options
    };
    for method in METHODS {
        for format in ["qcow2", "raw"] {
            for size in ["63M", "65M"] {
                create(&image, format, size);
                fails(
                    &bed,
                    "a",
                    &reused(method, format),
                    ErrorCode::Destination,
                    &["/mine'", "size"],
                );
            }
        }
        create(&image, "raw", "64M");
        fails(&bed, "a", &reused(method, "qcow2"), ErrorCode::Destination, &["/mine'"]);
        let (name, backing) = (image.to_str().unwrap(), base.to_str().unwrap());
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, name],
        );
        fails(
            &bed,
            "a",
            &reused(method, "qcow2"),
            ErrorCode::Destination,
            &["/mine'", "backing file"],
        );
        fs::remove_file(&image).unwrap();
        fails(
            &bed,
            "a",
            &reused(method, "qcow2"),
            ErrorCode::Destination,
            &["/mine'", "no image"],
        );
    }
    fs::remove_file(base).unwrap();
    before.must_be_as_before(&[]);
}

#[test]
fn directory_that_qemu_may_not_enter() {
    if !is_root() {
        println!("skipped: QEMU runs as another user only where root starts it");
        return;
    }
    let bed = bed();
    let closed = bed.path("closed");
    fs::create_dir(&closed).unwrap();
    run("chmod", &["700", closed.to_str().unwrap()]);
    let before = bed.watch("a");
    for method in METHODS {
        for format in ["qcow2", "raw"] {
            let options = with(method, &snapshot(vec![disk("vda", closed.join("out"), format)]));
            fails(&bed, "a", &options, ErrorCode::Permission, &["'a'"]);
            assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
        }
    }
    before.must_be_as_before(&[]);
    fs::remove_dir(closed).unwrap();
}

/// Each kind of disk as a disk of a domain of its own.
#[test]
fn odd_disks() {
    let bed = bed();
    for (what, extra, code) in [
        ("read-only", "<readonly/>", None),
        ("shareable", "<shareable/>", Some(ErrorCode::Unsupported)),
        ("transient", "<transient/>", Some(ErrorCode::Unsupported)),
    ] {
        let bare = bed.bare("odd", &[Bare { extra, ..Bare::RAW }]);
        let before = bed.watch("odd");
        for method in METHODS {
            println!("{what} {method:?}");
            let mut options = with(method, &one(bed.path("out")));
            options.disks[0].format = Some("qcow2".into());
            match code {
                Some(code) => {
                    refused(&bed, "odd", &options, code, &["'odd'", "'vda'", what]);
                    before.must_be_as_before(&[]);
                }
                None => {
                    let operation = bed.connection.start_live_snapshot("odd", &options).unwrap();
                    operation.finish(Some(PATIENCE)).unwrap();
                    must_equal(&bed.path("out"), "qcow2", &bare.files[0]);
                    before.must_be_as_before(&["out"]);
                }
            }
            let empty = with(method, &snapshot(vec![disk("sda", bed.path("out"), "raw")]));
            refused(&bed, "odd", &empty, ErrorCode::NoDisk, &["'odd'", "'sda'", "empty"]);
        }
        drop(bare);
        // libvirt's overlay of a transient disk.
        for entry in fs::read_dir(&bed.dir).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().contains(".TRANSIENT") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn encrypted_disk() {
    let bed = bed();
    let sealed = Sealed::start(&bed);
    let before = bed.watch(Sealed::NAME);
    for method in METHODS {
        for format in ["raw", "qcow2"] {
            let mut options = with(method, &snapshot(vec![disk("vda", bed.path("out"), format)]));
            refused(
                &bed,
                Sealed::NAME,
                &options,
                ErrorCode::Unsupported,
                &["'vda'", "encrypted", "ALLOW_PLAINTEXT"],
            );
            options.disks[0].allow_plaintext = true;
            let operation = bed.connection.start_live_snapshot(Sealed::NAME, &options).unwrap();
            operation.finish(Some(PATIENCE)).unwrap();
            must_equal(&bed.path("out"), format, &sealed.plain);
            before.must_be_as_before(&["out"]);
        }
    }
}

#[test]
fn what_is_not_supported_says_so() {
    let bed = bed();
    let before = bed.watch("a");
    let options = one(bed.path("out"));
    let rebase = with(Method::Rebase, &options);
    refused(&bed, "a", &rebase, ErrorCode::Unsupported, &["not supported"]);
    for (checkpoint, since) in [(Some("now".to_owned()), None), (None, Some("then".to_owned()))] {
        let options = SnapshotOptions {
            checkpoint,
            since,
            ..options.clone()
        };
        refused(&bed, "a", &options, ErrorCode::Unsupported, &["not supported"]);
    }
    let backup = with(Method::Backup, &options);
    let mut resting = backup.clone();
    resting.disks[0].backing = Some("/backup/full.qcow2".into());
    let compressed = SnapshotOptions {
        compress: true,
        ..options.clone()
    };
    let patient = SnapshotOptions {
        full_if_needed: true,
        ..backup.clone()
    };
    let scratched = SnapshotOptions {
        scratch: Some("/tmp".into()),
        ..backup.clone()
    };
    for (options, named) in [
        (&compressed, "COMPRESS"),
        (&patient, "FULL_IF_NEEDED"),
        (&scratched, "scratch"),
        (&resting, "backing of disk 'vda'"),
    ] {
        refused(&bed, "a", options, ErrorCode::Unsupported, &["not supported", named]);
    }
    let newline = with(Method::Backup, &one(bed.path("new\nline")));
    refused(&bed, "a", &newline, ErrorCode::Unsupported, &["'vda'", "newline"]);
    before.must_be_as_before(&[]);
}

/// The mirror of a READY operation is ended by somebody else.
#[test]
fn a_job_that_vanished_is_no_success() {
    let bed = bed();
    let bare = bed.bare("robbed", &[Bare::RAW]);
    let before = bed.watch("robbed");
    let operation = bed
        .connection
        .start_live_snapshot("robbed", &one(bed.path("out")))
        .unwrap();
    await_phase(&operation, Phase::Ready);
    bed.virsh(&["blockjob", "robbed", "vda", "--abort"]);
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    println!("{error}");
    must_tell(&error, ErrorCode::JobFailed, &["'robbed'", "'vda'"]);
    before.must_be_as_before(&[]);
    drop(bare);
}

#[test]
fn a_finish_in_a_hurry() {
    let bed = bed();
    let bare = bed.bare("slow", &[Bare::SLOW]);
    let before = bed.watch("slow");
    let options = SnapshotOptions {
        method: Method::Backup,
        bandwidth: 64 << 20,
        ..one(bed.path("out"))
    };
    let operation = bed.connection.start_live_snapshot("slow", &options).unwrap();
    let error = operation.finish(Some(Duration::from_millis(100))).unwrap_err();
    must_tell(&error, ErrorCode::Timeout, &["finish again"]);
    operation.finish(Some(PATIENCE)).unwrap();
    before.must_be_as_before(&["out"]);
    drop(bare);
}

/// Another guest's disk.
#[test]
fn reuse_of_a_busy_image_is_refused_by_its_lock() {
    let bed = bed();
    let (one_guest, another) = (bed.bare("holder", &[Bare::RAW]), bed.bare("taker", &[Bare::RAW]));
    let before = bed.watch("taker");
    let options = snapshot(vec![SnapshotDisk {
        reuse_existing: true,
        ..disk("vda", &one_guest.files[0], "raw")
    }]);
    let held = fs::read(&one_guest.files[0]).unwrap();
    for method in METHODS {
        let started = bed.connection.start_live_snapshot("taker", &with(method, &options));
        let error = started
            .and_then(|operation| operation.finish(Some(PATIENCE)))
            .unwrap_err();
        println!("{error}");
        assert!(
            error.message().contains("holder-vda.img") || error.message().contains("'taker'"),
            "{error}"
        );
        assert!(
            fs::read(&one_guest.files[0]).unwrap() == held,
            "another guest's disk was written to"
        );
        before.must_be_as_before(&[]);
    }
    drop((one_guest, another));
}
