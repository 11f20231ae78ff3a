// SPDX-License-Identifier: LGPL-2.1-or-later
//! The command on a real bed of its own.

mod bed;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use signal_hook::consts::{SIGCONT, SIGINT, SIGSTOP};

use bed::{Bed, kill, signal, text, until};

/// One bed for all: they take seconds to come up.
#[test]
fn the_command_on_a_real_guest() {
    let bed = Bed::up(
        "ldcli",
        &["name=a,disks=qcow2-backed:64M+raw:32M", "name=b,agent=no,data=1M"],
    );
    plan_changes_nothing(&bed);
    snapshot_in_a_pipe(&bed);
    snapshot_as_json(&bed);
    unidentified(&bed);
    status_busy_and_interrupt(&bed);
    second_interrupt_and_recover(&bed);
    migrate(&bed);
    failures(&bed);
}

/// Another file under the backing file's name, where QEMU's open files, or all of QEMU, are not to be seen.
fn unidentified(bed: &Bed) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: without root QEMU's open files are ours");
        return;
    }
    let (base, aside) = (bed.get("BASE_1_VDA"), bed.path("aside"));
    std::fs::rename(base, &aside).unwrap();
    std::fs::copy(&aside, base).unwrap();
    let image = bed.path("unidentified.qcow2");
    let disk = format!("vda={image}");
    let words = [
        "--json",
        "snapshot",
        "a",
        "--disk",
        &disk,
        "--shallow",
        "--method",
        "mirror",
    ];
    let run = |launcher: &[&str]| {
        let livedisk = bed.livedisk(&words);
        let mut command = Command::new(launcher[0]);
        command
            .args(&launcher[1..])
            .arg(livedisk.get_program())
            .args(livedisk.get_args());
        for (name, value) in livedisk.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let output = command.output().unwrap();
        println!("{launcher:?}: {}{}", text(&output.stdout), text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let answer = run(&["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        answer["error"]["code"] == "UNSUPPORTED" && message.contains("another file") && message.contains(base),
        "{message}"
    );
    let answer = run(&["unshare", "--pid", "--fork", "--mount-proc"]);
    assert_eq!(
        answer["warnings"],
        serde_json::json!(["unidentified_image"]),
        "{answer}"
    );
    std::fs::remove_file(&image).unwrap();
    std::fs::rename(&aside, base).unwrap();
    let answer = bed.json(0, &words[1..]);
    assert_eq!(answer["warnings"], serde_json::json!([]), "{answer}");
    std::fs::remove_file(image).unwrap();
}

fn plan_changes_nothing(bed: &Bed) {
    let disk = format!("vda={}", bed.path("plan.qcow2"));
    let output = bed.run(&["snapshot", "a", "--disk", &disk, "--dry-run"]);
    assert!(output.status.success());
    let plan = text(&output.stdout);
    assert!(plan.contains("virDomainBlockCopy") && plan.contains("freeze"), "{plan}");
    let answer = bed.json(0, &["snapshot", "a", "--disk", &disk, "--dry-run"]);
    assert_eq!(answer["method"], "mirror");
    assert!(answer["plan"].as_array().unwrap().len() > 3);
    assert!(!Path::new(&bed.path("plan.qcow2")).exists());
}

fn snapshot_in_a_pipe(bed: &Bed) {
    // A relative name is the caller's working directory's.
    let output = bed
        .livedisk(&[
            "snapshot",
            "a",
            "--disk",
            "vda=pipe.qcow2",
            "--quiesce",
            "require",
            "--verify",
        ])
        .current_dir(&bed.dir)
        .output()
        .unwrap();
    let (result, progress) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{progress}");
    assert!(progress.lines().any(|line| line.starts_with("copying")), "{progress}");
    assert!(progress.lines().any(|line| line == "done"), "{progress}");
    assert!(
        result.contains("filesystem") && result.contains(&bed.path("pipe.qcow2")),
        "{result}"
    );
    let records = Command::new(bed.get("RECORDS"))
        .args([&bed.path("pipe.qcow2"), "--format", "qcow2"])
        .output();
    let records = text(&records.unwrap().stdout);
    assert!(records.contains("fs_clean=true"), "{records}");
}

fn snapshot_as_json(bed: &Bed) {
    let disks = [
        format!("vda={}", bed.path("a.raw")),
        format!("vdb={}", bed.path("b.qcow2")),
    ];
    let answer = bed.json(
        0,
        &[
            "snapshot", "a", "--disk", &disks[0], "--disk", &disks[1], "--format", "vda=raw", "--format", "qcow2",
        ],
    );
    for field in ["point_in_time_ns", "freeze_ns", "bytes_copied", "elapsed_ns"] {
        assert!(answer[field].as_u64().unwrap() > 0, "{field} in {answer}");
    }
    assert_eq!(answer["disks"][1]["destination"], bed.path("b.qcow2").as_str());
    for (image, format) in [("a.raw", "raw"), ("b.qcow2", "qcow2")] {
        let records = Command::new(bed.get("RECORDS"))
            .args([&bed.path(image), "--format", format])
            .stdout(Stdio::null())
            .status();
        assert!(records.unwrap().success(), "{image}");
    }
    // Without an agent it says what that means.
    let disk = format!("vda={}", bed.path("crash.qcow2"));
    let output = bed.run(&["snapshot", "b", "--disk", &disk, "--quiet"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        text(&output.stderr)
    );
    assert!(text(&output.stdout).contains("warning"), "{}", text(&output.stdout));
}

fn status_busy_and_interrupt(bed: &Bed) {
    assert_eq!(text(&bed.run(&["status"]).stdout), "no operations\n");
    let image = bed.path("interrupted.qcow2");
    let mut child = slow_snapshot(bed, &image);
    let table = text(&bed.run(&["status"]).stdout);
    assert!(table.contains(&image) && table.contains("mirror"), "{table}");
    let second = format!("vda={}", bed.path("second.qcow2"));
    bed.fails(5, "BUSY", &["snapshot", "a", "--disk", &second]);

    signal(&child, SIGINT);
    let said: Vec<String> = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said:?}");
    assert!(said.iter().any(|line| line.contains("cancelling")), "{said:?}");
    must_be_clean(bed, &image);
}

/// Takes a slow snapshot of vda of a to `image`, in a process group of its own, as in a terminal.
fn slow_snapshot(bed: &Bed, image: &str) -> Child {
    let disk = format!("vda={image}");
    let child = bed
        .livedisk(&["snapshot", "a", "--disk", &disk, "--bandwidth", "1M"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    until("copied a bit", || {
        let status = bed.json(0, &["status", "a"]);
        status["operations"][0]["disks"][0]["bytes_done"]
            .as_u64()
            .is_some_and(|done| done > 0)
    });
    child
}

/// libvirtd hangs, so that the rollback of the first signal does not end; the second one does not wait for it.
fn second_interrupt_and_recover(bed: &Bed) {
    let image = bed.path("left.qcow2");
    let mut child = slow_snapshot(bed, &image);
    let daemon = std::fs::read_to_string(bed.get("DAEMON_PIDFILE")).unwrap();
    let daemon = daemon.trim().parse().unwrap();
    kill(daemon, SIGSTOP);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    signal(&child, SIGINT);
    assert!(said.any(|line| line.contains("cancelling")));
    signal(&child, SIGINT);
    let rest: Vec<String> = said.collect();
    let status = child.wait().unwrap();
    kill(daemon, SIGCONT);
    assert_eq!(status.code(), Some(130), "{rest:?}");
    assert!(
        rest.iter()
            .any(|line| line.contains("nothing was rolled back") && line.contains("livedisk recover")),
        "{rest:?}"
    );

    let disk = format!("vda={}", bed.path("second.qcow2"));
    bed.fails(5, "BUSY", &snapshot("a", &disk));
    let operation = &bed.json(0, &["status", "a"])["operations"][0];
    assert_eq!(
        (&operation["orphaned"], &operation["owner_process"]),
        (&Value::Bool(true), &child.id().into())
    );
    let plan = text(&bed.run(&["recover", "a", "--dry-run"]).stdout);
    assert!(plan.contains("would be rolled back"), "{plan}");
    assert!(Path::new(&image).exists());
    let answer = bed.json(0, &["recover"]);
    for (count, expected) in [("domains", 1), ("taken_back", 1), ("completed", 0), ("failed", 0)] {
        assert_eq!(answer[count], expected, "{answer}");
    }
    assert_eq!(answer["operations"][0]["settlement"], "taken_back");
    assert_eq!(text(&bed.run(&["recover"]).stdout), "nothing to recover\n");
    must_be_clean(bed, &image);
}

/// Nothing of the operation is left, and the guest writes.
fn must_be_clean(bed: &Bed, image: &str) {
    assert!(!Path::new(image).exists());
    assert_eq!(bed.virsh(&["blockjob", "--raw", "a", "vda"]).trim(), "");
    assert_eq!(bed.json(0, &["status"])["operations"], Value::Array(Vec::new()));
    let before = bed.records_written();
    until("the guest writes on", || bed.records_written() > before);
}

fn migrate(bed: &Bed) {
    let source = bed.get("IMAGE_1_VDA");
    let moved = bed.path("moved.qcow2");
    let answer = bed.json(0, &["migrate", "a", "vda", &moved, "--dry-run"]);
    assert_eq!(answer["method"], "clone");
    assert!(answer["plan"].as_array().unwrap().len() > 10, "{answer}");
    assert!(!Path::new(&moved).exists());
    bed.fails(6, "DESTINATION", &["migrate", "a", "vda", source]);
    bed.fails(4, "NO_DISK", &["migrate", "a", "vdz", &moved]);
    let other = bed.path("moved.raw");
    bed.fails(
        8,
        "UNSUPPORTED",
        &["migrate", "a", "vda", &other, "--method", "clone", "--format", "raw"],
    );

    let lives_on = |target: &str, image: &str| {
        let list = bed.virsh(&["domblklist", "a", "--inactive"]) + &bed.virsh(&["domblklist", "a"]);
        let lines: Vec<_> = list
            .lines()
            .filter(|line| line.trim_start().starts_with(target))
            .collect();
        assert!(
            lines.len() == 2 && lines.iter().all(|line| line.ends_with(image)),
            "{list}"
        );
        let before = bed.records_written();
        until("the guest writes on", || bed.records_written() > before);
    };
    // A relative name is the caller's working directory's.
    let output = bed
        .livedisk(&[
            "migrate",
            "a",
            "vda",
            "moved.qcow2",
            "--clone",
            "copy",
            "--verify",
            "--delete-source",
        ])
        .current_dir(&bed.dir)
        .output()
        .unwrap();
    let (result, progress) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{progress}");
    assert!(progress.lines().any(|line| line == "done"), "{progress}");
    assert!(result.contains("moved") && result.contains(&moved), "{result}");
    lives_on("vda", &moved);
    assert!(!Path::new(source).exists());

    let answer = bed.json(
        0,
        &["migrate", "a", "vdb", &other, "--method", "mirror", "--write-blocking"],
    );
    assert_eq!(answer["method"], "mirror");
    for field in ["moved_at_ns", "bytes_copied", "elapsed_ns"] {
        assert!(answer[field].as_u64().unwrap() > 0, "{field} in {answer}");
    }
    lives_on("vdb", &other);

    // SIGINT takes a slow one back.
    let never = bed.path("never.raw");
    let child = bed
        .livedisk(&["migrate", "a", "vdb", &never, "--bandwidth", "500K", "--quiet"])
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = child.unwrap();
    until("the clone grows", || Path::new(&never).exists());
    signal(&child, SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!Path::new(&never).exists());
    lives_on("vdb", &other);
}

fn snapshot<'a>(domain: &'a str, disk: &'a str) -> [&'a str; 4] {
    ["snapshot", domain, "--disk", disk]
}

fn failures(bed: &Bed) {
    let free = format!("vda={}", bed.path("free.qcow2"));
    let usage = bed.run(&["snapshot", "a", "--disk", &free, "--bandwidth", "12parsecs"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(text(&usage.stderr).contains("12parsecs"));
    bed.fails(
        2,
        "INVALID_ARGUMENT",
        &[&snapshot("a", &free)[..], &["--format", "vdb=raw"]].concat(),
    );
    bed.fails(
        3,
        "NO_CONNECTION",
        &["-c", "qemu+unix:///system?socket=/nonexistent", "status"],
    );
    bed.fails(4, "NO_DOMAIN", &snapshot("nobody", &free));
    bed.fails(4, "NO_DISK", &snapshot("a", &free.replace("vda", "vdz")));
    bed.fails(
        6,
        "DESTINATION",
        &snapshot("a", &format!("vda={}", bed.path("pipe.qcow2"))),
    );
    bed.fails(
        7,
        "AGENT",
        &[&snapshot("b", &free)[..], &["--quiesce", "require"]].concat(),
    );
    bed.fails(
        8,
        "UNSUPPORTED",
        &[&snapshot("a", &free)[..], &["--method", "clone", "--clone", "volume"]].concat(),
    );
    bed.virsh(&["destroy", "b"]);
    let off = bed.run(&snapshot("b", &free));
    assert_eq!(off.status.code(), Some(4));
    let said = text(&off.stderr);
    assert!(said.starts_with("livedisk: ") && said.lines().count() == 1, "{said}");
    assert!(!Path::new(&bed.path("free.qcow2")).exists());
}
