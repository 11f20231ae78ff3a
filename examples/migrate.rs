// SPDX-License-Identifier: LGPL-2.1-or-later
//! A running guest's disk moves: `cargo run --example migrate -- URI DOMAIN DISK DESTINATION`.

use livedisk::{Connection, EventLoop, MigrateOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name: &str| arguments.next().ok_or(format!("{name} is missing"));
    let (uri, domain) = (next("URI")?, next("DOMAIN")?);
    let options = MigrateOptions {
        target: next("DISK")?,
        destination: next("DESTINATION")?,
        ..MigrateOptions::default()
    };
    let connection = Connection::open(Some(&uri), EventLoop::Own)?;
    let operation = connection.migrate_disk(&domain, &options)?;
    let report = operation.finish(None)?;
    println!("{report:#?}");
    Ok(())
}
