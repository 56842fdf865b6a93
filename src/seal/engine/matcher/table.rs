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
    /// It is the last one on its group.
    pub last: bool,
}

/// Sixteen bytes, so that four share a line of the cache.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The group's number plus one; 0 is empty.
    key: u32,
    /// Its first keyword among the entries.
    from: u32,
    /// Classes that stand before and behind the group in one of its keywords at least, as bits.
    before: u32,
    behind: u32,
}

/// Groups → keywords, open addressing.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
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
            entries: Vec::new(),
            shift,
        };
        for (key, list) in lists {
            let any = |of: fn(&Entry) -> u32| list.iter().fold(0, |bits, e| bits | of(e));
            let (before, behind) = (any(|e| e.before), any(|e| e.behind));
            let from = small(table.entries.len());
            table.entries.extend(list);
            if let Some(last) = table.entries.last_mut() {
                last.last = true;
            }
            let mut at = (spread(key) >> shift) as usize;
            while table.slots[at].key != 0 {
                at = (at + 1) % size;
            }
            table.slots[at] = Slot {
                key: key + 1,
                from,
                before,
                behind,
            };
        }
        table
    }

    /// Whether [`Self::of`] may give any: one load and no branch, so that many groups are asked for
    /// at once.
    #[expect(
        clippy::needless_bitwise_bool,
        reason = "a branch here is taken by chance"
    )]
    #[inline]
    pub(super) fn may_have(&self, key: u32, before: u32, behind: u32) -> bool {
        let at = (spread(key) >> self.shift) as usize;
        let slot = self.slots.get(at).copied().unwrap_or_default();
        let fits = slot.before >> before & slot.behind >> behind & 1 != 0;
        // Another group in its place: its own may stand behind.
        let other = slot.key != key + 1;
        (slot.key != 0) & (other | fits)
    }

    /// Loads what [`Self::of`] gives, and nothing else; no branch.
    #[inline]
    pub(super) fn ask(&self, key: u32) -> u16 {
        let at = (spread(key) >> self.shift) as usize;
        let slot = self.slots.get(at).copied().unwrap_or_default();
        let from = if slot.key == key + 1 { slot.from } else { 0 };
        self.entries.get(from as usize).map_or(0, |entry| entry.len)
    }

    /// The keywords of a group that stands between letters of these classes, and those of the groups
    /// behind it: they end with the [last](Entry::last).
    pub(super) fn of(&self, key: u32, before: u32, behind: u32) -> &[Entry] {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = (spread(key) >> self.shift) as usize;
        while let Some(slot) = self.slots.get(at & mask) {
            if slot.key == key + 1 {
                if slot.before >> before & slot.behind >> behind & 1 == 0 {
                    return &[];
                }
                return &self.entries[slot.from as usize..];
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
            last: false,
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
