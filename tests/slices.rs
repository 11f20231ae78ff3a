// SPDX-License-Identifier: LGPL-2.1-or-later
//! Disks that are a slice of a file, or rest on one: each method copies what the guest sees, and nothing beside it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use livedisk::{CloneMethod, Error, ErrorCode, EventLoop, Method, MigrateOptions, Operation, Quiesce, SnapshotOptions};
use support::bed::{Bed, Turn, fill, run};
use support::image::must_equal;
use support::odd::{NAME, Odd, odd};
use support::{PATIENCE, await_copying, disk, must_tell, snapshot};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 4 * MIB;
/// Where the slice begins.
const AT: u64 = MIB + 512;

fn bed() -> Turn {
    support::bed::turn(EventLoop::Own, &["name=a,disks=raw:16M,agent=no"])
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk of which one image is a slice of the file `sliced`; it shows what is in the file `content`.
struct Sliced<'a> {
    bed: &'a Bed,
    format: &'static str,
    /// The slice is the backing file of `top`.
    below: bool,
    size: u64,
    /// The whole file, as it was made.
    before: Vec<u8>,
    _domain: Odd<'a>,
}

impl<'a> Sliced<'a> {
    fn start(bed: &'a Bed, format: &'static str, below: bool) -> Self {
        println!("a slice of {format}, below: {below}");
        let [content, inner, sliced, top] = ["content", "inner", "sliced", "top"].map(|name| bed.path(name));
        fill(&content, SIZE);
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", format, shown(&content), shown(&inner)],
        );
        fill(&sliced, AT);
        let mut before = fs::read(&sliced).unwrap();
        before.extend(fs::read(&inner).unwrap());
        if format == "qcow2" {
            // It may grow.
            before.resize(before.len() + MIB as usize, 0);
        }
        let size = before.len() as u64 - AT;
        before.extend([0xa5; 4096]);
        fs::write(&sliced, &before).unwrap();
        fs::remove_file(inner).unwrap();
        let slices = format!("<slices><slice type='storage' offset='{AT}' size='{size}'/></slices>");
        let source = format!("<source file='DIR/sliced'>{slices}</source>");
        let disk = if below {
            let arguments = ["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b"];
            run(
                "qemu-img",
                &[&arguments[..], &[shown(&sliced), shown(&top), "4M"]].concat(),
            );
            format!(
                "<driver name='qemu' type='qcow2'/><source file='DIR/top'/><backingStore type='file'>\
                 <format type='{format}'/>{source}<backingStore/></backingStore>"
            )
        } else {
            format!("<driver name='qemu' type='{format}'/>{source}<backingStore/>")
        };
        let domain = odd(bed, &disk, &["sliced", "content", "top", "moved", "now"]);
        Self {
            bed,
            format,
            below,
            size,
            before,
            _domain: domain,
        }
    }

    fn content(&self) -> PathBuf {
        self.bed.path("content")
    }

    /// What lies beside the slice was not touched.
    fn must_be_alone(&self) {
        let now = fs::read(self.bed.path("sliced")).unwrap();
        let end = (AT + self.size) as usize;
        assert_eq!(now.len(), self.before.len());
        assert!(now[..AT as usize] == self.before[..AT as usize] && now[end..] == self.before[end..]);
    }

    /// The slice as QEMU reads it.
    fn node(&self) -> String {
        let file = format!(
            r#""driver":"raw","offset":{AT},"size":{},"file":{{"driver":"file","filename":"{}"}}"#,
            self.size,
            shown(&self.bed.path("sliced"))
        );
        match self.format {
            "raw" => format!("json:{{{file}}}"),
            format => format!(r#"json:{{"driver":"{format}","file":{{{file}}}}}"#),
        }
    }

    /// The guest writes 64 KiB of this at 128 KiB.
    fn write(&self, byte: u8) {
        let device = "/machine/peripheral/virtio-disk0/virtio-backend";
        let command = format!("qemu-io -d {device} \"write -P {byte} 128k 64k\"");
        let said = self.bed.virsh(&["qemu-monitor-command", "--hmp", NAME, &command]);
        assert!(!said.contains("rror") && !said.contains("failed"), "{said}");
        let content = self.content();
        let mut written = fs::read(&content).unwrap();
        written[128 << 10..192 << 10].fill(byte);
        fs::write(content, written).unwrap();
    }

    /// The slice holds what `content` does.
    fn must_hold_content(&self) {
        let now = self.bed.path("now");
        run("qemu-img", &["convert", "-U", "-O", "raw", &self.node(), shown(&now)]);
        must_equal(&now, "raw", &self.content());
        fs::remove_file(now).unwrap();
        self.must_be_alone();
    }

    /// Both definitions have the slice.
    fn must_be_defined(&self) {
        for definition in [&["dumpxml", NAME][..], &["dumpxml", "--inactive", NAME]] {
            let definition = self.bed.virsh(definition);
            let slice = format!("<slice type='storage' offset='{AT}' size='{}'/>", self.size);
            assert!(definition.contains(&slice), "{definition}");
        }
    }
}

fn by(bed: &Bed, method: Method, format: &str) -> SnapshotOptions {
    SnapshotOptions {
        method,
        quiesce: Quiesce::None,
        verify: true,
        ..snapshot(vec![disk("vda", bed.path("out"), format)])
    }
}

fn to(bed: &Bed, method: Method) -> MigrateOptions {
    MigrateOptions {
        target: "vda".into(),
        destination: shown(&bed.path("moved")).into(),
        method,
        ..MigrateOptions::default()
    }
}

fn taken(sliced: &Sliced<'_>, options: &SnapshotOptions) {
    let bed = sliced.bed;
    let before = bed.watch(NAME);
    let operation = bed.connection.start_live_snapshot(NAME, options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    println!("{:?} to {:?}: {report:?}", options.method, options.disks[0].format);
    // A slice shares no blocks, so AUTO does not count on it.
    assert!(options.method == report.method || options.method == Method::Auto && report.method == Method::Mirror);
    let format = options.disks[0].format.as_deref().unwrap();
    must_equal(&bed.path("out"), format, &sliced.content());
    before.must_be_as_before(&["out"]);
}

fn refused(bed: &Bed, start: impl FnOnce() -> Result<Operation, Error>, parts: &[&str]) {
    let before = bed.watch(NAME);
    let error = start().err().unwrap();
    println!("{error}");
    must_tell(
        &error,
        ErrorCode::Unsupported,
        &[&["'vda'", NAME, "<slices>"], parts].concat(),
    );
    before.must_be_as_before(&[]);
}

fn snapshot_refused(bed: &Bed, options: &SnapshotOptions, parts: &[&str]) {
    refused(bed, || bed.connection.start_live_snapshot(NAME, options), parts);
}

fn migration_refused(bed: &Bed, options: &MigrateOptions, parts: &[&str]) {
    refused(bed, || bed.connection.migrate_disk(NAME, options), parts);
}

/// What takes the image for its whole file.
fn the_rest_is_refused(sliced: &Sliced<'_>) {
    let bed = sliced.bed;
    let calling = SnapshotOptions {
        verify: false,
        clone: CloneMethod::Callback,
        clone_callback: Some(Arc::new(|_, _| 1)),
        ..by(bed, Method::Clone, "qcow2")
    };
    snapshot_refused(bed, &calling, &["/sliced'", "MIRROR"]);
    if sliced.below {
        for method in [Method::Mirror, Method::Clone, Method::Auto] {
            let shallow = SnapshotOptions {
                shallow: true,
                verify: false,
                ..by(bed, method, "qcow2")
            };
            snapshot_refused(bed, &shallow, &["/sliced'", "SHALLOW"]);
        }
        return;
    }
    let shared = SnapshotOptions {
        clone: CloneMethod::Reflink,
        ..by(bed, Method::Clone, sliced.format)
    };
    snapshot_refused(bed, &shared, &["MIRROR"]);
    for clone in [CloneMethod::Callback, CloneMethod::Reflink] {
        let options = MigrateOptions {
            clone,
            clone_callback: Some(Arc::new(|_, _| 1)),
            ..to(bed, Method::Clone)
        };
        migration_refused(bed, &options, &["MIRROR"]);
    }
    for method in [Method::Clone, Method::Mirror] {
        let options = MigrateOptions {
            delete_source: true,
            ..to(bed, method)
        };
        migration_refused(bed, &options, &["/sliced'", "DELETE_SOURCE"]);
    }
}

fn every_method(format: &'static str, below: bool) {
    let bed = bed();
    for method in [Method::Clone, Method::Mirror] {
        let sliced = Sliced::start(&bed, format, below);
        sliced.must_be_defined();
        if method == Method::Clone {
            for method in [Method::Clone, Method::Mirror, Method::Backup, Method::Auto] {
                for format in ["raw", "qcow2"] {
                    taken(&sliced, &by(&bed, method, format));
                    sliced.must_hold_content();
                }
            }
            the_rest_is_refused(&sliced);
        }
        let options = MigrateOptions {
            verify: method == Method::Clone,
            ..to(&bed, method)
        };
        let operation = bed.connection.migrate_disk(NAME, &options).unwrap();
        println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
        sliced.must_hold_content();
        let keeps = below && method == Method::Clone;
        if keeps {
            sliced.must_be_defined();
        }
        bed.virsh(&["destroy", NAME]);
        let definition = bed.virsh(&["dumpxml", NAME]);
        assert_eq!(definition.contains("<slice"), keeps, "{definition}");
        let format = if below { "qcow2" } else { format };
        must_equal(&bed.path("moved"), format, &sliced.content());
        bed.virsh(&["start", NAME]);
        taken(&sliced, &by(&bed, Method::Backup, "raw"));
    }
}

#[test]
fn a_slice_of_raw() {
    every_method("raw", false);
}

#[test]
fn a_slice_of_qcow2() {
    every_method("qcow2", false);
}

#[test]
fn on_a_slice_of_raw() {
    every_method("raw", true);
}

/// qemu-img cannot open it there.
#[test]
fn on_a_slice_of_qcow2() {
    let bed = bed();
    let sliced = Sliced::start(&bed, "qcow2", true);
    sliced.must_be_defined();
    for format in ["raw", "qcow2"] {
        taken(&sliced, &by(&bed, Method::Backup, format));
        for method in [Method::Mirror, Method::Auto] {
            snapshot_refused(&bed, &by(&bed, method, format), &["/sliced'", "VERIFY"]);
            let options = SnapshotOptions {
                verify: false,
                ..by(&bed, method, format)
            };
            taken(&sliced, &options);
        }
        snapshot_refused(&bed, &by(&bed, Method::Clone, format), &["/sliced'"]);
    }
    the_rest_is_refused(&sliced);
    migration_refused(&bed, &to(&bed, Method::Clone), &["/sliced'", "MIRROR"]);
    let operation = bed.connection.migrate_disk(NAME, &to(&bed, Method::Auto)).unwrap();
    assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Mirror);
    sliced.must_hold_content();
    bed.virsh(&["destroy", NAME]);
    must_equal(&bed.path("moved"), "qcow2", &sliced.content());
    bed.virsh(&["start", NAME]);
    taken(&sliced, &by(&bed, Method::Clone, "raw"));
}

/// What the guest writes while its slice is copied goes into it afterwards.
#[test]
fn the_guest_writes_meanwhile() {
    let bed = bed();
    for format in ["raw", "qcow2"] {
        let sliced = Sliced::start(&bed, format, false);
        let before = bed.watch(NAME);
        let original = fs::read(sliced.content()).unwrap();
        let options = SnapshotOptions {
            bandwidth: MIB,
            ..by(&bed, Method::Clone, "raw")
        };
        let operation = bed.connection.start_live_snapshot(NAME, &options).unwrap();
        await_copying(&operation);
        sliced.write(7);
        operation.finish(Some(PATIENCE)).unwrap();
        assert!(
            fs::read(bed.path("out")).unwrap() == original,
            "it has what was written later"
        );
        sliced.must_hold_content();
        before.must_be_as_before(&["out"]);

        let options = MigrateOptions {
            bandwidth: MIB,
            ..to(&bed, Method::Clone)
        };
        let operation = bed.connection.migrate_disk(NAME, &options).unwrap();
        await_copying(&operation);
        sliced.write(8);
        operation.finish(Some(PATIENCE)).unwrap();
        bed.virsh(&["destroy", NAME]);
        must_equal(&bed.path("moved"), format, &sliced.content());
        sliced.must_be_alone();
    }
}

/// The domain goes away meanwhile: what the guest wrote is committed into its slice, and the definition names that.
#[test]
fn the_domain_goes_away_meanwhile() {
    let bed = bed();
    for format in ["raw", "qcow2"] {
        let sliced = Sliced::start(&bed, format, false);
        let options = SnapshotOptions {
            bandwidth: MIB,
            ..by(&bed, Method::Clone, "raw")
        };
        let operation = bed.connection.start_live_snapshot(NAME, &options).unwrap();
        await_copying(&operation);
        sliced.write(9);
        bed.virsh(&["destroy", NAME]);
        let error = operation.finish(Some(PATIENCE)).unwrap_err();
        must_tell(&error, ErrorCode::DomainState, &[NAME]);
        sliced.must_hold_content();
        sliced.must_be_defined();
        bed.virsh(&["start", NAME]);
        taken(&sliced, &by(&bed, Method::Clone, "qcow2"));
    }
}
