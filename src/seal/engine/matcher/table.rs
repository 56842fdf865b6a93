//! Groups of letters and the keywords that hang on them.

use std::collections::BTreeMap;

/// A keyword on a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub pattern: u32,
    /// Bytes from the keyword's start to the end of the group.
    pub back: u16,
    /// The keyword's length.
    pub len: u16,
    /// Where its bytes begin among all.
    pub from: u32,
    /// Classes of which one stands before the group, and behind it, as bits.
    pub before: u32,
    pub behind: u32,
}

/// Sixteen bytes, so that four share a line of the cache.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The group's number plus one; 0 is empty.
    key: u32,
    /// Number of its list.
    list: u32,
    /// Classes that stand before and behind the group in one of its keywords at least, as bits.
    before: u32,
    behind: u32,
}

/// Groups → keywords, open addressing.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    /// Where each list begins among the entries, and where the last one ends.
    starts: Vec<u32>,
    entries: Vec<Entry>,
    shift: u32,
}

/// Letters of any class.
pub(super) const ANY: u32 = u32::MAX;

pub(super) fn spread(key: u32) -> u32 {
    key.wrapping_mul(0x9e37_79b1)
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Table {
    pub(super) fn new(lists: BTreeMap<u32, Vec<Entry>>) -> Self {
        // At most two in three are taken.
        let size = (lists.len() * 3 / 2).next_power_of_two().max(2);
        let shift = 32 - size.trailing_zeros();
        let mut table = Self {
            slots: vec![Slot::default(); size],
            starts: vec![0],
            entries: Vec::new(),
            shift,
        };
        for (key, list) in lists {
            let any = |of: fn(&Entry) -> u32| list.iter().fold(0, |bits, e| bits | of(e));
            let (before, behind) = (any(|e| e.before), any(|e| e.behind));
            let index = small(table.starts.len() - 1);
            table.entries.extend(list);
            table.starts.push(small(table.entries.len()));
            let mut at = (spread(key) >> shift) as usize;
            while table.slots[at].key != 0 {
                at = (at + 1) % size;
            }
            table.slots[at] = Slot {
                key: key + 1,
                list: index,
                before,
                behind,
            };
        }
        table
    }

    /// The keywords of a group that stands between letters of these classes.
    pub(super) fn of(&self, key: u32, before: u32, behind: u32) -> &[Entry] {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = (spread(key) >> self.shift) as usize;
        while let Some(slot) = self.slots.get(at & mask) {
            if slot.key == key + 1 {
                if slot.before >> before & slot.behind >> behind & 1 == 0 {
                    return &[];
                }
                let list = slot.list as usize;
                let (from, to) = (self.starts[list], self.starts[list + 1]);
                return &self.entries[from as usize..to as usize];
            }
            if slot.key == 0 {
                break;
            }
            at += 1;
        }
        &[]
    }
}

/// The keywords' bytes, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    /// Adds a keyword; `back` as in [`Entry`].
    pub(super) fn entry(&mut self, pattern: u32, text: &str, back: usize) -> Entry {
        let from = small(self.0.len());
        self.0.extend_from_slice(text.as_bytes());
        let small = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        Entry {
            pattern,
            back: small(back),
            len: small(text.len()),
            from,
            before: ANY,
            behind: ANY,
        }
    }

    /// The end of the keyword, if it stands where its group ends at `end`.
    pub(super) fn stands(&self, entry: &Entry, text: &[u8], end: usize) -> Option<usize> {
        let start = end.checked_sub(usize::from(entry.back))?;
        let stop = start + usize::from(entry.len);
        let from = entry.from as usize;
        let keyword = self.0.get(from..from + usize::from(entry.len))?;
        // Four letters agree: most keywords that differ do so in their first others.
        let same = text
            .get(start..stop)?
            .iter()
            .zip(keyword)
            .all(|(a, b)| a == b);
        same.then_some(stop)
    }
}
