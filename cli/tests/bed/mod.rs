// SPDX-License-Identifier: LGPL-2.1-or-later
//! A test bed that ends with the test, however that ends.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Bed {
    pub dir: PathBuf,
    lines: String,
    /// Who runs the command, where it is not us.
    user: Option<&'static str>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bed")
}

impl Bed {
    /// `name` is the test binary's: each has a directory of its own.
    pub fn up(name: &str, guests: &[&str]) -> Self {
        Self::up_for(None, name, guests)
    }

    /// With a system daemon that the group of this user's name may talk to, and the command run by this user: as
    /// nova-compute runs. It takes root.
    pub fn up_for(user: Option<&'static str>, name: &str, guests: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("{name}.{}", std::process::id()));
        let mut bed = Self {
            dir,
            lines: String::new(),
            user,
        };
        let mut command = Command::new(script());
        command.arg("up").arg("--dir").arg(&bed.dir);
        if let Some(user) = user {
            command.args(["--group", user]);
        }
        for guest in guests {
            command.args(["--guest", guest]);
        }
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "the bed is not up");
        bed.lines = String::from_utf8(output.stdout).unwrap();
        if let Some(user) = user {
            let made = Command::new("install")
                .args(["-d", "-o", user, "-m", "755"])
                .arg(bed.home())
                .status();
            assert!(made.unwrap().success());
        }
        bed
    }

    pub fn get(&self, name: &str) -> &str {
        let prefix = format!("LIVEDISK_TEST_{name}=");
        self.lines.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap()
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// Of whoever runs virsh and the command.
    fn home(&self) -> PathBuf {
        self.dir.join("c")
    }

    pub fn livedisk(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_livedisk");
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--clear-groups", program]);
                command.env("HOME", self.home());
                command
            }
        };
        command
            .env("LIBVIRT_DEFAULT_URI", self.get("URI"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// virsh on the bed's daemon: its standard output, or its error.
    pub fn try_virsh(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("virsh")
            .args(["-q", "-c", self.get("URI")])
            .args(arguments)
            .env("XDG_CACHE_HOME", self.home())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!(
                "virsh {}: {}",
                arguments.join(" "),
                text(&output.stderr).trim()
            ))
        }
    }

    pub fn virsh(&self, arguments: &[&str]) -> String {
        self.try_virsh(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The bed's script with a command for this bed.
    pub fn script(&self, command: &str, words: &[&str]) -> Command {
        let mut script = Command::new(script());
        script
            .arg(command)
            .arg("--dir")
            .arg(&self.dir)
            .args(words)
            .stdin(Stdio::null());
        script
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.livedisk(arguments).output().unwrap()
    }

    /// Runs it with --json and checks the exit status.
    pub fn json(&self, status: i32, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).unwrap()
    }

    pub fn fails(&self, status: i32, code: &str, arguments: &[&str]) {
        let answer = self.json(status, arguments);
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["number"].as_i64().unwrap() < 0);
    }

    pub fn records_written(&self) -> usize {
        let log = std::fs::read_to_string(self.get("WRITER_1")).unwrap();
        log.lines().count()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let down = self.script("down", &[]).status();
        if !matches!(down, Ok(status) if status.success()) {
            eprintln!("the bed in {} is not down", self.dir.display());
        }
    }
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: never");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn signal(child: &Child, signal: i32) {
    kill(child.id(), signal);
}

pub fn kill(process: u32, signal: i32) {
    let status = Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status();
    assert!(status.unwrap().success());
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
