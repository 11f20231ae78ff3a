// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where the guard's program is.

use std::fs;
use std::path::{Path, PathBuf};

const NAME: &str = "livedisk-guard";

/// LIVEDISK_GUARD, or the program that belongs to this library.
pub(super) fn program() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("LIVEDISK_GUARD").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let own = own_file().ok_or("the path of this library cannot be found in /proc/self/maps; set LIVEDISK_GUARD")?;
    candidates(&own).find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "there is no {NAME} for '{}'; install it as PREFIX/libexec/{NAME}, or set LIVEDISK_GUARD",
            own.display()
        )
    })
}

/// PREFIX/libexec, seen from PREFIX/bin, PREFIX/lib or PREFIX/lib/TRIPLET; and cargo's directories.
fn candidates(own: &Path) -> impl Iterator<Item = PathBuf> {
    let above = own.ancestors().skip(1).take(3);
    let installed = above
        .clone()
        .skip(1)
        .flat_map(|prefix| ["libexec/livedisk", "libexec"].map(|directory| prefix.join(directory)));
    let built = above.take(2).map(Path::to_owned);
    installed.chain(built).map(|directory| directory.join(NAME))
}

/// The file that this code was loaded from: the shared library, or the program that it is linked into.
fn own_file() -> Option<PathBuf> {
    let address = own_file as *const () as usize;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let path = &rest[rest.find('/')?..];
        // So it is shown after an upgrade; the new guard is then beside the new library.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        (number(from)?..number(to)?).contains(&address).then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_looked_for_where_it_is_installed_and_where_it_is_built() {
        for (own, place) in [
            ("/usr/lib/liblivedisk.so.0", "/usr/libexec/livedisk-guard"),
            (
                "/usr/lib/x86_64-linux-gnu/liblivedisk.so.0",
                "/usr/libexec/livedisk-guard",
            ),
            ("/opt/bin/livedisk", "/opt/libexec/livedisk/livedisk-guard"),
            ("/src/target/debug/livedisk", "/src/target/debug/livedisk-guard"),
            ("/src/target/debug/deps/guard-0123", "/src/target/debug/livedisk-guard"),
        ] {
            assert!(candidates(Path::new(own)).any(|path| path == Path::new(place)), "{own}");
        }
    }

    #[test]
    fn this_test_is_loaded_from_its_own_program() {
        assert_eq!(own_file(), std::env::current_exe().ok());
    }
}
