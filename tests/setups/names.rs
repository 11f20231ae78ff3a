// SPDX-License-Identifier: LGPL-2.1-or-later
//! What people call their images.

use livedisk::Method;

use super::{COMMON, Operation, RAW, SetUp, all};

#[test]
fn names() {
    all(&[
        SetUp {
            what: "commas, colons and equals signs",
            image: "a,b:c=d,file.filename=x.qcow2",
            ..COMMON
        },
        SetUp {
            what: "spaces, quotes, percents and UTF-8",
            image: " it's \"ü\" 100%s <&> ",
            ..RAW
        },
        SetUp {
            what: "like what QEMU takes for no name",
            image: "json:{\"driver\":\"null-co\"}",
            ..COMMON
        },
        SetUp {
            what: "like an option",
            image: "--image-opts",
            ..RAW
        },
        SetUp {
            what: "like another protocol",
            image: "nbd:unix:socket",
            ..COMMON
        },
    ]);
}

/// libvirt hands such a name to QEMU, and loses it where it copies the definition: only a copy that libvirt itself makes is taken.
#[test]
fn names_that_libvirt_loses() {
    const LOST: &[(Operation, Method, &str)] = &[
        (Operation::Snapshot, Method::Clone, "control character"),
        (Operation::Migration, Method::Clone, "control character"),
        (Operation::Migration, Method::Mirror, "control character"),
    ];
    all(&[
        SetUp {
            what: "a newline",
            image: "a\nb",
            unnamed: true,
            refused: LOST,
            ..COMMON
        },
        SetUp {
            what: "a newline and a tab, raw",
            image: "a\n\tb",
            unnamed: true,
            refused: LOST,
            ..RAW
        },
    ]);
}
