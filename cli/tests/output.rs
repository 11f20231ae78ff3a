// SPDX-License-Identifier: LGPL-2.1-or-later
//! Output that cannot be written changes nothing but the output.

mod bed;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use bed::Bed;
use serde_json::Value;

/// The exit status that the manual page gives for a result that could not be written.
const NOT_WRITTEN: i32 = 10;

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader has gone.
fn broken() -> Stdio {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A full pipe whose reader, which must be kept, does not read.
fn stuck() -> (OwnedFd, Stdio) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    (reader, writer.into())
}

fn must_be_done(bed: &Bed, image: &str, what: &str) {
    let records = Command::new(bed.get("RECORDS"))
        .args([image, "--format", "qcow2"])
        .stdout(Stdio::null())
        .status();
    assert!(records.unwrap().success(), "{what}");
    must_be_over(bed, what);
    std::fs::remove_file(image).unwrap();
}

fn must_be_over(bed: &Bed, what: &str) {
    assert_eq!(
        bed.json(0, &["status"])["operations"],
        Value::Array(Vec::new()),
        "{what}"
    );
    assert_eq!(bed.virsh(&["blockjob", "--raw", "a", "vda"]).trim(), "", "{what}");
}

#[test]
fn output_that_cannot_be_written_changes_nothing_else() {
    let bed = Bed::up("ldout", &["name=a,disks=qcow2:64M,agent=no"]);
    let image = bed.path("image.qcow2");
    let disk = format!("vda={image}");
    for words in [
        &[][..],
        &["-v"],
        &["-q", "--method", "clone"],
        &["-v", "--method", "backup", "--json"],
    ] {
        for (what, stderr) in [("full", full()), ("broken", broken())] {
            let mut command = bed.livedisk(&[&["snapshot", "a", "--disk", &disk], words].concat());
            let status = command.stderr(stderr).stdout(Stdio::null()).status().unwrap();
            let what = format!("{words:?} with standard error {what}");
            assert_eq!(status.code(), Some(0), "{what}");
            must_be_done(&bed, &image, &what);
        }
    }
    failure_keeps_its_status(&bed);
    nobody_reads_the_log(&bed, &image);
    result(&bed, &image);
}

fn failure_keeps_its_status(bed: &Bed) {
    let disk = format!("vdz={}", bed.path("never.qcow2"));
    for words in [
        &["snapshot", "a", "--disk", &disk][..],
        &["snapshot", "a", "--disk", &disk, "--json"],
    ] {
        let status = bed.livedisk(words).stderr(full()).stdout(full()).status().unwrap();
        assert_eq!(status.code(), Some(4), "{words:?}");
    }
}

/// The operation is over all the same, and only the command waits for its reader.
fn nobody_reads_the_log(bed: &Bed, image: &str) {
    let (reader, stderr) = stuck();
    let disk = format!("vda={image}");
    let mut command = bed.livedisk(&["-v", "snapshot", "a", "--disk", &disk, "--json"]);
    let mut child = command.stderr(stderr).stdout(Stdio::piped()).spawn().unwrap();
    let mut answer = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut answer).unwrap();
    assert!(answer.contains("point_in_time_ns"), "{answer}");
    must_be_over(bed, "nobody reads");
    assert!(child.try_wait().unwrap().is_none(), "the log is not written yet");
    let mut log = File::from(reader);
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    assert_eq!(child.wait().unwrap().code(), Some(0), "{answer}");
    must_be_done(bed, image, "nobody reads");
}

fn result(bed: &Bed, image: &str) {
    let disk = format!("vda={image}");
    for words in [
        &["snapshot", "a", "--disk", &disk][..],
        &["snapshot", "a", "--disk", &disk, "--json"],
    ] {
        for (what, stdout, expected) in [("full", full(), NOT_WRITTEN), ("broken", broken(), 0)] {
            let output = bed.livedisk(words).stdout(stdout).output().unwrap();
            let said = bed::text(&output.stderr);
            assert_eq!(output.status.code(), Some(expected), "{words:?}, {what}: {said}");
            assert_eq!(said.contains("cannot be written"), expected != 0, "{said}");
            must_be_done(bed, image, what);
        }
    }
    for words in [&["status"][..], &["--help"], &["man"]] {
        assert_eq!(
            bed.livedisk(words).stdout(full()).status().unwrap().code(),
            Some(NOT_WRITTEN)
        );
        assert_eq!(bed.livedisk(words).stdout(broken()).status().unwrap().code(), Some(0));
    }
}
