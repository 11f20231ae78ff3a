// SPDX-License-Identifier: LGPL-2.1-or-later
//! Checkpoints that a backup makes, and increments from them on: what each point in time holds, whatever the guest goes through
//! in between.

mod broken;
mod reality;
mod series;
#[path = "../support/mod.rs"]
mod support;

use series::{Series, bed};

#[test]
fn a_full_backup_and_increments_open_as_the_disk_at_each_point() {
    let bed = bed();
    let mut series = Series::new(&bed, &["vda", "vdb"]);
    bed.ctl("a", &["writer", "burst", "1"]);
    let full = series.take("full", |_| {});
    assert_eq!(full.full_disks, 0);
    for day in ["monday", "tuesday"] {
        let report = series.take(day, |_| {});
        // The raw disk.
        assert_eq!(report.full_disks, 1);
    }
    let report = series.take_running("wednesday");
    assert_eq!(report.full_disks, 1);
    series.take("thursday", |options| options.compress = false);
    series.must_be_right();
    assert!(series.allocated("monday", "vda") < series.allocated("full", "vda"));
}
