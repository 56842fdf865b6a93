//! Fingerprints: keyed hashes of word 5-grams, winnowed, so that copies and near-copies are
//! recognised without the text (Schleimer, Wilkerson, Aiken: "Winnowing", 2003).
//!
//! Every shingle gets a cheap hash seeded from the key; winnowing (the smallest of each window of 8)
//! picks about two in nine; only those are hashed with keyed BLAKE3, whose first 8 bytes are the
//! print. Two texts that share a run of [`GUARANTEE`] words share a print before the smallest are
//! taken. A long word of letters and digits (a canary, never ordinary language) is a print of its
//! own, so that a planted token is found in any sentence.

use blake3::platform::Platform;
use unicode_segmentation::UnicodeSegmentation;

use super::key::Key;
use super::swar::{HIGH, ONES, eight, first, within};

/// Words of a shingle.
pub const SHINGLE: usize = 5;
/// Shingles of a window, of which the smallest is kept.
pub const WINDOW: usize = 8;
/// Words of a common run that is always seen.
pub const GUARANTEE: usize = SHINGLE + WINDOW - 1;
/// Shortest word of letters and digits that is a print of its own: long enough that guessing it with
/// the key is hopeless, and that no date, version or order number is one.
pub const TOKEN_BYTES: usize = 16;
/// Most such words in a sketch: a page of base64 must not push its sentences out.
pub const MAX_TOKENS: usize = 8;
/// Separates the hash of a token from that of a shingle.
const TOKEN_MARK: u8 = 1;
const SHINGLE_MARK: u8 = 0;
/// Bytes of a block.
const BLOCK: usize = 64;
/// A keyed message of one block: the first block of the first chunk, and the last of all.
const WHOLE: u8 = 1 | 2 | 8 | 16;

/// What prints are made with: one content key, with the seed of the cheap hash derived from it.
#[derive(Clone)]
pub struct Printer {
    key: zeroize::Zeroizing<[u8; 32]>,
    /// The key as BLAKE3 begins with it.
    start: zeroize::Zeroizing<[u32; 8]>,
    platform: Platform,
    seed: u64,
}

impl Printer {
    /// For a content key.
    pub fn new(key: &Key) -> Self {
        let prints = key.prints_key();
        let seed = blake3::keyed_hash(prints, b"seed");
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&seed.as_bytes()[..8]);
        let mut start = zeroize::Zeroizing::new([0; 8]);
        let (words, _) = prints.as_chunks::<4>();
        for (to, word) in start.iter_mut().zip(words) {
            *to = u32::from_le_bytes(*word);
        }
        Self {
            key: zeroize::Zeroizing::new(*prints),
            start,
            platform: Platform::detect(),
            seed: u64::from_le_bytes(bytes),
        }
    }

    /// Adds one normalised text (a reading) to `out`. Returns its number of words.
    pub fn add(&self, normalised: &str, scratch: &mut Words, out: &mut Prints) -> usize {
        scratch.split(normalised, self.seed);
        for &(start, end) in &scratch.spans {
            let word = &normalised.as_bytes()[start as usize..end as usize];
            if is_token(word) {
                out.tokens.push(self.hash(TOKEN_MARK, word));
            }
        }
        scratch.shingles.clear();
        scratch
            .shingles
            .extend(scratch.hashes.windows(SHINGLE).map(combine));
        winnow(&scratch.shingles, &mut scratch.picked);
        self.hash_picked(normalised, scratch, out);
        scratch.spans.len()
    }

    /// Adds every shingle of a normalised text, not only those that winnowing picks.
    pub fn add_every(&self, normalised: &str, scratch: &mut Words, out: &mut Prints) {
        scratch.split(normalised, self.seed);
        scratch.picked.clear();
        scratch
            .picked
            .extend(0..(scratch.spans.len() + 1).saturating_sub(SHINGLE));
        self.hash_picked(normalised, scratch, out);
    }

    fn hash_picked(&self, normalised: &str, scratch: &mut Words, out: &mut Prints) {
        for &at in &scratch.picked {
            scratch.bytes.clear();
            scratch.bytes.push(SHINGLE_MARK);
            for &(start, end) in &scratch.spans[at..at + SHINGLE] {
                scratch
                    .bytes
                    .extend_from_slice(&normalised.as_bytes()[start as usize..end as usize]);
                // Words hold no NUL, so ("ab", "c") and ("a", "bc") differ.
                scratch.bytes.push(0);
            }
            out.shingles.push(self.finish(&scratch.bytes));
        }
    }

    fn hash(&self, mark: u8, word: &[u8]) -> u64 {
        let mut h = blake3::Hasher::new_keyed(&self.key);
        h.update(&[mark]);
        h.update(word);
        first8(&h.finalize())
    }

    /// `keyed_hash`, of which five words need one step of the many that are made ready for longer messages;
    /// the crate offers it only behind its documented functions.
    fn finish(&self, bytes: &[u8]) -> u64 {
        let mut block = [0; BLOCK];
        let (Some(to), Ok(len)) = (block.get_mut(..bytes.len()), u8::try_from(bytes.len())) else {
            return first8(&blake3::keyed_hash(&self.key, bytes));
        };
        to.copy_from_slice(bytes);
        let mut chain = *self.start;
        self.platform
            .compress_in_place(&mut chain, &block, len, 0, WHOLE);
        u64::from(chain[0]) | u64::from(chain[1]) << 32
    }
}

fn first8(h: &blake3::Hash) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&h.as_bytes()[..8]);
    u64::from_le_bytes(b)
}

/// A word that ordinary language does not have.
fn is_token(word: &[u8]) -> bool {
    word.len() >= TOKEN_BYTES
        && word.is_ascii()
        && word.iter().filter(|b| b.is_ascii_digit()).count() >= 2
        && word.iter().filter(|b| b.is_ascii_alphabetic()).count() >= 2
}

/// The prints of a text and its readings, before the smallest are taken.
#[derive(Default)]
pub struct Prints {
    tokens: Vec<u64>,
    shingles: Vec<u64>,
}

impl Prints {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.shingles.clear();
    }

    /// All prints of runs of words, and all of tokens, each ascending and once.
    pub fn split(mut self) -> (Vec<u64>, Vec<u64>) {
        for list in [&mut self.tokens, &mut self.shingles] {
            list.sort_unstable();
            list.dedup();
        }
        (self.shingles, self.tokens)
    }

    /// The smallest `max`, ascending, each once: up to [`MAX_TOKENS`] of tokens, the rest of shingles.
    pub fn smallest(&mut self, max: usize) -> Vec<u64> {
        for list in [&mut self.tokens, &mut self.shingles] {
            list.sort_unstable();
            list.dedup();
        }
        self.tokens.truncate(MAX_TOKENS.min(max));
        self.shingles.truncate(max - self.tokens.len());
        let mut all = Vec::with_capacity(self.tokens.len() + self.shingles.len());
        all.extend_from_slice(&self.tokens);
        all.extend_from_slice(&self.shingles);
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Words of one text: their places and cheap hashes. Reused from text to text.
#[derive(Default)]
pub struct Words {
    spans: Vec<(u32, u32)>,
    hashes: Vec<u64>,
    shingles: Vec<u64>,
    picked: Vec<usize>,
    bytes: Vec<u8>,
}

impl Words {
    fn split(&mut self, text: &str, seed: u64) {
        self.spans.clear();
        self.hashes.clear();
        let bytes = text.as_bytes();
        each_word(text, |start, end| {
            // Texts are bounded far below 4 GiB by the record's size; what is beyond is left out.
            if let (Ok(s), Ok(e)) = (u32::try_from(start), u32::try_from(end)) {
                self.spans.push((s, e));
                self.hashes.push(cheap(bytes, start, end, seed));
            }
        });
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.bytes.zeroize();
    }
}

/// Words of a text by UAX #29.
pub fn count_words(text: &str) -> usize {
    let mut n = 0;
    each_word(text, |_, _| n += 1);
    n
}

/// Calls `f` with the place of each word by UAX #29 (segments that hold a letter or digit). ASCII, which
/// most texts are, is cut by hand: the general algorithm costs ten times as much.
pub fn each_word(text: &str, mut f: impl FnMut(usize, usize)) {
    if text.is_ascii() {
        ascii_words(text.as_bytes(), &mut f);
        return;
    }
    // No word reaches over a blank, so that each piece can be cut by itself.
    let mut from = 0;
    while from < text.len() {
        let to = memchr::memchr(b' ', &text.as_bytes()[from..]).map_or(text.len(), |n| from + n);
        let piece = &text[from..to];
        if piece.is_ascii() {
            ascii_words(piece.as_bytes(), &mut |start, end| {
                f(from + start, from + end);
            });
        } else {
            for (start, w) in piece.unicode_word_indices() {
                f(from + start, from + start + w.len());
            }
        }
        from = to + 1;
    }
}

/// UAX #29 for ASCII: letters, digits and `_` join; `'`, `.` and `:` join letters, `'`, `.`, `,` and `;`
/// join digits, one at a time and only between.
fn ascii_words(b: &[u8], f: &mut impl FnMut(usize, usize)) {
    let mut i = 0;
    while i < b.len() {
        let (mut n, mut any) = joined(b, i);
        if n == 0 {
            i += 1;
            continue;
        }
        let start = i;
        loop {
            i += n;
            let (Some(&mid), Some(&next)) = (b.get(i), b.get(i + 1)) else {
                break;
            };
            if mid == b' ' {
                break;
            }
            let before = b[i - 1];
            let letters = before.is_ascii_alphabetic() && next.is_ascii_alphabetic();
            let digits = before.is_ascii_digit() && next.is_ascii_digit();
            let joins = match mid {
                b'\'' | b'.' => letters || digits,
                b':' => letters,
                b',' | b';' => digits,
                _ => false,
            };
            if !joins {
                break;
            }
            i += 1;
            let more;
            (n, more) = joined(b, i);
            any |= more;
        }
        if any {
            f(start, i);
        }
    }
}

/// How many letters, digits and `_` stand in a row from `at`, and whether one is no `_`; eight bytes at
/// a time.
#[inline]
fn joined(text: &[u8], at: usize) -> (usize, bool) {
    let (mut len, mut any) = (0, false);
    loop {
        let w = eight(text, at + len);
        let (low, beyond) = (w & !HIGH, w & HIGH);
        let solid = within(low, b'0', b'9') | within(low | (ONES * 0x20), b'a', b'z');
        let joins = (solid | within(low, b'_', b'_')) & !beyond;
        let n = first(!joins & HIGH);
        len += n;
        any |= solid & !beyond & low_bytes(n) != 0;
        if n < 8 {
            return (len, any);
        }
    }
}

/// All bits of the first `n` bytes, at most 8.
#[inline]
fn low_bytes(n: usize) -> u64 {
    if n == 0 { 0 } else { u64::MAX >> (64 - 8 * n) }
}

/// A cheap seeded hash of the word at `start..end`: eight bytes a step, multiply and fold.
fn cheap(text: &[u8], start: usize, end: usize, seed: u64) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let len = end - start;
    let mut h = seed ^ (len as u64).wrapping_mul(K);
    let mut at = start;
    while at + 8 <= end {
        h = fold(h ^ eight(text, at), K);
        at += 8;
    }
    fold(h ^ (eight(text, at) & low_bytes(end - at)), K)
}

/// Upper and lower half of the product, folded.
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    let (low, high) = (p as u64, (p >> 64) as u64);
    low ^ high
}

fn combine(words: &[u64]) -> u64 {
    const K: u64 = 0xd6e8_feb8_6659_fd93;
    words.iter().fold(0, |h, w| {
        fold(h.rotate_left(23) ^ w ^ 0xa076_1d64_78bd_642f, K)
    })
}

/// Indices of the smallest hash of each window, the rightmost of equals, each once, ascending. Fewer
/// hashes than a window: the smallest of all.
fn winnow(hashes: &[u64], picked: &mut Vec<usize>) {
    picked.clear();
    if hashes.is_empty() {
        return;
    }
    let smallest = |from: usize, to: usize| {
        (from..to).fold(from, |m, i| if hashes[i] <= hashes[m] { i } else { m })
    };
    if hashes.len() < WINDOW {
        picked.push(smallest(0, hashes.len()));
        return;
    }
    let mut at = smallest(0, WINDOW);
    picked.push(at);
    for end in WINDOW..hashes.len() {
        let from = end + 1 - WINDOW;
        if hashes[end] <= hashes[at] {
            at = end;
        } else if at < from {
            at = smallest(from, end + 1);
        } else {
            continue;
        }
        picked.push(at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::key::{Keys, Purpose};
    use super::*;

    fn prints(text: &str) -> Vec<u64> {
        let keys = Keys::development();
        let mut out = Prints::default();
        Printer::new(keys.active_content()).add(text, &mut Words::default(), &mut out);
        out.smallest(usize::MAX)
    }

    #[test]
    fn words_are_those_of_uax_29() {
        for t in [
            "can't e.g. 1,000.5 a:b 12:30 x_y _ __ 3.14.15 a.1 1.a don''t 'quoted' U.S.A. a;b 1;2 foo,bar a..b",
            "",
            "'",
            "a",
            "größe straße 日本語 text",
        ] {
            let mut ours = Vec::new();
            each_word(t, |s, e| ours.push(&t[s..e]));
            assert_eq!(ours, t.unicode_words().collect::<Vec<_>>(), "{t}");
        }
    }

    proptest! {
        #[test]
        fn ascii_words_equal_the_general_algorithm(t in "[a-c1-3_'.:,; \r\n\t@-]{0,40}") {
            let mut ours = Vec::new();
            each_word(&t, |s, e| ours.push(&t[s..e]));
            prop_assert_eq!(ours, t.unicode_words().collect::<Vec<_>>());
        }

        #[test]
        fn pieces_equal_the_general_algorithm(t in "[a-c1\u{e9}\u{301}\u{2019}\u{200d}\u{65e5}\u{1f1e6}'.:, \n]{0,40}") {
            let mut ours = Vec::new();
            each_word(&t, |s, e| ours.push(&t[s..e]));
            prop_assert_eq!(ours, t.unicode_words().collect::<Vec<_>>());
        }

        /// Two texts with a common run of twelve words share a print.
        #[test]
        fn a_common_run_is_seen(
            run in proptest::collection::vec("[a-z]{2,6}", GUARANTEE),
            before in proptest::collection::vec("[a-z]{2,6}", 0..40),
            after in proptest::collection::vec("[a-z]{2,6}", 0..40),
        ) {
            let registered = prints(&run.join(" "));
            let text = [before.join(" "), run.join(" "), after.join(" ")].join(" ");
            // A run alone has one window; its print need not be the text's. Between two long texts
            // the guarantee holds, so the run is framed on both sides.
            let framed = [after.join(" "), run.join(" "), before.join(" ")].join(" ");
            let (a, b) = (prints(&text), prints(&framed));
            prop_assert!(a.iter().any(|p| b.binary_search(p).is_ok()));
            prop_assert!(!registered.is_empty());
        }
    }

    #[test]
    fn a_word_has_one_hash_wherever_it_stands() {
        for word in [
            "a",
            "sentence",
            "sentences",
            "abcdefghijklmnop",
            "abcdefghijklmnopq",
        ] {
            let alone = cheap(word.as_bytes(), 0, word.len(), 7);
            let among = format!("x {word}.of others");
            assert_eq!(cheap(among.as_bytes(), 2, 2 + word.len(), 7), alone);
            assert_ne!(cheap(among.as_bytes(), 2, 1 + word.len(), 7), alone);
        }
    }

    #[test]
    fn short_texts_and_tokens() {
        assert!(prints("only four words here").is_empty());
        assert_eq!(prints("now there are five words").len(), 1);
        let a = prints("the canary is vwc7k2m9q4x8z1p6t3n5 ok");
        let b = prints("never say vwc7k2m9q4x8z1p6t3n5");
        assert!(a.iter().any(|p| b.contains(p)));
        assert!(prints("internationalisation considerations").is_empty());
    }

    #[test]
    fn every_length_equals_the_documented_hash() {
        let printer = Printer::new(Keys::development().active_content());
        let bytes: Vec<u8> = (0..200).collect();
        for len in 0..bytes.len() {
            let documented = blake3::keyed_hash(&printer.key, &bytes[..len]);
            assert_eq!(printer.finish(&bytes[..len]), first8(&documented), "{len}");
        }
    }

    #[test]
    fn keyed() {
        let text = "one two three four five six seven eight nine ten";
        let mut out = Prints::default();
        let other = Key::derived([3; 32], Purpose::All);
        Printer::new(&other).add(text, &mut Words::default(), &mut out);
        let other = out.smallest(64);
        assert!(prints(text).iter().all(|p| !other.contains(p)));
    }

    #[test]
    fn density_and_bound() {
        let words: Vec<String> = (0..2000).map(|i| format!("w{}", i * 7919 % 1000)).collect();
        let text = words.join(" ");
        let n = prints(&text).len();
        // Expected density is 2/(w+1) of 1,000 distinct shingles (the words repeat).
        assert!((170..280).contains(&n), "{n}");
        let keys = Keys::development();
        let mut out = Prints::default();
        Printer::new(keys.active_content()).add(&text, &mut Words::default(), &mut out);
        let few = out.smallest(64);
        assert_eq!(few.len(), 64);
        assert_eq!(few, prints(&text)[..64]);
    }
}
