// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a backup is written to, and in which form.

use std::fs;
use std::os::unix::fs::MetadataExt;

use livedisk::{Consistency, ErrorCode, Method, Quiesce, SnapshotOptions};

use crate::support::bed::{Bare, Server};
use crate::support::image::{edge, info, must_be_one_point, must_equal};
use crate::support::{PATIENCE, await_copying, disk, must_tell, snapshot};
use crate::{MIB, backup, bed, files};

#[test]
fn compressed() {
    let bed = bed();
    let before = bed.watch("a");
    // What no other method can, AUTO leaves to this one.
    for method in [Method::Backup, Method::Auto] {
        let options = SnapshotOptions {
            method,
            compress: true,
            verify: true,
            quiesce: Quiesce::Require,
            ..snapshot(vec![
                disk("vda", bed.path("one"), "qcow2"),
                disk("vdb", bed.path("two"), "qcow2"),
            ])
        };
        let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
        let report = operation.finish(Some(PATIENCE)).unwrap();
        println!("{report:?}");
        assert_eq!(
            (report.method, report.consistency),
            (Method::Backup, Consistency::Filesystem)
        );
        let edges = [
            edge(&bed, "a", "vda", &bed.path("one"), "qcow2"),
            edge(&bed, "a", "vdb", &bed.path("two"), "qcow2"),
        ];
        edges
            .iter()
            .for_each(|edge| edge.must_be_at(&report, std::time::Duration::ZERO));
        must_be_one_point(&edges);
        for image in ["one", "two"] {
            let said = info(&bed.path(image), "qcow2");
            assert_eq!(said["format-specific"]["data"]["compression-type"], "zstd", "{said}");
        }
        before.must_be_as_before(&["one", "two"]);
    }
    let raw = SnapshotOptions {
        compress: true,
        ..backup(vec![disk("vda", bed.path("out"), "raw")])
    };
    let mirror = SnapshotOptions {
        method: Method::Mirror,
        compress: true,
        ..snapshot(vec![disk("vda", bed.path("out"), "qcow2")])
    };
    for (options, part) in [(raw, "format raw"), (mirror, "BACKUP")] {
        let error = bed.connection.start_live_snapshot("a", &options).map(drop).unwrap_err();
        must_tell(&error, ErrorCode::Unsupported, &[part, "COMPRESS"]);
    }
    before.must_be_as_before(&[]);
}

#[test]
fn an_export() {
    let bed = bed();
    let bare = bed.bare("plain", &[Bare::RAW]);
    let before = bed.watch("plain");
    let (socket, file) = (bed.path("s"), bed.path("exported"));
    fs::File::create(&file).unwrap().set_len(4 * MIB).unwrap();
    let server = Server::nbdkit(&socket, &["file", file.to_str().unwrap()]);
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let options = SnapshotOptions {
        verify: true,
        ..backup(vec![disk("vda", &uri, "raw")])
    };
    let operation = bed.connection.start_live_snapshot("plain", &options).unwrap();
    operation.finish(Some(PATIENCE)).unwrap();
    drop(server);
    must_equal(&file, "raw", &bare.files[0]);
    fs::remove_file(socket).unwrap();
    before.must_be_as_before(&["exported"]);
}

#[test]
fn holes_stay_holes() {
    const HOLED: Bare = Bare {
        make: |path| {
            let file = fs::File::create(path).unwrap();
            file.set_len(1 << 30).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[7; 1 << 20], 512 << 20).unwrap();
        },
        ..Bare::RAW
    };
    let bed = bed();
    let bare = bed.bare("holed", &[HOLED]);
    let before = bed.watch("holed");
    for format in ["raw", "qcow2"] {
        let options = backup(vec![disk("vda", bed.path("out"), format)]);
        let operation = bed.connection.start_live_snapshot("holed", &options).unwrap();
        operation.finish(Some(PATIENCE)).unwrap();
        must_equal(&bed.path("out"), format, &bare.files[0]);
        let taken = fs::metadata(bed.path("out")).unwrap().blocks() * 512;
        assert!(taken < 4 * MIB, "{format}: {taken}");
        before.must_be_as_before(&["out"]);
    }
}

#[test]
fn the_scratch_directory_is_the_callers() {
    let bed = bed();
    let before = bed.watch("a");
    let scratch = bed.path("scratch");
    fs::create_dir(&scratch).unwrap();
    std::os::unix::fs::chown(
        &scratch,
        Some(fs::metadata(bed.value("IMAGE_1_VDA")).unwrap().uid()),
        None,
    )
    .unwrap();
    let shown = scratch.to_str().unwrap().to_owned();
    let options = SnapshotOptions {
        bandwidth: 4 * MIB,
        scratch: Some(shown.clone()),
        ..backup(vec![
            disk("vda", bed.path("one"), "raw"),
            disk("vdb", bed.path("two"), "raw"),
        ])
    };
    let operation = bed.connection.start_live_snapshot("a", &options).unwrap();
    await_copying(&operation);
    assert_eq!(files(&scratch, ".scratch").len(), 2);
    assert_eq!(files(&bed.dir, ".scratch").len(), 0);
    operation.cancel().unwrap();
    assert_eq!(files(&scratch, "").len(), 0);
    fs::remove_dir(&scratch).unwrap();
    before.must_be_as_before(&[]);

    for (directory, code, part) in [
        ("relative", ErrorCode::InvalidArgument, "absolute"),
        (shown.as_str(), ErrorCode::InvalidArgument, "does not exist"),
        ("/new\nline", ErrorCode::Unsupported, "newline"),
    ] {
        let options = SnapshotOptions {
            scratch: Some(directory.into()),
            ..options.clone()
        };
        let error = bed.connection.start_live_snapshot("a", &options).map(drop).unwrap_err();
        must_tell(&error, code, &["scratch", part]);
    }
    let mirror = SnapshotOptions {
        method: Method::Mirror,
        ..options
    };
    let error = bed.connection.start_live_snapshot("a", &mirror).map(drop).unwrap_err();
    must_tell(&error, ErrorCode::InvalidArgument, &["scratch", "BACKUP"]);
    before.must_be_as_before(&[]);
}
