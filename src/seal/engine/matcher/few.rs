//! Keywords that have no group of letters.

use aho_corasick::AhoCorasick;

use crate::seal::reading::scout::Counts;

/// A few keywords that have no group, in one small automaton.
#[derive(Debug, Default)]
pub(super) struct Few {
    patterns: Vec<u32>,
    texts: Vec<String>,
    /// The bytes of each but blanks, once.
    bytes: Vec<Vec<u8>>,
    automaton: Option<AhoCorasick>,
}

impl Few {
    pub(super) fn add(&mut self, pattern: u32, text: &str) {
        self.patterns.push(pattern);
        self.texts.push(text.to_owned());
    }

    /// Compiles what was added.
    pub(super) fn done(mut self) -> Self {
        let texts = std::mem::take(&mut self.texts);
        for text in &texts {
            let mut bytes = text.clone().into_bytes();
            bytes.sort_unstable();
            bytes.dedup();
            // Other white space folds to a blank.
            bytes.retain(|b| *b != b' ');
            self.bytes.push(bytes);
        }
        if !texts.is_empty() {
            // It fails beyond two billion states only.
            self.automaton = AhoCorasick::new(&texts).ok();
        }
        self
    }

    /// Whether a text with these bytes can hold one.
    pub(super) fn may_stand(&self, counts: &Counts) -> bool {
        let all = |bytes: &Vec<u8>| bytes.iter().all(|b| counts.n(*b) > 0);
        self.bytes.iter().any(all)
    }

    /// Every place, overlapping ones too; returns how many.
    pub(super) fn walk(&self, text: &[u8], found: &mut impl FnMut(u32, usize)) -> usize {
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
