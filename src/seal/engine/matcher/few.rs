//! Keywords that have no group of letters.

use aho_corasick::AhoCorasick;
use memchr::memmem::Finder;

use crate::seal::reading::scout::Counts;

/// Most keywords that are looked for one by one: each is a pass of vector instructions over the
/// text. Of more, all are looked for at once.
const MAX_APART: usize = 8;

/// A few keywords that have no group.
#[derive(Debug, Default)]
pub(super) struct Few {
    keywords: Vec<Keyword>,
    /// All of them.
    automaton: Option<AhoCorasick>,
}

#[derive(Debug)]
struct Keyword {
    pattern: u32,
    len: usize,
    /// Its bytes but blanks, each once.
    bytes: Vec<u8>,
    finder: Finder<'static>,
}

impl Few {
    pub(super) fn add(&mut self, pattern: u32, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.sort_unstable();
        bytes.dedup();
        // Other white space folds to a blank.
        bytes.retain(|b| *b != b' ');
        self.keywords.push(Keyword {
            pattern,
            len: text.len(),
            bytes,
            finder: Finder::new(text).into_owned(),
        });
    }

    /// Compiles what was added.
    pub(super) fn done(mut self) -> Self {
        if self.keywords.len() > MAX_APART {
            let texts = self.keywords.iter().map(|k| k.finder.needle());
            // It fails beyond two billion states only.
            self.automaton = AhoCorasick::new(texts).ok();
        }
        self
    }

    /// Every place in a text with these bytes, overlapping ones too; returns how many.
    pub(super) fn walk(
        &self,
        text: &[u8],
        counts: &Counts,
        found: &mut impl FnMut(u32, usize),
    ) -> usize {
        let may_stand = |k: &&Keyword| k.bytes.iter().all(|b| counts.n(*b) > 0);
        let some = || self.keywords.iter().filter(may_stand);
        let mut places = 0;
        if let Some(automaton) = &self.automaton
            && some().nth(MAX_APART).is_some()
        {
            for m in automaton.find_overlapping_iter(text) {
                places += 1;
                found(self.keywords[m.pattern().as_usize()].pattern, m.end());
            }
            return places;
        }
        for keyword in some() {
            let mut from = 0;
            while let Some(at) = text.get(from..).and_then(|rest| keyword.finder.find(rest)) {
                places += 1;
                found(keyword.pattern, from + at + keyword.len);
                from += at + 1;
            }
        }
        places
    }
}
