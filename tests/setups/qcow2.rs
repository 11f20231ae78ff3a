// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a qcow2 image and a chain of them may be like.

use std::fs;

use super::support::bed::run;
use super::{COMMON, SetUp, all, convert, shown};

#[test]
fn forms_of_qcow2() {
    all(&[
        SetUp {
            what: "subclusters",
            make: |bed, image| convert(bed, image, "qcow2", "extended_l2=on,cluster_size=128k"),
            ..COMMON
        },
        SetUp {
            what: "the old version, tiny clusters",
            make: |bed, image| convert(bed, image, "qcow2", "compat=0.10,cluster_size=512"),
            ..COMMON
        },
        SetUp {
            what: "huge clusters, odd reference counts",
            make: |bed, image| convert(bed, image, "qcow2", "cluster_size=2M,refcount_bits=1"),
            ..COMMON
        },
        SetUp {
            what: "lazy reference counts, all preallocated",
            make: |bed, image| convert(bed, image, "qcow2", "lazy_refcounts=on,preallocation=full"),
            ..COMMON
        },
        SetUp {
            what: "compressed clusters",
            make: |bed, image| {
                let content = bed.path("content");
                let form = ["-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"];
                run(
                    "qemu-img",
                    &[&["convert"], &form[..], &[shown(&content), shown(image)]].concat(),
                );
            },
            ..COMMON
        },
        SetUp {
            what: "internal snapshots",
            make: |bed, image| {
                convert(bed, image, "qcow2", "");
                for name in ["one", "two", "one again"] {
                    run("qemu-img", &["snapshot", "-c", name, shown(image)]);
                    run("qemu-io", &["-f", "qcow2", "-c", "write -q -P 5 1M 64k", shown(image)]);
                    let content = bed.path("content");
                    run("qemu-io", &["-f", "raw", "-c", "write -q -P 5 1M 64k", shown(&content)]);
                }
            },
            ..COMMON
        },
        SetUp {
            what: "somebody's bitmaps, one of them in use",
            make: |bed, image| {
                convert(bed, image, "qcow2", "");
                run("qemu-img", &["bitmap", "--add", "-f", "qcow2", shown(image), "theirs"]);
                run(
                    "qemu-img",
                    &["bitmap", "--add", "--disable", "-f", "qcow2", shown(image), "old"],
                );
            },
            ..COMMON
        },
    ]);
}

#[test]
fn chains() {
    all(&[
        SetUp {
            what: "five layers by relative names, with compressed and subclustered ones among them",
            image: "layer4",
            make: |bed, image| {
                let content = bed.path("content");
                fs::copy(&content, bed.path("layer0")).unwrap();
                for (number, options) in [
                    (1, "extended_l2=on"),
                    (2, "compat=0.10"),
                    (3, ""),
                    (4, "cluster_size=2M"),
                ] {
                    let (below, name) = (format!("layer{}", number - 1), bed.path(&format!("layer{number}")));
                    let format = if number == 1 { "raw" } else { "qcow2" };
                    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-F", format, "-b", &below];
                    if !options.is_empty() {
                        arguments.extend(["-o", options]);
                    }
                    run("qemu-img", &[&arguments[..], &[shown(&name)]].concat());
                    for (format, image) in [("qcow2", &name), ("raw", &content)] {
                        let command = format!("write -q -P {number} {}k 100k", 700 * number);
                        run("qemu-io", &["-f", format, "-c", &command, shown(image)]);
                    }
                }
                assert_eq!(image, bed.path("layer4"));
            },
            more: &["layer0", "layer1", "layer2", "layer3"],
            ..COMMON
        },
        SetUp {
            what: "a backing file that is shorter, and one that only root may write to",
            make: |bed, image| {
                let (content, base) = (bed.path("content"), bed.path("base"));
                let mut data = fs::read(&content).unwrap();
                fs::write(&base, &data[..1_000_448]).unwrap();
                data[1_000_448..].fill(0);
                fs::write(&content, data).unwrap();
                run("chmod", &["444", shown(&base)]);
                let arguments = [
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-F",
                    "raw",
                    "-b",
                    shown(&base),
                    shown(image),
                    "4M",
                ];
                run("qemu-img", &arguments);
            },
            more: &["base"],
            ..COMMON
        },
    ]);
}
