//! The attack lexicon: the words of the injection rules, and which misspelt, reversed or rotated
//! word of a text stands for one of them.
//!
//! A word's *signature* is the sum of a fixed number per byte: equal for any order of the letters,
//! so swapped and reversed letters find their word with one look-up, a missing letter with one
//! more entry per letter in the table, an extra or wrong letter with one look-up per letter.

mod memo;
mod near;
mod slip;

pub use memo::Memo;
use near::Near;
use slip::slipped;

/// Shortest word that is repaired; shorter ones are one slip away from too many others.
pub const MIN_REPAIR: usize = 5;
/// Longest word in the lexicon, bytes.
pub const MAX_WORD: usize = 24;
/// Bits of the filter: 256 Kbit, 32 KiB. Each signature sets two.
const FILTER_BITS: u32 = 18;

const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// One number per byte value.
const LETTER: [u64; 256] = {
    let mut table = [0; 256];
    let mut b = 0_usize;
    while b < 256 {
        table[b] = mix(b as u64);
        b += 1;
    }
    table
};

/// The same after rotating Latin letters by 13.
const LETTER_ROT13: [u64; 256] = {
    let mut table = LETTER;
    let mut b = 0_usize;
    while b < 26 {
        table[b'a' as usize + b] = LETTER[b'a' as usize + (b + 13) % 26];
        b += 1;
    }
    table
};

/// The order-free signature of a word, and of its rotation.
pub fn signatures(word: &[u8]) -> (u64, u64) {
    word.iter().fold((0, 0), |(plain, turned): (u64, u64), b| {
        (
            plain.wrapping_add(LETTER[usize::from(*b)]),
            turned.wrapping_add(LETTER_ROT13[usize::from(*b)]),
        )
    })
}

/// What a word of a text is to the lexicon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinship {
    /// It is the word.
    Same,
    /// It is the word with one slip of the pen; the number is the word's index.
    Slip(u16),
    /// It is the word backwards.
    Reversed,
    /// It is the word rotated by 13.
    Rot13,
}

/// Words and their signatures.
#[derive(Debug, Clone)]
pub struct Lexicon {
    words: Vec<String>,
    keep: Vec<String>,
    /// Signatures and their words, sorted.
    entries: Vec<(u64, u16)>,
    /// Signature → its first entry plus one, open addressing.
    table: Vec<u32>,
    filter: Vec<u64>,
    /// First letter → bits of the last letters, `a` is bit 1.
    ends: [u32; 32],
    /// First three bytes of the words, hashed.
    heads: Vec<u64>,
    /// What may be a slip of them.
    near: Near,
    /// Packed words that need no look, open addressing; 0 is empty.
    ordinary: Vec<u64>,
    /// Which words these are, for what is remembered between texts.
    id: u64,
}

/// Bits of the table of first letters.
const HEAD_BITS: usize = 1 << 16;

fn head(text: &[u8]) -> usize {
    let three = text
        .iter()
        .take(3)
        .fold(0_usize, |n, b| n << 8 | usize::from(*b));
    three.wrapping_mul(0x9e37_79b1) >> 8 & (HEAD_BITS - 1)
}

fn slots(signature: u64) -> [(usize, u64); 2] {
    let mixed = signature.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [
        mixed >> (64 - FILTER_BITS),
        mixed >> (64 - 2 * FILTER_BITS) & ((1 << FILTER_BITS) - 1),
    ]
    .map(|bit| (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64)))
}

/// Common words of ordinary English, of five to twelve letters.
const COMMON: &str = include_str!("common.txt");
/// Longest word that is packed.
const MAX_PACKED: usize = 12;

/// A word of up to twelve small letters as one number; `None` for any other.
fn packed(word: &str) -> Option<u64> {
    if word.is_empty() || word.len() > MAX_PACKED {
        return None;
    }
    word.bytes().try_fold(0, |key, b| {
        b.is_ascii_lowercase()
            .then(|| (key << 5) | u64::from(b & 31))
    })
}

/// A small letter's number; other bytes share one with a letter.
fn letter(b: u8) -> usize {
    usize::from(b & 31)
}

/// Place of a signature in a table of a power of two.
fn slot(signature: u64, size: usize) -> usize {
    let mixed = signature.wrapping_mul(0xd6e8_feb8_6659_fd93);
    usize::try_from(mixed >> 32).unwrap_or(0) & (size - 1)
}

impl Lexicon {
    /// A lexicon of folded words. `keep` are real words that stand one slip away from one of them
    /// and are left alone.
    pub fn new<'a>(
        words: impl IntoIterator<Item = &'a str>,
        keep: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut words: Vec<String> = words
            .into_iter()
            .filter(|w| (3..=MAX_WORD).contains(&w.len()))
            .filter(|w| w.chars().all(char::is_alphabetic))
            .map(str::to_owned)
            .collect();
        words.sort_unstable();
        words.dedup();
        words.truncate(usize::from(u16::MAX));
        let mut keep: Vec<String> = keep.into_iter().map(str::to_owned).collect();
        keep.sort_unstable();
        let mut entries = Vec::new();
        let mut ends = [0; 32];
        for (index, word) in words.iter().enumerate() {
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            let bytes = word.as_bytes();
            let (whole, _) = signatures(bytes);
            entries.push((whole, index));
            if bytes.len() >= MIN_REPAIR && word.is_ascii() {
                ends[letter(bytes[0])] |= 1 << letter(bytes[bytes.len() - 1]);
                for b in &bytes[1..bytes.len() - 1] {
                    entries.push((whole.wrapping_sub(LETTER[usize::from(*b)]), index));
                }
            }
        }
        entries.sort_unstable();
        entries.dedup();
        let mut table = vec![0; (entries.len() * 2).next_power_of_two().max(2)];
        for (index, (signature, _)) in (1..).zip(&entries) {
            let mut at = slot(*signature, table.len());
            // The first entry of a signature stands for all.
            while table[at] != 0 && entries[table[at] as usize - 1].0 != *signature {
                at = (at + 1) % table.len();
            }
            if table[at] == 0 {
                table[at] = index;
            }
        }
        let mut heads = vec![0; HEAD_BITS / 64];
        for word in &words {
            let bit = head(word.as_bytes());
            heads[bit / 64] |= 1 << (bit % 64);
        }
        let mut filter = vec![0; 1 << (FILTER_BITS - 6)];
        for (signature, _) in &entries {
            for (at, bit) in slots(*signature) {
                filter[at] |= bit;
            }
        }
        let mut lexicon = Self {
            near: Near::new(words.iter().map(String::as_str)),
            words,
            keep,
            entries,
            table,
            filter,
            ends,
            heads,
            ordinary: Vec::new(),
            id: 0,
        };
        lexicon.id = lexicon.identity();
        lexicon.ordinary = lexicon.find_ordinary();
        lexicon
    }

    fn identity(&self) -> u64 {
        let of = |words: &[String], id: u64| {
            let bytes = words.iter().flat_map(|word| word.bytes().chain([b' ']));
            bytes.fold(id, |id, b| mix(id ^ u64::from(b)))
        };
        of(&self.keep, mix(of(&self.words, 0)))
    }

    /// The words themselves, and the common words in which no slip of one is seen.
    fn find_ordinary(&self) -> Vec<u64> {
        let common = COMMON
            .lines()
            .filter(|l| !l.starts_with('#'))
            .flat_map(str::split_whitespace)
            .filter(|word| {
                let (plain, turned) = signatures(word.as_bytes());
                self.kinship(word, plain, turned).is_none()
            });
        let known = self.words.iter().map(String::as_str);
        let mut keys: Vec<u64> = known.chain(common).filter_map(packed).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut table = vec![0; (keys.len() * 2).next_power_of_two().max(2)];
        for key in keys {
            let mut at = slot(key, table.len());
            while table[at] != 0 {
                at = (at + 1) % table.len();
            }
            table[at] = key;
        }
        table
    }

    /// Whether a word of at least [`MIN_REPAIR`] bytes is far from all words of the lexicon: there is
    /// no [kinship](Self::kinship), and no letter that stands too often. False says nothing.
    pub fn is_far(&self, word: &str) -> bool {
        self.near.rules_out(word.as_bytes())
    }

    /// Whether a word is one of the lexicon or an ordinary one: there is nothing to repair in it.
    /// False says nothing.
    pub fn passes(&self, word: &str) -> bool {
        let Some(key) = packed(word) else {
            return false;
        };
        let mut at = slot(key, self.ordinary.len());
        while self.ordinary[at] != 0 {
            if self.ordinary[at] == key {
                return true;
            }
            at = (at + 1) % self.ordinary.len();
        }
        false
    }

    /// The word of an index.
    pub fn word(&self, index: u16) -> &str {
        &self.words[usize::from(index)]
    }

    /// All words, sorted.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether a word may begin here: most places are ruled out without a search.
    pub fn may_start(&self, text: &str) -> bool {
        let bit = head(text.as_bytes());
        self.heads
            .get(bit / 64)
            .is_some_and(|bits| bits & (1 << (bit % 64)) != 0)
    }

    /// Whether the word is in it.
    pub fn has(&self, word: &str) -> bool {
        let (plain, _) = signatures(word.as_bytes());
        self.maybe(plain) && self.of(plain).any(|index| self.word(index) == word)
    }

    fn maybe(&self, signature: u64) -> bool {
        let [(a, bit_a), (b, bit_b)] = slots(signature);
        self.filter.get(a).is_some_and(|bits| bits & bit_a != 0)
            && self.filter.get(b).is_some_and(|bits| bits & bit_b != 0)
    }

    fn first(&self, signature: u64) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let mut at = slot(signature, self.table.len());
        loop {
            let entry = (self.table[at] as usize).checked_sub(1)?;
            if self.entries[entry].0 == signature {
                return Some(entry);
            }
            at = (at + 1) % self.table.len();
        }
    }

    fn of(&self, signature: u64) -> impl Iterator<Item = u16> + '_ {
        self.first(signature)
            .map_or(&[][..], |from| &self.entries[from..])
            .iter()
            .take_while(move |(s, _)| *s == signature)
            .map(|(_, index)| *index)
    }

    /// What `word` (folded letters, at least [`MIN_REPAIR`] bytes) is to the lexicon.
    /// `plain` and `turned` are its [`signatures`].
    pub fn kinship(&self, word: &str, plain: u64, turned: u64) -> Option<Kinship> {
        let mut found = None;
        if self.maybe(plain) {
            for index in self.of(plain) {
                let known = self.word(index);
                if known == word {
                    return Some(Kinship::Same);
                }
                if known.len() == word.len() && known.chars().rev().eq(word.chars()) {
                    found = Some(Kinship::Reversed);
                } else if found.is_none() && slipped(word, known) {
                    found = Some(Kinship::Slip(index));
                }
            }
        }
        if found.is_none() && self.maybe(turned) && word.is_ascii() {
            for index in self.of(turned) {
                let known = self.word(index).as_bytes();
                if known.len() == word.len()
                    && known
                        .iter()
                        .zip(word.as_bytes())
                        .all(|(k, w)| *k == turn(*w))
                {
                    found = Some(Kinship::Rot13);
                }
            }
        }
        if found.is_none() {
            found = self.extra_or_wrong(word, plain);
        }
        match found {
            Some(Kinship::Slip(_)) if self.has(word) || self.keeps(word) => None,
            other => other,
        }
    }

    /// Whether it is a real word that is left alone, whatever it looks like.
    pub fn keeps(&self, word: &str) -> bool {
        self.keep.binary_search_by(|w| w.as_str().cmp(word)).is_ok()
    }

    /// One letter too many, or one wrong: without it the word has the signature of a known one,
    /// or of a known one without a letter.
    fn extra_or_wrong(&self, word: &str, plain: u64) -> Option<Kinship> {
        let bytes = word.as_bytes();
        let (first, last) = (*bytes.first()?, *bytes.last()?);
        let doubled = bytes.len() > MIN_REPAIR && last == bytes[bytes.len() - 2];
        let ends = self.ends[letter(first)] >> letter(last) & 1 != 0;
        if !(doubled || ends) || !word.is_ascii() {
            return None;
        }
        for b in &bytes[1..] {
            let less = plain.wrapping_sub(LETTER[usize::from(*b)]);
            if self.maybe(less) {
                for index in self.of(less) {
                    if slipped(word, self.word(index)) {
                        return Some(Kinship::Slip(index));
                    }
                }
            }
        }
        None
    }
}

/// A letter rotated by 13.
pub fn turn(b: u8) -> u8 {
    match b {
        b'a'..=b'z' => b'a' + (b - b'a' + 13) % 26,
        b'A'..=b'Z' => b'A' + (b - b'A' + 13) % 26,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lexicon() -> Lexicon {
        Lexicon::new(
            [
                "ignore",
                "previous",
                "instructions",
                "forget",
                "output",
                "content",
                "правила",
            ],
            ["contest", "precious"],
        )
    }

    fn kin(word: &str) -> Option<String> {
        let lexicon = lexicon();
        let (plain, turned) = signatures(word.as_bytes());
        lexicon.kinship(word, plain, turned).map(|k| match k {
            Kinship::Slip(index) => lexicon.word(index).to_owned(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn slips_find_their_word() {
        for (word, known) in [
            ("ingore", "ignore"),
            ("pervious", "previous"),
            ("isntructions", "instructions"),
            ("froget", "forget"),
            ("instuctions", "instructions"),
            ("instrxctions", "instructions"),
            ("outputt", "output"),
            ("ignoore", "ignore"),
        ] {
            assert_eq!(kin(word).as_deref(), Some(known), "{word}");
        }
        assert_eq!(kin("ignore").as_deref(), Some("Same"));
        assert_eq!(kin("snoitcurtsni").as_deref(), Some("Reversed"));
        assert_eq!(kin("vafgehpgvbaf").as_deref(), Some("Rot13"));
        assert_eq!(kin("аливарп").as_deref(), Some("Reversed"));
    }

    #[test]
    fn a_word_that_is_far_has_no_kinship() {
        let lexicon = lexicon();
        let known = [
            "ignore",
            "previous",
            "instructions",
            "forget",
            "output",
            "content",
        ];
        let letters = (b'a'..=b'z').map(char::from);
        let mut words: Vec<String> = Vec::new();
        for word in known {
            words.push(word.chars().rev().collect());
            words.push(word.bytes().map(|b| char::from(turn(b))).collect());
            for at in 0..word.len() {
                let (before, rest) = word.split_at(at);
                words.push(format!("{before}{}", &rest[1..]));
                if at + 1 < word.len() {
                    let swapped: String = rest[..2].chars().rev().collect();
                    words.push(format!("{before}{swapped}{}", &rest[2..]));
                }
                for c in letters.clone() {
                    words.push(format!("{before}{c}{rest}"));
                    words.push(format!("{before}{c}{}", &rest[1..]));
                    words.push(format!("{word}{c}"));
                }
            }
        }
        for word in words.iter().filter(|w| w.len() >= MIN_REPAIR) {
            let (plain, turned) = signatures(word.as_bytes());
            let kin = lexicon.kinship(word, plain, turned);
            assert!(!(lexicon.is_far(word) && kin.is_some()), "{word}");
        }
        for word in ["ordinary", "weather", "gardens"] {
            assert!(lexicon.is_far(word), "{word}");
        }
        assert!(!lexicon.is_far("weathhher") && !lexicon.is_far("правил"));
    }

    #[test]
    fn other_words_are_left_alone() {
        for word in [
            "forge", "forgets", "ignored", "contest", "outputs", "ignition", "precious",
        ] {
            assert_eq!(kin(word), None, "{word}");
        }
    }
}
