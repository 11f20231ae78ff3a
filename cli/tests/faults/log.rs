// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the guest's writer says since some moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;
use super::stand::DISKS;

/// How many records show that it writes, and does not only report what it wrote before.
const WRITES: usize = 2;

/// The log after a place in it.
#[derive(Clone)]
pub struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    pub fn at_end(path: &Path) -> Self {
        let from = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Self {
            path: path.to_owned(),
            from,
        }
    }

    /// Where in the log it begins.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The same log, from now on.
    pub fn now(&self) -> Self {
        Self::at_end(&self.path)
    }

    /// Sequence numbers of each disk, in the order in which they were acknowledged.
    pub fn sequences(&self) -> BTreeMap<String, Vec<u64>> {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.from))?;
            file.read_to_end(&mut text)
        });
        let mut all = BTreeMap::<_, Vec<_>>::new();
        let text = String::from_utf8_lossy(&text);
        // The last line may be in the making; the first is whole, or cut and without its four fields.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines().filter(|_| read.is_ok()) {
            if let [sequence, disk, _, _] = line.split(' ').collect::<Vec<_>>()[..]
                && let (Ok(sequence), true) = (sequence.parse(), DISKS.contains(&disk))
            {
                all.entry(disk.to_owned()).or_default().push(sequence);
            }
        }
        all
    }

    fn writes(&self) -> bool {
        let all = self.sequences();
        DISKS
            .iter()
            .all(|disk| all.get(*disk).is_some_and(|records| records.len() >= WRITES))
    }

    /// Until each disk was written again from now on.
    pub fn await_writing(&self, limit: Duration) -> Result<()> {
        let (now, deadline) = (self.now(), Instant::now() + limit);
        while !now.writes() {
            if Instant::now() > deadline {
                return Err(format!("the guest does not write within {limit:?}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Nothing that was acknowledged was forgotten: a guest that lost a record would number it again.
    pub fn must_grow(&self) -> Result<()> {
        for (disk, records) in self.sequences() {
            if let Some(pair) = records.windows(2).find(|pair| pair[1] <= pair[0]) {
                return Err(format!(
                    "{disk}: record {} follows {}: records were lost",
                    pair[1], pair[0]
                ));
            }
        }
        Ok(())
    }

    pub fn last(&self, disk: &str) -> u64 {
        self.sequences()
            .get(disk)
            .and_then(|records| records.last().copied())
            .unwrap_or(0)
    }
}
