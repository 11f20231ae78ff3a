// SPDX-License-Identifier: LGPL-2.1-or-later
//! What people call their images.

use super::{COMMON, RAW, SetUp, all};

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
