// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whoever reads a backup hangs. QEMU would wait for it, with the whole guest, if the backup were ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use livedisk::{Connection, ErrorCode, EventLoop, SnapshotOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::bed::{Bed, Server, run};
use crate::support::{PATIENCE, await_copying, disk, must_tell, until};
use crate::{MIB, backup, bed, reader, readers};

/// By then it waits for what it has written.
const WRITING: Duration = Duration::from_secs(1);

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn state(pid: i32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// One of its threads waits in the kernel, where no signal reaches it.
fn hangs(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut states = threads.filter_map(|thread| state(thread.file_name().to_str()?.parse().ok()?));
    states.any(|state| state == 'D')
}

fn limited(destination: &Path) -> SnapshotOptions {
    SnapshotOptions {
        bandwidth: 2 * MIB,
        ..backup(vec![disk("vdb", destination, "raw")])
    }
}

#[test]
fn a_reader_that_stands_still() {
    let bed = bed();
    let before = bed.watch("a");
    for round in 0..4 {
        let options = SnapshotOptions {
            // With and without answers on their way.
            bandwidth: if round % 2 == 0 { 2 * MIB } else { 16 * MIB },
            ..limited(&bed.path("out"))
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        await_copying(&operation);
        let reader = reader(&bed, "a");
        signal(reader, Signal::STOP);
        until("it stands still", || state(reader) == Some('T'));
        // The guest does not know of it.
        bed.must_write("a");
        operation.cancel().unwrap();
        until("it is gone", || state(reader).is_none());
        before.must_be_as_before(&[]);
    }
}

#[test]
fn somebody_ends_the_backup() {
    let bed = bed();
    let before = bed.watch("a");
    let operation = bed
        .connection
        .start_live_snapshot("a", &limited(&bed.path("out")))
        .unwrap();
    await_copying(&operation);
    bed.virsh(&["domjobabort", "a"]);
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    println!("{error}");
    must_tell(&error, ErrorCode::JobFailed, &["'a'", "copy again"]);
    before.must_be_as_before(&[]);
}

/// A file in FUSE whose writes take as long as it lives: who writes to it cannot be killed.
struct Tar {
    directory: PathBuf,
    servers: Vec<Server>,
}

impl Tar {
    fn mount(bed: &Bed) -> Option<Self> {
        if Command::new("nbdfuse").arg("--version").output().is_err() {
            return None;
        }
        let directory = bed.path("tar");
        fs::create_dir(&directory).unwrap();
        let tar = |name: &str| directory.join(name);
        let size = "size=64M";
        let server = Server::nbdkit(&tar("s"), &["--filter=delay", "memory", size, "delay-write=600"]);
        fs::write(tar("file"), "").unwrap();
        let uri = format!("nbd+unix:///?socket={}", tar("s").display());
        let (fuse, file) = (tar("file"), tar("file"));
        let mount = Server::start("nbdfuse", &[fuse.to_str().unwrap(), &uri]);
        until("the file is there", || {
            fs::metadata(&file).is_ok_and(|metadata| metadata.len() == 64 * MIB)
        });
        Some(Self {
            directory,
            servers: vec![mount, server],
        })
    }

    fn file(&self) -> PathBuf {
        self.directory.join("file")
    }

    /// Whoever hangs in it is free.
    fn melt(&mut self) {
        self.servers.clear();
        let _ = Command::new("umount")
            .args(["-l", self.file().to_str().unwrap()])
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Tar {
    fn drop(&mut self) {
        self.melt();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn into_tar(tar: &Tar) -> SnapshotOptions {
    let mut disk = disk("vdb", tar.file(), "raw");
    disk.reuse_existing = true;
    backup(vec![disk])
}

#[test]
fn a_destination_that_hangs_in_the_kernel() {
    let bed = bed();
    let before = bed.watch("a");
    let Some(mut tar) = Tar::mount(&bed) else {
        println!("skipped: there is no nbdfuse");
        return;
    };
    let operation = bed.connection.start_live_snapshot("a", &into_tar(&tar)).unwrap();
    std::thread::sleep(WRITING);
    let reader = reader(&bed, "a");
    bed.must_write("a");
    operation.cancel().unwrap();
    // SIGKILL does not reach it, and the backup is over.
    assert!(hangs(reader));
    assert!(bed.virsh(&["domjobinfo", "a"]).contains("None"));
    bed.must_write("a");
    tar.melt();
    until("it is gone", || state(reader).is_none());
    drop(tar);
    before.must_be_as_before(&[]);
}

/// The process that is killed: this very program, run with the test `agent` alone.
struct Agent(Child);

impl Agent {
    fn start(bed: &Bed, destination: &Path, reuse: bool) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["hanging::agent", "--exact", "--ignored", "--nocapture"])
            .env("AGENT_URI", &bed.uri)
            .env("AGENT_DESTINATION", destination)
            .env("AGENT_REUSE", reuse.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with("begun")));
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what `Agent` runs.
#[test]
#[ignore = "run by the tests of this file"]
fn agent() {
    let value = |name: &str| std::env::var(format!("AGENT_{name}")).unwrap();
    let connection = Connection::open(Some(&value("URI")), EventLoop::Own).unwrap();
    let mut options = limited(Path::new(&value("DESTINATION")));
    if value("REUSE") == "true" {
        options.disks[0].reuse_existing = true;
        options.bandwidth = 0;
    }
    let operation = connection.start_live_snapshot("a", &options).unwrap();
    println!("\nbegun");
    println!("{:?}", operation.finish(None));
}

#[test]
fn a_process_that_is_killed_while_its_reader_hangs() {
    let bed = bed();
    let before = bed.watch("a");
    let Some(mut tar) = Tar::mount(&bed) else {
        println!("skipped: there is no nbdfuse");
        return;
    };
    let agent = Agent::start(&bed, &tar.file(), true);
    std::thread::sleep(WRITING);
    let reader = reader(&bed, "a");
    drop(agent);
    until("not even its process's death ends it", || hangs(reader));
    let recovery = bed.connection.recover(Some("a"), false).unwrap();
    assert_eq!(recovery.taken_back(), 1, "{recovery:?}");
    assert!(bed.virsh(&["domjobinfo", "a"]).contains("None"));
    bed.must_write("a");
    tar.melt();
    until("it is gone", || state(reader).is_none());
    drop(tar);
    before.must_be_as_before(&[]);
}

#[test]
fn a_process_that_stands_still() {
    let bed = bed();
    let before = bed.watch("a");
    let agent = Agent::start(&bed, &bed.path("out"), false);
    std::thread::sleep(WRITING);
    let reader = reader(&bed, "a");
    signal(agent.pid(), Signal::STOP);
    bed.must_write("a");
    // Its own, for it lives.
    let recovery = bed.connection.recover(Some("a"), false).unwrap();
    assert_eq!((recovery.taken_back(), recovery.failed()), (0, 0), "{recovery:?}");
    signal(reader, Signal::STOP);
    std::thread::sleep(Duration::from_millis(200));
    drop(agent);
    until("its reader went with it", || state(reader).is_none());
    bed.must_write("a");
    let known = bed.connection.operations(Some("a")).unwrap();
    assert!(readers(&known[0].id).is_empty());
    let operation = bed.connection.attach("a", "vdb").unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    println!("{report:?}");
    let out = bed.path("out");
    crate::support::image::edge(&bed, "a", "vdb", &out, "raw").must_be_at(&report, Duration::ZERO);
    run("qemu-img", &["info", "-f", "raw", out.to_str().unwrap()]);
    before.must_be_as_before(&["out"]);
}
