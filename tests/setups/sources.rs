// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where an image may lie beside a plain file.

use std::fs;

use livedisk::Method;

use super::support::bed::{Bed, run};
use super::{COMMON, Operation, RAW, SetUp, all, bed, convert, shown};

/// Cloned it cannot be, because of this.
macro_rules! not_cloned {
    ($why:literal) => {
        &[
            (Operation::Snapshot, Method::Clone, $why),
            (Operation::Migration, Method::Clone, $why),
        ]
    };
}

/// A storage pool on the bed's directory.
struct Pool<'a>(&'a Bed);

impl<'a> Pool<'a> {
    fn on(bed: &'a Bed) -> Self {
        bed.virsh(&["pool-create-as", "pooled", "dir", "--target", shown(&bed.dir)]);
        Self(bed)
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_virsh(&["pool-destroy", "pooled"]);
    }
}

#[test]
fn a_storage_volume() {
    let bed = bed();
    let _pool = Pool::on(&bed);
    for format in [RAW, COMMON] {
        let set_up = SetUp {
            what: "a storage volume",
            attributes: "type='volume' device='disk'",
            source: Some("<source pool='pooled' volume='image'/>"),
            make: if format.format == "raw" {
                |bed, image| {
                    fs::copy(bed.path("content"), image).unwrap();
                    bed.virsh(&["pool-refresh", "pooled"]);
                }
            } else {
                |bed, image| {
                    convert(bed, image, "qcow2", "");
                    bed.virsh(&["pool-refresh", "pooled"]);
                }
            },
            unnamed: true,
            refused: not_cloned!("not a file"),
            ..format
        };
        set_up.go_through(&bed);
    }
}

/// Of the medium in a drive snapshots are taken; it is not moved.
#[test]
fn drives() {
    const NO_DISK: &[(Operation, Method, &str)] = &[
        (Operation::Snapshot, Method::Clone, "not a hard disk"),
        (Operation::Migration, Method::Clone, "not a hard disk"),
        (Operation::Migration, Method::Mirror, "not a hard disk"),
    ];
    all(&[
        SetUp {
            what: "a CD-ROM",
            attributes: "type='file' device='cdrom'",
            target: "<target dev='sda' bus='sata'/><readonly/>",
            refused: NO_DISK,
            ..RAW
        },
        SetUp {
            what: "a floppy",
            attributes: "type='file' device='floppy'",
            target: "<target dev='fda' bus='fdc'/>",
            refused: NO_DISK,
            ..RAW
        },
    ]);
}

#[test]
fn caches_of_a_layer_below() {
    all(&[SetUp {
        what: "a backing layer's cache",
        beside: "<backingStore type='file'><format type='qcow2'><metadata_cache><max_size unit='bytes'>1048576</max_size>\
                 </metadata_cache></format><source file='DIR/base'/><backingStore/></backingStore>",
        make: |bed, image| {
            convert(bed, &bed.path("base"), "qcow2", "");
            let base = bed.path("base");
            run(
                "qemu-img",
                &[
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-F",
                    "qcow2",
                    "-b",
                    shown(&base),
                    shown(image),
                ],
            );
        },
        more: &["base"],
        unnamed: true,
        refused: not_cloned!("metadata_cache"),
        ..COMMON
    }]);
}
