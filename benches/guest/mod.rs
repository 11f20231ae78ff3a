// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest of the test bed as the benchmarks see it.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

pub fn median(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// One guest of the test bed.
pub struct Bed {
    pub uri: String,
    pub domain: String,
    pub directory: PathBuf,
    pub writer: PathBuf,
}

/// The guest of that number, from 1.
pub fn bed(number: usize) -> Outcome<Bed> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set; run this by 'make bench'"));
    Ok(Bed {
        uri: variable("LIVEDISK_TEST_URI")?,
        domain: variable(&format!("LIVEDISK_TEST_DOMAIN_{number}"))?,
        directory: variable("LIVEDISK_TEST_DIR")?.into(),
        writer: variable(&format!("LIVEDISK_TEST_WRITER_{number}"))?.into(),
    })
}

/// The longest write + fsync that the guest's writer reports from now on, while `work` runs.
pub fn longest_stall<T>(writer: &PathBuf, work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Duration)> {
    let before = fs::read(writer)?.len();
    let result = work()?;
    // The write that was held up is reported when it is through.
    std::thread::sleep(Duration::from_millis(300));
    let text = fs::read_to_string(writer)?;
    let longest = text[before..]
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok())
        .max()
        .unwrap_or(0);
    Ok((result, Duration::from_micros(longest)))
}
