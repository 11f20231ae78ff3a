// SPDX-License-Identifier: LGPL-2.1-or-later
//! Generates include/livedisk.h, and gives the shared library its soname.

use std::path::PathBuf;
use std::sync::Mutex;

/// cbindgen drops what it cannot translate and says so only in its log, so a warning there is an error here.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            if let Ok(mut list) = self.0.lock() {
                list.push(record.args().to_string());
            }
        }
    }

    fn flush(&self) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/abi");
    // An incompatible change takes a new major version, and so a new soname (docs/abi.md).
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR")?;
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,liblivedisk.so.{major}");

    log::set_logger(&WARNINGS)?;
    log::set_max_level(log::LevelFilter::Warn);
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in [
        "values",
        "output",
        "start",
        "error",
        "log",
        "names",
        "connection",
        "operation",
        "list",
        "checkpoints",
        "freeze",
    ] {
        builder = builder.with_src(root.join(format!("src/abi/{file}.rs")));
    }
    // The file is only touched where it differs, so a build from a read-only tree works as well.
    builder.generate()?.write_to_file(root.join("include/livedisk.h"));
    let warnings = WARNINGS.0.lock().map_err(|error| error.to_string())?;
    if !warnings.is_empty() {
        return Err(format!("cbindgen warns: {}", warnings.join("; ")).into());
    }
    Ok(())
}
