//! Words of which a lexicon had nothing to say lately.

use super::{Lexicon, slot};

/// Words of small letters of which a lexicon had nothing to say lately: texts repeat their words.
/// One a thread; of one lexicon.
#[derive(Debug, Default)]
pub struct Memo {
    lexicon: u64,
    words: Vec<[u64; 2]>,
}

impl Drop for Memo {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.words.zeroize();
    }
}

/// Pairs of words that are remembered, a power of two: 64 KiB, of which the commonest words keep a
/// little warm. Of the longer words of chat one in five is not there; of a quarter of the memory and
/// single places nearly half were not.
const REMEMBERED: usize = 4_096;

impl Memo {
    /// Forgets what another lexicon had to say.
    pub(in super::super) fn open(&mut self, lexicon: &Lexicon) {
        if self.words.is_empty() || self.lexicon != lexicon.id {
            self.words = vec![[0; 2]; REMEMBERED];
            self.lexicon = lexicon.id;
        }
    }

    /// Whether there is nothing to say of a packed word. What is met again moves to the front of its
    /// pair, and stays there when others come and go: most words of a language are met once.
    #[inline]
    pub(in super::super) fn has(&mut self, word: u64) -> bool {
        let pair = &mut self.words[slot(word, REMEMBERED)];
        if pair[0] != word {
            let second = pair[1] == word;
            pair.swap(0, usize::from(second));
        }
        pair[0] == word
    }

    /// The same of the word in front of its pair alone.
    #[inline]
    pub(in super::super) fn has_first(&self, word: u64) -> bool {
        self.words[slot(word, REMEMBERED)][0] == word
    }

    /// There is nothing to say of it.
    pub(in super::super) fn keep(&mut self, word: u64) {
        self.words[slot(word, REMEMBERED)][1] = word;
    }
}
