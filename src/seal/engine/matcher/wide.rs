//! Keywords of other scripts.

use std::collections::BTreeMap;

use super::few::Few;
use super::table::{Bytes, Entry, Table};
use super::{FILTER_BITS, Wanted, filter, hashed};
use crate::seal::reading::scout::Counts;

/// Keywords of other scripts, by four bytes of UTF-8.
#[derive(Debug)]
pub(in super::super) struct Wide {
    fours: Box<[u64; 1 << (FILTER_BITS - 6)]>,
    by_four: Table,
    /// Keywords of fewer than four bytes.
    short: Few,
    bytes: Bytes,
}

impl Wide {
    /// `wanted` by number; those of ASCII are passed over.
    pub(in super::super) fn new(wanted: &[Wanted<'_>]) -> Self {
        let mut by_four: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        let mut short = Few::default();
        let mut bytes = Bytes::default();
        for (pattern, one) in (0..).zip(wanted) {
            if one.text.is_ascii() {
                continue;
            }
            // Groups on which fewest keywords hang, from the end: languages share their prefixes.
            let best = one
                .text
                .as_bytes()
                .windows(4)
                .map(|w| key([w[0], w[1], w[2], w[3]]))
                .enumerate()
                .filter(|(_, four)| four & 0x8080_8080 != 0)
                .min_by_key(|(at, four)| (by_four.get(four).map_or(0, Vec::len), usize::MAX - at));
            match best {
                Some((at, four)) => {
                    let entry = bytes.entry(pattern, one.text, at + 4);
                    by_four.entry(four).or_default().push(entry);
                }
                None => short.add(pattern, one.text),
            }
        }
        let fours = filter(by_four.keys());
        Self {
            fours,
            by_four: Table::new(by_four),
            short: short.done(),
            bytes,
        }
    }

    /// As [`Plain::walk`].
    pub(in super::super) fn walk(
        &self,
        text: &str,
        counts: &Counts,
        mut found: impl FnMut(u32, usize),
    ) -> usize {
        let bytes = text.as_bytes();
        let mut compared = 0;
        let mut row = 0_u32;
        for (at, byte) in bytes.iter().enumerate() {
            row = (row << 8) | u32::from(*byte);
            // Every keyword looked for here has a letter beyond ASCII; most text beside it has not.
            if row & 0x8080_8080 == 0 || at < 3 {
                continue;
            }
            let bit = hashed(row);
            if self.fours[bit / 64] >> (bit % 64) & 1 == 0 {
                continue;
            }
            let entries = self.by_four.of(row, 0, 0);
            for entry in entries {
                compared += 1;
                if let Some(stop) = self.bytes.stands(entry, bytes, at + 1) {
                    found(entry.pattern, stop);
                }
                if entry.last {
                    break;
                }
            }
        }
        compared + self.short.walk(bytes, counts, &mut found)
    }
}

/// Four bytes as one number; the last one in the lowest bits. Two bytes of the same keyword may
/// share it, never two different groups.
fn key(four: [u8; 4]) -> u32 {
    u32::from_be_bytes(four)
}
