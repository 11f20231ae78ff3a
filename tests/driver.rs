// SPDX-License-Identifier: LGPL-2.1-or-later
//! The driver shim in Nova's words, as another crate uses it.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use livedisk::driver::{BlockCopy, BlockDevice, BlockJobType, Guest, Host, PowerState};
use livedisk::{Consistency, ErrorCode, EventLoop, Method, Quiesce};
use support::bed::{Bed, Turn};
use support::image::edge;
use support::{PATIENCE, must_tell};

const MIB: u64 = 1 << 20;

fn bed() -> Turn {
    support::bed::turn(
        EventLoop::Own,
        &[
            "name=a,disks=qcow2-backed:32M+qcow2:32M+raw:32M",
            "name=b,disks=raw:16M,data=2M,agent=no,persistent=no",
        ],
    )
}

fn host(bed: &Bed) -> Arc<Host> {
    Host::open(Some(&bed.uri), EventLoop::Own).unwrap()
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The images of a disk, the active layer first.
fn chain(bed: &Bed, domain: &str, target: &str) -> Vec<String> {
    let text = bed.virsh(&["dumpxml", domain]);
    let root = xmltree::Element::parse(text.as_bytes()).unwrap();
    let is_disk = |disk: &&xmltree::Element| {
        disk.get_child("target")
            .is_some_and(|at| at.attributes["dev"] == target)
    };
    let devices = root.get_child("devices").unwrap();
    let disks = devices.children.iter().filter_map(xmltree::XMLNode::as_element);
    let mut layer = disks.filter(|child| child.name == "disk").find(is_disk);
    let mut images = Vec::new();
    while let Some(source) = layer.and_then(|layer| layer.get_child("source")) {
        images.push(source.attributes["file"].clone());
        layer = layer.and_then(|layer| layer.get_child("backingStore"));
    }
    images
}

fn raw(path: &Path) -> String {
    format!(
        "<disk type='file'><driver type='raw'/><source file='{}'/></disk>",
        shown(path)
    )
}

/// A slow mirror of the disk to a new file of the bed.
fn copy_slowly(device: &BlockDevice<'_>, destination: &Path) {
    device
        .copy(&BlockCopy {
            destination: shown(destination),
            destination_xml: &raw(destination),
            bandwidth: MIB,
            ..BlockCopy::default()
        })
        .unwrap();
}

/// Its job has ended, as was asked.
fn end(device: &BlockDevice<'_>) {
    device.abort_job().unwrap();
    device.wait_for_job(Some(PATIENCE)).unwrap();
    assert_eq!(device.get_job_info().unwrap(), None);
}

#[test]
fn a_live_snapshot() {
    let bed = bed();
    let guest = host(&bed).get_guest("a").unwrap();
    let before = bed.watch("a");
    for (target, format, name) in [("vda", Some("raw"), "one"), ("vdc", None, "two")] {
        let path = bed.path(name);
        let report = guest
            .live_snapshot(target, shown(&path), format, Quiesce::Require)
            .unwrap();
        assert_eq!(report.consistency, Consistency::Filesystem);
        assert!(edge(&bed, "a", target, &path, "raw").clean);
    }
    before.must_be_as_before(&["one", "two"]);
    let taken = guest.live_snapshot("vda", shown(&bed.dir), None, Quiesce::None);
    must_tell(&taken.unwrap_err(), ErrorCode::Destination, &["directory"]);
    let none = guest.live_snapshot("vdz", shown(&bed.path("none")), None, Quiesce::None);
    must_tell(&none.unwrap_err(), ErrorCode::NoDisk, &["vdz", "'a'"]);
    before.must_be_as_before(&[]);
}

#[test]
fn a_volume_is_swapped_and_grows() {
    let bed = bed();
    let guest = host(&bed).get_guest("a").unwrap();
    for (target, size, name) in [("vdb", Some(48 * MIB), "swapped-b"), ("vdc", None, "swapped-c")] {
        let (path, old) = (bed.path(name), chain(&bed, "a", target));
        let report = guest.swap_volume(target, shown(&path), size).unwrap();
        assert_eq!(report.method, Method::Clone);
        assert_eq!(chain(&bed, "a", target), [shown(&path)]);
        assert!(bed.virsh(&["dumpxml", "--inactive", "a"]).contains(shown(&path)));
        assert!(Path::new(&old[0]).exists(), "the old volume stays");
        let capacity = bed.virsh(&["domblkinfo", "a", target]);
        let expected = size.unwrap_or(32 * MIB).to_string();
        assert!(
            capacity
                .lines()
                .any(|line| line.starts_with("Capacity:") && line.ends_with(&expected)),
            "{capacity}"
        );
    }
    bed.must_write("a");
}

#[test]
fn a_job_in_the_way_goes_on() {
    let bed = bed();
    let host = host(&bed);
    let guest = host.get_guest("a").unwrap();
    let before = bed.watch("a");
    let foreign = guest.get_block_device("vdc");
    copy_slowly(&foreign, &bed.path("foreign"));
    let busy = guest.swap_volume("vdc", shown(&bed.path("mine")), None).unwrap_err();
    must_tell(&busy, ErrorCode::Busy, &["vdc", "block job"]);
    let busy = guest
        .live_snapshot("vdc", shown(&bed.path("mine")), None, Quiesce::None)
        .unwrap_err();
    must_tell(&busy, ErrorCode::Busy, &["vdc"]);
    let info = foreign.get_job_info().unwrap().unwrap();
    assert_eq!(info.kind, BlockJobType::Copy);
    end(&foreign);
    before.must_be_as_before(&["foreign"]);
}

#[test]
fn a_mirror_is_complete_when_it_is_ready_and_not_when_it_is_gone() {
    let bed = bed();
    let guest = host(&bed).get_guest("a").unwrap();
    let before = bed.watch("a");
    let device = guest.get_block_device("vdc");
    let unknown = device.is_job_complete().unwrap_err();
    must_tell(&unknown, ErrorCode::NoOperation, &["vdc", "'a'"]);

    copy_slowly(&device, &bed.path("out"));
    assert!(!device.is_job_complete().unwrap());
    let late = device.wait_for_job(Some(Duration::from_millis(100))).unwrap_err();
    must_tell(&late, ErrorCode::Timeout, &["vdc"]);
    assert!(device.pivot().is_err(), "it is not ready");
    // Somebody else ends it, or it fails: libvirt shows the same in both.
    guest.get_block_device("vdc").abort_job().unwrap();
    let failed = device.wait_for_job(Some(PATIENCE)).unwrap_err();
    must_tell(&failed, ErrorCode::JobFailed, &["vdc", "vanished"]);

    let whole = bed.path("whole");
    let copy = BlockCopy {
        destination: shown(&whole),
        destination_xml: &raw(&whole),
        ..BlockCopy::default()
    };
    device.copy(&copy).unwrap();
    device.wait_for_job(Some(PATIENCE)).unwrap();
    assert!(device.is_job_complete().unwrap());
    assert!(
        device.get_job_info().unwrap().is_some(),
        "a mirror stays until it is ended"
    );
    end(&device);
    edge(&bed, "a", "vdc", &whole, "raw");
    before.must_be_as_before(&["out", "whole"]);
}

#[test]
fn a_pivot_there_and_back() {
    let bed = bed();
    let guest = host(&bed).get_guest("a").unwrap();
    let home = chain(&bed, "a", "vdc");
    let device = guest.get_block_device("vdc");
    for (to, reuse_existing) in [(bed.path("elsewhere"), false), (home[0].clone().into(), true)] {
        device
            .copy(&BlockCopy {
                destination: shown(&to),
                destination_xml: &raw(&to),
                reuse_existing,
                ..BlockCopy::default()
            })
            .unwrap();
        device.wait_for_job(Some(PATIENCE)).unwrap();
        device.pivot().unwrap();
        device.wait_for_job(Some(PATIENCE)).unwrap();
        assert_eq!(chain(&bed, "a", "vdc"), [shown(&to)]);
        assert!(bed.virsh(&["dumpxml", "--inactive", "a"]).contains(shown(&to)));
    }
    std::fs::remove_file(bed.path("elsewhere")).unwrap();
    bed.must_write("a");
}

/// External snapshots onto these names, one on the other.
fn overlays(bed: &Bed, target: &str, names: &[&str]) {
    for name in names {
        let spec = format!("{target},file={}", shown(&bed.path(name)));
        let others = ["vda", "vdb", "vdc"].into_iter().filter(|other| *other != target);
        let others: Vec<_> = others.map(|other| format!("{other},snapshot=no")).collect();
        let mut arguments = vec!["snapshot-create-as", "a", "--no-metadata", "--disk-only"];
        others.iter().for_each(|other| arguments.extend(["--diskspec", other]));
        arguments.extend(["--diskspec", &spec]);
        bed.virsh(&arguments);
    }
}

#[test]
fn layers_are_committed_and_drawn_up() {
    let bed = bed();
    let guest = host(&bed).get_guest("a").unwrap();
    let device = guest.get_block_device("vda");
    let home = chain(&bed, "a", "vda");
    let [image, base] = &home[..] else { panic!("{home:?}") };
    overlays(&bed, "vda", &["lower", "upper"]);
    let (lower, upper) = (bed.path("lower"), bed.path("upper"));
    bed.must_write("a");

    let wrong = device.commit(None, Some("/no/such/image")).unwrap_err();
    must_tell(&wrong, ErrorCode::InvalidArgument, &["/no/such/image", "vda"]);
    device.commit(None, Some(shown(&lower))).unwrap();
    device.wait_for_job(Some(PATIENCE)).unwrap();
    assert_eq!(chain(&bed, "a", "vda"), [shown(&upper), image, base]);

    device.commit(None, None).unwrap();
    device.wait_for_job(Some(PATIENCE)).unwrap();
    device.pivot().unwrap();
    device.wait_for_job(Some(PATIENCE)).unwrap();
    assert_eq!(chain(&bed, "a", "vda"), home);

    overlays(&bed, "vda", &["third"]);
    device.rebase(Some(base)).unwrap();
    device.wait_for_job(Some(PATIENCE)).unwrap();
    assert_eq!(chain(&bed, "a", "vda"), [shown(&bed.path("third")), base]);
    device.rebase(None).unwrap();
    device.wait_for_job(Some(PATIENCE)).unwrap();
    assert_eq!(chain(&bed, "a", "vda"), [shown(&bed.path("third"))]);
    bed.must_write("a");

    device.resize(40 * MIB).unwrap();
    assert!(bed.virsh(&["domblkinfo", "a", "vda"]).contains(&(40 * MIB).to_string()));
}

#[test]
fn quiesced_where_it_can_be() {
    let bed = bed();
    let host = host(&bed);
    let (guest, dumb) = (host.get_guest("a").unwrap(), host.get_guest("b").unwrap());
    let before = bed.watch("a");
    assert_eq!(guest.quiesce(Quiesce::None, Duration::ZERO).unwrap(), 0);
    assert_eq!(before.fsfreeze_status(), "thawed");
    for quiesce in [Quiesce::Prefer, Quiesce::Require] {
        let frozen = guest.quiesce(quiesce, PATIENCE).unwrap();
        assert!(frozen > 0);
        assert_eq!(before.fsfreeze_status(), "frozen");
        let busy = guest.quiesce(Quiesce::Prefer, PATIENCE).unwrap_err();
        must_tell(&busy, ErrorCode::Busy, &["'a'", "freeze"]);
        let another = host.get_guest(guest.uuid()).unwrap();
        assert_eq!(another.unquiesce().unwrap(), frozen);
    }
    assert_eq!(guest.unquiesce().unwrap(), 0);
    let frozen = guest.freeze_filesystems(PATIENCE).unwrap();
    assert_eq!(guest.thaw_filesystems().unwrap(), frozen);
    let none = guest.thaw_filesystems().unwrap_err();
    must_tell(&none, ErrorCode::NoOperation, &["'a'"]);
    before.must_be_as_before(&[]);

    let before = bed.watch("b");
    assert_eq!(dumb.quiesce(Quiesce::Prefer, Duration::ZERO).unwrap(), 0);
    let silent = dumb.quiesce(Quiesce::Require, Duration::ZERO).unwrap_err();
    must_tell(&silent, ErrorCode::Agent, &["'b'"]);
    before.must_be_as_before(&[]);
}

#[test]
fn what_a_guest_is() {
    let bed = bed();
    let host = host(&bed);
    assert_eq!(host.uri(), bed.uri);
    must_tell(
        &host.get_guest("nobody").err().unwrap(),
        ErrorCode::NoDomain,
        &["'nobody'"],
    );
    let states = |guest: &Guest| {
        let state = guest.get_power_state().unwrap();
        (state, guest.has_persistent_configuration().unwrap())
    };
    let (a, b) = (host.get_guest("a").unwrap(), host.get_guest("b").unwrap());
    assert_eq!((a.name(), b.name()), ("a", "b"));
    assert_eq!(states(&a), (PowerState::Running, true));
    assert_eq!(states(&b), (PowerState::Running, false));
    bed.virsh(&["suspend", "a"]);
    assert_eq!(states(&a), (PowerState::Paused, true));
    bed.virsh(&["resume", "a"]);
    let bare = bed.bare("bare", &[support::bed::Bare::RAW]);
    let guest = host.get_guest("bare").unwrap();
    bed.virsh(&["destroy", "bare"]);
    assert_eq!(states(&guest), (PowerState::Off, true));
    let copy = bed.path("never");
    assert!(guest.live_snapshot("vda", shown(&copy), None, Quiesce::None).is_err());
    assert!(!copy.exists());
    drop(bare);
}
