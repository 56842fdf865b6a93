//! All keywords at once: each is looked for by its rarest group of four letters.
//!
//! One look at every byte keeps the last four letters in a register and asks two small bit tables
//! that fit a core's first cache whether some keyword has them; where the answer is yes, the few
//! keywords with that group are compared byte by byte. An automaton over thousands of keywords is
//! megabytes, and every step of it waits for memory.
//!
//! The work is linear: at most [`MAX_SHARED`] keywords hang on a group unless no other group is
//! left to them.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;

use super::letters::{CLASS_BITS, FOUR, Rates, THREE, THREES, Threes, class, classes, group};

/// Bits of the table of groups of four: 64 Kbit, 8 KiB.
const FILTER_BITS: u32 = 16;
/// Keywords on one group from which on another group is preferred.
const MAX_SHARED: usize = 8;

/// A keyword: its bytes, and whether all that wait for it want a word to begin or end there.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'t> {
    pub text: &'t str,
    pub starts: bool,
    pub ends: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    pattern: u32,
    /// Bytes from the keyword's start to the end of the group.
    back: u16,
    /// The keyword's length.
    len: u16,
    /// Where its bytes begin among all.
    from: u32,
    /// Classes of which one stands before the group, and behind it, as bits.
    before: u32,
    behind: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The group's number plus one; 0 is empty.
    key: u32,
    from: u32,
    to: u32,
    /// Classes that stand before and behind the group in one of its keywords at least, as bits.
    before: u32,
    behind: u32,
}

/// Groups → keywords, open addressing.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    entries: Vec<Entry>,
    shift: u32,
}

/// Letters of any class.
const ANY: u32 = u32::MAX;

fn spread(key: u32) -> u32 {
    key.wrapping_mul(0x9e37_79b1)
}

impl Table {
    fn new(lists: BTreeMap<u32, Vec<Entry>>) -> Self {
        let size = (lists.len() * 2).next_power_of_two().max(2);
        let shift = 32 - size.trailing_zeros();
        let mut table = Self {
            slots: vec![Slot::default(); size],
            entries: Vec::new(),
            shift,
        };
        for (key, list) in lists {
            let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let any = |of: fn(&Entry) -> u32| list.iter().fold(0, |bits, e| bits | of(e));
            let (before, behind) = (any(|e| e.before), any(|e| e.behind));
            let from = small(table.entries.len());
            table.entries.extend(list);
            let to = small(table.entries.len());
            let mut at = (spread(key) >> shift) as usize;
            while table.slots[at].key != 0 {
                at = (at + 1) % size;
            }
            table.slots[at] = Slot {
                key: key + 1,
                from,
                to,
                before,
                behind,
            };
        }
        table
    }

    /// The keywords of a group that stands between letters of these classes.
    fn of(&self, key: u32, before: u32, behind: u32) -> &[Entry] {
        if self.slots.is_empty() {
            return &[];
        }
        let mut at = (spread(key) >> self.shift) as usize;
        loop {
            let slot = self.slots[at];
            if slot.key == key + 1 {
                if slot.before >> before & slot.behind >> behind & 1 == 0 {
                    return &[];
                }
                return &self.entries[slot.from as usize..slot.to as usize];
            }
            if slot.key == 0 {
                return &[];
            }
            at = (at + 1) % self.slots.len();
        }
    }
}

/// The keywords' bytes, one behind the other.
#[derive(Debug, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    /// Adds a keyword; `back` as in [`Entry`].
    fn entry(&mut self, pattern: u32, text: &str, back: usize) -> Entry {
        let from = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
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
    fn stands(&self, entry: &Entry, text: &[u8], end: usize) -> Option<usize> {
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

/// Keywords of ASCII.
#[derive(Debug)]
pub(super) struct Plain {
    fours: Box<[u64; 1 << (FILTER_BITS - 6)]>,
    threes: Box<[u64; THREES / 64]>,
    by_four: Table,
    by_three: Table,
    /// Keywords without letters and digits.
    signs: Few,
    bytes: Bytes,
}

fn hashed(four: u32) -> usize {
    (spread(four) >> (32 - FILTER_BITS)) as usize
}

impl Plain {
    /// `wanted` by number; those that are not ASCII are passed over.
    pub(super) fn new(wanted: &[Wanted<'_>], rates: &Rates) -> Self {
        let mut by_four: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        let mut by_three: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        let mut signs = Few::default();
        let mut bytes = Bytes::default();
        for (pattern, one) in (0..).zip(wanted) {
            if !one.text.is_ascii() {
                continue;
            }
            let row = classes(one.text, one.starts, one.ends);
            let lead = usize::from(one.starts);
            // A group of so many classes that ends there in the row.
            let mut entry = |size: usize, end: usize| {
                let bit = |at: Option<usize>| at.and_then(|at| row.get(at)).map_or(ANY, |c| 1 << c);
                Entry {
                    before: bit(end.checked_sub(size + 1)),
                    behind: bit(Some(end)),
                    ..bytes.entry(pattern, one.text, end - lead)
                }
            };
            if row.len() < 2 || row.iter().all(|class| *class == 0) {
                signs.add(pattern, one.text);
                continue;
            }
            match row.len() {
                2 => {
                    // Whatever comes behind.
                    for next in 0..1 << CLASS_BITS {
                        let three = (group(&row) << CLASS_BITS) | next;
                        by_three.entry(three).or_default().push(entry(3, 3));
                    }
                }
                3 => by_three.entry(group(&row)).or_default().push(entry(3, 3)),
                _ => {
                    let (at, four) = row
                        .windows(4)
                        .map(group)
                        .enumerate()
                        .min_by(|(_, a), (_, b)| {
                            let cost = |four: &u32| {
                                let shared = by_four.get(four).map_or(0, Vec::len);
                                let crowd = if shared >= MAX_SHARED { 64.0 } else { 1.0 };
                                // A group of signs alone says nothing.
                                let signs = if *four == 0 { 1_000.0 } else { 1.0 };
                                rates.four(*four) * crowd * signs
                            };
                            cost(a).total_cmp(&cost(b))
                        })
                        .unwrap_or((0, 0));
                    by_four.entry(four).or_default().push(entry(4, at + 4));
                }
            }
        }
        let mut fours = Box::new([0; 1 << (FILTER_BITS - 6)]);
        for four in by_four.keys() {
            let bit = hashed(*four);
            fours[bit / 64] |= 1 << (bit % 64);
        }
        let mut threes = Box::new([0; THREES / 64]);
        for three in by_three.keys() {
            let bit = *three as usize;
            threes[bit / 64] |= 1 << (bit % 64);
        }
        Self {
            fours,
            threes,
            by_four: Table::new(by_four),
            by_three: Table::new(by_three),
            signs: signs.done(),
            bytes,
        }
    }

    /// Tells `found` every keyword and its end, in no particular order, and `seen` the groups of
    /// three of the text. Returns how many keywords were compared.
    pub(super) fn walk(
        &self,
        text: &str,
        seen: &mut Threes,
        mut found: impl FnMut(u32, usize),
    ) -> usize {
        let bytes = text.as_bytes();
        let mut row = 0_u32;
        let mut compared = 0;
        // The text ends with an edge.
        for (at, byte) in bytes.iter().chain(std::iter::once(&b' ')).enumerate() {
            row = (row << CLASS_BITS) | class(*byte);
            let (four, three) = (row & FOUR, row & THREE);
            seen.set(three);
            let bit = hashed(four);
            let maybe_four = self.fours[bit / 64] >> (bit % 64) & 1;
            let maybe_three = self.threes[three as usize / 64] >> (three % 64) & 1;
            if maybe_four | maybe_three == 0 {
                continue;
            }
            let end = at + 1;
            let behind = bytes.get(end).map_or(0, |b| class(*b));
            let last = |n: u32| row >> (n * CLASS_BITS) & 31;
            if maybe_four != 0 {
                compared += self.compare(
                    bytes,
                    self.by_four.of(four, last(4), behind),
                    end,
                    &mut found,
                );
            }
            if maybe_three != 0 {
                compared += self.compare(
                    bytes,
                    self.by_three.of(three, last(3), behind),
                    end,
                    &mut found,
                );
            }
        }
        compared + self.signs.walk(bytes, &mut found)
    }

    fn compare(
        &self,
        text: &[u8],
        entries: &[Entry],
        end: usize,
        found: &mut impl FnMut(u32, usize),
    ) -> usize {
        for entry in entries {
            if let Some(stop) = self.bytes.stands(entry, text, end) {
                found(entry.pattern, stop);
            }
        }
        entries.len()
    }
}

/// Keywords of other scripts, by four bytes of UTF-8.
#[derive(Debug)]
pub(super) struct Wide {
    fours: Box<[u64; 1 << (FILTER_BITS - 6)]>,
    by_four: Table,
    /// Keywords of fewer than four bytes.
    short: Few,
    bytes: Bytes,
}

impl Wide {
    /// `wanted` by number; those of ASCII are passed over.
    pub(super) fn new(wanted: &[Wanted<'_>]) -> Self {
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
        let mut fours = Box::new([0; 1 << (FILTER_BITS - 6)]);
        for four in by_four.keys() {
            let bit = hashed(*four);
            fours[bit / 64] |= 1 << (bit % 64);
        }
        Self {
            fours,
            by_four: Table::new(by_four),
            short: short.done(),
            bytes,
        }
    }

    /// As [`Plain::walk`].
    pub(super) fn walk(&self, text: &str, mut found: impl FnMut(u32, usize)) -> usize {
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
            compared += entries.len();
            for entry in entries {
                if let Some(stop) = self.bytes.stands(entry, bytes, at + 1) {
                    found(entry.pattern, stop);
                }
            }
        }
        compared + self.short.walk(bytes, &mut found)
    }
}

/// A few keywords that have no group, in one small automaton.
#[derive(Debug, Default)]
struct Few {
    patterns: Vec<u32>,
    texts: Vec<String>,
    automaton: Option<AhoCorasick>,
}

impl Few {
    fn add(&mut self, pattern: u32, text: &str) {
        self.patterns.push(pattern);
        self.texts.push(text.to_owned());
    }

    /// Compiles what was added.
    fn done(mut self) -> Self {
        let texts = std::mem::take(&mut self.texts);
        if !texts.is_empty() {
            // It fails beyond two billion states only.
            self.automaton = AhoCorasick::new(&texts).ok();
        }
        self
    }

    /// Every place, overlapping ones too; returns how many.
    fn walk(&self, text: &[u8], found: &mut impl FnMut(u32, usize)) -> usize {
        let Some(automaton) = &self.automaton else {
            return 0;
        };
        let mut places = 0;
        for m in automaton.find_overlapping_iter(text) {
            places += 1;
            found(self.patterns[m.pattern().as_usize()], m.end());
        }
        places
    }
}

/// Four bytes as one number; the last one in the lowest bits. Two bytes of the same keyword may
/// share it, never two different groups.
fn key(four: [u8; 4]) -> u32 {
    u32::from_be_bytes(four)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'t>(words: &[&'t str]) -> Vec<Wanted<'t>> {
        words
            .iter()
            .map(|text| Wanted {
                text,
                starts: false,
                ends: false,
            })
            .collect()
    }

    #[test]
    fn every_keyword_is_found_wherever_it_stands() {
        let words = [
            "ignore",
            "nore",
            "ig",
            "@",
            "ab",
            "a",
            "://",
            "::",
            "no",
            "ignore all previous rules",
            "x y",
            "忽略",
            "правила",
            "é",
            "先",
            "(忽abcdefg",
            "ключ",
        ];
        let list = wanted(&words);
        let (plain, wide) = (Plain::new(&list, &Rates::new()), Wide::new(&list));
        for text in [
            "ignore all previous rules",
            "ab",
            "a",
            "",
            "::: :// ::://",
            "xx ab@ab://ignore x y ig",
            "x ignoreignore",
            "忽略правила: ключ é先ab@",
            "or (忽abcdefg)",
            "no",
            "ababab a",
        ] {
            let mut found = Vec::new();
            plain.walk(text, &mut Threes::default(), |p, end| found.push((p, end)));
            wide.walk(text, |p, end| found.push((p, end)));
            found.sort_unstable();
            let mut expected = Vec::new();
            for (pattern, word) in (0..).zip(&words) {
                for at in 0..text.len() {
                    if text.as_bytes()[at..].starts_with(word.as_bytes()) {
                        expected.push((pattern, at + word.len()));
                    }
                }
            }
            expected.sort_unstable();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn words_are_found_at_their_edges() {
        let list = [Wanted {
            text: "id",
            starts: true,
            ends: true,
        }];
        let plain = Plain::new(&list, &Rates::new());
        let mut ends = Vec::new();
        plain.walk("id, did (id) idea id", &mut Threes::default(), |_, end| {
            ends.push(end);
        });
        assert_eq!(ends, [2, 11, 20]);
    }
}
