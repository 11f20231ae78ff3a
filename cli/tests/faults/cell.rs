// SPDX-License-Identifier: LGPL-2.1-or-later
//! One cell: an operation is held at a point, something goes wrong, and what is left is looked at.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Result;
use super::agent::Agent;
use super::check::{self, Form, Picture};
use super::fault::{Fault, Scene};
use super::log::Log;
use super::operation::{Course, Kind, Operation};
use super::proxy::Proxy;
use super::stand::{DISKS, DOMAIN, Place, Stand};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// A guest whose disks work again and that does not write for so long has given up.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// How soon a guest whose agent was killed writes again, besides what the machine's own load costs.
const THAW_LIMIT: Duration = Duration::from_secs(1);

/// When.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    /// The process stands still there.
    Point(String),
    /// A moment after this point.
    During(String),
}

impl At {
    pub fn point(&self) -> &str {
        match self {
            Self::Point(point) | Self::During(point) => point,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Cell {
    pub operation: Operation,
    pub course: Course,
    pub at: At,
    pub fault: Fault,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Point(point) => f.write_str(point),
            Self::During(point) => write!(f, "during {}", point.trim_start_matches("before ")),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}, {}", self.operation, self.course, self.at, self.fault)
    }
}

/// What the agent said at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Done,
    /// And it was rolled back.
    Failed,
    /// It was cancelled or killed, or was recovering: it may have ended either way.
    None,
}

/// How a cell that passed ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notes {
    /// After its own end a record was left, which `livedisk recover` cleaned up.
    pub recovered: bool,
    /// libvirtd died at a moment that makes it forget the domain.
    pub lost: bool,
    /// The guest had given up its file systems, and was started anew.
    pub restarted: bool,
    /// libvirt had lost the guest's agent, and was started anew.
    pub deaf: bool,
    /// From SIGKILL of the agent to the guest's next writes.
    pub thawed_within: Option<Duration>,
}

#[derive(Debug)]
pub enum Outcome {
    Passed(Notes),
    Failed(Vec<String>),
    /// The operation did not come by there this time.
    NotReached,
}

/// What an undisturbed run shows of an operation.
#[derive(Debug, Clone)]
pub struct Lesson {
    pub points: Vec<String>,
}

/// What undisturbed runs showed.
#[derive(Default)]
pub struct Lessons {
    points: HashMap<(Operation, Course, Place), Lesson>,
    /// A domain's form after a migration from this form.
    moved: HashMap<(Operation, Place, Form), Form>,
}

/// Something under way on the stand.
struct Run<'a> {
    stand: &'a Stand,
    operation: Operation,
    destinations: Vec<String>,
    scratch: Option<String>,
    before: Picture,
    /// The definition that the guest goes back to, where this is another.
    home: Option<String>,
    log: Log,
    /// The last record of each disk before the operation.
    acknowledged: HashMap<&'static str, u64>,
    /// How long the guest takes to write a few records, on this machine now.
    quiet: Duration,
    proxy: Option<Proxy>,
}

impl Lessons {
    pub fn points(&mut self, stand: &mut Stand, operation: Operation, course: Course, place: Place) -> Result<Lesson> {
        if let Some(known) = self.points.get(&(operation, course, place)) {
            return Ok(known.clone());
        }
        let run = Run::prepare(stand, operation, place, false)?;
        let mut agent = run.bring(course, &["list"])?;
        let status = agent.wait(PATIENCE)?;
        let wanted = if course == Course::Cancelled { 130 } else { 0 };
        if status.code() != Some(wanted) {
            return Err(format!(
                "{operation}, {course}, undisturbed: {status}\n{}",
                agent.said.join("\n")
            ));
        }
        if operation.kind == Kind::Freeze {
            // That its limit passed is noted for whoever thaws it.
            run.recover()?;
        }
        let undisturbed = |error| agent.with_last_words(format!("{operation}, {course}, undisturbed: {error}"));
        if operation.makes_checkpoint(&run.destinations) {
            check::checkpoint(run.stand, None).map_err(undisturbed)?;
        }
        check::idle(run.stand).map_err(undisturbed)?;
        if let Some(point) = agent.points().iter().find(|point| point.contains("Fail(")) {
            return Err(undisturbed(format!("it came by '{point}'")));
        }
        run.clean()?;
        let lesson = Lesson { points: agent.points() };
        self.points.insert((operation, course, place), lesson.clone());
        Ok(lesson)
    }

    /// The form that the domain now has becomes this one.
    fn moved(&mut self, stand: &mut Stand, operation: Operation, place: Place) -> Result<Option<Form>> {
        if operation.kind != Kind::Migrate {
            return Ok(None);
        }
        let before = Picture::take(stand)?.form;
        let key = (operation, place, before);
        if !self.moved.contains_key(&key) {
            let run = Run::prepare(stand, operation, place, false)?;
            let mut agent = run.bring(Course::Forward, &[])?;
            let status = agent.wait(PATIENCE)?;
            if !status.success() {
                return Err(format!("{operation}, undisturbed: {status}\n{}", agent.said.join("\n")));
            }
            let after = Picture::take(run.stand)?.form;
            run.clean()?;
            self.moved.insert(key.clone(), after);
            // From the form that it has now, too.
            if Picture::take(stand)?.form != key.2 {
                return self.moved(stand, operation, place);
            }
        }
        Ok(self.moved.get(&key).cloned())
    }
}

impl<'a> Run<'a> {
    fn prepare(stand: &'a mut Stand, operation: Operation, place: Place, proxied: bool) -> Result<Self> {
        let number = stand.number();
        let names = operation.destinations(place, number);
        let stand = &*stand;
        let destinations = names.iter().map(|name| stand.destination(place, name)).collect();
        let proxy = proxied.then(|| {
            let daemon = stand
                .bed
                .get("URI")
                .split_once("socket=")
                .map_or("", |(_, socket)| socket);
            Proxy::start(PathBuf::from(stand.bed.path("proxy")), PathBuf::from(daemon))
        });
        let proxy = proxy.transpose().map_err(|error| format!("proxy: {error}"))?;
        let mut before = Picture::take(stand)?;
        let mut home = None;
        if place == Place::FromExport {
            stand.lend_export(&before)?;
            home = Some(before.definition);
            before = Picture::take(stand)?;
        }
        let log = stand.log();
        let began = Instant::now();
        log.await_writing(PATIENCE)?;
        Ok(Self {
            stand,
            operation,
            destinations,
            scratch: stand.scratch(place),
            before,
            home,
            acknowledged: DISKS.map(|disk| (disk, log.last(disk))).into(),
            log,
            quiet: began.elapsed(),
            proxy,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.stand.bed.livedisk(words);
        if let Some(proxy) = &self.proxy {
            let uri = format!("qemu+unix:///system?socket={}", proxy.socket.display());
            command.env("LIBVIRT_DEFAULT_URI", uri);
        }
        command
    }

    /// The operation's process, on its course.
    fn bring(&self, course: Course, stops: &[&str]) -> Result<Agent> {
        let words = self.operation.words(&self.destinations, self.scratch.as_deref());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let turn = self.operation.turning_point(course);
        let first = match course {
            Course::Forward => stops.to_vec(),
            Course::Cancelled => [&[turn], stops].concat(),
            Course::Recovering | Course::Astray => vec![turn],
        };
        let mut agent = Agent::start(self.command(&words), &first)?;
        if course == Course::Forward {
            return Ok(agent);
        }
        if !agent.await_stop(turn, PATIENCE)? {
            return Err(format!("ended before '{turn}':\n{}", agent.said.join("\n")));
        }
        if course == Course::Cancelled {
            agent.signal(Signal::TERM);
            agent.signal(Signal::CONT);
            // Of what lies before the turn nothing is said.
            agent.said.clear();
            return Ok(agent);
        }
        agent.signal(Signal::KILL);
        agent.wait(PATIENCE)?;
        if course == Course::Astray {
            self.stand.pivot_unseen()?;
        }
        Agent::start(self.command(&["recover", DOMAIN, "--verbose"]), stops)
    }

    fn recover(&self) -> Result<()> {
        let output = self.stand.bed.livedisk(&["recover", DOMAIN, "--verbose"]).output();
        let output = output.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return check::explained(said.lines());
        }
        Err(format!("recover: {}: {}", output.status, said.trim()))
    }

    fn has_moved(&self, now: &Picture) -> bool {
        now.source != self.before.source
    }

    /// What a run leaves by right is removed, images or the disk's former place, and the guest is where it was before.
    fn clean(&self) -> Result<()> {
        let now = Picture::take(self.stand)?;
        let moved = self.operation.kind == Kind::Migrate && self.has_moved(&now);
        if moved && is_kept(&now.source) {
            // From an export no disk can be moved yet.
            self.stand.start_as(&self.before.definition)?;
            return check::records(self.stand, &self.stand.export(), "raw").map(drop);
        }
        let old: Vec<_> = if moved {
            vec![self.before.source.clone()]
        } else {
            self.destinations.clone()
        };
        for name in old.iter().filter(|name| !is_kept(name)) {
            let _ = fs::remove_file(name);
        }
        if let Some(home) = &self.home {
            self.stand.start_as(home)?;
            return if moved { remove(&now.source) } else { Ok(()) };
        }
        if now.source.starts_with(&self.stand.bed.path("")) {
            return Ok(());
        }
        // Other cells need the room.
        let home = self.stand.bed.path(&format!("home-{}", self.log.from()));
        let words = ["migrate", DOMAIN, "vda", &home, "--method", "mirror", "--quiet"];
        let output = self
            .stand
            .bed
            .livedisk(&words)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!(
                "the disk does not come home: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        remove(&now.source)
    }

    /// Everything that must hold at the end.
    fn check(&self, word: Word, moved: Option<&Form>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut note = |result: Result<()>| wrong.extend(result.err());
        if self.operation.makes_checkpoint(&self.destinations) {
            let exists = |name: &String| Path::new(name).exists();
            let complete = self.destinations.iter().all(exists);
            let is_known = !self.destinations.iter().any(|name| is_kept(name));
            note(check::checkpoint(self.stand, is_known.then_some(complete)));
        }
        note(check::idle(self.stand));
        let now = match Picture::take(self.stand) {
            Ok(now) => now,
            Err(error) => return vec![error],
        };
        let has_moved = self.has_moved(&now);
        let known = match moved {
            Some(moved) if has_moved => moved,
            _ => &self.before.form,
        };
        if has_moved && !self.destinations.iter().any(|name| name.ends_with(&now.source)) {
            note(Err(format!("vda is on {}", now.source)));
        }
        for difference in now.form.difference(known) {
            note(Err(difference));
        }
        let is_migration = self.operation.kind == Kind::Migrate;
        if is_migration && word == Word::Done && !has_moved {
            note(Err("it says that the disk moved, and it did not".into()));
        }
        if is_migration && word == Word::Failed && has_moved {
            note(Err("it says that it failed, and the disk moved".into()));
        }
        let paths = self.destinations.iter().map(PathBuf::from);
        let images: BTreeSet<_> = paths.filter(|path| now.files.contains(path)).collect();
        let allowed: BTreeSet<_> = self.before.files.union(&images).cloned().collect();
        for path in now.files.difference(&allowed) {
            note(Err(format!("left: {}", path.display())));
        }
        for path in allowed.difference(&now.files) {
            note(Err(format!("gone: {}", path.display())));
        }
        note(self.check_images(word, &images, has_moved));
        note(check::whole(self.stand, &self.log));
        wrong
    }

    /// All or none, and whole.
    fn check_images(&self, word: Word, images: &BTreeSet<PathBuf>, has_moved: bool) -> Result<()> {
        let kept = self.destinations.iter().any(|name| is_kept(name));
        if self.operation.kind == Kind::Freeze {
            return Ok(());
        }
        if self.operation.kind == Kind::Migrate {
            return match (kept, has_moved != images.is_empty()) {
                (true, _) | (_, true) => Ok(()),
                _ => Err(format!("images left: {images:?}")),
            };
        }
        if !kept && !images.is_empty() && images.len() < self.destinations.len() {
            return Err(format!("only {images:?}"));
        }
        if word == Word::Done && !kept && images.is_empty() {
            return Err("it says that the images are made, and they are not there".into());
        }
        if word == Word::Failed && !kept && !images.is_empty() {
            return Err(format!("it failed and left {images:?}"));
        }
        for image in images {
            // vdb is raw.
            let (disk, format) = if image.to_string_lossy().ends_with("vda") {
                ("vda", self.before.format.as_str())
            } else {
                ("vdb", "raw")
            };
            let last = check::records(self.stand, image, format)?;
            let wanted = self.acknowledged[disk];
            if last < wanted {
                return Err(format!(
                    "{}: {disk}'s record {wanted} was acknowledged before it all began, and {last} is the last there",
                    image.display()
                ));
            }
        }
        Ok(())
    }
}

/// An export stays, whatever is in it and whatever it is seen as.
fn is_kept(name: &str) -> bool {
    name.starts_with("nbd") || name.starts_with("/dev/loop") || name.contains("/ldstore.") && !name.contains("/small/")
}

fn remove(path: &str) -> Result<()> {
    fs::remove_file(path).map_err(|error| format!("{path}: {error}"))
}

impl Cell {
    pub fn place(&self) -> Place {
        self.fault.place(self.operation)
    }

    pub fn run(&self, stand: &mut Stand, lessons: &mut Lessons, random: &mut fastrand::Rng) -> Outcome {
        match self.try_run(stand, lessons, random) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(vec![error]),
        }
    }

    fn try_run(&self, stand: &mut Stand, lessons: &mut Lessons, random: &mut fastrand::Rng) -> Result<Outcome> {
        let moved = lessons.moved(stand, self.operation, self.place())?;
        let run = Run::prepare(stand, self.operation, self.place(), self.fault == Fault::ConnectionCut)?;
        let mut agent = run.bring(self.course, &[self.at.point()])?;
        if !agent.await_stop(self.at.point(), PATIENCE)? {
            let status = agent.wait(PATIENCE)?;
            let wrong = run.check(self.word(status, false), moved.as_ref());
            run.clean()?;
            return Ok(if wrong.is_empty() {
                Outcome::NotReached
            } else {
                Outcome::Failed(wrong)
            });
        }
        if matches!(self.at, At::During(_)) {
            agent.signal(Signal::CONT);
            let within = if self.at.point().contains("Await") { 200 } else { 20 };
            thread::sleep(Duration::from_millis(random.u64(..within)));
        }
        let mut scene = Scene {
            stand: run.stand,
            agent: &agent,
            destinations: &run.destinations,
            proxy: run.proxy.as_ref(),
            lost: false,
            pending: None,
        };
        self.fault.inflict(&mut scene)?;
        agent.signal(Signal::CONT);
        let pending = scene.pending.take();
        let mut notes = Notes {
            lost: scene.lost,
            ..Notes::default()
        };
        let result = self.see_through(&run, &mut agent, &mut notes);
        if let Some(mut pending) = pending {
            let _ = pending.wait();
        }
        let status = result.map_err(|error| agent.with_last_words(error))?;
        let mut wrong = run.check(self.word(status, notes.recovered), moved.as_ref());
        wrong.extend(check::explained(agent.said.iter().map(String::as_str)).err());
        if !wrong.is_empty() {
            wrong.push(agent.with_last_words(format!("the agent's end: {status}")));
            return Ok(Outcome::Failed(wrong));
        }
        run.clean()?;
        Ok(Outcome::Passed(notes))
    }

    fn word(&self, ended: ExitStatus, recovered: bool) -> Word {
        match ended.code() {
            _ if matches!(self.course, Course::Recovering | Course::Astray) || recovered => Word::None,
            Some(0) => Word::Done,
            None | Some(130) => Word::None,
            Some(_) => Word::Failed,
        }
    }

    /// Until the agent has ended, the fault is undone, the guest runs, and what was left is cleaned up.
    fn see_through(&self, run: &Run<'_>, agent: &mut Agent, notes: &mut Notes) -> Result<ExitStatus> {
        let killed = Instant::now();
        if self.fault == Fault::AgentKilled {
            let limit = THAW_LIMIT + 3 * run.quiet;
            run.log.await_writing(limit)?;
            notes.thawed_within = Some(killed.elapsed());
        }
        if let Some(lasts) = self.fault.lasts() {
            while killed.elapsed() < lasts && !agent.has_ended() {
                thread::sleep(Duration::from_millis(10));
            }
            self.undo(run, agent)?;
        }
        let status = agent.wait(PATIENCE)?;
        if self.fault.lasts().is_none() {
            self.undo(run, agent)?;
        }
        if self.fault == Fault::GuestShutdown {
            run.stand.await_off(PATIENCE)?;
        }
        let left = check::recorded(run.stand)? > 0;
        if (self.fault.kills_guest() || notes.lost || self.fault == Fault::AgentAndGuardKilled) && left {
            // Of a domain that is off, it cleans up what can be.
            notes.recovered = true;
            let _ = run.recover();
        }
        if self.fault.may_fail_guest() && run.log.await_writing(GIVEN_UP).is_err() {
            notes.restarted = true;
            run.stand.virsh(&["destroy", DOMAIN])?;
        }
        if let Err(error) = run.stand.await_guest(&run.log, PATIENCE) {
            // While a backup runs libvirt drops an agent's coming and going, after 30 s each (docs/operations.md).
            if self.operation.method != "backup" || run.log.await_writing(GIVEN_UP).is_err() {
                return Err(error);
            }
            notes.deaf = true;
            run.stand.restart_daemon()?;
            run.stand.await_guest(&run.log, PATIENCE)?;
        }
        if left || status.signal().is_some() {
            notes.recovered = left;
            if let Err(error) = run.recover() {
                // As docs/operations.md has it for a libvirtd that died at the end of a job.
                let is_known = match self.fault {
                    Fault::CommitUnseen => true,
                    Fault::DaemonKilled => check::agreement(run.stand).is_err(),
                    _ => false,
                };
                if !is_known {
                    return Err(error);
                }
                notes.lost = true;
                run.stand.virsh(&["destroy", DOMAIN])?;
                run.recover()?;
                run.stand.await_guest(&run.log, PATIENCE)?;
            }
        }
        run.log.await_writing(PATIENCE)?;
        Ok(status)
    }

    fn undo(&self, run: &Run<'_>, agent: &Agent) -> Result<()> {
        self.fault.undo(&mut Scene {
            stand: run.stand,
            agent,
            destinations: &run.destinations,
            proxy: run.proxy.as_ref(),
            lost: false,
            pending: None,
        })
    }
}
