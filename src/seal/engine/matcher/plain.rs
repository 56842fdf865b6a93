//! Keywords of ASCII.

use std::collections::BTreeMap;
use std::hint::black_box;

use super::super::letters::{
    CLASS_BITS, FOUR, Rates, THREE, THREES, Threes, class, classes, group,
};
use super::few::Few;
use super::table::{ANY, Bytes, Entry, Table};
use super::{FILTER_BITS, MAX_SHARED, Wanted, filter, hashed};
use crate::seal::reading::scout::Counts;

/// Bytes after which the places noted are looked at: the noting is a loop without branches.
const LOT: usize = 64;

/// Places at which a keyword may stand, of one lot of bytes.
#[derive(Debug)]
struct Lot {
    /// The last letters there, and the place in the lot.
    noted: [(u32, u8); LOT],
    n: usize,
    at: u8,
}

impl Default for Lot {
    fn default() -> Self {
        Self {
            noted: [(0, 0); LOT],
            n: 0,
            at: 0,
        }
    }
}

impl Lot {
    /// The next byte of the lot.
    #[inline]
    fn note(&mut self, row: u32, maybe: bool) {
        self.noted[self.n % LOT] = (row, self.at);
        self.n += usize::from(maybe);
        self.at += 1;
    }

    /// Forgets the places that a second look rules out, without a branch for each.
    fn sift(&mut self, stays: impl Fn(u32, usize) -> bool) {
        let mut kept = 0;
        for at in 0..self.n.min(LOT) {
            let one = self.noted[at];
            self.noted[kept % LOT] = one;
            kept += usize::from(stays(one.0, usize::from(one.1)));
        }
        self.n = kept;
    }

    /// The last letters of what was noted.
    fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.noted[..self.n.min(LOT)].iter().map(|(row, _)| *row)
    }

    /// What was noted; the next lot begins.
    fn take(&mut self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let n = self.n;
        (self.n, self.at) = (0, 0);
        self.noted[..n]
            .iter()
            .map(|(row, at)| (*row, usize::from(*at)))
    }
}

/// Class of the letter before the last `n` of a row.
fn before(row: u32, n: u32) -> u32 {
    row >> (n * CLASS_BITS) & 31
}

/// Keywords of ASCII.
#[derive(Debug)]
pub(in super::super) struct Plain {
    fours: Box<[u64; 1 << (FILTER_BITS - 6)]>,
    threes: Box<[u64; THREES / 64]>,
    by_four: Table,
    by_three: Table,
    /// Keywords without letters and digits.
    signs: Few,
    bytes: Bytes,
}

impl Plain {
    /// `wanted` by number; those that are not ASCII, and those not to `keep`, are passed over.
    pub(in super::super) fn new(
        wanted: &[Wanted<'_>],
        rates: &Rates,
        keep: impl Fn(usize) -> bool,
    ) -> Self {
        let mut by_four: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        let mut by_three: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        let mut signs = Few::default();
        let mut bytes = Bytes::default();
        for (pattern, one) in (0..).zip(wanted) {
            if !one.text.is_ascii() || !keep(pattern as usize) {
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
        let fours = filter(by_four.keys());
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
    /// three of the text. `counts` are those of the text. Returns how many keywords were compared.
    pub(in super::super) fn walk(
        &self,
        text: &str,
        counts: &Counts,
        seen: &mut Threes,
        mut found: impl FnMut(u32, usize),
    ) -> usize {
        let bytes = text.as_bytes();
        let mut row = 0_u32;
        let mut compared = 0;
        let mut lot = Lot::default();
        let mut from = 0;
        // The text ends with an edge.
        while from <= bytes.len() {
            let to = (from + LOT).min(bytes.len());
            for byte in &bytes[from..to] {
                row = self.step(row, *byte, seen, &mut lot);
            }
            if to == bytes.len() && to < from + LOT {
                self.step(row, b' ', seen, &mut lot);
            }
            lot.sift(|row, at| {
                let behind = bytes.get(from + at + 1).map_or(0, |b| class(*b));
                let may = self.by_four.may_have(row & FOUR, before(row, 4), behind);
                may | (self.three(row) != 0)
            });
            // All that is left is asked for together: each answer comes from beyond the near cache.
            black_box(
                lot.rows()
                    .fold(0, |all, row| all ^ self.by_four.ask(row & FOUR)),
            );
            for (row, at) in lot.take() {
                compared += self.look(bytes, row, from + at, &mut found);
            }
            from += LOT;
        }
        compared + self.signs.walk(bytes, counts, &mut found)
    }

    /// Takes one more letter; notes the place if a keyword may stand there. Nothing here waits for
    /// the answer.
    #[inline]
    fn step(&self, row: u32, byte: u8, seen: &mut Threes, lot: &mut Lot) -> u32 {
        let row = (row << CLASS_BITS) | class(byte);
        let three = row & THREE;
        seen.set(three);
        let bit = hashed(row & FOUR);
        let maybe_four = self.fours[bit / 64] >> (bit % 64) & 1;
        lot.note(row, maybe_four | self.three(row) != 0);
        row
    }

    /// 1 if a keyword hangs on the last three letters.
    #[inline]
    fn three(&self, row: u32) -> u64 {
        let three = row & THREE;
        self.threes[three as usize / 64] >> (three % 64) & 1
    }

    /// The keywords whose group may end with the byte at `at`.
    fn look(&self, bytes: &[u8], row: u32, at: usize, found: &mut impl FnMut(u32, usize)) -> usize {
        let (four, three) = (row & FOUR, row & THREE);
        let end = at + 1;
        let behind = bytes.get(end).map_or(0, |b| class(*b));
        let mut compared = 0;
        let bit = hashed(four);
        if self.fours[bit / 64] >> (bit % 64) & 1 != 0 {
            let entries = self.by_four.of(four, before(row, 4), behind);
            compared += self.compare(bytes, entries, (before(row, 4), behind), end, found);
        }
        if self.three(row) != 0 {
            let entries = self.by_three.of(three, before(row, 3), behind);
            compared += self.compare(bytes, entries, (before(row, 3), behind), end, found);
        }
        compared
    }

    fn compare(
        &self,
        text: &[u8],
        entries: &[Entry],
        (before, behind): (u32, u32),
        end: usize,
        found: &mut impl FnMut(u32, usize),
    ) -> usize {
        let mut compared = 0;
        for entry in entries {
            compared += 1;
            if entry.before >> before & entry.behind >> behind & 1 != 0
                && let Some(stop) = self.bytes.stands(entry, text, end)
            {
                found(entry.pattern, stop);
            }
            if entry.last {
                break;
            }
        }
        compared
    }
}
