// SPDX-License-Identifier: LGPL-2.1-or-later
//! Numbered, checksummed records in a ring of fixed size: record n lies in slot (n - 1) % SLOTS.

/// One sector, so that a record is never split by the device below.
pub const RECORD_SIZE: usize = 512;
/// 8 MiB: over a minute of records at the default pace, and small enough for a disk of 32 MiB.
pub const SLOTS: u64 = 16384;

const MAGIC: [u8; 8] = *b"LDRECORD";
const SUMMED: usize = RECORD_SIZE - 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// From 1.
    pub sequence: u64,
    pub realtime_ns: u64,
    pub monotonic_ns: u64,
}

impl Record {
    pub fn encode(&self) -> [u8; RECORD_SIZE] {
        // The filler depends on the sequence: a record made of two halves fails its checksum wherever it was cut.
        let mut bytes = [self.sequence as u8; RECORD_SIZE];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.realtime_ns.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.monotonic_ns.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..SUMMED]);
        bytes[SUMMED..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// None unless the slot holds a whole record.
    pub fn decode(slot: &[u8]) -> Option<Self> {
        if slot.len() != RECORD_SIZE || slot[..8] != MAGIC {
            return None;
        }
        let number = |at: usize| slot[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let sum = slot[SUMMED..].try_into().map(u32::from_le_bytes).ok()?;
        let sequence = number(8)?;
        (sum == crc32fast::hash(&slot[..SUMMED]) && sequence > 0).then_some(Self {
            sequence,
            realtime_ns: number(16)?,
            monotonic_ns: number(24)?,
        })
    }

    pub fn offset(sequence: u64) -> u64 {
        slot_of(sequence) * RECORD_SIZE as u64
    }
}

/// What a whole file of records says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub first: u64,
    pub last: u64,
    pub count: u64,
    /// Slots that are neither empty nor a whole record.
    pub torn: u64,
    /// Records that should be there, given the last one, and are not.
    pub missing: u64,
    /// Whole records in a slot that is not theirs.
    pub out_of_order: u64,
    pub last_realtime_ns: u64,
}

impl Summary {
    pub fn of(file: &[u8]) -> Self {
        let slots: Vec<&[u8]> = file.chunks(RECORD_SIZE).collect();
        let records: Vec<Option<Record>> = slots.iter().map(|slot| Record::decode(slot)).collect();
        let whole = || records.iter().flatten();
        let Some(newest) = whole().max_by_key(|record| record.sequence) else {
            return Self {
                torn: slots.iter().filter(|slot| !is_empty(slot)).count() as u64,
                ..Self::default()
            };
        };
        let mut summary = Self {
            first: whole().map(|record| record.sequence).min().unwrap_or(0),
            last: newest.sequence,
            count: whole().count() as u64,
            missing: newest.sequence.min(SLOTS).saturating_sub(slots.len() as u64),
            last_realtime_ns: newest.realtime_ns,
            ..Self::default()
        };
        for (index, (slot, record)) in slots.iter().zip(&records).enumerate() {
            match record {
                Some(record) if slot_of(record.sequence) != index as u64 => summary.out_of_order += 1,
                Some(record) if Some(record.sequence) != expected(index as u64, newest.sequence) => {
                    summary.missing += 1
                }
                Some(_) => {}
                None if is_empty(slot) => summary.missing += 1,
                None => summary.torn += 1,
            }
        }
        summary
    }

    /// Every record up to the last one is there, once and unharmed.
    pub fn is_whole(&self) -> bool {
        self.count > 0 && self.torn == 0 && self.missing == 0 && self.out_of_order == 0
    }
}

fn slot_of(sequence: u64) -> u64 {
    (sequence - 1) % SLOTS
}

/// The sequence that belongs into a slot when `last` is the newest one.
fn expected(slot: u64, last: u64) -> Option<u64> {
    let age = (slot_of(last) + SLOTS - slot) % SLOTS;
    last.checked_sub(age).filter(|&sequence| sequence > 0)
}

fn is_empty(slot: &[u8]) -> bool {
    slot.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(sequences: impl IntoIterator<Item = u64>) -> Vec<u8> {
        sequences
            .into_iter()
            .flat_map(|sequence| {
                Record {
                    sequence,
                    realtime_ns: sequence * 10,
                    monotonic_ns: sequence,
                }
                .encode()
            })
            .collect()
    }

    #[test]
    fn a_record_reads_back() {
        let record = Record {
            sequence: 7,
            realtime_ns: 8,
            monotonic_ns: 9,
        };
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }

    #[test]
    fn a_whole_file() {
        let summary = Summary::of(&file(1..=9));
        assert!(summary.is_whole());
        assert_eq!((summary.first, summary.last, summary.count), (1, 9, 9));
        assert_eq!(summary.last_realtime_ns, 90);
    }

    #[test]
    fn a_file_that_has_wrapped() {
        let newest = 2 * SLOTS + 5;
        let slots = (0..SLOTS).map(|slot| {
            if slot < 5 {
                2 * SLOTS + slot + 1
            } else {
                SLOTS + slot + 1
            }
        });
        let summary = Summary::of(&file(slots));
        assert!(summary.is_whole(), "{summary:?}");
        assert_eq!(
            (summary.first, summary.last, summary.count),
            (newest - SLOTS + 1, newest, SLOTS)
        );
    }

    #[test]
    fn a_record_lost_after_the_ring_s_head() {
        // Slot 3 still holds what the round before wrote.
        let slots = (0..SLOTS).map(|slot| {
            if slot < 5 && slot != 3 {
                SLOTS + slot + 1
            } else {
                slot + 1
            }
        });
        let summary = Summary::of(&file(slots));
        assert_eq!((summary.missing, summary.torn, summary.out_of_order), (1, 0, 0));
    }

    #[test]
    fn torn() {
        let mut bytes = file(1..=9);
        let other = file([8]);
        bytes[4 * RECORD_SIZE + 256..5 * RECORD_SIZE].copy_from_slice(&other[256..]);
        let summary = Summary::of(&bytes);
        assert!(!summary.is_whole());
        assert_eq!((summary.torn, summary.missing, summary.count), (1, 0, 8));
    }

    #[test]
    fn cut_off() {
        let summary = Summary::of(&file(1..=9)[..9 * RECORD_SIZE - 1]);
        assert_eq!((summary.torn, summary.last), (1, 8));
    }

    #[test]
    fn missing() {
        let mut bytes = file(1..=9);
        bytes[2 * RECORD_SIZE..4 * RECORD_SIZE].fill(0);
        let summary = Summary::of(&bytes);
        assert!(!summary.is_whole());
        assert_eq!((summary.missing, summary.torn, summary.count), (2, 0, 7));
    }

    #[test]
    fn swapped() {
        let summary = Summary::of(&file([1, 2, 4, 3, 5]));
        assert!(!summary.is_whole());
        assert_eq!((summary.out_of_order, summary.missing, summary.torn), (2, 0, 0));
    }

    #[test]
    fn nothing_is_not_whole() {
        assert!(!Summary::of(&[]).is_whole());
        assert_eq!(Summary::of(&[1; RECORD_SIZE]).torn, 1);
    }
}
