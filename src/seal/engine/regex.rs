//! A rule's regex as the engine runs it: built when it is first needed, with what tells where.

use std::sync::OnceLock;

use regex_automata::meta;
use regex_syntax::hir::{
    Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind,
    Look, Repetition,
};

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
    /// The same for ASCII text; `None` if nothing in such text matches.
    ascii: OnceLock<Option<meta::Regex>>,
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
            ascii: OnceLock::new(),
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

    /// The compiled regex for text of this kind; `None` if nothing in it can match (or the regex does not
    /// compile, which loading excludes).
    ///
    /// Where Unicode says what a word is, the fast automata give up at the first byte beyond ASCII,
    /// and a search falls back to one that takes some hundred instructions a byte. In text whose
    /// only strangers are typographic quotes and the like, ASCII says the same.
    pub(super) fn get(&self, letters: Letters) -> Option<&meta::Regex> {
        let hir = || &self.pattern.study().hir;
        let twin = || {
            narrowed(hir(), letters)
                .filter(|h| !fails(h))
                .and_then(|h| build(&h))
        };
        if letters == Letters::Ascii {
            return self.ascii.get_or_init(twin).as_ref();
        }
        if letters == Letters::Plain
            && self.asks_for_words()
            && let Some(regex) = self.plain.get_or_init(twin)
        {
            return Some(regex);
        }
        self.built.get_or_init(|| build(hir())).as_ref()
    }

    /// Whether where Unicode's words begin and end matters to it.
    fn asks_for_words(&self) -> bool {
        let looks = self.pattern.study().hir.properties().look_set();
        looks.contains_word_unicode()
    }
}

/// The expression for text with only these letters. For ASCII text what asks for more is left out: most text is,
/// and classes of Unicode are what makes automata large and slow to build. For text without letters beyond ASCII
/// only the edges of words change; `None` if it asks for the absence of one, which inside a letter of several
/// bytes is not the same.
fn narrowed(hir: &Hir, letters: Letters) -> Option<Hir> {
    let ascii = letters == Letters::Ascii;
    let each = |parts: &[Hir]| {
        let parts = parts.iter().map(|p| narrowed(p, letters));
        parts.collect::<Option<Vec<Hir>>>()
    };
    Some(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(l) if ascii && !l.0.is_ascii() => Hir::fail(),
        HirKind::Class(Class::Unicode(class)) if ascii => {
            let mut class = class.clone();
            class.intersect(&ClassUnicode::new([ClassUnicodeRange::new('\0', '\x7f')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(class)) if ascii => {
            let mut class = class.clone();
            class.intersect(&ClassBytes::new([ClassBytesRange::new(0, 0x7f)]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Literal(_) | HirKind::Class(_) => hir.clone(),
        HirKind::Look(look) => Hir::look(match look {
            Look::WordUnicode => Look::WordAscii,
            Look::WordStartUnicode => Look::WordStartAscii,
            Look::WordEndUnicode => Look::WordEndAscii,
            Look::WordUnicodeNegate if ascii => Look::WordAsciiNegate,
            Look::WordStartHalfUnicode if ascii => Look::WordStartHalfAscii,
            Look::WordEndHalfUnicode if ascii => Look::WordEndHalfAscii,
            Look::WordUnicodeNegate | Look::WordStartHalfUnicode | Look::WordEndHalfUnicode => {
                return None;
            }
            other => *other,
        }),
        HirKind::Repetition(r) => match narrowed(&r.sub, letters)? {
            sub if !fails(&sub) => Hir::repetition(Repetition {
                sub: Box::new(sub),
                min: r.min,
                max: r.max,
                greedy: r.greedy,
            }),
            _ if r.min == 0 => Hir::empty(),
            fail => fail,
        },
        HirKind::Capture(c) => match narrowed(&c.sub, letters)? {
            sub if !fails(&sub) => Hir::capture(Capture {
                sub: Box::new(sub),
                index: c.index,
                name: c.name.clone(),
            }),
            fail => fail,
        },
        HirKind::Concat(parts) => match each(parts)? {
            parts if parts.iter().any(fails) => Hir::fail(),
            parts => Hir::concat(parts),
        },
        HirKind::Alternation(parts) => {
            let parts = each(parts)?.into_iter();
            Hir::alternation(parts.filter(|p| !fails(p)).collect())
        }
    })
}

/// Whether an expression is the one that matches nothing.
fn fails(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => class.ranges().is_empty(),
        HirKind::Class(Class::Bytes(class)) => class.ranges().is_empty(),
        _ => false,
    }
}

/// Which letters stand in a stretch of text that a regex is run on, and next to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letters {
    /// Nothing beyond ASCII.
    Ascii,
    /// No letters beyond ASCII.
    Plain,
    Any,
}

impl Letters {
    /// Those of `from..to`, and of the characters before and behind it.
    pub(super) fn of(text: &str, from: usize, to: usize) -> Self {
        let from = floor(text, from.saturating_sub(1));
        let to = ceil(text, to.saturating_add(1));
        let part = &text[from..to];
        let is_word = |c: char| regex_syntax::try_is_word_character(c).unwrap_or(true);
        if part.is_ascii() {
            Self::Ascii
        } else if part.chars().any(|c| !c.is_ascii() && is_word(c)) {
            Self::Any
        } else {
            Self::Plain
        }
    }
}

/// Without a search for literals of its own ahead: it is run where the engine has seen one. What such a search
/// takes for rare (`@`, `://`, short words) is often everywhere, at four times the cost of the automaton.
fn build(hir: &Hir) -> Option<meta::Regex> {
    let within = |cache| {
        meta::Regex::builder()
            .configure(
                meta::Config::new()
                    .nfa_size_limit(Some(SIZE_LIMIT))
                    .hybrid_cache_capacity(cache)
                    .auto_prefilter(false)
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
pub(super) mod tests {
    use super::*;
    use crate::rule::pattern::study;

    fn all(regex: &Regex, letters: Letters, text: &str) -> Vec<[Option<(usize, usize)>; 2]> {
        let Some(regex) = regex.get(letters) else {
            return Vec::new();
        };
        let group = |c: &regex_automata::util::captures::Captures, name: &str| {
            c.get_group_by_name(name).map(|s| (s.start, s.end))
        };
        regex
            .captures_iter(text)
            .map(|c| [c.get_group(0).map(|s| (s.start, s.end)), group(&c, "value")])
            .collect()
    }

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
                let letters = Letters::of(text, 0, text.len());
                assert_eq!(letters == Letters::Any, text.contains('\u{e9}'), "{text}");
                let same = all(&regex, Letters::Any, text);
                assert_eq!(all(&regex, letters, text), same, "{source} {text}");
            }
        }
        // A letter right behind the stretch counts.
        let cafe = "id caf\u{e9}";
        assert_eq!(Letters::of(cafe, 0, 6), Letters::Any);
        assert_eq!(Letters::of(cafe, 0, 5), Letters::Ascii);
        assert_eq!(Letters::of("\u{201c}id", 3, 5), Letters::Plain);
    }

    #[test]
    fn what_asks_for_letters_beyond_ascii_matches_no_ascii_text() {
        let get = |source| Regex::new(study(source).expect("parses"), Vec::new());
        for source in [
            "\u{e9}",
            r"a[\u{400}-\u{4ff}]{2,}",
            r"(?:x|(?P<value>\u{e9}))\u{e9}",
        ] {
            let regex = get(source);
            assert!(regex.get(Letters::Ascii).is_none() && regex.get(Letters::Any).is_some());
        }
        for source in [r"k\u{e9}*l", r"(?:\u{e9}|kl)", r"(?i)KL", r"k(?:a\u{e9})?l"] {
            assert_eq!(
                all(&get(source), Letters::Ascii, "a kl").len(),
                1,
                "{source}"
            );
        }
    }

    fn patterns<'a>(node: &'a crate::rule::Node, out: &mut Vec<&'a Pattern>) {
        out.extend(&node.regex);
        for child in node.any.iter().chain(&node.all).chain(&node.not) {
            patterns(child, out);
        }
    }

    /// The regexes of every shipped rule, and the texts of its tests.
    pub(in super::super) fn shipped() -> Vec<(Vec<Regex>, Vec<String>)> {
        let names = crate::seal::engine::known_validators();
        let known = crate::rule::Known {
            validators: Some(&names),
            ..Default::default()
        };
        let sources = crate::rule::pack::sources();
        let (set, _) = crate::rule::load(&sources, &[], &known).expect("loads");
        let one = |rule: &crate::rule::Rule| {
            let mut all = Vec::new();
            patterns(&rule.condition, &mut all);
            let all = all.into_iter().map(|p| Regex::new(p.clone(), Vec::new()));
            let texts = rule.tests.iter().flat_map(|t| &t.events);
            let texts = texts.flat_map(|(_, text)| [text.clone(), text.to_lowercase()]);
            (all.collect(), texts.collect())
        };
        set.rules().iter().map(|rule| one(rule)).collect()
    }

    #[test]
    fn every_shipped_regex_finds_the_same_in_ascii_text_by_its_ascii_twin() {
        let (mut texts, mut found) = (0, 0);
        for (regexes, tests) in shipped() {
            for text in tests.iter().filter(|t| t.is_ascii()) {
                for regex in &regexes {
                    let own = all(regex, Letters::Any, text);
                    let source = &regex.pattern.source;
                    assert_eq!(all(regex, Letters::Ascii, text), own, "{source} {text:?}");
                    (texts, found) = (texts + 1, found + own.len());
                }
            }
        }
        assert!(texts > 5_000 && found > 1_000, "{texts} {found}");
    }
}
