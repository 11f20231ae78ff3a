// SPDX-License-Identifier: LGPL-2.1-or-later
//! A disk moves by shared blocks, and snapshots share them, where the file system can.

mod moving;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use livedisk::{CloneMethod, ErrorCode, EventLoop, Method, MigrateOptions, Phase, SnapshotOptions};
use moving::{home, shown, to};
use support::bed::{Bed, is_root, run};
use support::image::{edge, must_be_one_point};
use support::{PATIENCE, await_phase, disk, must_tell, snapshot};

/// XFS that shares blocks, on a file. Mounted before the daemon starts, which may see no later mounts.
struct Xfs {
    image: PathBuf,
    mount: PathBuf,
}

impl Xfs {
    fn mount() -> Self {
        let template = std::env::temp_dir().join("livedisk-xfs.XXXXXX");
        let mount = PathBuf::from(run("mktemp", &["-d", shown(&template)]).trim());
        let xfs = Self {
            image: mount.with_extension("image"),
            mount,
        };
        let (image, mount) = (shown(&xfs.image), shown(&xfs.mount));
        run("truncate", &["-s", "512M", image]);
        run("mkfs.xfs", &["-q", "-m", "reflink=1", image]);
        run("mount", &["-o", "loop", image, mount]);
        run("chmod", &["755", mount]);
        xfs
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).status();
        let _ = fs::remove_dir(&self.mount);
        let _ = fs::remove_file(&self.image);
    }
}

fn by_reflink(target: &str, destination: &Path) -> MigrateOptions {
    MigrateOptions {
        method: Method::Clone,
        clone: CloneMethod::Reflink,
        verify: true,
        ..to(target, destination)
    }
}

#[test]
fn reflink() {
    if !is_root() {
        println!("skipped: to mount an XFS takes root");
        return;
    }
    // Dropped last.
    let xfs = Xfs::mount();
    let bed = support::bed::turn(
        EventLoop::Own,
        &["name=a,disks=qcow2-backed:64M+raw:32M,data=8M,agent=no"],
    );
    for target in ["vda", "vdb"] {
        println!("{target}: across file systems");
        let before = home(&bed, "a", target);
        let first = xfs.mount.join(format!("{target}-first"));
        let operation = bed.connection.migrate_disk("a", &by_reflink(target, &first)).unwrap();
        let error = operation.finish(Some(PATIENCE)).unwrap_err();
        must_tell(&error, ErrorCode::Unsupported, &[shown(&first), "AUTO or COPY"]);
        assert!(!first.exists());
        before.must_be_as_before();

        println!("{target}: to it, then within it");
        let options = to(target, &first);
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        before.must_have_moved(&options, &before.chain[1..], 0);
        let before = home(&bed, "a", target);
        let acknowledged = before.acknowledged();
        let second = xfs.mount.join(format!("{target}-second"));
        let options = by_reflink(target, &second);
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        await_phase(&operation, Phase::Ready);
        // Both are quiet until the pivot.
        run("cmp", &[shown(&first), shown(&second)]);
        let extents = run("filefrag", &["-v", shown(&second)]);
        assert!(extents.contains("shared"), "{extents}");
        println!("{:?}", operation.finish(Some(PATIENCE)).unwrap());
        before.must_have_moved(&options, &before.chain[1..], acknowledged);
        fs::remove_file(first).unwrap();
    }
    snapshots_share_blocks(&bed, &xfs.mount);
    auto_takes_clone_only_where_blocks_are_shared(&bed, &xfs.mount);
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Both disks are there already.
fn snapshots_share_blocks(bed: &Bed, xfs: &Path) {
    println!("a snapshot of both disks");
    let before = [home(bed, "a", "vda"), home(bed, "a", "vdb")];
    let present = files(xfs);
    let images = [
        (xfs.join("snapshot-a"), "vda", "qcow2"),
        (xfs.join("snapshot-b"), "vdb", "raw"),
    ];
    let disks = images.iter().map(|(image, target, format)| disk(target, image, format));
    let options = SnapshotOptions {
        shallow: true,
        verify: true,
        ..snapshot(disks.collect())
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let report = operation.finish(Some(PATIENCE)).unwrap();
    println!("{report:?}");
    assert_eq!((report.method, report.bytes_copied), (Method::Clone, 0));
    let edges = images.each_ref().map(|(image, target, format)| {
        let extents = run("filefrag", &["-v", shown(image)]);
        assert!(extents.contains("shared"), "{extents}");
        edge(bed, "a", target, image, format)
    });
    must_be_one_point(&edges);
    for (image, ..) in &images {
        fs::remove_file(image).unwrap();
    }
    assert_eq!(files(xfs), present);
    before.iter().for_each(|before| before.must_be_as_before());
}

fn auto_takes_clone_only_where_blocks_are_shared(bed: &Bed, xfs: &Path) {
    for (target, destination, format) in [
        // To be flattened, to be converted, of another file system.
        ("vda", xfs.join("flattened"), "qcow2"),
        ("vdb", xfs.join("converted"), "qcow2"),
        ("vdb", bed.path("elsewhere"), "raw"),
    ] {
        let present = files(xfs);
        let options = snapshot(vec![disk(target, &destination, format)]);
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        assert_eq!(report.method, Method::Mirror, "{}", shown(&destination));
        fs::remove_file(&destination).unwrap();
        assert_eq!(files(xfs), present);
    }
    println!("to another file system, by shared blocks or not at all");
    let before = home(bed, "a", "vdb");
    let destination = bed.path("elsewhere");
    let options = SnapshotOptions {
        method: Method::Clone,
        clone: CloneMethod::Reflink,
        ..snapshot(vec![disk("vdb", &destination, "raw")])
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    let error = operation.finish(Some(PATIENCE)).unwrap_err();
    must_tell(&error, ErrorCode::Unsupported, &[shown(&destination), "AUTO or COPY"]);
    before.must_be_as_before();
}
