// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the cells happen on: a bed with one guest, and storage that can be made to fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;
use super::bed::Bed;
use super::log::Log;

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
    /// The same export as a file, by FUSE: made before, and used again.
    Fuse,
}

#[derive(Debug, Clone, Copy)]
pub enum Part {
    Recover,
    Guard,
}

pub struct Stand {
    pub bed: Bed,
    storage: Storage,
    counter: u32,
}

impl Stand {
    pub fn up() -> Self {
        // Mounted before the daemon starts, which sees no later mounts where the host's are private.
        let storage = Storage::make();
        Self {
            bed: Bed::up("ldfaults", &[GUEST]),
            storage,
            counter: 0,
        }
    }

    /// Whether the command has `recover`, and a thaw guard beside it.
    pub fn has(&self, what: Part) -> bool {
        match what {
            Part::Recover => self
                .bed
                .livedisk(&["recover", "--help"])
                .output()
                .is_ok_and(|output| output.status.success()),
            Part::Guard => Path::new(env!("CARGO_BIN_EXE_livedisk"))
                .with_file_name("livedisk-guard")
                .exists(),
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
            Place::Bed => self.bed.path(name),
            Place::Small => shown(&self.storage.small().join(name)),
            Place::Export => format!("nbd+unix:///?socket={}", shown(&self.storage.socket())),
            Place::Fuse => shown(&self.storage.fuse()),
        }
    }

    /// The directories in which nothing may be left.
    pub fn directories(&self) -> Vec<PathBuf> {
        vec![self.bed.dir.clone(), self.storage.small()]
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
                "paused" => drop(self.virsh(&["resume", DOMAIN])?),
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

    /// Requests to the export fail from now on, or no longer.
    pub fn fail_export(&self, fail: bool) -> Result<()> {
        let path = self.storage.trigger();
        let done = if fail {
            fs::write(&path, "")
        } else {
            fs::remove_file(&path)
        };
        done.map_err(|error| format!("{}: {error}", path.display()))
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

/// A small file system, and an export whose server fails on demand, also mounted as a file.
struct Storage {
    dir: PathBuf,
    server: Child,
    fuse: Child,
}

impl Storage {
    fn make() -> Self {
        let dir = std::env::temp_dir().join(format!("ldstore.{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(dir.join("small")).unwrap();
        let small = shown(&dir.join("small"));
        // For what the images take and what a guest writes to them meanwhile.
        run("mount", &["-t", "tmpfs", "-o", "size=96M,mode=755", "tmpfs", &small]);
        let image = fs::File::create(dir.join("export.img")).unwrap();
        image.set_len(DISK_SIZE).unwrap();
        let socket = shown(&dir.join("export"));
        let trigger = format!("error-file={}", shown(&dir.join("fail")));
        let image = shown(&dir.join("export.img"));
        let server = spawn(
            "nbdkit",
            &[
                "-f",
                "-U",
                &socket,
                "--filter=error",
                "file",
                &image,
                "error=EIO",
                "error-rate=100%",
                &trigger,
            ],
        );
        await_path(&dir.join("export"));
        open(&dir.join("export"));
        let file = dir.join("fuse");
        fs::write(&file, "").unwrap();
        let uri = format!("nbd+unix:///?socket={socket}");
        let fuse = spawn("nbdfuse", &["-o", "allow_other", &shown(&file), &uri]);
        let storage = Self { dir, server, fuse };
        until_mounted(&storage.fuse());
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

    fn trigger(&self) -> PathBuf {
        self.dir.join("fail")
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.fuse()).status();
        for child in [&mut self.fuse, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("umount").arg(self.small()).status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn spawn(program: &str, arguments: &[&str]) -> Child {
    let command = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
    command.unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(
        matches!(status, Ok(status) if status.success()),
        "{program} {arguments:?}"
    );
}

fn await_path(path: &Path) {
    super::bed::until("the export is there", || path.exists());
}

fn until_mounted(path: &Path) {
    super::bed::until("the export is mounted", || {
        fs::metadata(path).is_ok_and(|metadata| metadata.len() == DISK_SIZE)
    });
}

/// QEMU's user has to get there.
fn open(socket: &Path) {
    fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
}
