// SPDX-License-Identifier: LGPL-2.1-or-later
//! Nova's `_live_snapshot` and `_swap_volume`: `cargo run --example nova -- URI DOMAIN snapshot DISK OUT_PATH [FORMAT]`, or
//! `... swap DISK DESTINATION [SIZE]`.

use livedisk::driver::{Host, PowerState};
use livedisk::{EventLoop, Quiesce};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (&[uri, domain, call, disk, to], last) =
        arguments.split_first_chunk().ok_or("see the first lines of nova.rs")?;
    let guest = Host::open(Some(uri), EventLoop::Own)?.get_guest(domain)?;
    if guest.get_power_state()? != PowerState::Running {
        return Err(format!("'{domain}' does not run").into());
    }
    let report = match call {
        "snapshot" => guest.live_snapshot(disk, to, last.first().copied(), Quiesce::Prefer)?,
        "swap" => guest.swap_volume(disk, to, last.first().map(|size| size.parse()).transpose()?)?,
        _ => return Err(format!("'{call}' is neither snapshot nor swap").into()),
    };
    println!("{report:#?}");
    Ok(())
}
