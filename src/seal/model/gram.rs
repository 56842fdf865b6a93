//! The features: word 1–3-grams, gapped word pairs, and character 3–5-grams inside words, hashed.
//!
//! One definition for training and scoring. Scripts written without spaces (Chinese, Japanese,
//! Thai, …) take every letter as a word. A word that repeats one of the two before it is skipped,
//! so that padding (`ö ö ö …`) cannot dilute a text. Digits count as one digit.

/// Longest word looked at, in letters; the rest of a longer one starts a new word, so that a blob
/// of any length is still linear work in fixed memory.
const MAX_WORD: usize = 24;
/// Multiplier of the polynomial hashes (odd, from SplitMix64).
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Which family an n-gram belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One word.
    Word,
    /// Two words in a row.
    Pair,
    /// Two words with one between them.
    Gap,
    /// Three words in a row.
    Triple,
    /// Three to five characters of one word.
    Char,
}

impl Kind {
    /// A short name for explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Word => "w1",
            Self::Pair => "w2",
            Self::Gap => "wg",
            Self::Triple => "w3",
            Self::Char => "c",
        }
    }
}

/// One hashed n-gram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gram {
    /// Its family.
    pub kind: Kind,
    /// Its hash.
    pub hash: u64,
}

impl Gram {
    /// Its place in a table of `2^bits` buckets; `bits` is 1–32.
    #[inline]
    pub fn bucket(&self, bits: u32) -> usize {
        usize::try_from(self.hash >> (64 - bits)).unwrap_or(0)
    }
}

#[inline]
fn mix(h: u64, salt: u64) -> u64 {
    let h = (h ^ salt).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (h ^ (h >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

/// Letters of scripts that are written without spaces between words.
#[inline]
fn stands_alone(c: char) -> bool {
    matches!(u32::from(c),
        0x0E00..=0x0EFF // Thai, Lao
        | 0x1000..=0x109F // Myanmar
        | 0x1780..=0x17FF // Khmer
        | 0x3040..=0x30FF // kana
        | 0x3400..=0x9FFF // Han
        | 0xF900..=0xFAFF
        | 0x20000..=0x3FFFF)
}

/// Takes the n-grams of a text, in order.
pub trait Sink {
    /// One n-gram.
    fn gram(&mut self, gram: Gram);

    /// Whether the character n-grams of the word with this hash are known already; if so, they do
    /// not come.
    #[inline]
    fn known(&mut self, _word: u64) -> bool {
        false
    }

    /// The character n-grams of the word with this hash have all come.
    #[inline]
    fn end(&mut self, _word: u64) {}
}

impl<F: FnMut(Gram)> Sink for F {
    #[inline]
    fn gram(&mut self, gram: Gram) {
        self(gram);
    }
}

struct Words<'a, S> {
    last: u64,
    before: u64,
    sink: &'a mut S,
}

impl<S: Sink> Words<'_, S> {
    #[inline]
    fn emit(&mut self, kind: Kind, hash: u64) {
        self.sink.gram(Gram { kind, hash });
    }

    /// Takes a word of two letters or more, and the characters it is made of.
    #[inline]
    fn word(&mut self, letters: &[u32]) {
        let mut hash = 0_u64;
        for c in letters {
            hash = hash.wrapping_add(u64::from(*c)).wrapping_mul(STEP);
        }
        if !self.push(hash) || self.sink.known(hash) {
            return;
        }
        // ` word `: 3-, 4- and 5-grams end at each letter and at the closing blank.
        let (mut a, mut b, mut c, mut d) = (0_u64, 0_u64, 0_u64, u64::from(b' '));
        for (i, e) in letters
            .iter()
            .map(|c| u64::from(*c))
            .chain([u64::from(b' ')])
            .enumerate()
        {
            let three = (c.wrapping_mul(STEP).wrapping_add(d))
                .wrapping_mul(STEP)
                .wrapping_add(e);
            if i >= 1 {
                self.emit(Kind::Char, mix(three, 3));
            }
            if i >= 2 {
                let four = b.wrapping_mul(0xD6E8_FEB8_6659_FD93).wrapping_add(three);
                self.emit(Kind::Char, mix(four, 4));
                if i >= 3 {
                    let five = a.wrapping_mul(0xA076_1D64_78BD_642F).wrapping_add(four);
                    self.emit(Kind::Char, mix(five, 5));
                }
            }
            (a, b, c, d) = (b, c, d, e);
        }
        self.sink.end(hash);
    }

    /// Word n-grams; false when the word repeats one of the two before it.
    #[inline]
    fn push(&mut self, hash: u64) -> bool {
        if hash == self.last || hash == self.before {
            return false;
        }
        self.emit(Kind::Word, mix(hash, 11));
        if self.last != 0 {
            let pair = self.last.rotate_left(17).wrapping_add(hash);
            self.emit(Kind::Pair, mix(pair, 12));
            if self.before != 0 {
                self.emit(
                    Kind::Gap,
                    mix(self.before.rotate_left(17).wrapping_add(hash), 13),
                );
                self.emit(
                    Kind::Triple,
                    mix(self.before.rotate_left(34).wrapping_add(pair), 14),
                );
            }
        }
        self.before = self.last;
        self.last = hash;
        true
    }
}

/// Hands every n-gram of `text` to `sink`, in order.
#[inline]
pub fn visit(text: &str, sink: &mut impl Sink) {
    let mut words = Words {
        last: 0,
        before: 0,
        sink,
    };
    let mut letters = [0_u32; MAX_WORD];
    let mut n = 0;
    for c in text.chars() {
        let letter = if c.is_ascii() {
            c.is_ascii_alphanumeric()
        } else {
            c.is_alphanumeric()
        };
        if letter && !stands_alone(c) {
            if n == MAX_WORD {
                words.word(&letters);
                n = 0;
            }
            letters[n] = if c.is_ascii_digit() {
                u32::from(b'0')
            } else {
                u32::from(c)
            };
            n += 1;
            continue;
        }
        if n > 0 {
            words.word(&letters[..n]);
            n = 0;
        }
        if letter {
            words.push(u64::from(u32::from(c)).wrapping_mul(STEP));
        }
    }
    if n > 0 {
        words.word(&letters[..n]);
    }
}

/// Fewest filler tokens that make a padded text.
const MIN_FILLER: u32 = 60;
/// Longest token, in bytes, that can be filler by shape.
const FILLER_BYTES: usize = 2;

/// Whether most of a text is filler: the same token again and again, or single marks and letters,
/// as optimisers and password-game players put before an attack. Texts of 60 such tokens and more
/// than half of all tokens are; prose, code and tables of numbers are not.
pub fn padded(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 2 * MIN_FILLER as usize - 1 {
        return false;
    }
    // Tokens as places in the text; an empty one at first.
    let (mut filler, mut all, mut last, mut before) = (0_u32, 0_u32, (0, 0), (0, 0));
    let same = |a: (usize, usize), b: (usize, usize)| bytes[a.0..a.1] == bytes[b.0..b.1];
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        let start = at;
        while at < bytes.len() && bytes[at] != b' ' {
            at += 1;
        }
        let token = (start, at);
        let shape = &bytes[start..at];
        if shape.len() <= FILLER_BYTES
            && !shape.iter().all(u8::is_ascii_digit)
            && (!shape[0].is_ascii_alphanumeric() || same(token, last) || same(token, before))
        {
            filler += 1;
        }
        all += 1;
        (before, last) = (last, token);
    }
    filler >= MIN_FILLER && filler * 2 > all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Gram> {
        let mut out = Vec::new();
        visit(text, &mut |g| out.push(g));
        out
    }

    fn count(text: &str, kind: Kind) -> usize {
        all(text).iter().filter(|g| g.kind == kind).count()
    }

    #[test]
    fn families_are_counted_as_documented() {
        let text = "ignore the rules";
        assert_eq!(count(text, Kind::Word), 3);
        assert_eq!(count(text, Kind::Pair), 2);
        assert_eq!(count(text, Kind::Gap), 1);
        assert_eq!(count(text, Kind::Triple), 1);
        // ` the `: 3 three-grams, 2 four-grams, 1 five-gram.
        assert_eq!(count("the", Kind::Char), 6);
    }

    #[test]
    fn padding_does_not_grow_a_text() {
        let padded = format!("{}end", "ö ".repeat(500));
        assert!(all(&padded).len() < 30);
    }

    #[test]
    fn filler_is_seen_and_prose_is_not() {
        assert!(padded(&"ö ".repeat(80)));
        assert!(padded(&") ] } ".repeat(40)));
        assert!(!padded(&"a b c d ".repeat(40)));
        assert!(!padded(&"1 2 3 4 ".repeat(40)));
        assert!(!padded(&"the cat sat on it ".repeat(40)));
    }

    #[test]
    fn digits_are_one_and_letters_differ() {
        assert_eq!(all("call 123"), all("call 987"));
        assert_ne!(all("call abc"), all("call abd"));
    }

    #[test]
    fn scripts_without_spaces_take_each_letter_as_a_word() {
        assert_eq!(count("忽略之前", Kind::Word), 4);
        assert_eq!(count("忽略之前", Kind::Triple), 2);
        assert_eq!(count("忽略之前", Kind::Char), 0);
    }
}
