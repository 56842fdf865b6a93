//! Which words may be a slip of a known one: told from their ends, their length and which letters
//! they have. Most words that nobody remembers are ruled out by one short list.

use super::{MIN_REPAIR, turn};

/// Bits of an entry below its length: one for each letter.
const LENGTH: u32 = 27;
const LETTERS: u32 = (1 << LENGTH) - 1;
/// Known words by their first and last letter, as a slip of the pen may leave these.
#[derive(Debug, Clone, Default)]
pub(super) struct Near {
    /// Where the entries of each pair of ends begin; one more at the end.
    starts: Vec<u32>,
    /// Letters as bits, the length above; ascending, so shorter words come first.
    entries: Vec<u32>,
}

/// A letter's bit.
fn bit(b: u8) -> u32 {
    1 << (b & 31)
}

fn cell(first: u8, last: u8) -> usize {
    usize::from(first & 31) << 5 | usize::from(last & 31)
}

fn entry(letters: u32, len: usize) -> u32 {
    letters & LETTERS | u32::try_from(len).map_or(0, |len| len << LENGTH)
}

impl Near {
    pub(super) fn new<'w>(words: impl Iterator<Item = &'w str>) -> Self {
        let mut all: Vec<(usize, u32)> = Vec::new();
        for word in words.filter(|w| w.is_ascii() && w.len() >= MIN_REPAIR) {
            let bytes = word.as_bytes();
            let (first, last) = (bytes[0], bytes[bytes.len() - 1]);
            let letters = bytes.iter().fold(0, |all, b| all | bit(*b));
            let turned = bytes.iter().fold(0, |all, b| all | bit(turn(*b)));
            let own = entry(letters, bytes.len());
            all.extend([
                (cell(first, last), own),
                // Its first two letters swapped, its last two; all of them reversed.
                (cell(bytes[1], last), own),
                (cell(first, bytes[bytes.len() - 2]), own),
                (cell(last, first), own),
                (cell(turn(first), turn(last)), entry(turned, bytes.len())),
            ]);
        }
        all.sort_unstable();
        all.dedup();
        let mut starts = Vec::with_capacity((1 << 10) + 1);
        for cell in 0..=1 << 10 {
            let at = all.partition_point(|(of, _)| *of < cell);
            starts.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        Self {
            starts,
            entries: all.into_iter().map(|(_, entry)| entry).collect(),
        }
    }

    /// Whether a word is no slip of a known one, nor one itself, reversed or rotated. `false` says
    /// nothing; so it is for words of other letters than small ones, and for those with three equal
    /// letters in a row.
    pub(super) fn rules_out(&self, word: &[u8]) -> bool {
        let (Some(first), Some(last)) = (word.first(), word.last()) else {
            return false;
        };
        let (mut letters, mut other, mut tripled) = (0, false, false);
        let mut before = [0; 2];
        for b in word {
            letters |= bit(*b);
            other |= !b.is_ascii_lowercase();
            tripled |= before == [*b; 2];
            before = [before[1], *b];
        }
        let at = cell(*first, *last);
        let (Some(from), Some(to)) = (self.starts.get(at), self.starts.get(at + 1)) else {
            return false;
        };
        if other || tripled {
            return false;
        }
        let entries = self.entries.get(*from as usize..*to as usize);
        let len = u32::try_from(word.len()).unwrap_or(u32::MAX);
        entries.is_some_and(|entries| !any_near(entries, letters, len))
    }
}

/// Whether a word of so many bytes with these letters may be a slip of the word of one of the
/// entries. No branch within: compilers turn the look into vector instructions.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "branches would keep it from vector instructions"
)]
fn any_near(entries: &[u32], letters: u32, len: u32) -> bool {
    entries.iter().fold(false, |any, entry| {
        // Letters of one that the other does not have: a wrong letter takes one and brings one.
        let others = (entry ^ letters) & LETTERS;
        let but_one = others & others.wrapping_sub(1);
        let but_two = but_one & but_one.wrapping_sub(1);
        let length = (entry >> LENGTH).wrapping_add(1).wrapping_sub(len);
        any | ((but_two == 0) & (length <= 2))
    })
}
