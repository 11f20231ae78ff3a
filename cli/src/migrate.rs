// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk migrate.

use livedisk::{Connection, MigrateOptions};

use crate::args::{Arguments, Migrate};
use crate::operation;
use crate::output::{Failure, Output};
use crate::report::{Disk, Done, Kind};

pub fn run(connection: &Connection, migrate: &Migrate, arguments: &Arguments) -> Result<Output, Failure> {
    let options = options(migrate);
    let disks = connection.disks(&migrate.domain)?.into_iter();
    // No such disk: the library says it better.
    let old_image = disks
        .filter(|disk| disk.target == migrate.target)
        .find_map(|disk| disk.image);
    let start = || connection.migrate_disk(&migrate.domain, &options);
    let (operation, report) = operation::run(start, migrate.run.dry_run, arguments)?;
    let disks = vec![Disk {
        target: migrate.target.clone(),
        destination: migrate.destination.clone(),
    }];
    Ok(if migrate.run.dry_run {
        operation::planned(&migrate.domain, &operation, &report, &disks)
    } else {
        let kind = Kind::Migration {
            old_image,
            to_remove: migrate.delete_source,
        };
        let done = Done {
            domain: &migrate.domain,
            kind,
            disks,
            report: &report,
            remarks: operation::remarks(&operation),
        };
        done.output()
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
