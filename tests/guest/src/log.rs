// SPDX-License-Identifier: LGPL-2.1-or-later
//! The writer's log, one line per acknowledged record: `sequence disk realtime_ns latency_us`.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub sequence: u64,
    pub disk: String,
    /// When the write was acknowledged.
    pub realtime_ns: u64,
    /// How long write and fsync took.
    pub latency_us: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{} {} {} {}",
            self.sequence, self.disk, self.realtime_ns, self.latency_us
        )
    }
}

impl Line {
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let parsed = Self {
            sequence: fields.next()?.parse().ok()?,
            disk: fields.next()?.to_owned(),
            realtime_ns: fields.next()?.parse().ok()?,
            latency_us: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(parsed)
    }
}

/// The worst that the writer saw within a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    pub lines: u64,
    pub longest_latency_us: u64,
    pub longest_latency_at_ns: u64,
    /// Between two acknowledged records of one disk; the writer's own pause is part of it.
    pub longest_gap_us: u64,
    pub longest_gap_at_ns: u64,
}

impl Stall {
    /// Looks at the records acknowledged from `from_ns` to `to_ns`; a gap counts if it ends there.
    pub fn of(log: &str, from_ns: u64, to_ns: u64) -> Self {
        let mut stall = Self::default();
        let mut previous: BTreeMap<String, u64> = BTreeMap::new();
        for line in log.lines().filter_map(Line::parse) {
            let at = line.realtime_ns;
            let before = previous.insert(line.disk, at).unwrap_or(at);
            if !(from_ns..=to_ns).contains(&at) {
                continue;
            }
            stall.lines += 1;
            if line.latency_us >= stall.longest_latency_us {
                (stall.longest_latency_us, stall.longest_latency_at_ns) = (line.latency_us, at);
            }
            let gap_us = at.saturating_sub(before) / 1000;
            if gap_us >= stall.longest_gap_us {
                (stall.longest_gap_us, stall.longest_gap_at_ns) = (gap_us, at);
            }
        }
        stall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back() {
        let line = Line {
            sequence: 1,
            disk: "vda".into(),
            realtime_ns: 2,
            latency_us: 3,
        };
        assert_eq!(Line::parse(&line.to_string()), Some(line));
        for bad in ["", "1 vda 2", "x vda 2 3", "1 vda 2 3 4", "1 vda 2 3x"] {
            assert_eq!(Line::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn longest_stall() {
        let log = "1 vda 1000000 10\n1 vdb 1000000 99\n2 vda 6000000 20\n3 vda 9000000 15\nhalf a li";
        let all = Stall::of(log, 0, u64::MAX);
        assert_eq!(
            (all.lines, all.longest_latency_us, all.longest_latency_at_ns),
            (4, 99, 1_000_000)
        );
        assert_eq!((all.longest_gap_us, all.longest_gap_at_ns), (5000, 6_000_000));
        let late = Stall::of(log, 6_000_001, u64::MAX);
        assert_eq!(
            (late.lines, late.longest_latency_us, late.longest_gap_us),
            (1, 15, 3000)
        );
    }
}
