// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk attach.

use livedisk::Connection;
use serde_json::json;

use crate::args::{Arguments, Attach};
use crate::operation::{self, nanoseconds, point_in_time};
use crate::output::{Failure, Output};

pub fn run(connection: &Connection, attach: &Attach, arguments: &Arguments) -> Result<Output, Failure> {
    let start = || connection.attach(&attach.domain, &attach.target);
    let (_, report) = operation::run_to_end(start, arguments)?;
    let point = point_in_time(&report);
    Ok(Output {
        text: format!(
            "operation of disk '{}' of domain '{}' done by {}, {}, as of {}.{:09} s since 1970",
            attach.target,
            attach.domain,
            report.method.name(),
            report.consistency.name(),
            point.as_secs(),
            point.subsec_nanos()
        ),
        json: json!({
            "domain": attach.domain,
            "target": attach.target,
            "method": report.method.name(),
            "consistency": report.consistency.name(),
            "filesystems_frozen": report.filesystems_frozen,
            "point_in_time_ns": nanoseconds(point),
            "freeze_ns": nanoseconds(report.freeze),
            "pause_ns": nanoseconds(report.pause),
            "bytes_copied": report.bytes_copied,
            "elapsed_ns": nanoseconds(report.elapsed),
        }),
    })
}
