// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the command reports, in words and as JSON, and why it fails.

mod bed;

use std::path::Path;
use std::process::Stdio;

use bed::{Bed, kill, text, until};
use serde_json::Value;
use signal_hook::consts::{SIGCONT, SIGKILL, SIGSTOP};

#[test]
fn reports_are_the_same_whichever_command_ends_the_operation() {
    let bed = Bed::up("ldrep", &["name=a,disks=qcow2:64M+raw:32M,agent=no"]);
    failures_are_objects(&bed);
    all_disks(&bed);
    steps(&bed);
    snapshot_attached(&bed);
    migration_attached(&bed);
    migration(&bed);
    cancel(&bed);
    completion(&bed);
    checkpoints(&bed);
}

/// What bash offers after these words, the last of which is begun.
fn offered(bed: &Bed, words: &str) -> String {
    let directory = Path::new(env!("CARGO_BIN_EXE_livedisk")).parent().unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let script = format!(
        "source <(livedisk completion bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9
         function=$(complete -p livedisk | sed 's/.*-F \\([^ ]*\\).*/\\1/')
         $function livedisk \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[*]}}\""
    );
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-c", &script]).env("PATH", path);
    let output = bash.env("LIBVIRT_DEFAULT_URI", bed.get("URI")).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    // Beside them it offers options.
    let offered = text(&output.stdout);
    let offered: Vec<&str> = offered
        .split_whitespace()
        .filter(|word| !word.starts_with("--"))
        .collect();
    offered.join(" ")
}

fn completion(bed: &Bed) {
    for (words, offer) in [
        ("livedisk canc", "cancel".to_owned()),
        ("livedisk recover ''", "a".to_owned()),
        ("livedisk cancel a ''", "vda vdb".to_owned()),
        ("livedisk snapshot a --disk vd", "vda= vdb=".to_owned()),
        (
            &format!("livedisk -c {} migrate a vdb", bed.get("URI")),
            "vdb".to_owned(),
        ),
        (
            "livedisk -c qemu+unix:///system?socket=/no/such migrate a vd",
            String::new(),
        ),
    ] {
        assert_eq!(offered(bed, words), offer, "{words}");
    }
}

fn failures_are_objects(bed: &Bed) {
    let disk = format!("vda={}", bed.path("never.qcow2"));
    let snapshot = ["snapshot", "a", "--disk", &disk];
    for wrong in [
        &["snapshot", "a"][..],
        &["nonsense"],
        &[],
        &[&snapshot[..], &["--bandwidth", "12parsecs"]].concat(),
    ] {
        bed.fails(2, "INVALID_ARGUMENT", wrong);
    }
    bed.fails(9, "NO_OPERATION", &["attach", "a", "vda"]);
    let answer = bed.json(8, &[&snapshot[..], &["--method", "backup", "--shallow"]].concat());
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("--shallow and --method backup") && message.contains("use --method mirror"),
        "{message}"
    );
    assert!(!Path::new(&bed.path("never.qcow2")).exists());
}

/// A point in time is there in three ways, all the same.
fn check_time(answer: &Value, name: &str) {
    let number = answer[format!("{name}_ns")].as_u64().unwrap();
    assert!(number > 0, "{answer}");
    assert_eq!(answer[format!("{name}_ns_string")], number.to_string(), "{answer}");
    let written: jiff::Timestamp = answer[name].as_str().unwrap().parse().unwrap();
    assert_eq!(written.as_nanosecond(), i128::from(number), "{answer}");
}

fn all_disks(bed: &Bed) {
    let directory = bed.path("all");
    std::fs::create_dir(&directory).unwrap();
    let answer = bed.json(
        0,
        &[
            "snapshot",
            "a",
            "--to",
            &directory,
            "--bandwidth",
            "1.5GB",
            "--freeze-limit",
            "1m",
        ],
    );
    check_time(&answer, "point_in_time");
    for (index, (target, format)) in [("vda", "qcow2"), ("vdb", "raw")].into_iter().enumerate() {
        let image = format!("{directory}/{target}.{format}");
        assert_eq!(answer["disks"][index]["destination"], image.as_str(), "{answer}");
        assert!(Path::new(&image).exists());
    }
    // What is there stays.
    bed.fails(6, "DESTINATION", &["snapshot", "a", "--to", &directory]);
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::create_dir(&directory).unwrap();
    let words = ["snapshot", "a", "--to", "all", "--format", "vdb=qcow2", "--quiet"];
    let output = bed.livedisk(&words).current_dir(&bed.dir).output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.contains(&format!("{directory}/vdb.qcow2")), "{said}");
    let point = said.lines().find_map(|line| line.strip_prefix("as of")).unwrap();
    let point: jiff::Timestamp = point.trim().parse().unwrap();
    assert!(point <= jiff::Timestamp::now());
    bed.fails(
        2,
        "INVALID_ARGUMENT",
        &["snapshot", "a", "--to", &directory, "--format", "vdz=raw"],
    );
    bed.fails(
        2,
        "INVALID_ARGUMENT",
        &["snapshot", "a", "--to", &directory, "--disk", "vda=/x"],
    );
}

fn steps(bed: &Bed) {
    let disk = format!("vda={}", bed.path("steps.qcow2"));
    let output = bed.run(&["-v", "snapshot", "a", "--disk", &disk]);
    let said = text(&output.stderr);
    let count = bed.json(
        0,
        &["snapshot", "a", "--disk", &disk.replace("steps", "plan"), "--dry-run"],
    );
    let count = count["plan"].as_array().unwrap().len();
    for number in 1..=count {
        assert!(said.contains(&format!("step {number} of {count}: ")), "{said}");
    }
    assert!(!said.contains("DEBUG") && !said.contains("Report {"), "{said}");
    std::fs::remove_file(bed.path("steps.qcow2")).unwrap();
    let said = text(&bed.run(&["-vv", "snapshot", "a", "--disk", &disk]).stderr);
    assert!(said.contains("DEBUG livedisk::operation"), "{said}");
}

/// Starts it and kills its process when something is copied.
fn abandon(bed: &Bed, words: &[&str]) {
    let mut command = bed.livedisk(words);
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    until("copied a bit", || {
        let status = bed.json(0, &["status", "a"]);
        let done = status["operations"][0]["disks"][0]["bytes_done"].as_u64();
        done.is_some_and(|done| done > 0)
    });
    kill(child.id(), SIGKILL);
    child.wait().unwrap();
    check_time(&bed.json(0, &["status", "a"])["operations"][0], "started");
}

fn snapshot_attached(bed: &Bed) {
    for json in [true, false] {
        let image = bed.path(if json { "json.qcow2" } else { "words.qcow2" });
        let disk = format!("vda={image}");
        abandon(
            bed,
            &[
                "snapshot",
                "a",
                "--disk",
                &disk,
                "--method",
                "mirror",
                "--bandwidth",
                "2M",
            ],
        );
        if json {
            let answer = bed.json(0, &["attach", "a", "vda"]);
            check_time(&answer, "point_in_time");
            assert_eq!(answer["disks"][0]["destination"], image.as_str(), "{answer}");
            assert_eq!(answer["remarks"], serde_json::json!([]), "{answer}");
            assert_eq!(
                (&answer["target"], &answer["kind"]),
                (&"vda".into(), &"snapshot".into())
            );
        } else {
            let said = text(&bed.run(&["attach", "a", "vda"]).stdout);
            for words in [
                "snapshot of domain 'a' done",
                "method       mirror",
                "as of        20",
                &image,
                "warning: the guest was not frozen",
            ] {
                assert!(said.contains(words), "{said}");
            }
        }
    }
}

fn migration_attached(bed: &Bed) {
    let source = bed.get("IMAGE_1_VDB");
    let moved = bed.path("attached.raw");
    abandon(
        bed,
        &["migrate", "a", "vdb", &moved, "--method", "mirror", "--bandwidth", "2M"],
    );
    let answer = bed.json(0, &["attach", "a", "vdb"]);
    check_time(&answer, "moved_at");
    check_time(&answer, "point_in_time");
    assert_eq!(
        (&answer["kind"], &answer["old_image"]),
        (&"migration".into(), &source.into())
    );
    assert_eq!(answer["old_image_removed"], false);
    assert_eq!(answer["remarks"], serde_json::json!([]), "{answer}");
}

fn migration(bed: &Bed) {
    let source = bed.path("attached.raw");
    let moved = bed.path("moved.raw");
    let said = text(&bed.run(&["migrate", "a", "vdb", &moved]).stdout);
    assert!(
        said.contains(&format!("old image    {source} (left in place, unused)")),
        "{said}"
    );
    let again = bed.path("again.raw");
    let answer = bed.json(0, &["migrate", "a", "vdb", &again, "--delete-source"]);
    check_time(&answer, "moved_at");
    assert_eq!(
        (&answer["old_image"], &answer["old_image_removed"]),
        (&moved.as_str().into(), &true.into())
    );
    assert!(!Path::new(&moved).exists() && Path::new(&source).exists());
}

fn cancel(bed: &Bed) {
    bed.fails(9, "NO_OPERATION", &["cancel", "a"]);
    let image = bed.path("cancelled.qcow2");
    let disk = format!("vda={image}");
    let words = [
        "snapshot",
        "a",
        "--disk",
        &disk,
        "--method",
        "mirror",
        "--bandwidth",
        "1M",
    ];
    let mut command = bed.livedisk(&words);
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    until("it runs", || Path::new(&image).exists());
    // One that does not answer keeps its operation.
    kill(child.id(), SIGSTOP);
    let answer = bed.json(1, &["cancel", "a", "vda", "--timeout", "2s"]);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        answer["error"]["code"] == "TIMEOUT" && message.contains(&format!("kill {}", child.id())),
        "{message}"
    );
    assert!(!bed.virsh(&["dumpxml", "a"]).contains("urn:livedisk:cancel"));
    kill(child.id(), SIGCONT);
    // One that answers rolls back.
    let answer = bed.json(0, &["cancel", "a", "vda"]);
    assert_eq!(answer["cancelled"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!Path::new(&image).exists());
    assert!(!bed.virsh(&["dumpxml", "a"]).contains("urn:livedisk"));
    assert!(!bed.virsh(&["dumpxml", "--inactive", "a"]).contains("urn:livedisk"));

    // One that is dead is rolled back by this one.
    let mut child = command.spawn().unwrap();
    until("it runs again", || Path::new(&image).exists());
    kill(child.id(), SIGKILL);
    child.wait().unwrap();
    bed.fails(9, "NO_OPERATION", &["cancel", "a", "vdb"]);
    let answer = bed.json(0, &["cancel", "a", "vda"]);
    assert_eq!(answer["cancelled"].as_array().unwrap().len(), 1, "{answer}");
    assert!(!Path::new(&image).exists());
    assert_eq!(bed.virsh(&["blockjob", "--raw", "a", "vda"]).trim(), "");
    bed.fails(9, "NO_OPERATION", &["cancel", "a"]);
}

fn checkpoints(bed: &Bed) {
    assert_eq!(bed.json(0, &["checkpoints", "a"])["checkpoints"], serde_json::json!([]));
    let xml = bed.path("checkpoint.xml");
    for name in ["sunday", "monday"] {
        let disks = "<disk name='vda'/><disk name='vdb' checkpoint='no'/>";
        let text = format!("<domaincheckpoint><name>{name}</name><disks>{disks}</disks></domaincheckpoint>");
        std::fs::write(&xml, text).unwrap();
        bed.virsh(&["checkpoint-create", "a", &xml]);
    }
    let answer = bed.json(0, &["checkpoints", "a"]);
    assert_eq!(answer["domain"], "a", "{answer}");
    let list = answer["checkpoints"].as_array().unwrap();
    let named: Vec<_> = list
        .iter()
        .map(|found| (found["name"].as_str(), found["parent"].as_str()))
        .collect();
    assert_eq!(
        named,
        [(Some("sunday"), None), (Some("monday"), Some("sunday"))],
        "{answer}"
    );
    for found in list {
        check_time(found, "created");
        assert_eq!(
            (&found["usable"], &found["why_not"]),
            (&Value::Bool(true), &Value::Null),
            "{answer}"
        );
        assert_eq!(found["disks"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(found["disks"][0]["target"], "vda", "{answer}");
        assert_eq!(found["disks"][0]["changed_bytes"], found["changed_bytes"], "{answer}");
        assert!(found["changed_bytes"].is_u64(), "{answer}");
    }
    let said = text(&bed.livedisk(&["checkpoints", "a"]).output().unwrap().stdout);
    assert!(
        said.starts_with("NAME") && said.lines().count() == 3 && said.contains("yes"),
        "{said}"
    );
    bed.fails(1, "NO_CHECKPOINT", &["checkpoints", "a", "--delete", "tuesday"]);
    for name in ["sunday", "monday"] {
        let answer = bed.json(0, &["checkpoints", "a", "--delete", name]);
        assert_eq!(
            (&answer["domain"], &answer["deleted"]),
            (&"a".into(), &name.into()),
            "{answer}"
        );
    }
    let said = text(&bed.livedisk(&["checkpoints", "a"]).output().unwrap().stdout);
    assert_eq!(said.trim(), "no checkpoints");
}
