// SPDX-License-Identifier: LGPL-2.1-or-later
//! What must hold when a cell is over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Result;
use super::definition::unnumbered;
use super::log::Log;
use super::operation::CHECKPOINT;
use super::stand::{DISKS, DOMAIN, Stand, shown};

/// A guest whose agent comes back is thawed by the next attempt, which is up to a second away and may take five.
const THAWED_WITHIN: Duration = Duration::from_secs(10);

/// The definitions with a placeholder where vda's active layer is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Form {
    live: String,
    inactive: String,
}

pub struct Picture {
    pub form: Form,
    /// vda's active layer.
    pub source: String,
    pub format: String,
    /// The inactive definition as it is.
    pub definition: String,
    pub files: BTreeSet<PathBuf>,
}

/// Without what libvirt changes by itself, whether the guest has opened a channel, and where the disk is.
fn plain(xml: &str, source: &str) -> String {
    let xml = xml
        .replace(" state='connected'", "")
        .replace(" state='disconnected'", "")
        .replace(source, "@DISK@");
    unnumbered(&xml)
}

/// The element of one disk.
fn disk<'a>(xml: &'a str, target: &str) -> &'a str {
    let wanted = format!("<target dev='{target}'");
    let mut disks = xml
        .split("<disk ")
        .filter_map(|text| Some(text.split_once("</disk>")?.0));
    disks.find(|disk| disk.contains(&wanted)).unwrap_or_default()
}

/// Where its active layer is: a file, or an export's socket.
fn source_of(disk: &str) -> Option<&str> {
    let value = |name: &str| Some(disk.split_once(name)?.1.split_once('\'')?.0);
    ["<source file='", "<source dev='", "socket='"]
        .into_iter()
        .find_map(value)
}

fn format_of(disk: &str) -> &str {
    let value = disk
        .split_once("<driver name='qemu' type='")
        .and_then(|(_, rest)| rest.split_once('\''));
    value.map_or("raw", |(format, _)| format)
}

fn files(stand: &Stand) -> BTreeSet<PathBuf> {
    let entries = stand
        .directories()
        .into_iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .flatten();
    let paths = entries.map(|entry| entry.path());
    // virsh's own, and the faults' means.
    let ours = ["c", "fill", "proxy", "fail-reads", "fail-writes"];
    paths
        .filter(|path| !ours.iter().any(|name| path.ends_with(name)))
        .collect()
}

impl Picture {
    pub fn take(stand: &Stand) -> Result<Self> {
        let live = stand.virsh(&["dumpxml", "--security-info", DOMAIN])?;
        let inactive = stand.virsh(&["dumpxml", "--inactive", "--security-info", DOMAIN])?;
        let source = source_of(disk(&live, "vda")).ok_or("vda has no source")?.to_owned();
        let format = format_of(disk(&live, "vda")).to_owned();
        Ok(Self {
            form: Form {
                live: plain(&live, &source),
                inactive: plain(&inactive, &source),
            },
            source,
            format,
            definition: inactive,
            files: files(stand),
        })
    }
}

impl Picture {
    /// The definition with vda on this raw file, which is not to be given to QEMU's user.
    pub fn on_raw(&self, file: &str) -> String {
        let old = disk(&self.definition, "vda");
        let rest = old.split_once('>').map_or("", |(_, rest)| rest);
        let target = rest.find("<target ").map_or("", |at| &rest[at..]);
        let source = format!("<source file='{file}'><seclabel model='dac' relabel='no'/></source>");
        let new = format!("type='file' device='disk'><driver name='qemu' type='raw'/>{source}{target}");
        self.definition.replace(old, &new)
    }
}

impl Form {
    /// What `self` has and `known` has not.
    pub fn difference(&self, known: &Self) -> Vec<String> {
        let pairs = [
            ("live", &self.live, &known.live),
            ("inactive", &self.inactive, &known.inactive),
        ];
        let mut found = Vec::new();
        for (name, now, known) in pairs {
            let (now_lines, known_lines): (BTreeSet<_>, BTreeSet<_>) = (now.lines().collect(), known.lines().collect());
            let more = now_lines
                .difference(&known_lines)
                .map(|line| format!("+{}", line.trim()));
            let less = known_lines
                .difference(&now_lines)
                .map(|line| format!("-{}", line.trim()));
            let mut all: Vec<_> = more.chain(less).collect();
            if all.is_empty() {
                // The same lines in another order or number.
                let mut pairs = now.lines().zip(known.lines());
                all.extend(
                    pairs
                        .find(|(now, known)| now != known)
                        .map(|(now, known)| format!("{now} instead of {known}")),
                );
            }
            if now != known {
                found.push(format!("the {name} definition: {}", all.join(" ")));
            }
        }
        found
    }
}

/// The operations in the domain's metadata.
pub fn recorded(stand: &Stand) -> Result<usize> {
    let output = stand.bed.livedisk(&["status", "--json"]).output();
    let output = output.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("status: {error}"))?;
    answer["operations"]
        .as_array()
        .map(Vec::len)
        .ok_or_else(|| format!("status: {answer}"))
}

/// The library's model explains every turn of its loop; what it says of one that it does not is in standard error.
pub fn explained<'a>(said: impl Iterator<Item = &'a str>) -> Result<()> {
    let turn: Vec<_> = said
        .skip_while(|line| !line.contains("that the model cannot explain"))
        .take(5)
        .collect();
    if turn.is_empty() {
        return Ok(());
    }
    Err(turn.join("\n      "))
}

/// The checkpoint of a backup is there with its images, or gone with its bitmaps; then it is deleted. `complete`: whether the
/// images are there, where that is known.
pub fn checkpoint(stand: &Stand, complete: Option<bool>) -> Result<()> {
    let names = stand.virsh(&["checkpoint-list", DOMAIN, "--name"])?;
    let is_there = names.trim() == CHECKPOINT;
    if is_there {
        let words = ["checkpoints", DOMAIN, "--delete", CHECKPOINT];
        let output = stand.bed.livedisk(&words).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    let nodes = stand.qmp(&json!({ "execute": "query-named-block-nodes", "arguments": { "flat": true } }))?;
    let nodes = nodes.as_array().into_iter().flatten();
    let bitmaps: Vec<_> = nodes
        .filter_map(|node| node["dirty-bitmaps"].as_array())
        .flatten()
        .collect();
    if !bitmaps.is_empty() {
        return Err(format!("bitmaps are left: {bitmaps:?}"));
    }
    match complete {
        Some(complete) if complete != is_there => Err(format!(
            "the images are there: {complete}, and the checkpoint: {is_there}"
        )),
        _ => Ok(()),
    }
}

/// No job, no freeze, no record, no snapshot or checkpoint.
pub fn idle(stand: &Stand) -> Result<()> {
    let state = stand.domain_state()?;
    if state != "running" {
        return Err(format!("the domain is '{state}'"));
    }
    let question = [
        "qemu-agent-command",
        "--timeout",
        "10",
        DOMAIN,
        r#"{"execute":"guest-fsfreeze-status"}"#,
    ];
    let until = Instant::now() + THAWED_WITHIN;
    loop {
        let answer = stand.virsh(&question)?;
        if answer.contains("\"thawed\"") {
            break;
        }
        if Instant::now() >= until {
            return Err(format!("the guest is not thawed: {}", answer.trim()));
        }
        thread::sleep(Duration::from_millis(100));
    }
    let job = stand.virsh(&["domjobinfo", DOMAIN])?;
    if !job.contains("None") {
        return Err(format!("a job is left: {}", job.trim()));
    }
    for target in DISKS {
        let job = stand.virsh(&["blockjob", "--raw", DOMAIN, target])?;
        if !job.trim().is_empty() {
            return Err(format!("a block job is left on {target}: {}", job.trim()));
        }
    }
    agreement(stand)?;
    for list in ["snapshot-list", "checkpoint-list"] {
        let names = stand.virsh(&[list, DOMAIN, "--name"])?;
        if !names.trim().is_empty() {
            return Err(format!("{list}: {}", names.trim()));
        }
    }
    match recorded(stand)? {
        0 => Ok(()),
        count => Err(format!("{count} operations are still recorded")),
    }
}

/// QEMU has the images open that libvirt names, and no others; and a job, where libvirt shows one.
pub fn agreement(stand: &Stand) -> Result<()> {
    let xml = stand.virsh(&["dumpxml", DOMAIN])?;
    let jobs = stand.qmp(&json!({ "execute": "query-block-jobs" }))?;
    if xml.contains("<mirror") && jobs.as_array().is_none_or(Vec::is_empty) {
        return Err("libvirt shows a block job, and QEMU has none".into());
    }
    let number = |text: &str, end: char| Some(text.split_once(end)?.0.to_owned());
    let numbers = |target| {
        let numbered = disk(&xml, target).split(" index='").skip(1);
        numbered.filter_map(|text| number(text, '\'')).collect::<Vec<_>>()
    };
    let named: BTreeSet<_> = DISKS.into_iter().flat_map(numbers).collect();
    let nodes = stand.qmp(&json!({ "execute": "query-named-block-nodes" }))?;
    let nodes = nodes.as_array().ok_or("QEMU does not say which images it has open")?;
    let open: BTreeSet<_> = nodes
        .iter()
        .filter_map(|node| number(node["node-name"].as_str()?.strip_prefix("libvirt-")?, '-'))
        .collect();
    if open == named {
        return Ok(());
    }
    Err(format!("QEMU has images {open:?} open, and libvirt names {named:?}"))
}

/// The guest's disks hold every write that was acknowledged to it. Read while the guest is paused.
pub fn whole(stand: &Stand, log: &Log) -> Result<()> {
    let xml = stand.virsh(&["dumpxml", DOMAIN])?;
    let images: Vec<_> = DISKS
        .iter()
        .filter_map(|target| {
            let disk = disk(&xml, target);
            let path = Path::new(source_of(disk).filter(|_| disk.starts_with("type='file'"))?);
            Some((*target, path.to_owned(), format_of(disk).to_owned()))
        })
        .collect();
    stand.virsh(&["suspend", DOMAIN])?;
    let acknowledged: Vec<_> = images.iter().map(|(target, ..)| log.last(target)).collect();
    // Beside it, for a backing file's relative name.
    let copies: Vec<_> = images
        .iter()
        .map(|(target, path, _)| path.with_file_name(format!("read-{target}")))
        .collect();
    let copied = images.iter().zip(&copies).try_for_each(|((_, path, _), copy)| {
        let status = Command::new("cp")
            .args(["--sparse=always", "--"])
            .args([path, copy])
            .status();
        status
            .is_ok_and(|status| status.success())
            .then_some(())
            .ok_or_else(|| format!("cannot copy {}", path.display()))
    });
    stand.virsh(&["resume", DOMAIN])?;
    let mut result = copied;
    for (((target, _, format), copy), acknowledged) in images.iter().zip(&copies).zip(acknowledged) {
        if result.is_ok() {
            result = records(stand, copy, format).and_then(|last| {
                let lost = || {
                    // As its server sees it, where it is an export.
                    let exported = records(stand, &stand.export(), "raw");
                    format!(
                        "{target}: record {acknowledged} was acknowledged, and {last} is the last there; the export has \
                         {exported:?}"
                    )
                };
                (last >= acknowledged).then_some(()).ok_or_else(lost)
            });
        }
        let _ = fs::remove_file(copy);
    }
    result?;
    log.must_grow()
}

/// The last record of an image, which must be whole.
pub fn records(stand: &Stand, image: &Path, format: &str) -> Result<u64> {
    let output = Command::new(stand.bed.get("RECORDS"))
        .args([&shown(image), "--format", format, "--json"])
        .output()
        .map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} is not whole: {} {}",
            image.display(),
            answer.trim(),
            error.trim()
        ));
    }
    let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    answer["last"].as_u64().ok_or_else(|| format!("records: {answer}"))
}
