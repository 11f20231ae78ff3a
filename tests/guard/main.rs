// SPDX-License-Identifier: LGPL-2.1-or-later
//! The agent dies or hangs inside the freeze window, at moments chosen at random (LIVEDISK_TEST_SEED repeats them), and
//! the guest writes on.

mod agent;
mod embedded;
#[path = "../support/mod.rs"]
mod support;
mod window;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use livedisk::{ErrorCode, EventLoop};

use crate::agent::Agent;
use crate::support::bed::{Bed, Turn, run};
use crate::support::definition::plain;
use crate::support::{PATIENCE, disk, guards_of, must_tell, snapshot, until};
use crate::window::{Export, longest_silence};

/// What is promised of a guest whose agent was killed.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &["name=a,disks=raw:16M+raw:16M,data=2M", "name=b,disks=raw:16M,data=2M"],
    )
}

/// Ends what a killed agent left running on the domain, and gives it its old definition back.
fn restore(bed: &Bed, domain: &str, definition: &str) {
    // Which of these there are depends on the moment.
    let _ = bed.try_virsh(&["domjobabort", domain]);
    for target in ["vda", "vdb"] {
        let _ = bed.try_virsh(&["blockjob", domain, target, "--abort", "--async"]);
    }
    until("no job runs", || {
        let jobs = bed.virsh(&["dumpxml", domain]);
        !jobs.contains("<mirror") && bed.virsh(&["domjobinfo", domain]).contains("None")
    });
    // A backup's, which its record names.
    for entry in fs::read_dir(&bed.dir).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".scratch") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
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
    plain(&bed.virsh(&["dumpxml", "--inactive", "--security-info", domain]))
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
            restore(&bed, domains[index], &definitions[index]);
            before[index].must_be_as_before(&[]);
        }
        until("the guard has ended", || agent.guards().is_empty());
    }
}

#[test]
fn killed_with_its_guard_while_the_guest_is_frozen() {
    let bed = bed();
    let export = Export::new(&bed.dir, "one");
    let before = bed.watch("a");
    let mut agent = Agent::new(&bed, &[]);
    let start = format!("start a mirror require 60000 {}", export.uri);
    assert_eq!(agent.ask(&start), "ready");
    export.pause();
    agent.tell("finish");
    until("it is frozen", || before.fsfreeze_status() == "frozen");
    run("bash", &["-c", &format!("kill -KILL {}", agent.guard())]);
    agent.kill();
    export.resume();
    let options = snapshot(vec![disk("vda", bed.path("next"), "qcow2")]);
    let error = bed.connection.start_live_snapshot("a", &options).unwrap_err();
    println!("{error}");
    must_tell(&error, ErrorCode::Busy, &["livedisk recover a"]);
    assert!(error.message().starts_with("the guest of domain 'a' is left frozen"));
    assert_eq!(before.fsfreeze_status(), "frozen");
    let recovery = bed.connection.recover(Some("a"), false).unwrap();
    assert_eq!((recovery.thawed(), recovery.failed()), (1, 0), "{recovery:?}");
    before.must_be_as_before(&[]);
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
    restore(&bed, "a", &definition);
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
        let crashes = bed.crashes();
        let silence = longest_silence(bed.of_guest("b", "WRITER"), agent.kill());
        println!("round {round}, {method}, killed after {moment:?}: silent for {silence:?} from the kill on");
        // Without libvirtd the guard cannot reach the guest.
        assert!(silence < LET_GO_WITHIN || bed.crashes() > crashes && silence < PATIENCE);
        restore(&bed, "b", &definition);
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
    restore(&bed, "b", &definition);
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
        // Those have no name to distinguish them by.
        let anonymous = link.starts_with("anon_inode:");
        let shared = of_agent.iter().any(|(_, other)| *other == link);
        assert!(standard || anonymous || !shared, "{number}: {link}");
    }

    println!("it has no parent of ours, is in a session of its own, and what ends the agent does not end it");
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
        for part in ["'b'", guard, why, "the guest stays frozen"] {
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
