// SPDX-License-Identifier: LGPL-2.1-or-later
//! A test bed for all tests of a binary: up with the first, down with the last, also when one panics.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use livedisk::{Connection, EventLoop};

static CURRENT: Mutex<Weak<Bed>> = Mutex::new(Weak::new());
static TURN: Mutex<()> = Mutex::new(());

/// The bed, for one test alone.
pub struct Turn {
    bed: Arc<Bed>,
    // After the bed, so that the next test waits until it is down.
    _turn: MutexGuard<'static, ()>,
}

pub struct Bed {
    pub connection: Connection,
    pub uri: String,
    /// Where images may be put: QEMU's user gets there.
    pub dir: PathBuf,
    lines: HashMap<String, String>,
    /// A small file system, where root runs the tests.
    pub small: Option<SmallFileSystem>,
    /// It was up before and stays up.
    kept: bool,
    /// A test failed and may have left the guests in any state.
    spoiled: AtomicBool,
    crashes_known: AtomicUsize,
}

/// Waits for this test's turn. `guests` are the SPECs of `tests/bed`, the same for all tests of a binary.
///
/// With LIVEDISK_TEST_DIR a bed with such guests that is up already is taken and left up, which is quicker for one test.
pub fn turn(event_loop: EventLoop, guests: &[&str]) -> Turn {
    // Held while waiting: so the bed of the test before is kept up.
    let waiting = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let bed = match waiting {
        Some(bed) if !bed.spoiled.load(Ordering::SeqCst) => bed,
        spoiled => {
            drop(spoiled);
            current(event_loop, guests)
        }
    };
    Turn { bed, _turn: turn }
}

fn current(event_loop: EventLoop, guests: &[&str]) -> Arc<Bed> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bed) = current.upgrade()
        && !bed.spoiled.load(Ordering::SeqCst)
    {
        return bed;
    }
    let bed = Arc::new(Bed::up(event_loop, guests));
    *current = Arc::downgrade(&bed);
    bed
}

impl std::ops::Deref for Turn {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.bed
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if thread::panicking() {
            self.bed.spoiled.store(true, Ordering::SeqCst);
            let log = fs::read_to_string(self.bed.value("DAEMON_LOG")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "the end of libvirtd's log:\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
    }
}

pub fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0
}

/// Runs a program to its end and returns its output; it must succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// An encrypted image, with 'open sesame' for its secret.
pub fn create_luks(path: &Path, size: &str) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let output = Command::new("qemu-img")
            .args(["create", "-q", "-f", "luks", "-o", "key-secret=s,iter-time=200"])
            .args(["--object", "secret,id=s,data=open sesame"])
            .args([path.as_os_str(), size.as_ref()])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        // QEMU measures itself with a clock that now and then has not moved on.
        let again = error.contains("accurate CPU usage") && Instant::now() < until;
        assert!(output.status.success() || again, "{error}");
        if output.status.success() {
            return;
        }
        let _ = fs::remove_file(path);
    }
}

pub(super) fn script(arguments: &[&str]) -> String {
    run(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed"), arguments)
}

impl Bed {
    fn up(event_loop: EventLoop, guests: &[&str]) -> Self {
        let kept = std::env::var("LIVEDISK_TEST_DIR");
        let small = (is_root() && kept.is_err()).then(SmallFileSystem::mount);
        let arguments = match &kept {
            Ok(dir) => vec!["env", "--dir", dir],
            Err(_) => ["up"]
                .into_iter()
                .chain(guests.iter().flat_map(|guest| ["--guest", guest]))
                .collect(),
        };
        let lines: HashMap<_, _> = script(&arguments)
            .lines()
            .filter_map(|line| line.strip_prefix("LIVEDISK_TEST_")?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let uri = lines["URI"].clone();
        let connection = match Connection::open(Some(&uri), event_loop) {
            Ok(connection) => connection,
            Err(error) => {
                if kept.is_err() {
                    script(&["down", "--dir", &lines["DIR"]]);
                }
                panic!("{error}");
            }
        };
        Self {
            connection,
            uri,
            dir: PathBuf::from(&lines["DIR"]),
            lines,
            small,
            kept: kept.is_ok(),
            spoiled: AtomicBool::new(false),
            crashes_known: AtomicUsize::new(0),
        }
    }

    /// What the bed printed as `LIVEDISK_TEST_<name>`.
    pub fn value(&self, name: &str) -> &str {
        &self.lines[name]
    }

    /// The number of a guest of the bed, if it is one.
    pub fn number(&self, domain: &str) -> Option<usize> {
        (1..=9).find(|number| {
            self.lines
                .get(&format!("DOMAIN_{number}"))
                .is_some_and(|name| name == domain)
        })
    }

    /// A line of what the bed printed of one guest.
    pub fn of_guest(&self, domain: &str, name: &str) -> &str {
        let number = self.number(domain).unwrap();
        let (name, target) = name.split_once(' ').unwrap_or((name, ""));
        match target {
            "" => self.value(&format!("{name}_{number}")),
            target => self.value(&format!("{name}_{number}_{}", target.to_uppercase())),
        }
    }

    /// A name in the bed's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn ctl(&self, domain: &str, words: &[&str]) -> String {
        let dir = self.dir.to_str().unwrap();
        let arguments: Vec<_> = ["ctl", "--dir", dir, domain].iter().chain(words).copied().collect();
        script(&arguments)
    }

    /// With SIGKILL or SIGTERM; it is back when this returns.
    pub fn restart_daemon(&self, kill: bool) {
        let dir = self.dir.to_str().unwrap();
        let mut arguments = vec!["restart-daemon", "--dir", dir];
        arguments.extend(kill.then_some("--kill"));
        script(&arguments);
    }

    /// A job ends while libvirtd is dead; the new one never hears of it.
    pub fn end_unseen(&self, domain: &str, kind: &str, end: &str) {
        super::monitor::end_unseen(Path::new(self.value("DAEMON_PIDFILE")), domain, kind, end).unwrap();
        self.restart_daemon(true);
    }

    /// How often libvirtd crashed by itself and was started again, as systemd does (tests/bed.d/daemon.sh).
    pub fn crashes(&self) -> usize {
        let lines = fs::read_to_string(self.value("DAEMON_CRASHES")).unwrap_or_default();
        lines.lines().count()
    }

    /// virsh on the bed's daemon: its standard output, or its error. Once more where libvirtd crashed.
    pub fn try_virsh(&self, arguments: &[&str]) -> Result<String, String> {
        let result = self.virsh_once(arguments);
        let is_cut_off = matches!(&result, Err(error) if error.contains("connect") || error.contains("End of file"));
        if is_cut_off {
            // It takes a moment to be noticed.
            thread::sleep(Duration::from_millis(500));
        }
        let crashes = self.crashes();
        if self.crashes_known.swap(crashes, Ordering::SeqCst) == crashes || !is_cut_off {
            return result;
        }
        super::until("libvirtd answers again", || self.virsh_once(&["uri"]).is_ok());
        self.virsh_once(arguments)
    }

    pub fn virsh_command(&self) -> Command {
        let mut virsh = Command::new("virsh");
        virsh
            .args(["-q", "-c", &self.uri])
            .env("XDG_CACHE_HOME", self.dir.join("c"));
        virsh
    }

    fn virsh_once(&self, arguments: &[&str]) -> Result<String, String> {
        let mut virsh = self.virsh_command();
        let output = virsh.args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    pub fn virsh(&self, arguments: &[&str]) -> String {
        self.try_virsh(arguments)
            .unwrap_or_else(|error| panic!("virsh {arguments:?}: {error}"))
    }

    pub fn qemu_pid(&self, domain: &str) -> i32 {
        let directory = Path::new(self.value("PIDFILE_1")).parent().unwrap();
        let pid = fs::read_to_string(directory.join(format!("{domain}.pid"))).unwrap();
        pid.trim().parse().unwrap()
    }

    /// A domain without an operating system, which boots in no time: for what needs no file system.
    pub fn bare(&self, name: &str, disks: &[Bare]) -> BareDomain<'_> {
        let mut files = Vec::new();
        let mut xml = String::new();
        for (index, disk) in disks.iter().enumerate() {
            let target = format!("vd{}", char::from(b'a' + index as u8));
            let path = self.path(&format!("{name}-{target}.img"));
            (disk.make)(&path);
            let (format, extra, path_shown) = (disk.format, disk.extra, path.display());
            let in_source = disk.in_source;
            xml += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
                 <source file='{path_shown}'>{in_source}</source>\
                 <backingStore/><target dev='{target}' bus='virtio'/>{extra}</disk>",
            );
            files.push(path);
        }
        let definition = self.path(&format!("{name}.xml"));
        fs::write(
            &definition,
            format!(
                "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
                 <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
                 <devices>{xml}<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>\
                 <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
            ),
        )
        .unwrap();
        let bare = BareDomain {
            bed: self,
            name: name.to_owned(),
            files,
        };
        self.virsh(&["define", definition.to_str().unwrap()]);
        fs::remove_file(definition).unwrap();
        self.virsh(&["start", name]);
        bare
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let down = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed"))
            .args(["down", "--dir", self.dir.to_str().unwrap()])
            .status();
        // A panic in a drop would hide the one before.
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("the bed in {} is not down", self.dir.display());
        }
    }
}

/// Of 6 MiB. Mounted before the daemon starts, which sees no later mounts where the host's are private.
pub struct SmallFileSystem(pub PathBuf);

impl SmallFileSystem {
    fn mount() -> Self {
        let template = std::env::temp_dir().join("livedisk-small.XXXXXX");
        let path = PathBuf::from(run("mktemp", &["-d", template.to_str().unwrap()]).trim());
        let small = Self(path);
        let shown = small.0.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=6M,mode=755", "tmpfs", shown]);
        small
    }

    /// From now on of so many MiB; refused where more is in use.
    pub fn resize(&self, mib: u64) -> bool {
        let size = format!("remount,size={mib}M");
        let output = Command::new("mount").args(["-o", &size]).arg(&self.0).output();
        output.unwrap().status.success()
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// A disk of a bare domain.
pub struct Bare {
    pub format: &'static str,
    /// Further elements of the disk and of its source.
    pub extra: &'static str,
    pub in_source: &'static str,
    pub make: fn(&Path),
}

impl Bare {
    pub const RAW: Self = Self {
        format: "raw",
        extra: "",
        in_source: "",
        make: |path| fill(path, 4 << 20),
    };
    /// With enough in it for a limited copy to be caught in the middle.
    pub const BIG: Self = Self {
        make: |path| fill(path, 256 << 20),
        ..Self::RAW
    };
}

/// Incompressible content, and so everything has to be copied.
pub fn fill(path: &Path, size: u64) {
    let mut random = std::io::Read::take(fs::File::open("/dev/urandom").unwrap(), size);
    std::io::copy(&mut random, &mut fs::File::create(path).unwrap()).unwrap();
}

/// Gone with its files at the end.
pub struct BareDomain<'a> {
    bed: &'a Bed,
    pub name: String,
    pub files: Vec<PathBuf>,
}

impl Drop for BareDomain<'_> {
    fn drop(&mut self) {
        // It may be off already.
        let _ = self.bed.try_virsh(&["destroy", &self.name]);
        let _ = self.bed.try_virsh(&["undefine", &self.name]);
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

/// A program of the test's own, ended with it.
pub struct Server(Child);

impl Server {
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Self(child)
    }

    /// An export at a socket that QEMU may open, once it answers.
    pub fn nbdkit(socket: &Path, arguments: &[&str]) -> Self {
        let shown = socket.to_str().unwrap();
        // Of one before, which was killed.
        let _ = fs::remove_file(socket);
        let server = Self::start("nbdkit", &[&["-f", "-U", shown], arguments].concat());
        super::until("the export answers", || socket.exists());
        run("chmod", &["777", shown]);
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
