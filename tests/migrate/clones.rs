// SPDX-License-Identifier: LGPL-2.1-or-later
//! By clone: what a copy or a caller's function makes, under any name.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use livedisk::{ErrorCode, Method, MigrateOptions, Phase};

use crate::moving::{copy_of, home, to};
use crate::support::bed::run;
use crate::support::image::info;
use crate::support::{PATIENCE, await_phase};
use crate::{bed, calling, copying, directory, fails, mirroring, moves};

#[test]
fn clone_by_copy_of_every_kind() {
    let bed = bed();
    let other = directory(&bed, "other");
    for (domain, target) in [("a", "vda"), ("a", "vdb"), ("a", "vdc"), ("b", "vda"), ("b", "vdb")] {
        println!("{domain} {target}");
        let first = other.join(format!("{domain}-{target}"));
        moves(&bed, domain, &copying(target, first));
        moves(
            &bed,
            domain,
            &copying(target, bed.path(&format!("{domain}-{target}-back"))),
        );
    }
}

#[test]
fn the_default_moves_and_what_it_moves_is_what_was_there() {
    let bed = bed();
    for (domain, target) in [("a", "vda"), ("b", "vdb")] {
        let before = home(&bed, domain, target);
        let acknowledged = before.acknowledged();
        let options = to(target, bed.path(&format!("{domain}-content")));
        let operation = bed.connection.migrate_disk(domain, &options).unwrap();
        await_phase(&operation, Phase::Ready);
        // Both are quiet until the pivot.
        run("cmp", &[&before.chain[0], &options.destination]);
        assert_eq!(operation.finish(Some(PATIENCE)).unwrap().method, Method::Clone);
        before.must_have_moved(&options, &before.chain[1..], acknowledged);
        fs::remove_file(&before.chain[0]).unwrap();
    }
}

#[test]
fn relative_backing_names() {
    let bed = bed();
    let other = directory(&bed, "elsewhere");
    let mut number = 0;
    for destination in [bed.dir.clone(), other] {
        number += 1;
        let before = home(&bed, "a", "vda");
        let (image, base) = (&before.chain[0], &before.chain[1]);
        bed.virsh(&["destroy", "a"]);
        let name = Path::new(base).file_name().unwrap().to_str().unwrap();
        assert_eq!(Path::new(image).parent(), Path::new(base).parent());
        run(
            "qemu-img",
            &["rebase", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", image],
        );
        bed.virsh(&["start", "a"]);
        bed.must_write("a");
        let options = copying("vda", destination.join(format!("relative-{number}")));
        moves(&bed, "a", &options);
        let copy = Path::new(&options.destination).with_file_name("header");
        fs::copy(&options.destination, &copy).unwrap();
        let found = info(&copy, "qcow2");
        fs::remove_file(copy).unwrap();
        let resolved = found["full-backing-filename"].as_str().unwrap();
        assert_eq!(fs::canonicalize(resolved).unwrap(), fs::canonicalize(base).unwrap());
        assert_eq!(found["backing-filename-format"], "qcow2");
        let kept = if destination == bed.dir { name } else { base };
        assert_eq!(found["backing-filename"], kept);
    }
    moves(&bed, "a", &copying("vda", bed.path("relative-back")));
}

#[test]
fn callback() {
    let bed = bed();
    let called = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&called);
    let options = calling("vda", bed.path("called"), move |source, destination| {
        seen.store(true, Ordering::SeqCst);
        copy_of(source, destination)
    });
    moves(
        &bed,
        "a",
        &MigrateOptions {
            verify: true,
            ..options
        },
    );
    assert!(called.load(Ordering::SeqCst));

    println!("it fails, with and without a file left");
    let options = calling("vda", bed.path("called-2"), |_, _| 7);
    fails(
        &bed,
        "a",
        &options,
        ErrorCode::JobFailed,
        &["7", "called-2", "disk 'vda' of domain 'a'"],
    );
    let options = calling("vda", bed.path("called-2"), |_, destination| {
        fs::write(destination, "half").unwrap();
        7
    });
    fails(
        &bed,
        "a",
        &options,
        ErrorCode::JobFailed,
        &["7", "called-2", "disk 'vda' of domain 'a'"],
    );

    println!("it says it succeeded and made nothing");
    let options = calling("vda", bed.path("called-2"), |_, _| 0);
    fails(&bed, "a", &options, ErrorCode::JobFailed, &["called-2"]);

    println!("it corrupts");
    let corrupting = calling("vdb", bed.path("called-2"), |source, destination| {
        copy_of(source, destination);
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(destination).unwrap();
        file.write_all_at(b"not what was there", 5 << 20).unwrap();
        0
    });
    let options = MigrateOptions {
        verify: true,
        ..corrupting
    };
    fails(&bed, "a", &options, ErrorCode::Verify, &["called-2"]);
}

#[test]
fn verify_and_delete_source() {
    let bed = bed();
    for (index, (domain, target)) in [("a", "vda"), ("a", "vdb"), ("b", "vda")].into_iter().enumerate() {
        let options = MigrateOptions {
            verify: true,
            delete_source: true,
            ..to(target, bed.path(&format!("kept-{index}")))
        };
        moves(&bed, domain, &options);
    }
    let options = MigrateOptions {
        delete_source: true,
        ..mirroring("vdb", bed.path("kept-mirror"), "raw")
    };
    moves(&bed, "a", &options);
}

#[test]
fn odd_names() {
    let bed = bed();
    let names = ["it's \"odd\" <&> a,b:c", "-leading %s", "json:{}", "é ✓"];
    let directory = directory(&bed, "a dir, <odd> & 'so'");
    for (index, name) in names.iter().enumerate() {
        println!("{name}");
        let target = ["vda", "vdb"][index % 2];
        moves(&bed, "a", &to(target, directory.join(name)));
    }
    moves(&bed, "a", &to("vda", bed.path("even-1")));
    moves(&bed, "a", &mirroring("vdb", directory.join(names[0]), "raw"));
    moves(&bed, "a", &to("vdb", bed.path("even-2")));
}

#[test]
fn dry_run_changes_nothing() {
    let bed = bed();
    for (method, word) in [
        (Method::Clone, "virDomainSnapshotCreateXML"),
        (Method::Mirror, "virDomainBlockCopy"),
    ] {
        let before = home(&bed, "a", "vda");
        let options = MigrateOptions {
            method,
            dry_run: true,
            ..to("vda", bed.path("never"))
        };
        let operation = bed.connection.migrate_disk("a", &options).unwrap();
        let plan = operation.plan();
        println!("{plan:#?}");
        assert!(plan.iter().any(|step| step.contains(word)));
        assert_eq!(operation.finish(None).unwrap().method, method);
        before.must_be_as_before();
    }
}
