//! The features: word 1–3-grams, gapped word pairs, and character 3–5-grams inside words, hashed.
//!
//! One definition for training and scoring. Scripts written without spaces (Chinese, Japanese,
//! Thai, …) take every letter as a word. A word that repeats one of the two before it is skipped,
//! so that padding (`ö ö ö …`) cannot dilute a text. Digits count as one digit.
//!
//! Scoring runs over every text there is, so words of ASCII letters are found and hashed eight bytes
//! at a time; the others letter by letter.

use crate::seal::swar::{HIGH, ONES, eight, first, within};

/// Longest word looked at, in letters; the rest of a longer one starts a new word, so that a blob
/// of any length is still linear work in fixed memory.
const MAX_WORD: usize = 24;
/// Multipliers of the hashes (odd, from `SplitMix64` and its kin).
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const SECOND: u64 = 0xBF58_476D_1CE4_E5B9;
const THIRD: u64 = 0x94D0_49BB_1331_11EB;

/// Which family an n-gram belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One word.
    #[default]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

/// A product's upper bits depend on all bits of its factor: buckets are taken from there.
#[inline]
fn mix(h: u64, factor: u64) -> u64 {
    (h ^ (h >> 32)).wrapping_mul(factor)
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

    /// Whether the sink looks at a word of ASCII letters and digits itself, later: it stands at
    /// `at` and has so many bytes. What it is made of does not come then.
    #[inline]
    fn takes(&mut self, _word: u64, _at: usize, _len: usize) -> bool {
        false
    }

    /// Whether what the word with this hash is made of (itself and its character n-grams) is known
    /// already; if so, it does not come.
    #[inline]
    fn known(&mut self, _word: u64) -> bool {
        false
    }

    /// All that the word with this hash is made of has come.
    #[inline]
    fn end(&mut self, _word: u64) {}

    /// A word follows two others; 0 where there is none.
    #[inline]
    fn follows(&mut self, before: u64, last: u64, word: u64) {
        joined(before, last, word, |gram| self.gram(gram));
    }
}

/// The n-grams of a word with the two before it; 0 where there is none.
#[inline]
pub fn joined(before: u64, last: u64, word: u64, mut emit: impl FnMut(Gram)) {
    if last == 0 {
        return;
    }
    let mut emit = |kind, hash| emit(Gram { kind, hash });
    let pair = last.rotate_left(17).wrapping_add(word);
    emit(Kind::Pair, mix(pair, STEP));
    if before != 0 {
        let gap = before.rotate_left(17).wrapping_add(word);
        emit(Kind::Gap, mix(gap, SECOND));
        let triple = before.rotate_left(34).wrapping_add(pair);
        emit(Kind::Triple, mix(triple, THIRD));
    }
}

impl<F: FnMut(Gram)> Sink for F {
    #[inline]
    fn gram(&mut self, gram: Gram) {
        self(gram);
    }
}

/// The high bits of the bytes that are ASCII letters and digits; those of bytes beyond ASCII.
#[inline]
fn letters(w: u64) -> (u64, u64) {
    let (low, beyond) = (w & !HIGH, w & HIGH);
    let digits = within(low, b'0', b'9');
    // Upper case differs from lower in one bit that no other letter's neighbour has.
    let alpha = within(low | (ONES * 0x20), b'a', b'z');
    ((digits | alpha) & !beyond, beyond)
}

/// The first `n` bytes (1–8) of `w`, its digits made one.
#[inline]
fn keep(w: u64, n: usize) -> u64 {
    let digits = within(w & !HIGH, b'0', b'9') & !w;
    let w = w & !((digits >> 7) * 0x0f);
    w & (u64::MAX >> (64 - 8 * n))
}

/// A word of ASCII letters and digits: eight bytes each, and how many there are.
#[derive(Clone, Copy)]
struct Ascii {
    parts: [u64; 3],
    len: usize,
}

impl Ascii {
    #[inline]
    fn hash(self) -> u64 {
        let mut h = self.parts[0].wrapping_mul(STEP);
        if self.len > 8 {
            h = mix(h ^ self.parts[1], SECOND);
            if self.len > 16 {
                h = mix(h ^ self.parts[2], THIRD);
            }
        }
        mix(h, SECOND)
    }

    /// The word of so many bytes at `at`.
    #[inline]
    fn at(text: &[u8], at: usize, len: usize) -> Self {
        let mut parts = [0; 3];
        for (part, from) in parts.iter_mut().zip([0, 8, 16]) {
            if from < len {
                *part = keep(eight(text, at + from), (len - from).min(8));
            }
        }
        Self { parts, len }
    }

    /// The word itself and its character n-grams.
    #[inline]
    fn made_of(self, hash: u64, mut emit: impl FnMut(Gram)) {
        emit(Gram {
            kind: Kind::Word,
            hash,
        });
        self.grams(|hash| {
            emit(Gram {
                kind: Kind::Char,
                hash,
            });
        });
    }

    /// ` word `: every window of 3, 4 and 5 letters.
    #[inline]
    fn grams(self, mut emit: impl FnMut(u64)) {
        let mut line = [0_u8; MAX_WORD + 10];
        line[0] = b' ';
        for (i, part) in self.parts.iter().enumerate() {
            line[1 + 8 * i..9 + 8 * i].copy_from_slice(&part.to_le_bytes());
        }
        line[self.len + 1] = b' ';
        let all = self.len + 2;
        for at in 0..=all - 3 {
            let w = eight(&line, at);
            emit(mix(w & 0xff_ffff, STEP));
            if at + 4 <= all {
                emit(mix(w & 0xffff_ffff, SECOND));
            }
            if at + 5 <= all {
                emit(mix(w & 0xff_ffff_ffff, THIRD));
            }
        }
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

    #[inline]
    fn ascii(&mut self, word: Ascii, at: usize) {
        let hash = word.hash();
        if self.repeats(hash) {
            return;
        }
        if !self.sink.takes(hash, at, word.len) && !self.sink.known(hash) {
            word.made_of(hash, |gram| self.sink.gram(gram));
            self.sink.end(hash);
        }
        self.join(hash);
    }

    /// A word with letters beyond ASCII.
    fn word(&mut self, letters: &[u32]) {
        let mut hash = 0_u64;
        for c in letters {
            hash = hash.wrapping_add(u64::from(*c)).wrapping_mul(STEP);
        }
        let hash = mix(hash, THIRD);
        if self.repeats(hash) {
            return;
        }
        if !self.sink.known(hash) {
            self.emit(Kind::Word, hash);
            self.grams(letters);
            self.sink.end(hash);
        }
        self.join(hash);
    }

    /// ` word `: 3-, 4- and 5-grams end at each letter and at the closing blank.
    fn grams(&mut self, letters: &[u32]) {
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
                self.emit(Kind::Char, mix(three, SECOND));
            }
            if i >= 2 {
                let four = b.wrapping_mul(0xD6E8_FEB8_6659_FD93).wrapping_add(three);
                self.emit(Kind::Char, mix(four, THIRD));
                if i >= 3 {
                    let five = a.wrapping_mul(0xA076_1D64_78BD_642F).wrapping_add(four);
                    self.emit(Kind::Char, mix(five, STEP));
                }
            }
            (a, b, c, d) = (b, c, d, e);
        }
    }

    /// A letter that stands for a word.
    fn alone(&mut self, c: char) {
        let hash = mix(u64::from(u32::from(c)).wrapping_mul(STEP), SECOND);
        if !self.repeats(hash) {
            self.emit(Kind::Word, hash);
            self.join(hash);
        }
    }

    /// Whether a word repeats one of the two before it.
    #[inline]
    fn repeats(&self, hash: u64) -> bool {
        hash == self.last || hash == self.before
    }

    /// The word with those before it.
    #[inline]
    fn join(&mut self, hash: u64) {
        self.sink.follows(self.before, self.last, hash);
        self.before = self.last;
        self.last = hash;
    }

    /// The word that begins at `at` and holds or touches a character beyond ASCII; gives where it
    /// ends. A character that is no letter is passed over.
    fn slow(&mut self, text: &str, at: usize) -> usize {
        let mut letters = [0_u32; MAX_WORD];
        let (mut n, mut end) = (0, at);
        for c in text[at..].chars() {
            let letter = if c.is_ascii() {
                c.is_ascii_alphanumeric()
            } else {
                c.is_alphanumeric()
            };
            if !letter || n == MAX_WORD || stands_alone(c) {
                if n == 0 {
                    end += c.len_utf8();
                    if letter {
                        self.alone(c);
                    }
                }
                break;
            }
            letters[n] = if c.is_ascii_digit() {
                u32::from(b'0')
            } else {
                u32::from(c)
            };
            n += 1;
            end += c.len_utf8();
        }
        let letters = &letters[..n];
        if letters.iter().all(|c| *c < 0x80) {
            if n > 0 {
                self.ascii(plain(letters), at);
            }
        } else {
            self.word(letters);
        }
        end
    }
}

/// A word that turned out to be ASCII after all.
fn plain(letters: &[u32]) -> Ascii {
    let mut parts = [0_u64; 3];
    for (i, c) in letters.iter().enumerate() {
        parts[i / 8] |= u64::from(*c) << (8 * (i % 8));
    }
    Ascii {
        parts,
        len: letters.len(),
    }
}

/// What a word that a sink [takes](Sink::takes) is made of: itself and its character n-grams.
#[inline]
pub fn made_of(text: &str, word: u64, at: usize, len: usize, emit: impl FnMut(Gram)) {
    Ascii::at(text.as_bytes(), at, len).made_of(word, emit);
}

/// Hands every n-gram of `text` to `sink`, in order.
#[inline]
pub fn visit(text: &str, sink: &mut impl Sink) {
    let mut words = Words {
        last: 0,
        before: 0,
        sink,
    };
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let w = eight(bytes, at);
        let (here, beyond) = letters(w);
        // Words follow each other with one blank between: begin at a letter of this load.
        let skip = first(here | beyond);
        if skip > 0 {
            at += skip;
            if skip == 8 {
                continue;
            }
        }
        let mut word = Ascii {
            parts: [0; 3],
            len: 0,
        };
        let mut slow = false;
        for part in &mut word.parts {
            let w = eight(bytes, at + word.len);
            let (here, beyond) = letters(w);
            let n = first(!here & HIGH);
            slow |= n < 8 && (beyond >> (8 * n)) & 0x80 != 0;
            if n > 0 {
                *part = keep(w, n);
                word.len += n;
            }
            if n < 8 {
                break;
            }
        }
        if slow {
            at = words.slow(text, at);
        } else {
            let start = at;
            at += word.len;
            words.ascii(word, start);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn ascii_words_are_the_same_found_fast_or_letter_by_letter() {
        // The mark behind a word sends it the slow way.
        for word in [
            "a",
            "be",
            "rules",
            "sentence",
            "sentences",
            "x1y22",
            "abcdefghijklmnopqrstuvwxyz0123456789ab",
        ] {
            let slow = all(&format!("{word}\u{2019}"));
            assert_eq!(all(word), slow, "{word}");
            assert_eq!(all(&format!("  {word}.")), slow, "{word}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_whole_and_words_do_not_depend_on_where_they_stand(
            text in "\\PC{0,60}", before in "[ .,!]{0,9}",
        ) {
            prop_assert_eq!(all(&text), all(&format!("{before}{text}")));
        }
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
