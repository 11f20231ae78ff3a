// SPDX-License-Identifier: LGPL-2.1-or-later
//! The agent dies or hangs inside the freeze window, at moments chosen at random (LIVEDISK_TEST_SEED repeats them), and
//! the guest writes on. The agent is a process of its own: this program again, as [`agent`].

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use livedisk::{Connection, EventLoop, Method, Operation, Phase, Quiesce, SnapshotOptions};
use support::bed::{Bed, Server, Turn, run};
use support::{PATIENCE, disk, snapshot, until};

/// What is promised of a guest whose agent was killed.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &["name=a,disks=raw:16M+raw:16M,data=2M", "name=b,disks=raw:16M,data=2M"],
    )
}

// The agent.

/// Obeys a line at a time: `start DOMAIN METHOD QUIESCE LIMIT_MS DESTINATION...` (answered at READY), `finish`, `opening`
/// (how many milliseconds the connection took).
#[test]
#[ignore = "the other tests start it"]
fn agent() {
    let uri = std::env::var("LIVEDISK_TEST_AGENT").unwrap();
    log::set_boxed_logger(Box::new(Warnings)).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let began = Instant::now();
    let connection = Connection::open(Some(&uri), EventLoop::Own).unwrap();
    let opening = began.elapsed();
    let mut operations = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["start", domain, method, quiesce, limit, ref destinations @ ..] => {
                start(&connection, domain, method, quiesce, limit, destinations).map(|operation| {
                    operations.push(operation);
                    "ready".to_owned()
                })
            }
            ["finish"] => {
                // All at once.
                let reports: Result<Vec<_>, _> = thread::scope(|scope| {
                    let finish = |operation: Operation| scope.spawn(move || operation.finish(None));
                    let finishing: Vec<_> = operations.drain(..).map(finish).collect();
                    finishing
                        .into_iter()
                        .map(|finishing| finishing.join().unwrap())
                        .collect()
                });
                reports.map(|reports| format!("done {reports:?}"))
            }
            ["opening"] => Ok(opening.as_millis().to_string()),
            _ => panic!("{line}"),
        };
        println!(
            "agent: {}",
            answer.unwrap_or_else(|error| format!("error {:?} {error}", error.code()))
        );
    }
}

fn start(
    connection: &Connection,
    domain: &str,
    method: &str,
    quiesce: &str,
    limit: &str,
    destinations: &[&str],
) -> livedisk::Result<Operation> {
    let disks = ["vda", "vdb"]
        .iter()
        .zip(destinations)
        .map(|(target, destination)| disk(target, destination, "raw"));
    let options = SnapshotOptions {
        method: if method == "backup" {
            Method::Backup
        } else {
            Method::Mirror
        },
        quiesce: if quiesce == "require" {
            Quiesce::Require
        } else {
            Quiesce::None
        },
        freeze_limit: Duration::from_millis(limit.parse().unwrap()),
        ..snapshot(disks.collect())
    };
    let operation = connection.start_live_snapshot(domain, &options)?;
    while !matches!(operation.poll(None).phase, Phase::Ready | Phase::Done | Phase::Failed) {}
    Ok(operation)
}

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("livedisk")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            println!("agent: log {}", record.args());
        }
    }

    fn flush(&self) {}
}

/// That process, from outside.
struct Agent {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    logged: Vec<String>,
}

impl Agent {
    fn new(bed: &Bed, environment: &[(&str, &str)]) -> Self {
        Self::through(Command::new(std::env::current_exe().unwrap()), &bed.uri, environment)
    }

    fn through(mut command: Command, uri: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = command
            .args(["--exact", "agent", "--ignored", "--nocapture"])
            .env("LIVEDISK_TEST_AGENT", uri)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let (sender, answers) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once("agent: ") {
                    // Nobody may listen any more.
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            answers,
            logged: Vec::new(),
        }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    /// The answer to what was told; what was logged meanwhile is kept.
    fn answer(&mut self) -> String {
        loop {
            let line = self.answers.recv_timeout(PATIENCE).unwrap();
            match line.strip_prefix("log ") {
                Some(logged) => self.logged.push(logged.to_owned()),
                None => return line,
            }
        }
    }

    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// A whole snapshot.
    fn snapshot(&mut self, domain: &str, image: &Path) -> String {
        let image = image.to_str().unwrap();
        assert_eq!(
            self.ask(&format!("start {domain} mirror require 10000 {image}")),
            "ready"
        );
        self.ask("finish")
    }

    fn signal(&self, signal: &str) {
        run("bash", &["-c", &format!("kill -{signal} {}", self.child.id())]);
    }

    fn kill(&mut self) -> Instant {
        self.child.kill().unwrap();
        let killed = Instant::now();
        self.child.wait().unwrap();
        killed
    }

    fn guards(&self) -> Vec<u32> {
        guards_of(self.child.id())
    }

    fn guard(&self) -> u32 {
        let guards = self.guards();
        assert_eq!(guards.len(), 1, "{guards:?}");
        guards[0]
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes whose command line says that they guard this one.
fn guards_of(agent: u32) -> Vec<u32> {
    let is_guard = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split('\0').collect();
        words[0].ends_with("livedisk-guard") && words.get(1..3) == Some(&[agent.to_string().as_str(), "detached"])
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_guard)
        .collect()
}

// The window, held open.

/// An export that can be paused: a mirror to it then does not end, and the window stays open.
struct Export {
    _server: Server,
    uri: String,
    control: PathBuf,
    image: PathBuf,
}

impl Export {
    fn new(directory: &Path, name: &str) -> Self {
        let path = |kind: &str| directory.join(format!("{name}.{kind}"));
        let (socket, control, image) = (path("nbd"), path("pause"), path("raw"));
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        let pause = format!("pause-control={}", shown(&control));
        let server = Server::nbdkit(&socket, &["--filter=pause", "file", &shown(&image), &pause]);
        until("the export can be paused", || control.exists());
        Self {
            _server: server,
            uri: format!("nbd+unix:///?socket={}", shown(&socket)),
            control,
            image,
        }
    }

    /// `p` or `r`, answered by the upper-case letter.
    fn control(&self, command: u8) {
        let mut control = UnixStream::connect(&self.control).unwrap();
        let mut answer = [0];
        control.write_all(&[command]).unwrap();
        control.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], command.to_ascii_uppercase());
    }

    fn pause(&self) {
        self.control(b'p');
    }

    fn resume(&self) {
        self.control(b'r');
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        for path in [&self.image, &self.control, &self.control.with_extension("nbd")] {
            let _ = fs::remove_file(path);
        }
    }
}

/// From `since` on, for a while: the longest time that nothing came from the guest's writer.
fn longest_silence(log: &str, since: Instant) -> Duration {
    let (mut last, mut longest, mut length) = (since, Duration::ZERO, 0);
    // A while, but at least until something came.
    while since.elapsed() < Duration::from_millis(1500) || (last == since && since.elapsed() < PATIENCE) {
        let now = fs::metadata(log).unwrap().len();
        longest = longest.max(last.elapsed());
        if now != length && length != 0 {
            last = Instant::now();
        }
        length = now;
        thread::sleep(Duration::from_millis(1));
    }
    longest
}

/// Ends what a killed agent left running on the domain, and gives it its old definition back.
fn settle(bed: &Bed, domain: &str, definition: &str) {
    // Which of these there are depends on the moment.
    let _ = bed.try_virsh(&["domjobabort", domain]);
    for target in ["vda", "vdb"] {
        let _ = bed.try_virsh(&["blockjob", domain, target, "--abort", "--async"]);
    }
    until("no job runs", || {
        let jobs = bed.virsh(&["dumpxml", domain]);
        !jobs.contains("<mirror") && bed.virsh(&["domjobinfo", domain]).contains("None")
    });
    let live = bed.virsh(&["dumpxml", domain]);
    for namespace in live.split(['"', '\'']).filter(|text| text.starts_with("urn:livedisk:")) {
        bed.virsh(&["metadata", domain, namespace, "--remove", "--live"]);
    }
    let file = bed.path("definition.xml");
    fs::write(&file, definition).unwrap();
    bed.virsh(&["define", file.to_str().unwrap()]);
    fs::remove_file(file).unwrap();
}

struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = match std::env::var("LIVEDISK_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
        };
        println!("LIVEDISK_TEST_SEED={seed}");
        Self(seed)
    }

    /// By SplitMix64.
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_nanos((z ^ (z >> 31)) % limit.as_nanos() as u64)
    }
}

fn definition(bed: &Bed, domain: &str) -> String {
    bed.virsh(&["dumpxml", "--inactive", "--security-info", domain])
}

#[test]
fn killed_while_two_guests_are_frozen() {
    let bed = bed();
    let exports = [Export::new(&bed.dir, "one"), Export::new(&bed.dir, "two")];
    let domains = ["a", "b"];
    let before = domains.map(|domain| bed.watch(domain));
    let definitions = domains.map(|domain| definition(&bed, domain));
    let mut random = Random::new();
    for round in 0..3 {
        let mut agent = Agent::new(&bed, &[]);
        for (domain, export) in domains.iter().zip(&exports) {
            assert_eq!(
                agent.ask(&format!("start {domain} mirror require 60000 {}", export.uri)),
                "ready"
            );
        }
        exports.iter().for_each(Export::pause);
        agent.tell("finish");
        for before in &before {
            until("it is frozen", || before.fsfreeze_status() == "frozen");
        }
        thread::sleep(random.below(Duration::from_millis(300)));
        let killed = agent.kill();
        let shared: &Bed = &bed;
        let silences = thread::scope(|scope| {
            let watching =
                domains.map(|domain| scope.spawn(move || longest_silence(shared.of_guest(domain, "WRITER"), killed)));
            watching.map(|watching| watching.join().unwrap())
        });
        println!("round {round}: silent for {silences:?} from the kill on");
        assert!(silences.iter().all(|silence| *silence < LET_GO_WITHIN));
        exports.iter().for_each(Export::resume);
        for index in 0..2 {
            settle(&bed, domains[index], &definitions[index]);
            before[index].must_be_as_before(&[]);
        }
        until("the guard has ended", || agent.guards().is_empty());
    }
}

#[test]
fn killed_while_the_guest_is_paused() {
    let bed = bed();
    let exports = [Export::new(&bed.dir, "one"), Export::new(&bed.dir, "two")];
    let (before, definition) = (bed.watch("a"), definition(&bed, "a"));
    let mut agent = Agent::new(&bed, &[]);
    let start = format!("start a mirror none 60000 {} {}", exports[0].uri, exports[1].uri);
    assert_eq!(agent.ask(&start), "ready");
    exports.iter().for_each(Export::pause);
    // A mirror with nothing to write ends at once.
    until("a write waits for its export", || {
        let job = bed.virsh(&["blockjob", "--raw", "a", "vda"]);
        let number = |key: &str| {
            let (_, rest) = job.split_once(key).unwrap_or_else(|| panic!("no {key} in {job}"));
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            digits.parse::<u64>().unwrap()
        };
        number("cur=") < number("end=")
    });
    agent.tell("finish");
    until("it is paused", || bed.virsh(&["domstate", "a"]).trim() == "paused");
    agent.kill();
    // QEMU's own pause waits for its mirrors, so that long nothing helps.
    thread::sleep(Duration::from_secs(2));
    exports.iter().for_each(Export::resume);
    let silence = longest_silence(bed.of_guest("a", "WRITER"), Instant::now());
    println!("silent for {silence:?} from then on");
    assert!(silence < LET_GO_WITHIN);
    settle(&bed, "a", &definition);
    before.must_be_as_before(&[]);
}

#[test]
fn killed_at_any_moment() {
    let bed = bed();
    let (before, definition) = (bed.watch("b"), definition(&bed, "b"));
    let image = bed.path("image");
    let mut random = Random::new();
    for round in 0..8 {
        let mut agent = Agent::new(&bed, &[]);
        let method = if round % 2 == 0 { "mirror" } else { "backup" };
        let start = format!("start b {method} require 10000 {}", image.display());
        let moment = if method == "mirror" {
            assert_eq!(agent.ask(&start), "ready");
            agent.tell("finish");
            random.below(Duration::from_millis(120))
        } else {
            // Its window opens as soon as the guard is there.
            agent.tell(&start);
            until("the guard has been started", || !agent.guards().is_empty());
            random.below(Duration::from_millis(300))
        };
        thread::sleep(moment);
        let silence = longest_silence(bed.of_guest("b", "WRITER"), agent.kill());
        println!("round {round}, {method}, killed after {moment:?}: silent for {silence:?} from the kill on");
        assert!(silence < LET_GO_WITHIN);
        settle(&bed, "b", &definition);
        // It was made, or it was not yet, or the backup that was ended has removed it.
        let _ = fs::remove_file(&image);
        before.must_be_as_before(&[]);
    }
}

#[test]
fn killed_while_the_guests_agent_hangs() {
    let bed = bed();
    let (before, definition) = (bed.watch("b"), definition(&bed, "b"));
    let image = bed.path("image");
    let mut agent = Agent::new(&bed, &[]);
    let start = format!("start b mirror require 2000 {}", image.display());
    assert_eq!(agent.ask(&start), "ready");
    bed.ctl("b", &["agent", "stop"]);
    agent.tell("finish");
    thread::sleep(Duration::from_millis(500));
    agent.kill();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(agent.guards().len(), 1, "it does not give up");
    // The freeze that was sent is carried out now.
    bed.ctl("b", &["agent", "cont"]);
    until("the guard is certain", || agent.guards().is_empty());
    settle(&bed, "b", &definition);
    before.must_be_as_before(&["image"]);
}

#[test]
fn hangs_beyond_the_limit() {
    let bed = bed();
    let export = Export::new(&bed.dir, "one");
    let before = bed.watch("a");
    let mut agent = Agent::new(&bed, &[]);
    assert_eq!(
        agent.ask(&format!("start a mirror require 2000 {}", export.uri)),
        "ready"
    );
    export.pause();
    agent.tell("finish");
    until("it is frozen", || before.fsfreeze_status() == "frozen");
    let frozen = Instant::now();
    agent.signal("STOP");
    until("it is thawed", || before.fsfreeze_status() == "thawed");
    let took = frozen.elapsed();
    println!("thawed after {took:?}");
    assert!(took < Duration::from_secs(2) + LET_GO_WITHIN);
    agent.signal("CONT");
    export.resume();
    let answer = agent.answer();
    assert!(answer.starts_with("error Freeze "), "{answer}");
    before.must_be_as_before(&[]);
}

#[test]
fn one_guard_for_the_life_of_the_process() {
    let bed = bed();
    let before = bed.watch("b");
    let image = bed.path("image");
    let kept_open = bed.path("kept-open");
    // The agent has a descriptor that goes to whatever it executes.
    let mut command = Command::new("bash");
    let exec = format!("exec 9>'{}'; exec \"$0\" \"$@\"", kept_open.display());
    command.args(["-c", &exec]).arg(std::env::current_exe().unwrap());
    let mut agent = Agent::through(command, &bed.uri, &[]);
    let done = agent.snapshot("b", &image);
    assert!(done.starts_with("done") && done.contains("Filesystem"), "{done}");
    let guard = agent.guard();

    println!("it inherits nothing but its socket");
    let links = |pid: u32| -> Vec<(String, String)> {
        let directory = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let shown = |entry: &fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned());
        let link = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, shown(&entry)?));
        directory.filter_map(|entry| link(entry.unwrap())).collect()
    };
    let of_agent = links(agent.child.id());
    assert!(of_agent.iter().any(|(_, link)| kept_open == Path::new(link)));
    for (number, link) in links(guard) {
        let standard = ["1", "2"].contains(&number.as_str());
        assert_eq!(link == "/dev/null", standard, "{number}: {link}");
        // Those have no name to tell them apart by.
        let anonymous = link.starts_with("anon_inode:");
        let shared = of_agent.iter().any(|(_, other)| *other == link);
        assert!(standard || anonymous || !shared, "{number}: {link}");
    }

    println!("it is nobody's child, in a session of its own, and what ends the agent does not end it");
    let stat = |pid: u32| -> Vec<String> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let (parent, group, session) = (&stat(guard)[1], &stat(guard)[2], &stat(guard)[3]);
    assert_ne!(*parent, agent.child.id().to_string());
    assert_ne!(
        (group, session),
        (&stat(agent.child.id())[2], &stat(agent.child.id())[3])
    );
    run(
        "bash",
        &[
            "-c",
            &format!("kill -TERM {guard}; kill -INT {guard}; kill -HUP {guard}"),
        ],
    );

    println!("it is used again, and replaced where it was killed");
    fs::remove_file(&image).unwrap();
    agent.snapshot("b", &image);
    assert_eq!(agent.guard(), guard);
    run("bash", &["-c", &format!("kill -KILL {guard}")]);
    fs::remove_file(&image).unwrap();
    let done = agent.snapshot("b", &image);
    assert!(done.contains("Filesystem"), "{done}");
    assert_ne!(agent.guard(), guard);

    println!("libvirtd's restart is nothing to it");
    bed.restart_daemon(true);
    fs::remove_file(&image).unwrap();
    let done = agent.snapshot("b", &image);
    assert!(done.contains("Filesystem"), "{done}");
    assert_eq!(agent.logged, [""; 0]);

    println!("it ends with its process");
    let pid = agent.child.id();
    drop(agent.stdin.take());
    assert!(agent.child.wait().unwrap().success());
    until("the guard has ended", || guards_of(pid).is_empty());
    fs::remove_file(kept_open).unwrap();
    before.must_be_as_before(&["image"]);
}

#[test]
fn where_no_guard_can_run() {
    let bed = bed();
    let before = bed.watch("b");
    let image = bed.path("image");
    let no_program = bed.path("no-program");
    fs::write(&no_program, "").unwrap();
    for (guard, why) in [
        ("/no/such/guard", "No such file"),
        (no_program.to_str().unwrap(), "Permission denied"),
        ("/bin/true", "gone"),
    ] {
        let environment = [("LIVEDISK_GUARD", guard)];
        let mut agent = Agent::new(&bed, &environment);
        let done = agent.snapshot("b", &image);
        assert!(done.starts_with("done") && done.contains("Filesystem"), "{done}");
        fs::remove_file(&image).unwrap();
        let [logged] = &agent.logged[..] else {
            panic!("{:?}", agent.logged);
        };
        for part in ["'b'", guard, why, "nobody thaws the guest"] {
            assert!(logged.contains(part), "{logged}");
        }

        let mut agent = Agent::new(&bed, &[environment[0], ("LIVEDISK_GUARD_REQUIRED", "1")]);
        let refused = agent.ask(&format!("start b mirror require 10000 {}", image.display()));
        assert!(
            refused.starts_with("error Freeze") && refused.contains(guard),
            "{refused}"
        );
        let unfrozen = agent.ask(&format!("start b mirror none 10000 {}", image.display()));
        assert_eq!(unfrozen, "ready", "without a freeze none is needed");
        agent.ask("finish");
        fs::remove_file(&image).unwrap();
    }
    fs::remove_file(no_program).unwrap();
    before.must_be_as_before(&[]);
}

/// Its guests outlive the process that had it open, and only when that is gone can another open it.
#[test]
fn killed_with_the_embedded_driver() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/embedded");
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    print!(
        "{}",
        run(
            script,
            &[own, "--exact", "on_the_embedded_driver", "--ignored", "--nocapture"]
        )
    );
}

#[test]
#[ignore = "the one above starts it"]
fn on_the_embedded_driver() {
    let value = |name: &str| std::env::var(format!("LIVEDISK_TEST_{name}")).unwrap();
    let (uri, domain, log) = (value("URI"), value("DOMAIN_1"), value("WRITER_1"));
    let export = Export::new(Path::new(&value("DIR")), "one");
    let mut agent = Agent::through(Command::new(std::env::current_exe().unwrap()), &uri, &[]);
    let opening = Duration::from_millis(agent.ask("opening").parse().unwrap());
    // The driver that was just opened does not know the guest's agent at once.
    until("the guest's agent is known", || {
        let answer = agent.ask(&format!("start {domain} mirror require 60000 {}", export.uri));
        assert!(answer == "ready" || answer.starts_with("error Agent"), "{answer}");
        answer == "ready"
    });
    export.pause();
    agent.tell("finish");
    until("it is frozen", || {
        let written = fs::metadata(&log).unwrap().modified().unwrap();
        written.elapsed().is_ok_and(|silence| silence > LET_GO_WITHIN)
    });
    let silence = longest_silence(&log, agent.kill());
    println!("silent for {silence:?} from the kill on; to open the driver took the agent {opening:?}");
    // The guard has to open it first. That is quick, but where the machine is busy it takes its time.
    assert!(silence < LET_GO_WITHIN + opening);
    export.resume();
    until("the guard has ended", || agent.guards().is_empty());
    assert!(
        longest_silence(&log, Instant::now()) < LET_GO_WITHIN,
        "it lives on without the guard"
    );
}
