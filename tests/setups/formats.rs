// SPDX-License-Identifier: LGPL-2.1-or-later
//! Images of other programs: they are copied and moved into raw and qcow2.

use livedisk::Method;

use super::{COMMON, Operation, SetUp, all, convert};

const TO_CHANGE: &[(Operation, Method, &str)] = &[(Operation::Migration, Method::Clone, "the format is to change")];

#[test]
fn images_of_other_programs() {
    all(&[
        SetUp {
            what: "vmdk in one file",
            format: "vmdk",
            make: |bed, image| convert(bed, image, "vmdk", ""),
            refused: TO_CHANGE,
            ..COMMON
        },
        SetUp {
            what: "vdi",
            format: "vdi",
            make: |bed, image| convert(bed, image, "vdi", ""),
            refused: TO_CHANGE,
            ..COMMON
        },
        SetUp {
            what: "qed",
            format: "qed",
            make: |bed, image| convert(bed, image, "qed", ""),
            refused: TO_CHANGE,
            ..COMMON
        },
    ]);
}
