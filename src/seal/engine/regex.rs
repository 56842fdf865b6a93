//! A rule's regex as the engine runs it: built when it is first needed, with what tells where.

use std::sync::OnceLock;

use regex_automata::meta;
use regex_syntax::hir::{Capture, Hir, HirKind, Look, Repetition};

use super::check::Check;
use super::compile::GroupId;
use super::digits::Number;
use crate::rule::Pattern;
use crate::rule::pattern::{CACHE, LARGE_CACHE, SIZE_LIMIT, is_fast};

/// A regex that takes less than this compiled has its fast automaton within [`CACHE`]: most do.
const SMALL: usize = 256 << 10;

/// A regex of bounded length with at least this many digits is looked for where digits are.
const DIGITS: u32 = 2;
/// The same for one of unbounded length.
const FAR_DIGITS: u32 = 4;
/// Longest stretch that counts as bounded; longer patterns are searched within [`REACH`].
const BOUNDED: usize = 1_024;
/// How far around digits a longer regex looks, bytes: it is mostly optional blanks.
const FAR: usize = 256;
/// How far from a literal an unbounded pattern is looked for, bytes.
pub(super) const REACH: usize = 4_096;

/// A regex that is built when it is first needed.
#[derive(Debug)]
pub(super) struct Regex {
    built: OnceLock<Option<meta::Regex>>,
    /// The same for text in which only ASCII letters make words; `None` if that is no other.
    plain: OnceLock<Option<meta::Regex>>,
    pub pattern: Pattern,
    /// Where its literals are: one of them stands in every match. Empty if there are none.
    pub places: Vec<Place>,
}

/// Literals of a regex, and what must stand around them.
#[derive(Debug)]
pub(super) struct Place {
    pub group: GroupId,
    pub check: Option<Check>,
}

impl Regex {
    pub(super) fn new(pattern: Pattern, places: Vec<Place>) -> Self {
        Self {
            built: OnceLock::new(),
            plain: OnceLock::new(),
            pattern,
            places,
        }
    }

    /// How far a match may reach from any of its bytes.
    pub(super) fn reach(&self) -> usize {
        self.pattern
            .study()
            .max_len
            .filter(|n| *n <= BOUNDED)
            .unwrap_or(REACH)
    }

    /// The digits that stand wherever it matches, if that tells anything.
    pub(super) fn number(&self) -> Option<Number<'_>> {
        let study = self.pattern.study();
        let front = &study.front;
        let (n, len) = match study.max_len {
            Some(len) if len <= FAR => (study.min_digits, len),
            _ => (study.min_digits.min(FAR_DIGITS), FAR),
        };
        let least = if len < FAR { DIGITS } else { FAR_DIGITS };
        (n >= least).then_some(Number {
            n: n as usize,
            len,
            front,
        })
    }

    /// The compiled regex; `None` if it does not compile, which loading excludes. `plain`: no letter
    /// beyond ASCII stands in the text that it is run on, nor next to it.
    ///
    /// Where Unicode says what a word is, the fast automata give up at the first byte beyond ASCII,
    /// and a search falls back to one that takes some hundred instructions a byte. In text whose
    /// only strangers are typographic quotes and the like, ASCII says the same.
    pub(super) fn get(&self, plain: bool) -> Option<&meta::Regex> {
        if plain && self.asks_for_words() {
            let build = || ascii_edges(&self.pattern.study().hir).and_then(|hir| build(&hir));
            if let Some(regex) = self.plain.get_or_init(build) {
                return Some(regex);
            }
        }
        self.built
            .get_or_init(|| build(&self.pattern.study().hir))
            .as_ref()
    }

    /// Whether where Unicode's words begin and end matters to it.
    pub(super) fn asks_for_words(&self) -> bool {
        let looks = self.pattern.study().hir.properties().look_set();
        looks.contains_word_unicode()
    }
}

/// The expression with edges of ASCII words in place of Unicode's; `None` if it asks for the absence
/// of one, which inside a letter of several bytes is not the same.
fn ascii_edges(hir: &Hir) -> Option<Hir> {
    let each = |parts: &[Hir]| parts.iter().map(ascii_edges).collect::<Option<Vec<Hir>>>();
    Some(match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) => hir.clone(),
        HirKind::Look(look) => Hir::look(match look {
            Look::WordUnicode => Look::WordAscii,
            Look::WordStartUnicode => Look::WordStartAscii,
            Look::WordEndUnicode => Look::WordEndAscii,
            Look::WordUnicodeNegate | Look::WordStartHalfUnicode | Look::WordEndHalfUnicode => {
                return None;
            }
            other => *other,
        }),
        HirKind::Repetition(r) => Hir::repetition(Repetition {
            sub: Box::new(ascii_edges(&r.sub)?),
            ..r.clone()
        }),
        HirKind::Capture(c) => Hir::capture(Capture {
            sub: Box::new(ascii_edges(&c.sub)?),
            ..c.clone()
        }),
        HirKind::Concat(parts) => Hir::concat(each(parts)?),
        HirKind::Alternation(parts) => Hir::alternation(each(parts)?),
    })
}

/// Whether no letter beyond ASCII stands in `from..to` of a text, nor next to it.
pub(super) fn is_plain(text: &str, from: usize, to: usize) -> bool {
    let from = floor(text, from.saturating_sub(1));
    let to = ceil(text, to.saturating_add(1));
    let is_word = |c: char| regex_syntax::try_is_word_character(c).unwrap_or(true);
    text[from..to].is_ascii() || !text[from..to].chars().any(|c| !c.is_ascii() && is_word(c))
}

fn build(hir: &Hir) -> Option<meta::Regex> {
    let within = |cache| {
        meta::Regex::builder()
            .configure(
                meta::Config::new()
                    .nfa_size_limit(Some(SIZE_LIMIT))
                    .hybrid_cache_capacity(cache)
                    .onepass(false),
            )
            .build_from_hir(hir)
            .ok()
    };
    let regex = within(CACHE)?;
    if regex.memory_usage() < SMALL || is_fast(hir, CACHE) {
        return Some(regex);
    }
    within(LARGE_CACHE)
}

/// The start of the character at a byte.
pub(super) fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The start of the next character, unless one begins at the byte.
pub(super) fn ceil(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::pattern::study;

    #[test]
    fn edges_of_ascii_words_are_those_of_unicode_where_no_stranger_is_a_letter() {
        let sources = [
            r"\bid\b[ :\u{2013}]+(?P<value>[0-9]{4})\b",
            r"(?:\b[a-z]+\b ?){2}",
            r"\b\w{3}\b",
            r"x\B",
        ];
        let texts = [
            "\u{201c}id \u{2013} 1234\u{201d} it\u{2019}s",
            "id: 12345 \u{2022}id:1234\u{2022}",
            "\u{e9}id 1234 caf\u{e9} xyz",
            "\u{2019}x\u{2019}xy abc\u{1f600}",
            "plain id 1234",
        ];
        for source in sources {
            let regex = Regex::new(study(source).expect("parses"), Vec::new());
            for text in texts {
                if !is_plain(text, 0, text.len()) {
                    assert!(text.contains('\u{e9}'));
                    continue;
                }
                let all = |plain| -> Vec<_> {
                    let regex = regex.get(plain).expect("compiles");
                    regex.find_iter(text).map(|m| m.range()).collect()
                };
                assert_eq!(all(true), all(false), "{source} {text}");
            }
        }
        // A letter right behind the stretch counts.
        assert!(!is_plain("id caf\u{e9}", 0, 6) && is_plain("id caf\u{e9}", 0, 5));
    }
}
