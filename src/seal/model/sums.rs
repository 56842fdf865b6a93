//! What the n-grams of one reading add up to.
//!
//! Words come one by one; each brings the sum over what it is made of, remembered from earlier
//! texts where it can be. What a word makes with those before it is looked up later, for many words
//! in one loop in which no answer is waited for: the table of those weights is larger than a near
//! cache, and such loads only cost little when many are under way together.

use super::Model;
use super::gram::{self, Gram, Kind, Sink};

/// Words met lately, with what they are made of summed up: texts repeat their words, and each word
/// has three character n-grams a letter. One a thread; of one model.
#[derive(Debug, Default)]
pub struct Memo {
    model: u64,
    words: Vec<Pair>,
    /// Hashes of words that wait to be looked up with those before them; two of those first.
    row: Vec<u64>,
    /// Words that wait to be looked up themselves.
    waiting: Vec<Waiting>,
    /// Numbers of those that were not at hand.
    missing: Vec<u16>,
}

/// A word of ASCII letters and digits, and where it stands.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    word: u64,
    at: u32,
    len: u32,
}

/// log2 of the pairs of words kept: 256 KiB, of which the commonest words keep a little warm. In
/// chat one word in ten is not there; of half as many one in seven.
const MEMO_BITS: u32 = 13;
/// Words that are looked up together, and n-grams.
const ROW: usize = 512;
const LOT: usize = 96;

/// Two words of the same place. The first one was met again since it came, and stays when others
/// come and go: most words of a language are met once.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Pair([Known; 2]);

/// A word's own weight, the sum over its character n-grams, and how many there are (none: no word).
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    word: u64,
    chars: i32,
    own: i16,
    n: u16,
}

impl Memo {
    /// Forgets what another model's weights gave.
    fn open(&mut self, model: &Model) {
        if self.words.is_empty() || self.model != model.id {
            self.words = vec![Pair::default(); 1 << MEMO_BITS];
            self.model = model.id;
        }
        self.row.clear();
        self.row.extend([0; 2]);
        self.waiting.clear();
    }

    #[inline]
    fn at(word: u64) -> usize {
        // The hash is a product: its upper bits are the mixed ones.
        usize::try_from(word >> (64 - MEMO_BITS)).unwrap_or(0)
    }
}

/// What one pass adds up.
pub(super) struct Sums<'a> {
    model: &'a Model,
    memo: &'a mut Memo,
    text: &'a str,
    pub word_sum: i64,
    pub word_n: u32,
    pub char_sum: i64,
    pub char_n: u32,
    /// The sums (words, characters, count) when the current word began.
    before: (i64, i64, u32),
}

/// Adds up the n-grams of a reading.
pub(super) fn of<'a>(model: &'a Model, reading: &'a str, memo: &'a mut Memo) -> Sums<'a> {
    memo.open(model);
    let mut sums = Sums {
        model,
        memo,
        text: reading,
        word_sum: 0,
        word_n: 0,
        char_sum: 0,
        char_n: 0,
        before: (0, 0, 0),
    };
    gram::visit(reading, &mut sums);
    sums.look_up();
    sums.join();
    sums
}

impl Sums<'_> {
    /// Looks up the waiting words. The first loop only reads, so that many answers are under way
    /// together; what it does not find is few.
    fn look_up(&mut self) {
        let Memo {
            words,
            waiting,
            missing,
            ..
        } = &mut *self.memo;
        missing.clear();
        missing.resize(waiting.len(), 0);
        let (mut own, mut chars, mut n, mut misses) = (0_i64, 0_i64, 0_u32, 0);
        for (number, one) in (0_u16..).zip(waiting.iter()) {
            let known = words[Memo::at(one.word)].0[0];
            let here = known.word == one.word && known.n > 0;
            let known = if here { known } else { Known::default() };
            own += i64::from(known.own);
            chars += i64::from(known.chars);
            n += u32::from(known.n);
            missing[misses] = number;
            misses += usize::from(!here);
        }
        self.word_sum += own;
        self.word_n += u32::try_from(waiting.len() - misses).unwrap_or(0);
        self.char_sum += chars;
        self.char_n += n;
        for at in 0..misses {
            let one = self.memo.waiting[usize::from(self.memo.missing[at])];
            if !self.known(one.word) {
                let (at, len) = (one.at as usize, one.len as usize);
                gram::made_of(self.text, one.word, at, len, |gram| self.gram(gram));
                self.end(one.word);
            }
        }
        self.memo.waiting.clear();
    }

    /// Looks up what the waiting words make with those before them.
    fn join(&mut self) {
        let mut lot = [Gram::default(); LOT];
        let mut n = 0;
        let row = &mut self.memo.row;
        let table = &self.model.words;
        for three in row.windows(3) {
            gram::joined(three[0], three[1], three[2], |gram| {
                lot[n % LOT] = gram;
                n += 1;
            });
            if n > LOT - 3 {
                self.word_sum += table.sum(&lot[..n]);
                self.word_n += u32::try_from(n).unwrap_or(0);
                n = 0;
            }
        }
        self.word_sum += table.sum(&lot[..n]);
        self.word_n += u32::try_from(n).unwrap_or(0);
        let done = row.len() - 2;
        row.copy_within(done.., 0);
        row.truncate(2);
    }
}

impl Sink for Sums<'_> {
    #[inline]
    fn gram(&mut self, g: Gram) {
        if g.kind == Kind::Char {
            self.char_sum += i64::from(self.model.chars[g.bucket(self.model.char_bits)]);
            self.char_n += 1;
        } else {
            self.word_sum += i64::from(self.model.words.weight(&g));
            self.word_n += 1;
        }
    }

    #[inline]
    fn takes(&mut self, word: u64, at: usize, len: usize) -> bool {
        let (Ok(at), Ok(len)) = (u32::try_from(at), u32::try_from(len)) else {
            return false;
        };
        self.memo.waiting.push(Waiting { word, at, len });
        if self.memo.waiting.len() == ROW {
            self.look_up();
        }
        true
    }

    #[inline]
    fn known(&mut self, word: u64) -> bool {
        let Pair(pair) = &mut self.memo.words[Memo::at(word)];
        if pair[0].word != word {
            let second = pair[1].word == word;
            pair.swap(0, usize::from(second));
        }
        let known = pair[0];
        if known.word == word && known.n > 0 {
            self.word_sum += i64::from(known.own);
            self.word_n += 1;
            self.char_sum += i64::from(known.chars);
            self.char_n += u32::from(known.n);
            return true;
        }
        self.before = (self.word_sum, self.char_sum, self.char_n);
        false
    }

    #[inline]
    fn end(&mut self, word: u64) {
        // A word has at most 24 letters: all differences are small.
        self.memo.words[Memo::at(word)].0[1] = Known {
            word,
            own: i16::try_from(self.word_sum - self.before.0).unwrap_or(0),
            chars: i32::try_from(self.char_sum - self.before.1).unwrap_or(0),
            n: u16::try_from(self.char_n - self.before.2).unwrap_or(0),
        };
    }

    #[inline]
    fn follows(&mut self, _before: u64, _last: u64, word: u64) {
        // The two before it are the last two of the row.
        self.memo.row.push(word);
        if self.memo.row.len() == ROW {
            self.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gram by gram, without memory.
    fn slowly(model: &Model, text: &str) -> (i64, u32, i64, u32) {
        let mut all = (0, 0, 0, 0);
        gram::visit(text, &mut |g: Gram| {
            let (weight, _) = model.weight(&g);
            if g.kind == Kind::Char {
                all = (all.0, all.1, all.2 + i64::from(weight), all.3 + 1);
            } else {
                all = (all.0 + i64::from(weight), all.1 + 1, all.2, all.3);
            }
        });
        all
    }

    #[test]
    fn rows_of_words_add_up_as_n_grams_one_by_one() {
        let model = Model::shipped().expect("rules/model.bin");
        let words = [
            "ignore",
            "all",
            "previous",
            "rules",
            "правила",
            "and",
            "忽略",
            "sing",
        ];
        let mut memo = Memo::default();
        // Lengths around those at which a row is full.
        for n in (0..8).chain([ROW - 3, ROW - 2, ROW - 1, ROW, ROW + 1, 3 * ROW]) {
            let text: Vec<String> = (0..n)
                .map(|i| format!("{}{}", words[i * i % 8], "x".repeat(i % 5)))
                .collect();
            let text = text.join(" ");
            for _ in 0..2 {
                let sums = of(&model, &text, &mut memo);
                let found = (sums.word_sum, sums.word_n, sums.char_sum, sums.char_n);
                assert_eq!(found, slowly(&model, &text), "{n}");
            }
        }
    }
}
