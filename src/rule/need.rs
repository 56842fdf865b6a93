//! What must stand in a text for a regex to match: literals, one of several, several at once.
//!
//! The engine derives two things from it: the rarest literals, where it looks for the rule at all,
//! and a gate that tells from the letters of a text that the rest cannot be there either.

use std::collections::BTreeSet;

use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::fold;
use super::pattern::{MAX_CLASS, MAX_LITERALS, worth};

/// Stands for `(?-u:\b)` inside a literal while it is being put together. No text of a rule has it.
const EDGE: char = '\u{1}';
/// Deepest nesting that is studied; what lies deeper is taken to need nothing.
const MAX_DEPTH: usize = 64;

/// Folded text that must stand somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Literal {
    /// The folded text.
    pub text: String,
    /// No ASCII letter, digit or `_` stands before it.
    pub starts: bool,
    /// No ASCII letter, digit or `_` stands behind it.
    pub ends: bool,
}

/// Strings that an expression matches, folded, with edges.
pub(super) type Phrases = BTreeSet<String>;

/// A condition that holds wherever the regex matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing is known.
    Nothing,
    /// One of these stands there.
    OneOf(Vec<Literal>),
    /// One of these holds.
    Any(Vec<Need>),
    /// All of these hold.
    All(Vec<Need>),
}

impl Need {
    /// Studies a parsed regex.
    pub fn of(hir: &Hir) -> Self {
        need(hir, 0)
    }

    /// Whether literals worth looking for tell where it can match.
    pub fn is_located(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::OneOf(literals) => literals.iter().all(|l| worth(&l.text)),
            Self::Any(parts) => parts.iter().all(Self::is_located),
            Self::All(parts) => parts.iter().any(Self::is_located),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn all(mut parts: Vec<Self>) -> Self {
        parts.retain(|p| !p.is_nothing());
        match parts.len() {
            0 => Self::Nothing,
            1 => parts.remove(0),
            _ => Self::All(parts),
        }
    }

    fn any(parts: Vec<Self>) -> Self {
        if parts.iter().any(Self::is_nothing) {
            Self::Nothing
        } else {
            Self::Any(parts)
        }
    }
}

fn need(hir: &Hir, depth: usize) -> Need {
    if depth > MAX_DEPTH {
        return Need::Nothing;
    }
    match hir.kind() {
        HirKind::Concat(parts) => {
            let mut all = Vec::new();
            let mut run = BTreeSet::from([String::new()]);
            for part in parts {
                let Some(set) = exact(part, depth) else {
                    all.push(one_of(&run));
                    // A word that begins behind something unknown may still begin with an edge.
                    run = BTreeSet::from([String::new()]);
                    all.push(need(part, depth + 1));
                    continue;
                };
                if let Some(longer) = product(&run, &set) {
                    run = longer;
                } else {
                    all.push(one_of(&run));
                    // The last edge belongs to both.
                    run = if run.iter().all(|s| s.ends_with(EDGE)) {
                        product(&BTreeSet::from([EDGE.to_string()]), &set).unwrap_or(set)
                    } else {
                        set
                    };
                }
            }
            all.push(one_of(&run));
            Need::all(all)
        }
        HirKind::Alternation(parts) => match exact(hir, depth) {
            Some(set) => one_of(&set),
            None => Need::any(parts.iter().map(|p| need(p, depth + 1)).collect()),
        },
        HirKind::Repetition(r) if r.min >= 1 => match exact(hir, depth) {
            Some(set) => one_of(&set),
            None => need(&r.sub, depth + 1),
        },
        HirKind::Capture(c) => need(&c.sub, depth + 1),
        _ => exact(hir, depth).map_or(Need::Nothing, |set| one_of(&set)),
    }
}

/// The literals of a finished run.
fn one_of(run: &Phrases) -> Need {
    settle(run).map_or(Need::Nothing, |(literals, _)| Need::OneOf(literals))
}

/// A run trimmed to what is certain in folded text, and how many bytes were trimmed off in front
/// (`None` if they differ). `None` if a string of the run is empty.
pub(super) fn settle(run: &Phrases) -> Option<(Vec<Literal>, Option<u8>)> {
    let mut set = BTreeSet::new();
    let mut leads = BTreeSet::new();
    for raw in run {
        let joins = |c: char| c.is_ascii_alphanumeric() || c == '_';
        // A blank at an end is an edge: white space collapses, so the blank itself is not certain.
        let begins = raw.starts_with([EDGE, ' ']);
        let stops = raw.ends_with([EDGE, ' ']);
        let plain: String = raw.chars().filter(|c| *c != EDGE).collect();
        leads.insert(u8::from(plain.starts_with(' ')));
        let text = fold::phrase(&plain);
        let (first, last) = (text.chars().next()?, text.chars().next_back()?);
        set.insert(Literal {
            starts: begins && joins(first),
            ends: stops && joins(last),
            text,
        });
    }
    let lead = leads.first().copied().filter(|_| leads.len() == 1);
    Some((set.into_iter().collect(), lead))
}

/// All strings that a small expression matches, folded, with edges; `None` if they are many.
pub(super) fn exact(hir: &Hir, depth: usize) -> Option<Phrases> {
    if depth > MAX_DEPTH {
        return None;
    }
    match hir.kind() {
        HirKind::Look(Look::WordAscii) => Some(BTreeSet::from([EDGE.to_string()])),
        HirKind::Empty | HirKind::Look(_) => Some(BTreeSet::from([String::new()])),
        HirKind::Literal(l) => {
            let text = std::str::from_utf8(&l.0).ok()?;
            Some(BTreeSet::from([folded(text)]))
        }
        HirKind::Class(Class::Unicode(class)) => {
            let mut set = BTreeSet::new();
            for range in class.ranges() {
                if range.len() > MAX_CLASS * 4 {
                    return None;
                }
                for c in range.start()..=range.end() {
                    set.insert(folded(c.encode_utf8(&mut [0; 4])));
                }
            }
            (set.len() <= MAX_CLASS).then_some(set)
        }
        HirKind::Class(Class::Bytes(_)) => None,
        HirKind::Repetition(r) => {
            let one = exact(&r.sub, depth + 1)?;
            match (r.min, r.max) {
                (0, Some(1)) => {
                    let mut set = one;
                    set.insert(String::new());
                    Some(set)
                }
                (min, Some(max)) if min == max && max <= 4 => {
                    let mut set = BTreeSet::from([String::new()]);
                    for _ in 0..max {
                        set = product(&set, &one)?;
                    }
                    Some(set)
                }
                _ => None,
            }
        }
        HirKind::Capture(c) => exact(&c.sub, depth + 1),
        HirKind::Concat(parts) => parts
            .iter()
            .try_fold(BTreeSet::from([String::new()]), |set, part| {
                product(&set, &exact(part, depth + 1)?)
            }),
        HirKind::Alternation(parts) => {
            let mut set = BTreeSet::new();
            for part in parts {
                set.extend(exact(part, depth + 1)?);
            }
            (set.len() <= MAX_LITERALS).then_some(set)
        }
    }
}

pub(super) fn product(left: &Phrases, right: &Phrases) -> Option<Phrases> {
    if left.len() * right.len() > MAX_LITERALS {
        return None;
    }
    Some(
        left.iter()
            .flat_map(|l| right.iter().map(move |r| format!("{l}{r}")))
            .collect(),
    )
}

/// Folds without trimming, since a literal may be part of a longer run.
fn folded(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '*' | '`'))
        .flat_map(|c| fold::fold(c).as_slice().to_vec())
        .map(|c| {
            if c.is_whitespace() || c.is_control() {
                ' '
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Need {
        Need::of(&regex_syntax::parse(source).expect("parses"))
    }

    fn one(texts: &[(&str, bool, bool)]) -> Need {
        Need::OneOf(
            texts
                .iter()
                .map(|(t, starts, ends)| Literal {
                    text: (*t).to_owned(),
                    starts: *starts,
                    ends: *ends,
                })
                .collect(),
        )
    }

    #[test]
    fn all_parts_of_a_regex_are_needed() {
        assert_eq!(
            of(r"(?-u:\b)(?:tell|show) me .{0,60}(?-u:\b)rules?(?-u:\b)"),
            Need::All(vec![
                one(&[("show me", true, true), ("tell me", true, true)]),
                one(&[("rule", true, true), ("rules", true, true)]),
            ])
        );
        assert_eq!(of(r"\w+ab\w+"), one(&[("ab", false, false)]));
        assert_eq!(of(r"\w+(?:ab)?"), Need::Nothing);
    }

    #[test]
    fn one_branch_is_enough() {
        assert_eq!(
            of(r"(?:key.{3}x|token=\d+)"),
            Need::Any(vec![
                Need::All(vec![
                    one(&[("key", false, false)]),
                    one(&[("x", false, false)])
                ]),
                one(&[("token=", false, false)]),
            ])
        );
        assert_eq!(of(r"(?:key.{3}x|\d+)"), Need::Nothing);
        assert!(of(r"\w+ (?:ignore|forget) \w+").is_located());
        assert!(of(r"[\w.]+@[\w.]+").is_located());
        assert!(!of(r"\d{3}-\d{2}-\d{4}").is_located());
    }

    #[test]
    fn edges_are_known_only_next_to_letters() {
        assert_eq!(
            of(r"(?-u:\b)\[gpt\](?-u:\b)"),
            one(&[("[gpt]", false, false)])
        );
        assert_eq!(of(r"\bgpt\b"), one(&[("gpt", false, false)]));
        assert_eq!(of(r"x\d+(?-u:\b)(?:a|\d)c\d"), {
            Need::All(vec![
                one(&[("x", false, false)]),
                one(&[("c", false, false)]),
            ])
        });
    }
}
