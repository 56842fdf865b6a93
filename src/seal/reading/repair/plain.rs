//! Plain words: a few small letters with at most one mark behind them, read eight bytes at a time.
//! Nine in ten words of ordinary text are.

use super::super::lexicon::{Lexicon, Memo};
use super::{Edit, Signs, letters_only};
use crate::seal::swar::{HIGH, ONES, eight, first, within};

/// Most letters of a word that is read so; its key has five bits a letter.
const MOST: usize = 12;

/// A plain word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// Bytes up to the blank behind it.
    pub len: usize,
    /// Letters, at least two.
    pub letters: usize,
    /// Its letters as a number: no two words have the same.
    pub key: u64,
}

/// Marks behind a word that are no letter in leetspeak and join nothing.
pub(super) fn closes(b: u8) -> bool {
    matches!(
        b,
        b',' | b'.' | b':' | b';' | b'?' | b'!' | b')' | b']' | b'}' | b'"' | b'\''
    )
}

/// The plain word at `at`; `None` if something else, or a longer word, begins there.
#[inline]
pub(super) fn word(text: &[u8], at: usize) -> Option<Word> {
    let (low, high) = (eight(text, at), eight(text, at + 8));
    let blank = |w: u64| {
        let w = w ^ (ONES * u64::from(b' '));
        // A byte is zero where a blank stands; the lowest such byte is marked exactly.
        w.wrapping_sub(ONES) & !w & HIGH
    };
    let len = match first(blank(low)) {
        8 => 8 + first(blank(high)),
        n => n,
    };
    if !(2..16).contains(&len) {
        return None;
    }
    let last = if len <= 8 {
        low >> (8 * (len - 1))
    } else {
        high >> (8 * (len - 9))
    };
    let letters = len - usize::from(closes(last.to_le_bytes()[0]));
    if !(2..=MOST).contains(&letters) {
        return None;
    }
    let kept = |n: usize| u64::MAX >> (64 - 8 * n);
    let (low_kept, high_kept) = if letters <= 8 {
        (kept(letters), 0)
    } else {
        (u64::MAX, kept(letters - 8))
    };
    let small = |w: u64| within(w & !HIGH, b'a', b'z') & !w;
    if small(low) & low_kept & HIGH != low_kept & HIGH
        || small(high) & high_kept & HIGH != high_kept & HIGH
    {
        return None;
    }
    Some(Word {
        len,
        letters,
        key: squeezed(low & low_kept) | squeezed(high & high_kept) << 40,
    })
}

/// The lowest five bits of each byte, side by side.
#[inline]
fn squeezed(w: u64) -> u64 {
    let two = w & 0x001f_001f_001f_001f | (w & 0x1f00_1f00_1f00_1f00) >> 3;
    let four = two & 0x0000_03ff_0000_03ff | (two & 0x03ff_0000_03ff_0000) >> 6;
    four & 0x000f_ffff | four >> 12 & 0x00ff_fff0_0000
}

/// Plain words that are looked at together.
const LOT: usize = 32;

/// Plain words in a row that wait: what is remembered of them is asked for all at once, since each
/// answer comes from beyond the near cache.
#[derive(Default)]
pub(super) struct Row {
    /// Key, place and letters.
    words: [(u64, usize, usize); LOT],
    n: usize,
}

impl Row {
    pub(super) fn n(&self) -> usize {
        self.n
    }

    pub(super) fn full(&self) -> bool {
        self.n == LOT
    }

    /// One more word, of at least `MIN_REPAIR` letters; a full row is settled first.
    pub(super) fn push(&mut self, word: &Word, start: usize) {
        self.words[self.n] = (word.key, start, word.letters);
        self.n += 1;
    }

    /// Looks at the words that wait, in their order.
    pub(super) fn settle(
        &mut self,
        folded: &str,
        (lexicon, memo): (&Lexicon, &mut Memo),
        signs: &mut Signs,
        edits: &mut Vec<Edit>,
    ) {
        let mut unknown = 0;
        for at in 0..self.n {
            let word = self.words[at];
            self.words[unknown] = word;
            unknown += usize::from(!memo.has_first(word.0));
        }
        self.n = 0;
        for (key, start, letters) in &self.words[..unknown] {
            if !memo.has(*key) {
                let text = &folded[*start..start + letters];
                if letters_only(text, *start, lexicon, signs, edits) {
                    memo.keep(*key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Letter by letter.
    fn slowly(text: &[u8], at: usize) -> Option<(usize, usize)> {
        let rest = &text[at..];
        let len = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
        let letters = len - usize::from(len > 0 && closes(rest[len - 1]));
        let small = rest[..letters].iter().all(u8::is_ascii_lowercase);
        (small && len < 16 && (2..=MOST).contains(&letters)).then_some((len, letters))
    }

    #[test]
    fn keys_tell_words_apart() {
        let text = "a ab ba abc abcdefgh abcdefghi abcdefghijkl abcdefghijlk bbcdefghijkl zz azz";
        let mut seen: BTreeMap<u64, &str> = BTreeMap::new();
        let mut at = 0;
        for token in text.split(' ') {
            if let Some(found) = word(text.as_bytes(), at) {
                assert_eq!(found.len, token.len());
                assert_eq!(seen.insert(found.key, token), None, "{token}");
            }
            at += token.len() + 1;
        }
        assert_eq!(seen.len(), 10);
    }

    proptest! {
        #[test]
        fn every_letter_stands_in_the_key(text in "[a-z]{2,12}") {
            // Read back from the key, five bits a letter.
            let key = word(text.as_bytes(), 0).map_or(0, |w| w.key);
            let letters = (0..text.len()).map(|at| u8::try_from(key >> (5 * at) & 31).unwrap_or(0));
            let back: Vec<u8> = letters.map(|n| n | 0x60).collect();
            prop_assert_eq!(back, text.as_bytes());
            prop_assert_eq!(key >> (5 * text.len()), 0);
        }

        #[test]
        fn words_are_those_found_letter_by_letter(
            text in "([a-z]{1,14}[.,)]? ?|[A-Z0-9_\u{e9}\u{2019}'-]){0,12}", lead in 0_usize..40,
        ) {
            let bytes = text.as_bytes();
            let at = lead.min(bytes.len());
            if bytes.get(at).is_some_and(|b| *b != b' ') {
                prop_assert_eq!(word(bytes, at).map(|w| (w.len, w.letters)), slowly(bytes, at));
            }
        }
    }
}
