// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the cells happen on: a bed with one guest, and storage that can be made to fail.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::removexattr;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Result;
use super::agent::signal;
use super::bed::{Bed, until};
use super::check::Picture;
use super::log::Log;
use super::monitor;

pub const DOMAIN: &str = "a";
pub const DISKS: [&str; 2] = ["vda", "vdb"];
const GUEST: &str = "name=a,disks=qcow2-backed:32M+raw:32M,data=6M";
/// As large as the guest's disks.
const DISK_SIZE: u64 = 32 << 20;

/// Where the images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The bed's directory.
    Bed,
    /// A file system of its own with just enough room.
    Small,
    /// An NBD export that can be made to fail or to hang.
    Export,
    /// The same export as a block device: FUSE makes it a file, and a loop device lies on that.
    Device,
    /// The bed's directory, and scratch files on the file system that has just enough room.
    Scratch,
    /// The bed's directory, and vda lies on the export, as FUSE's file.
    FromExport,
}

pub struct Stand {
    pub bed: Bed,
    storage: Storage,
    counter: u32,
}

impl Stand {
    pub fn up(user: Option<&'static str>) -> Self {
        // What cargo builds for this test does not include it.
        let guard = Path::new(env!("CARGO_BIN_EXE_livedisk")).with_file_name("livedisk-guard");
        assert!(
            guard.exists(),
            "no guard: cargo build --package livedisk --bin livedisk-guard"
        );
        // Mounted before the daemon starts, which sees no later mounts where the host's are private.
        let storage = Storage::make();
        Self {
            bed: Bed::up_for(user, "ldfaults", &[GUEST]),
            storage,
            counter: 0,
        }
    }

    /// A number for names that nobody had.
    pub fn number(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// What a destination of this name is to the command.
    pub fn destination(&self, place: Place, name: &str) -> String {
        match place {
            Place::Bed | Place::Scratch | Place::FromExport => self.bed.path(name),
            Place::Small => shown(&self.storage.small().join(name)),
            Place::Export => format!("nbd+unix:///?socket={}", shown(&self.storage.socket())),
            Place::Device => self.storage.device.clone(),
        }
    }

    /// The directory of a backup's scratch files, where it is not that of the images.
    pub fn scratch(&self, place: Place) -> Option<String> {
        (place == Place::Scratch).then(|| shown(&self.storage.small()))
    }

    /// The directories in which nothing may be left.
    pub fn directories(&self) -> Vec<PathBuf> {
        vec![self.bed.dir.clone(), self.storage.dir.clone(), self.storage.small()]
    }

    pub fn virsh(&self, words: &[&str]) -> Result<String> {
        self.bed.try_virsh(words)
    }

    pub fn control(&self, words: &[&str]) -> Result<()> {
        let words = [&[DOMAIN], words].concat();
        let output = self
            .bed
            .script("ctl", &words)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!(
                "ctl {words:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ))
        }
    }

    /// Sent, and not waited for.
    pub fn control_later(&self, words: &[&str]) -> Result<Child> {
        let words = [&[DOMAIN], words].concat();
        let mut command = self.bed.script("ctl", &words);
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        spawned.map_err(|error| error.to_string())
    }

    pub fn log(&self) -> Log {
        Log::at_end(Path::new(self.bed.get("WRITER_1")))
    }

    pub fn domain_state(&self) -> Result<String> {
        Ok(self.virsh(&["domstate", DOMAIN])?.trim().to_owned())
    }

    pub fn await_off(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.domain_state()? != "shut off" {
            if Instant::now() > deadline {
                return Err(format!("the guest is not off within {limit:?}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn qemu(&self) -> Result<u32> {
        let path = self.bed.get("PIDFILE_1");
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        text.trim().parse().map_err(|error| format!("{path}: {error}"))
    }

    pub fn restart_daemon(&self) -> Result<()> {
        let status = self.bed.script("restart-daemon", &["--kill"]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("libvirtd is not back: {other:?}")),
        }
    }

    /// A command that libvirt passes on to QEMU.
    pub fn qmp(&self, command: &Value) -> Result<Value> {
        let answer = self.virsh(&["qemu-monitor-command", DOMAIN, &command.to_string()])?;
        let mut answer: Value = serde_json::from_str(&answer).map_err(|error| format!("QMP: {error}"))?;
        match answer["error"]["desc"].as_str() {
            Some(reason) => Err(format!("{command}: {reason}")),
            None => Ok(answer["return"].take()),
        }
    }

    /// A libvirtd that dies while it tidies up after a block job cannot read what it wrote of the domain ("unknown mirror job
    /// type ''"): to it the domain is off, and QEMU runs. Nothing but ending that QEMU helps.
    pub fn end_if_lost(&self) -> Result<bool> {
        let qemu = self.qemu()?;
        let runs = Path::new(&format!("/proc/{qemu}/exe")).exists();
        if !runs || self.domain_state()? != "shut off" {
            return Ok(false);
        }
        // Nobody notices at once.
        thread::sleep(Duration::from_secs(2));
        signal(qemu, Signal::KILL);
        while Path::new(&format!("/proc/{qemu}/exe")).exists() {
            thread::sleep(Duration::from_millis(5));
        }
        // libvirt would keep what it remembers of the files' owners until the host is started again.
        let entries = self.directories().into_iter().filter_map(|dir| fs::read_dir(dir).ok());
        for entry in entries.flatten().flatten() {
            for name in ["dac", "ref_dac", "timestamp_dac"] {
                let _ = removexattr(entry.path(), format!("trusted.libvirt.security.{name}"));
            }
        }
        Ok(true)
    }

    /// What is left when libvirtd dies between asking QEMU to pivot and recording that it did.
    pub fn pivot_unseen(&self) -> Result<()> {
        let jobs = self.qmp(&json!({ "execute": "query-jobs" }))?;
        let jobs = jobs.as_array().into_iter().flatten();
        let mut copies = jobs.filter(|job| job["type"] == "mirror");
        let copy = copies.next().ok_or("there is no copy to pivot")?;
        self.qmp(&json!({ "execute": "job-complete", "arguments": { "id": copy["id"] } }))?;
        until("libvirt takes the copy for aborted", || {
            let job = self.virsh(&["blockjob", "--raw", DOMAIN, "vda"]);
            job.is_ok_and(|job| job.trim().is_empty())
                && !self
                    .virsh(&["dumpxml", DOMAIN])
                    .is_ok_and(|xml| xml.contains("<mirror"))
        });
        self.restart_daemon()
    }

    /// What is left when libvirtd dies between asking QEMU to take the snapshot and recording that it did.
    pub fn snapshot_unseen(&self) -> Result<()> {
        let blocks = self.qmp(&json!({ "execute": "query-block" }))?;
        let blocks = blocks.as_array().ok_or("QEMU names no disk")?;
        let mut actions = Vec::new();
        for overlay in self.overlays()? {
            let info = command("qemu-img", &["info", "--output=json", &overlay])?;
            let info: Value = serde_json::from_str(&info).map_err(|error| error.to_string())?;
            let base = &info["backing-filename"];
            let mut disks = blocks.iter().map(|block| &block["inserted"]);
            let disk = disks.find(|disk| &disk["file"] == base);
            let root = &disk.ok_or_else(|| format!("QEMU has no disk on {base}"))?["node-name"];
            // As libvirt does it.
            let owner = fs::metadata(base.as_str().unwrap_or_default()).map_err(|error| format!("{base}: {error}"))?;
            chown(&overlay, Some(owner.uid()), Some(owner.gid())).map_err(|error| format!("{overlay}: {error}"))?;
            let number = 900 + actions.len();
            let (storage, format) = (format!("libvirt-{number}-storage"), format!("libvirt-{number}-format"));
            self.qmp(&json!({ "execute": "blockdev-add", "arguments":
                { "node-name": storage, "driver": "file", "filename": overlay } }))?;
            self.qmp(&json!({ "execute": "blockdev-add", "arguments":
                { "node-name": format, "driver": "qcow2", "file": storage, "backing": null } }))?;
            actions.push(json!({ "type": "blockdev-snapshot", "data": { "node": root, "overlay": format } }));
        }
        if actions.is_empty() {
            return Err("there is no overlay".into());
        }
        self.qmp(&json!({ "execute": "transaction", "arguments": { "actions": actions } }))?;
        self.restart_daemon()
    }

    /// What livedisk made beside the guest's images.
    fn overlays(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.bed.dir).map_err(|error| error.to_string())?;
        let names = entries.flatten().map(|entry| shown(&entry.path()));
        Ok(names
            .filter(|name| name.contains("/.livedisk-") && name.ends_with(".qcow2"))
            .collect())
    }

    /// What is left when libvirtd dies between asking QEMU to pivot after an active commit and noting that it did.
    pub fn commit_unseen(&self) -> Result<()> {
        monitor::end_unseen(
            Path::new(self.bed.get("DAEMON_PIDFILE")),
            DOMAIN,
            "commit",
            "job-complete",
        )?;
        self.restart_daemon()
    }

    /// Starts the guest, or waits for one that boots, until it writes and its agent answers.
    pub fn await_guest(&self, log: &Log, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let ping = [
            "qemu-agent-command",
            "--timeout",
            "5",
            DOMAIN,
            r#"{"execute":"guest-ping"}"#,
        ];
        while self.virsh(&ping).is_err() {
            // libvirt may learn late that QEMU was killed, or stopped the guest.
            match self.domain_state()?.as_str() {
                "shut off" => drop(self.virsh(&["start", DOMAIN])?),
                // By itself it may go on just now.
                "paused" => drop(self.virsh(&["resume", DOMAIN])),
                _ => {}
            }
            if Instant::now() > deadline {
                return Err(format!("the guest's agent does not answer within {limit:?}"));
            }
            thread::sleep(Duration::from_millis(100));
        }
        log.await_writing(deadline.saturating_duration_since(Instant::now()))
    }

    pub fn fill(&self) -> Result<()> {
        // The room that is left, however much somebody else takes meanwhile.
        let zeros = vec![0; 1 << 20];
        let path = self.storage.small().join("fill");
        let mut file = fs::File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        Ok(())
    }

    pub fn make_room(&self) -> Result<()> {
        let path = self.storage.small().join("fill");
        fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Writes to the export fail from now on, or no longer.
    pub fn fail_writes(&self, fail: bool) -> Result<()> {
        trigger(&self.storage.dir.join("fail-writes"), fail)
    }

    pub fn fail_reads(&self, fail: bool) -> Result<()> {
        trigger(&self.storage.dir.join("fail-reads"), fail)
    }

    /// The guest starts again with vda on the export.
    pub fn lend_export(&self, before: &Picture) -> Result<()> {
        self.virsh(&["destroy", DOMAIN])?;
        let (from, to) = (before.source.as_str(), shown(&self.export()));
        // Without -n it would be another file than the one that is served.
        command(
            "qemu-img",
            &["convert", "-n", "-f", &before.format, "-O", "raw", from, &to],
        )?;
        self.start_as(&before.on_raw(&shown(&self.storage.fuse())))
    }

    /// The guest starts again with this definition.
    pub fn start_as(&self, definition: &str) -> Result<()> {
        if self.domain_state()? != "shut off" {
            self.virsh(&["destroy", DOMAIN])?;
        }
        let path = self.bed.path("definition");
        fs::write(&path, definition).map_err(|error| format!("{path}: {error}"))?;
        let defined = self.virsh(&["define", &path]);
        let _ = fs::remove_file(&path);
        defined?;
        self.await_guest(&self.log(), Duration::from_secs(120))
    }

    /// What the export holds.
    pub fn export(&self) -> PathBuf {
        self.storage.dir.join("export.img")
    }

    pub fn server(&self) -> u32 {
        self.storage.server.id()
    }
}

pub fn shown(path: &Path) -> String {
    path.to_str().unwrap_or_default().to_owned()
}

fn trigger(path: &Path, fail: bool) -> Result<()> {
    let done = if fail {
        fs::write(path, "")
    } else {
        fs::remove_file(path)
    };
    done.map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a program to its end.
pub fn command(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), error.trim()))
}

/// A small file system, and an export whose server fails on demand, also as a file and as a block device.
struct Storage {
    dir: PathBuf,
    server: Child,
    fuse: Child,
    device: String,
}

impl Storage {
    fn make() -> Self {
        let dir = std::env::temp_dir().join(format!("ldstore.{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(dir.join("small")).unwrap();
        let within = |name: &str| shown(&dir.join(name));
        // For what the images take and what a guest writes to them meanwhile.
        let (small, options) = (within("small"), "size=96M,mode=755");
        command("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &small]).unwrap();
        fs::File::create(within("export.img"))
            .unwrap()
            .set_len(DISK_SIZE)
            .unwrap();
        let mut words = vec![
            "-f".to_owned(),
            "-U".to_owned(),
            within("export"),
            "--filter=error".to_owned(),
        ];
        words.extend(["file".to_owned(), within("export.img"), "error=EIO".to_owned()]);
        for (request, file) in [
            ("pread", "reads"),
            ("pwrite", "writes"),
            ("zero", "writes"),
            ("trim", "writes"),
        ] {
            words.push(format!("error-{request}-rate=100%"));
            words.push(format!("error-{request}-file={}", within(&format!("fail-{file}"))));
        }
        let server = spawn("nbdkit", &words.iter().map(String::as_str).collect::<Vec<_>>());
        until("the export is there", || dir.join("export").exists());
        // QEMU's user has to get there.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(within("export"), all).unwrap();
        fs::write(within("fuse"), "").unwrap();
        let uri = format!("nbd+unix:///?socket={}", within("export"));
        let fuse = spawn("nbdfuse", &["-o", "allow_other", &within("fuse"), &uri]);
        let mut storage = Self {
            dir,
            server,
            fuse,
            device: String::new(),
        };
        until("the export is mounted", || {
            fs::metadata(storage.fuse()).is_ok_and(|metadata| metadata.len() == DISK_SIZE)
        });
        storage.device = command("losetup", &["--find", "--show", &shown(&storage.fuse())]).unwrap();
        storage
    }

    fn small(&self) -> PathBuf {
        self.dir.join("small")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("export")
    }

    fn fuse(&self) -> PathBuf {
        self.dir.join("fuse")
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            let _ = command("losetup", &["--detach", &self.device]);
        }
        let _ = command("umount", &["-l", &shown(&self.fuse())]);
        for child in [&mut self.fuse, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = command("umount", &[&shown(&self.small())]);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn spawn(program: &str, arguments: &[&str]) -> Child {
    let command = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    command.unwrap_or_else(|error| panic!("{program}: {error}"))
}
