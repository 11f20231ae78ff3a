// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk migrate.

use indicatif::BinaryBytes;
use livedisk::{Connection, MigrateOptions, Report};
use serde_json::{Value, json};

use crate::args::{Arguments, Migrate};
use crate::operation::{self, nanoseconds, point_in_time};
use crate::output::{Failure, Output};

pub fn run(connection: &Connection, migrate: &Migrate, arguments: &Arguments) -> Result<Output, Failure> {
    let options = options(migrate);
    let start = || connection.migrate_disk(&migrate.domain, &options);
    let (operation, report) = operation::run(start, migrate.run.dry_run, arguments)?;
    Ok(if migrate.run.dry_run {
        operation::planned(&migrate.domain, &operation, &report, disks(migrate))
    } else {
        done(migrate, &report)
    })
}

fn options(migrate: &Migrate) -> MigrateOptions {
    MigrateOptions {
        target: migrate.target.clone(),
        destination: migrate.destination.clone(),
        format: migrate.format.clone(),
        method: migrate.method.into(),
        clone: migrate.clone.into(),
        clone_callback: None,
        auto_finish: true,
        dry_run: migrate.run.dry_run,
        verify: migrate.verify,
        delete_source: migrate.delete_source,
        write_blocking: migrate.run.write_blocking,
        allow_plaintext: migrate.run.allow_plaintext,
        bandwidth: migrate.run.bandwidth.unwrap_or_default(),
    }
}

fn done(migrate: &Migrate, report: &Report) -> Output {
    let lines = [
        format!("disk '{}' of domain '{}' moved", migrate.target, migrate.domain),
        format!("method       {}", report.method.name()),
        format!("copied       {}", BinaryBytes(report.bytes_copied)),
        format!("time         {:.1} s", report.elapsed.as_secs_f64()),
        format!("{:12} {}", migrate.target, migrate.destination),
    ];
    Output {
        text: lines.join("\n"),
        json: json!({
            "domain": migrate.domain,
            "method": report.method.name(),
            "moved_at_ns": nanoseconds(point_in_time(report)),
            "bytes_copied": report.bytes_copied,
            "elapsed_ns": nanoseconds(report.elapsed),
            "disks": disks(migrate),
        }),
    }
}

fn disks(migrate: &Migrate) -> Vec<Value> {
    vec![json!({ "target": migrate.target, "destination": migrate.destination })]
}
