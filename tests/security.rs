// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an attacker inside the guest, or beside the destination, may try. Which test shows what:
//!
//! | rule | test |
//! |---|---|
//! | odd names reach exactly the file meant | `results.rs` odd_names_reach_exactly_the_file_meant, `migrate/clones.rs` odd_names |
//! | control characters in names are refused | `errors/destinations.rs` names_that_are_none |
//! | odd domain names and targets are only names | `ctests/errors-names.c`; here: a_domain_is_only_a_name |
//! | the format is stated, never probed | `results.rs` a_raw_disk_that_looks_like_qcow2_is_raw |
//! | a prepared image's backing file is the one wanted, by inode | here: a_prepared_overlay_has_the_backing_file_that_is_wanted |
//! | data files and `json:` backing are refused | here: a_prepared_image_is_one_file |
//! | symlink, FIFO, directory, the source and hard links to it are refused | `errors/destinations.rs` what_stands_at_the_destination, `migrate/refused.rs` refused_destinations_and_disks |
//! | made without a race, held by descriptor | `results.rs` an_image_replaced_or_removed_meanwhile_is_no_success; here: what_appears_at_the_destination_is_not_written_to |
//! | results have mode 0600 | `results.rs` the_image_is_private |
//! | an encrypted disk stays encrypted unless asked | `errors/disks.rs`, `migrate/encrypted.rs` encrypted_disk |
//! | no secrets in the log or in messages | here: no_secret_is_told |
//! | what the agent answers is not trusted | here: an_agent_that_lies |

mod support;

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use livedisk::{Consistency, ErrorCode, EventLoop, Method, Quiesce, SnapshotOptions};
use support::bed::{Bare, Bed, Turn, run};
use support::definition::plain;
use support::image::create;
use support::{PATIENCE, disk, must_tell, snapshot, until};

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=qcow2-backed:64M,data=2M"])
}

fn refused(bed: &Bed, domain: &str, options: &SnapshotOptions, code: ErrorCode, parts: &[&str]) {
    let started = bed.connection.start_live_snapshot(domain, options);
    let error = started
        .and_then(|operation| operation.finish(Some(PATIENCE)))
        .unwrap_err();
    println!("{error}");
    must_tell(&error, code, parts);
}

fn reused(image: &Path, shallow: bool) -> SnapshotOptions {
    let mut options = SnapshotOptions {
        shallow,
        ..snapshot(vec![disk("vda", image, "qcow2")])
    };
    options.disks[0].reuse_existing = true;
    options
}

#[test]
fn a_domain_is_only_a_name() {
    let bed = bed();
    let bare = bed.bare("plain", &[Bare::RAW]);
    let options = snapshot(vec![disk("vda", bed.path("out"), "raw")]);
    for name in ["'; rm -rf /", "<a>&b", "%s%n", "--help", "../plain", "plain "] {
        refused(&bed, name, &options, ErrorCode::NoDomain, &[]);
    }
    for target in ["vda'/><x a='", "../vda", "%s", "vda\0"] {
        let mut options = options.clone();
        options.disks[0].target = target.into();
        refused(&bed, "plain", &options, ErrorCode::NoDisk, &["'plain'"]);
    }
    assert!(!bed.path("out").exists());
    drop(bare);
}

#[test]
fn a_prepared_overlay_has_the_backing_file_that_is_wanted() {
    let bed = bed();
    let before = bed.watch("a");
    let wanted = Path::new(bed.of_guest("a", "BASE vda"));
    let (image, other, link) = (bed.path("mine"), bed.path("other"), bed.path("link"));
    fs::copy(wanted, &other).unwrap();
    let overlay = |backing: &str| {
        let name = image.to_str().unwrap();
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, name, "64M"],
        );
    };
    println!("the same bytes in another file");
    overlay(other.to_str().unwrap());
    refused(
        &bed,
        "a",
        &reused(&image, true),
        ErrorCode::Destination,
        &["/mine'", "backing file", "/other'"],
    );
    println!("the same file by another name");
    fs::remove_file(&image).unwrap();
    fs::hard_link(wanted, &link).unwrap();
    overlay(link.to_str().unwrap());
    let operation = bed.connection.start_live_snapshot("a", &reused(&image, true)).unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    for file in [&other, &link] {
        fs::remove_file(file).unwrap();
    }
    before.must_be_as_before(&["mine"]);
}

#[test]
fn a_prepared_image_is_one_file() {
    let bed = bed();
    let before = bed.watch("a");
    let (image, data) = (bed.path("mine"), bed.path("data"));
    let name = image.to_str().unwrap();
    let option = format!("data_file={}", data.display());
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &option, name, "64M"]);
    refused(
        &bed,
        "a",
        &reused(&image, false),
        ErrorCode::Destination,
        &["/mine'", "data file"],
    );
    fs::remove_file(&data).unwrap();
    fs::remove_file(&image).unwrap();

    let base = bed.of_guest("a", "BASE vda");
    for backing in [
        format!(r#"json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{base}"}}}}"#),
        "nbd://localhost:1/x".to_owned(),
        format!("file:{base}"),
    ] {
        println!("{backing}");
        create(&image, "qcow2", "64M");
        run(
            "qemu-img",
            &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &backing, name],
        );
        for shallow in [true, false] {
            refused(
                &bed,
                "a",
                &reused(&image, shallow),
                ErrorCode::Destination,
                &["/mine'", "backing file"],
            );
        }
        fs::remove_file(&image).unwrap();
    }
    before.must_be_as_before(&[]);
}

struct Stop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Until the file is made nobody holds it; O_EXCL and O_NOFOLLOW decide.
#[test]
fn what_appears_at_the_destination_is_not_written_to() {
    let bed = bed();
    let bare = bed.bare("plain", &[Bare::RAW]);
    let (out, dear) = (bed.path("out"), bed.path("dear"));
    fs::write(&dear, "dear").unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut refusals = 0;
    std::thread::scope(|scope| {
        // A link to something dear comes and goes.
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                if std::os::unix::fs::symlink(&dear, &out).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                    let _ = fs::remove_file(&out);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Also where an assertion fails.
        let _stop = Stop(&stop);
        for round in 0..12 {
            let method = [Method::Mirror, Method::Backup][round % 2];
            let options = SnapshotOptions {
                method,
                ..snapshot(vec![disk("vda", &out, "raw")])
            };
            let result = bed.connection.start_live_snapshot("plain", &options);
            match result.and_then(|operation| operation.finish(Some(PATIENCE))) {
                Ok(_) => fs::remove_file(&out).unwrap(),
                Err(error) => {
                    assert!(
                        [ErrorCode::Destination, ErrorCode::JobFailed].contains(&error.code()),
                        "{error}"
                    );
                    refusals += 1;
                }
            }
            assert_eq!(fs::read(&dear).unwrap(), b"dear");
        }
    });
    println!("{refusals} of 12 refused");
    let _ = fs::remove_file(&out);
    fs::remove_file(&dear).unwrap();
    drop(bare);
}

/// Answers libvirt in the place of the guest's agent: it listens on the channel's socket, where both QEMU and libvirt connect.
struct Liar {
    socket: PathBuf,
    answers: Arc<Mutex<HashMap<String, String>>>,
}

impl Liar {
    fn new(socket: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        // QEMU's user connects.
        fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
        let liar = Self {
            socket,
            answers: Arc::default(),
        };
        let answers = Arc::clone(&liar.answers);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answers = Arc::clone(&answers);
                thread::spawn(move || serve(stream, &answers));
            }
        });
        liar
    }

    /// What it answers to a command from now on; nothing to those without an answer.
    fn says(&self, answers: &[(&str, &str)]) {
        let status = [("fsfreeze-status", r#"{"return":"thawed"}"#)];
        let all = status.iter().chain(answers);
        *self.answers.lock().unwrap() = all
            .map(|(command, answer)| (format!("guest-{command}"), (*answer).to_owned()))
            .collect();
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

fn serve(mut stream: UnixStream, answers: &Mutex<HashMap<String, String>>) {
    let lines = BufReader::new(stream.try_clone().unwrap()).split(b'\n');
    for line in lines.map_while(Result::ok) {
        // libvirt may begin with a byte that no JSON has.
        let start = line.iter().position(|byte| *byte == b'{').unwrap_or(line.len());
        let Ok(request) = serde_json::from_slice::<serde_json::Value>(&line[start..]) else {
            continue;
        };
        let answer = match request["execute"].as_str().unwrap_or_default() {
            "guest-sync" => Some(format!(r#"{{"return":{}}}"#, request["arguments"]["id"])),
            command => answers.lock().unwrap().get(command).cloned(),
        };
        if let Some(answer) = answer
            && stream.write_all(format!("{answer}\n").as_bytes()).is_err()
        {
            return;
        }
    }
}

impl Bed {
    /// The guest starts again with this definition; back when it writes and its agent, if it is one, answers.
    fn start_as(&self, domain: &str, definition: &str) {
        let file = self.path("definition");
        fs::write(&file, definition).unwrap();
        self.virsh(&["destroy", domain]);
        self.virsh(&["define", file.to_str().unwrap()]);
        fs::remove_file(file).unwrap();
        self.virsh(&["start", domain]);
        let status = r#"{"execute":"guest-fsfreeze-status"}"#;
        until("the guest's agent answers", || {
            self.try_virsh(&["qemu-agent-command", domain, status]).is_ok()
        });
        self.must_write(domain);
    }
}

#[test]
fn an_agent_that_lies() {
    let bed = bed();
    let honest = bed.virsh(&["dumpxml", "--inactive", "--security-info", "a"]);
    let liar = Liar::new(bed.path("agent"));
    let channel = honest
        .split("<channel ")
        .find(|text| text.contains("guest_agent"))
        .unwrap();
    let (kind, rest) = channel.split_once('>').unwrap();
    let source = format!("{kind}><source mode='connect' path='{}'/>", liar.socket.display());
    liar.says(&[]);
    bed.start_as("a", &honest.replace(channel, &format!("{source}{rest}")));
    let before = bed.watch("a");

    let out = bed.path("out");
    let asking = |quiesce, limit| SnapshotOptions {
        quiesce,
        freeze_limit: Duration::from_secs(limit),
        shallow: true,
        ..snapshot(vec![disk("vda", &out, "qcow2")])
    };
    let taken = |options: &SnapshotOptions| {
        let operation = bed.connection.start_live_snapshot("a", options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        println!("  {report:?}");
        before.must_be_as_before(&["out"]);
        report
    };
    let (freeze, thaw) = ("fsfreeze-freeze", "fsfreeze-thaw");

    println!("numbers that do not fit together");
    liar.says(&[(freeze, r#"{"return":3}"#), (thaw, r#"{"return":2}"#)]);
    let report = taken(&asking(Quiesce::Require, 10));
    assert_eq!((report.consistency, report.filesystems_frozen), (Consistency::Crash, 3));
    println!("none, though it was to be some");
    liar.says(&[(freeze, r#"{"return":0}"#), (thaw, r#"{"return":9}"#)]);
    let report = taken(&asking(Quiesce::Prefer, 10));
    assert_eq!((report.consistency, report.filesystems_frozen), (Consistency::Crash, 0));

    for answer in [
        r#"{"return":-7}"#,
        r#"{"return":1e300}"#,
        r#"{"return":"many"}"#,
        r#"{"return":[{}]}"#,
        r#"{"error":{"class":"GenericError","desc":"\u001b[2J\nerror: <a>'%s%n\u0007"}}"#,
        r#"{"error":"No space left on device"}"#,
    ] {
        println!("{answer}");
        liar.says(&[(freeze, answer), (thaw, r#"{"return":0}"#)]);
        refused(&bed, "a", &asking(Quiesce::Require, 10), ErrorCode::Freeze, &["'a'"]);
    }
    before.must_be_as_before(&[]);
    println!("no answer");
    liar.says(&[(thaw, r#"{"return":0}"#)]);
    refused(
        &bed,
        "a",
        &asking(Quiesce::Prefer, 2),
        ErrorCode::Freeze,
        &["'a'", "limit of 2s"],
    );
    before.must_be_as_before(&[]);

    println!("it claims to be frozen, or nonsense");
    for (status, code) in [
        (r#"{"return":"frozen"}"#, ErrorCode::Busy),
        (r#"{"return":"\u001b[2Jthawed"}"#, ErrorCode::Agent),
        (r#"{"return":{"return":"thawed"}}"#, ErrorCode::Agent),
        (r#"{"error":{"class":"\n\u001b","desc":"\n\u001b"}}"#, ErrorCode::Agent),
    ] {
        // The guest may still be being thawed, in the background, for the freeze that was not answered.
        liar.says(&[("fsfreeze-status", status), (thaw, r#"{"return":0}"#)]);
        refused(&bed, "a", &asking(Quiesce::Require, 10), code, &["'a'"]);
    }
    liar.says(&[]);
    before.must_be_as_before(&[]);

    println!("no JSON at all: libvirt does not listen to it any more");
    liar.says(&[(freeze, "{]"), (thaw, r#"{"return":0}"#)]);
    refused(&bed, "a", &asking(Quiesce::Require, 10), ErrorCode::Freeze, &["'a'"]);
    assert!(!out.exists());
    bed.start_as("a", &honest);
}

static LOGGED: Mutex<String> = Mutex::new(String::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        *LOGGED.lock().unwrap() += &format!("{}\n", record.args());
    }

    fn flush(&self) {}
}

/// The only secret that a domain's definition itself holds: a graphics password, shown with VIR_DOMAIN_XML_SECURE.
#[test]
fn no_secret_is_told() {
    const PASSWORD: &str = "swordfsh";
    let bed = bed();
    log::set_boxed_logger(Box::new(Log)).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let bare = bed.bare("guarded", &[Bare::RAW]);
    bed.virsh(&["destroy", "guarded"]);
    let definition = bed.virsh(&["dumpxml", "--inactive", "guarded"]);
    let graphics = format!("<graphics type='vnc' passwd='{PASSWORD}'><listen type='socket'/></graphics></devices>");
    let file = bed.path("guarded.xml");
    fs::write(&file, definition.replace("</devices>", &graphics)).unwrap();
    bed.virsh(&["define", file.to_str().unwrap()]);
    fs::remove_file(file).unwrap();
    bed.virsh(&["start", "guarded"]);
    let secure = || bed.virsh(&["dumpxml", "--inactive", "--security-info", "guarded"]);
    let with_password = secure();
    assert!(with_password.contains(PASSWORD));
    for method in [Method::Mirror, Method::Backup] {
        let options = SnapshotOptions {
            method,
            ..snapshot(vec![disk("vda", bed.path("out"), "raw")])
        };
        let operation = bed.connection.start_live_snapshot("guarded", &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        refused(&bed, "guarded", &options, ErrorCode::Destination, &["/out'"]);
        fs::remove_file(bed.path("out")).unwrap();
    }
    let logged = LOGGED.lock().unwrap();
    assert!(
        logged.contains("guarded") || logged.contains("FixPoint"),
        "there is a log: {logged}"
    );
    assert!(!logged.contains(PASSWORD));
    assert_eq!(plain(&secure()), plain(&with_password), "and it is not lost");
    drop(bare);
}
