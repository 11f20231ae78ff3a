// SPDX-License-Identifier: LGPL-2.1-or-later
//! How a domain comes by its disk, and what it makes of it.

use livedisk::Method;

use super::support::odd::How;
use super::{COMMON, Operation, RAW, SetUp, all};

#[test]
fn domains_and_devices() {
    let aliased = "<serial>a b+c</serial><alias name='ua-mine'/><iotune><total_bytes_sec>1073741824</total_bytes_sec>\
                   <group_name>all</group_name></iotune>";
    all(&[
        SetUp {
            what: "a transient domain",
            how: How::Transient,
            ..COMMON
        },
        SetUp {
            what: "a transient domain on raw",
            how: How::Transient,
            ..RAW
        },
        SetUp {
            what: "a disk that was plugged in",
            how: How::Plugged,
            beside: aliased,
            ..COMMON
        },
        SetUp {
            what: "a plugged raw disk with an I/O thread",
            how: How::Plugged,
            driver: "iothread='2' cache='none' io='native'",
            refused: &[(Operation::Snapshot, Method::Backup, "I/O thread")],
            ..RAW
        },
        SetUp {
            what: "a throttle group, a serial number and a name of one's own",
            beside: aliased,
            ..COMMON
        },
        SetUp {
            what: "writes through, no discarding, zeroes unmapped",
            driver: "cache='directsync' discard='ignore' detect_zeroes='on'",
            ..COMMON
        },
    ]);
}
