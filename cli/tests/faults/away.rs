// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the matrix has no cells for: a definition that is away when process and guest both end, or when somebody else defines
//! the domain.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::Result;
use super::agent::{Agent, signal};
use super::bed::until;
use super::check::{self, Picture};
use super::operation::{Kind, Operation};
use super::stand::{DOMAIN, Place, Stand};

const PATIENCE: Duration = Duration::from_secs(120);
const REBASE: Operation = Operation {
    kind: Kind::Snapshot,
    method: "rebase",
};

/// A rebase that stands still there, and its images.
fn held(stand: &mut Stand, point: &str) -> Result<(Agent, Vec<String>)> {
    let number = stand.number();
    let names = REBASE.destinations(Place::Bed, number);
    let destinations: Vec<_> = names.iter().map(|name| stand.destination(Place::Bed, name)).collect();
    let words = REBASE.words(&destinations, None);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut agent = Agent::start(stand.bed.livedisk(&words), &[point])?;
    if agent.await_stop(point, PATIENCE)? {
        return Ok((agent, destinations));
    }
    Err(agent.with_last_words(format!("ended before '{point}'")))
}

fn says(stand: &Stand, name: &str, value: &str) -> Result<()> {
    let info = stand.virsh(&["dominfo", DOMAIN])?;
    let mut lines = info.lines();
    let says = lines.any(|line| line.starts_with(name) && line.ends_with(value));
    says.then_some(()).ok_or_else(|| format!("not {name} {value}: {info}"))
}

fn livedisk(stand: &Stand, words: &[&str]) -> Result<String> {
    let output = stand.bed.livedisk(words).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{words:?}: {said} {}", String::from_utf8_lossy(&output.stderr)))
}

/// Its process, the guard, which would define the domain again, and QEMU are killed, as a host's end does: libvirt does not know
/// the domain any more.
pub fn all_gone(stand: &mut Stand, point: &str) -> Result<()> {
    stand.virsh(&["autostart", DOMAIN])?;
    let before = Picture::take(stand)?;
    let (mut agent, _) = held(stand, point)?;
    let log = stand.log();
    let qemu = stand.qemu()?;
    agent.kill_guard();
    agent.signal(Signal::KILL);
    agent.wait(PATIENCE)?;
    signal(qemu, Signal::KILL);
    until("the domain is gone", || stand.virsh(&["dominfo", DOMAIN]).is_err());
    let status = livedisk(stand, &["status", DOMAIN])?;
    if !status.contains("rebase") {
        return Err(format!("status: {status}"));
    }
    let plan = livedisk(stand, &["recover", DOMAIN, "--dry-run"])?;
    if !plan.contains("define domain 'a' again") {
        return Err(format!("recover --dry-run: {plan}"));
    }
    // Of all domains, as after the host's start.
    livedisk(stand, &["recover"])?;
    if stand.domain_state()? != "shut off" {
        return Err("it runs".into());
    }
    says(stand, "Persistent:", "yes")?;
    says(stand, "Autostart:", "enable")?;
    let again = livedisk(stand, &["recover"])?;
    if again.contains("define") {
        return Err(format!("recover again: {again}"));
    }
    stand.await_guest(&log, PATIENCE)?;
    stand.virsh(&["autostart", "--disable", DOMAIN])?;
    as_before(stand, &before)
}

/// Another program defines the domain while it is not defined.
pub fn defined_by_another(stand: &mut Stand, point: &str, succeeds: bool) -> Result<()> {
    let before = Picture::take(stand)?;
    let (mut agent, destinations) = held(stand, point)?;
    let path = stand.bed.path("theirs");
    let theirs = before.definition.replace("<memory", "<title>theirs</title>\n  <memory");
    fs::write(&path, theirs).map_err(|error| error.to_string())?;
    stand.virsh(&["define", &path])?;
    agent.signal(Signal::CONT);
    let status = agent.wait(PATIENCE)?;
    let said = agent.said.join("\n");
    if status.success() != succeeds {
        return Err(agent.with_last_words(format!("{point}: {status}")));
    }
    check::explained(agent.said.iter().map(String::as_str))?;
    if !said.contains("that definition is kept") {
        return Err(agent.with_last_words("it says nothing of another definition".into()));
    }
    let now = stand.virsh(&["dumpxml", "--inactive", DOMAIN])?;
    if !now.contains("<title>theirs</title>") {
        return Err(format!("another's definition is gone: {now}"));
    }
    for image in &destinations {
        if Path::new(image).exists() != succeeds {
            return Err(format!("{image}: there is {}", !succeeds));
        }
        let _ = fs::remove_file(image);
    }
    fs::write(&path, &before.definition).map_err(|error| error.to_string())?;
    stand.virsh(&["define", &path])?;
    fs::remove_file(&path).map_err(|error| error.to_string())?;
    as_before(stand, &before)
}

fn as_before(stand: &Stand, before: &Picture) -> Result<()> {
    check::idle(stand)?;
    let now = Picture::take(stand)?;
    let mut wrong = now.form.difference(&before.form);
    wrong.extend(
        now.files
            .difference(&before.files)
            .map(|path| format!("left: {path:?}")),
    );
    wrong.extend(
        before
            .files
            .difference(&now.files)
            .map(|path| format!("gone: {path:?}")),
    );
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}
