// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a mirror will ever catch up with its guest. Pure: the time is passed to it.

use std::time::Duration;

/// How long a mirror is watched before it is judged.
const PATIENCE: Duration = Duration::from_secs(10);
/// It catches up as long as it gains on its guest by this part of what it copies. What QEMU says of the remainder goes
/// up and down with its passes over the disk; this is above that, and a disk of any size is far above it.
const GAIN: u64 = 20;

/// One look at a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Since any fixed moment.
    pub(crate) at: Duration,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

impl Sample {
    pub(crate) fn remainder(&self) -> u64 {
        self.total.saturating_sub(self.done)
    }
}

/// The rates of a mirror that does not catch up, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rates {
    pub(crate) copied: u64,
    pub(crate) dirtied: u64,
}

/// Watches one mirror.
#[derive(Debug, Default)]
pub(crate) struct Convergence {
    /// Where the stretch that is judged began.
    since: Option<Sample>,
}

impl Convergence {
    /// Forgets what it saw: the mirror was given better conditions.
    pub(crate) fn restart(&mut self) {
        self.since = None;
    }

    /// `Some` once the mirror has not gained on its guest for [`PATIENCE`] while the guest went on dirtying blocks.
    ///
    /// `total` grows by exactly what the guest dirties again. A mirror whose destination hangs dirties without copying,
    /// and one that is limited copies without catching up; both are stuck. One that waits for an idle guest is not.
    pub(crate) fn look(&mut self, sample: Sample) -> Option<Rates> {
        let since = *self.since.get_or_insert(sample);
        let waited = sample.at.checked_sub(since.at)?;
        if waited < PATIENCE || sample.remainder() == 0 {
            return None;
        }
        let copied = sample.done.saturating_sub(since.done);
        let gained = since.remainder().saturating_sub(sample.remainder());
        if gained > 0 && gained >= copied / GAIN {
            self.since = Some(sample);
            return None;
        }
        let rate = |bytes: u64| {
            let bytes = u128::from(bytes) * 1000 / waited.as_millis().max(1);
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        let rates = Rates {
            copied: rate(copied),
            dirtied: rate(sample.total.saturating_sub(since.total)),
        };
        (rates.dirtied > 0).then_some(rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(copied: u64, dirtied: u64, seconds: u64) -> Option<Rates> {
        watch_of(1_000_000, copied, dirtied, seconds)
    }

    fn watch_of(size: u64, copied: u64, dirtied: u64, seconds: u64) -> Option<Rates> {
        let mut convergence = Convergence::default();
        (0..seconds * 2).find_map(|half| {
            let at = Duration::from_millis(half * 500);
            let (done, total) = (copied * half / 2, size + dirtied * half / 2);
            convergence.look(Sample {
                at,
                done: done.min(total),
                total,
            })
        })
    }

    #[test]
    fn a_mirror_that_catches_up_is_left_alone() {
        assert_eq!(watch(50_000, 10_000, 60), None);
        assert_eq!(watch(50_000, 0, 60), None);
    }

    #[test]
    fn a_large_disk_is_given_the_time_it_takes() {
        assert_eq!(watch_of(1 << 40, 50 << 20, 1 << 20, 3600), None);
    }

    #[test]
    fn an_idle_guest_is_waited_for() {
        assert_eq!(watch(0, 0, 60), None);
    }

    #[test]
    fn a_guest_that_dirties_faster_is_noticed_with_its_rates() {
        let rates = watch(10_000, 50_000, 60).unwrap();
        assert_eq!((rates.copied, rates.dirtied), (10_000, 50_000));
        assert!(watch(10_000, 10_000, 60).is_some());
    }

    #[test]
    fn not_before_its_patience_is_over() {
        assert_eq!(watch(10_000, 50_000, 9), None);
    }
}
