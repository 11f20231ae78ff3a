// SPDX-License-Identifier: LGPL-2.1-or-later
//! A live snapshot of one disk, in Rust: `cargo run --example snapshot -- URI DOMAIN DISK DESTINATION`.

use livedisk::{Connection, EventLoop, SnapshotDisk, SnapshotOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name: &str| arguments.next().ok_or(format!("{name} is missing"));
    let (uri, domain) = (next("URI")?, next("DOMAIN")?);
    let options = SnapshotOptions {
        disks: vec![SnapshotDisk {
            target: next("DISK")?,
            destination: next("DESTINATION")?,
            ..SnapshotDisk::default()
        }],
        ..SnapshotOptions::default()
    };
    let connection = Connection::open(Some(&uri), EventLoop::Own)?;
    let operation = connection.start_live_snapshot(&domain, &options)?;
    let report = operation.finish(None)?;
    println!("{report:#?}");
    Ok(())
}
