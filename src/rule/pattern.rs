//! What can be known about a regex before it runs: its length, its digits, and the literals of
//! which one stands in every match. The engine uses them to run it only where it can match.

use std::sync::Arc;

use regex_automata::hybrid::dfa;
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::{Pattern, Study};

/// Most literals that stand for one regex: more would fill the automaton with guesses.
pub(super) const MAX_LITERALS: usize = 96;
/// Most characters of a class that are spelled out as literals.
pub(super) const MAX_CLASS: usize = 6;
/// Shortest literal made of letters, digits and blanks that is worth looking for, in characters;
/// shorter ones stand in nearly every text.
const MIN_LITERAL: usize = 3;
/// Largest compiled size of one regex, in bytes: bounds memory and the time of a step.
pub const SIZE_LIMIT: usize = 2 << 20;
/// Memory that a regex may use for the states of its automaton that it has met, in bytes, in each thread.
pub const CACHE: usize = 256 << 10;
/// The same for the few large ones, whose automaton does not begin in less.
pub const LARGE_CACHE: usize = 1 << 20;

/// Parses and studies a regex.
///
/// # Errors
/// The regex crate's syntax error, or that it compiles too large.
pub fn study(source: &str) -> Result<Pattern, Box<Mistake>> {
    let hir = regex_syntax::parse(source).map_err(|e| Box::new(Mistake::of(&e)))?;
    let pattern = Pattern::unstudied(source.to_owned());
    pattern.study.get_or_init(|| Study::of(hir));
    Ok(pattern)
}

impl Pattern {
    /// A regex that was checked when the program was built.
    pub(super) fn unstudied(source: String) -> Self {
        Self {
            source,
            study: Arc::default(),
        }
    }

    /// What is known of it.
    pub fn study(&self) -> &Study {
        // What does not parse, which loading excludes, matches nothing.
        let parse = || regex_syntax::parse(&self.source).unwrap_or_else(|_| Hir::fail());
        self.study.get_or_init(|| Study::of(parse()))
    }
}

impl Study {
    fn of(hir: Hir) -> Self {
        let properties = hir.properties();
        let mut has_value = false;
        captures(&hir, &mut |name| has_value |= name == "value");
        let value = if has_value {
            Value::of(&hir)
        } else {
            Value::Whole
        };
        Self {
            min_len: properties.minimum_len().unwrap_or(0),
            max_len: properties.maximum_len(),
            min_digits: min_digits(&hir),
            value,
            need: super::need::Need::of(&hir),
            front: super::front::Front::of(&hir),
            demand: super::demand::Demand::of(&hir),
            hir,
        }
    }
}

/// Where in a match the value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// It is all of the match: no group is called `value`.
    Whole,
    /// So far from its ends.
    Between {
        /// From its start.
        before: Width,
        /// From its end.
        after: Width,
    },
    /// Only the group tells.
    Group,
}

/// So many characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Width {
    /// How many.
    pub chars: usize,
    /// Or none, where the text begins or ends.
    pub or_edge: bool,
}

impl Value {
    /// Where the group `value` stands, if it is not inside anything else.
    fn of(hir: &Hir) -> Self {
        let one = std::slice::from_ref(hir);
        let parts = match hir.kind() {
            HirKind::Concat(parts) => parts,
            _ => one,
        };
        let value =
            |h: &Hir| matches!(h.kind(), HirKind::Capture(c) if c.name.as_deref() == Some("value"));
        let Some(at) = parts.iter().position(value) else {
            return Self::Group;
        };
        let side = |parts: &[Hir], edge| {
            parts.iter().try_fold(Width::default(), |all, part| {
                let part = Width::of(part, edge)?;
                Some(Width {
                    chars: all.chars + part.chars,
                    or_edge: all.or_edge || part.or_edge,
                })
            })
        };
        match (
            side(&parts[..at], Look::Start),
            side(&parts[at + 1..], Look::End),
        ) {
            (Some(before), Some(after)) => Self::Between { before, after },
            _ => Self::Group,
        }
    }
}

impl Width {
    /// That of every match of an expression, if it is always the same.
    fn of(hir: &Hir, edge: Look) -> Option<Self> {
        let chars = |chars| Self {
            chars,
            or_edge: false,
        };
        Some(match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => chars(0),
            HirKind::Class(_) => chars(1),
            HirKind::Literal(l) => chars(std::str::from_utf8(&l.0).ok()?.chars().count()),
            HirKind::Alternation(parts) => {
                let (edges, others): (Vec<&Hir>, Vec<&Hir>) = parts
                    .iter()
                    .partition(|p| matches!(p.kind(), HirKind::Look(look) if *look == edge));
                let mut widths = others.iter().map(|p| Self::of(p, edge));
                let first = widths.next()??;
                if first.or_edge || widths.any(|w| w != Some(first)) {
                    return None;
                }
                Self {
                    or_edge: !edges.is_empty(),
                    ..first
                }
            }
            HirKind::Repetition(_) | HirKind::Capture(_) | HirKind::Concat(_) => return None,
        })
    }
}

/// Whether the regex stays within [`SIZE_LIMIT`] when compiled.
///
/// # Errors
/// The regex crate's message.
pub fn compiles(source: &str) -> Result<(), String> {
    regex::RegexBuilder::new(source)
        .size_limit(SIZE_LIMIT)
        .build()
        .map(|_| ())
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(limit) => format!(
                "regex compiles to more than {limit} bytes: shorten its bounded repeats or classes"
            ),
            other => other.to_string(),
        })
}

/// Whether the automaton that takes a step a byte works within so much memory. Without it a search takes hundreds
/// of instructions a byte.
pub fn is_fast(hir: &Hir, cache: usize) -> bool {
    [false, true].into_iter().all(|reverse| {
        let captures = if reverse {
            WhichCaptures::None
        } else {
            WhichCaptures::All
        };
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .reverse(reverse)
                    .nfa_size_limit(Some(SIZE_LIMIT))
                    .which_captures(captures),
            )
            .build_from_hir(hir);
        let config = dfa::Config::new()
            .unicode_word_boundary(true)
            .starts_for_each_pattern(true)
            .cache_capacity(cache);
        nfa.is_ok_and(|nfa| {
            let built = dfa::Builder::new().configure(config).build_from_nfa(nfa);
            built.is_ok()
        })
    })
}

/// A syntax error in a regex and where it stands, in characters of the source.
#[derive(Debug)]
pub struct Mistake {
    /// What is wrong.
    pub message: String,
    /// First character, from 0.
    pub start: usize,
    /// Characters.
    pub width: usize,
}

impl Mistake {
    fn of(error: &regex_syntax::Error) -> Self {
        let (message, span) = match error {
            regex_syntax::Error::Parse(e) => (e.kind().to_string(), *e.span()),
            regex_syntax::Error::Translate(e) => (e.kind().to_string(), *e.span()),
            other => {
                return Self {
                    message: other.to_string(),
                    start: 0,
                    width: 1,
                };
            }
        };
        Self {
            message,
            start: span.start.column.saturating_sub(1),
            width: span.end.offset.saturating_sub(span.start.offset).max(1),
        }
    }
}

fn captures(hir: &Hir, see: &mut dyn FnMut(&str)) {
    match hir.kind() {
        HirKind::Capture(c) => {
            if let Some(name) = &c.name {
                see(name);
            }
            captures(&c.sub, see);
        }
        HirKind::Repetition(r) => captures(&r.sub, see),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            for part in parts {
                captures(part, see);
            }
        }
        _ => {}
    }
}

/// Least number of ASCII digits in any match.
fn min_digits(hir: &Hir) -> u32 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(l) => {
            let n = l.0.iter().filter(|b| b.is_ascii_digit()).count();
            u32::try_from(n).unwrap_or(u32::MAX)
        }
        HirKind::Class(class) => {
            let only_digits = match class {
                Class::Unicode(c) => c
                    .ranges()
                    .iter()
                    .all(|r| r.start() >= '0' && r.end() <= '9'),
                Class::Bytes(c) => c
                    .ranges()
                    .iter()
                    .all(|r| r.start() >= b'0' && r.end() <= b'9'),
            };
            u32::from(only_digits)
        }
        HirKind::Repetition(r) => r.min.saturating_mul(min_digits(&r.sub)),
        HirKind::Capture(c) => min_digits(&c.sub),
        HirKind::Concat(parts) => parts
            .iter()
            .fold(0, |n: u32, p| n.saturating_add(min_digits(p))),
        HirKind::Alternation(parts) => parts.iter().map(min_digits).min().unwrap_or(0),
    }
}

/// Whether a literal is rare enough in ordinary text to be looked for.
pub fn worth(literal: &str) -> bool {
    let chars = literal.chars().count();
    let odd = literal.chars().any(|c| {
        c.is_ascii_punctuation()
            && !matches!(
                c,
                '.' | ',' | '-' | '\'' | '"' | '_' | '/' | ':' | '(' | ')' | '?' | '!'
            )
    });
    let wide = literal.chars().any(|c| u32::from(c) >= 0x2e80);
    chars >= MIN_LITERAL || (chars >= 1 && odd) || (chars >= 2 && wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_counted() {
        let digits = |s: &str| study(s).map(|p| p.study().min_digits).unwrap_or_default();
        assert_eq!(digits(r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b"), 9);
        assert_eq!(digits(r"(?:[0-9]{4}[ -]?){3}[0-9]{1,4}"), 13);
        assert_eq!(digits(r"[a-z]+|[0-9]+"), 0);
    }
}
