// SPDX-License-Identifier: LGPL-2.1-or-later
//! Lets a guest go when the process that froze it cannot. livedisk starts it; see `src/guard`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    livedisk::guard_main()
}
