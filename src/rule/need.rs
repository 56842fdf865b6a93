//! What must stand in a text for a regex to match: literals, one of several, several at once.
//!
//! The engine derives two things from it: the rarest literals, where it looks for the rule at all,
//! and a gate that tells from the letters of a text that the rest cannot be there either.

use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::fold;
use super::pattern::{MAX_CLASS, MAX_LITERALS, worth};

/// Stands for `(?-u:\b)` inside a literal while it is being put together. No text of a rule has it.
const EDGE: char = '\u{1}';
/// Longest range of a class that is spelled out, to see what is left of it when folded.
const MAX_RANGE: usize = MAX_CLASS * 4;
/// Most rounds of a repeated expression that are spelled out.
const MAX_ROUNDS: u32 = 4;
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

/// Strings that an expression matches, folded, with edges: sorted, each once.
pub(super) type Phrases = Vec<String>;

/// The set of the empty string.
pub(super) fn nothing() -> Phrases {
    vec![String::new()]
}

fn set(mut strings: Vec<String>) -> Phrases {
    strings.sort_unstable();
    strings.dedup();
    strings
}

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
            let mut run = nothing();
            for part in parts {
                let Some(set) = exact(part, depth) else {
                    all.push(one_of(&run));
                    // A word that begins behind something unknown may still begin with an edge.
                    run = nothing();
                    all.push(need(part, depth + 1));
                    continue;
                };
                if let Some(longer) = product(&run, &set) {
                    run = longer;
                } else {
                    all.push(one_of(&run));
                    // The last edge belongs to both.
                    run = if run.iter().all(|s| s.ends_with(EDGE)) {
                        product(&[EDGE.to_string()], &set).unwrap_or(set)
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
fn one_of(run: &[String]) -> Need {
    settle(run).map_or(Need::Nothing, |(literals, _)| Need::OneOf(literals))
}

/// A run trimmed to what is certain in folded text, and how many bytes were trimmed off in front
/// (`None` if they differ). `None` if a string of the run is empty.
pub(super) fn settle(run: &[String]) -> Option<(Vec<Literal>, Option<u8>)> {
    let mut literals = Vec::with_capacity(run.len());
    let mut lead = None;
    let mut same = true;
    for raw in run {
        let joins = |c: char| c.is_ascii_alphanumeric() || c == '_';
        // A blank at an end is an edge: white space collapses, so the blank itself is not certain.
        let begins = raw.starts_with([EDGE, ' ']);
        let stops = raw.ends_with([EDGE, ' ']);
        let plain: String = raw.chars().filter(|c| *c != EDGE).collect();
        let own = u8::from(plain.starts_with(' '));
        same &= *lead.get_or_insert(own) == own;
        let text = fold::phrase(&plain);
        let (first, last) = (text.chars().next()?, text.chars().next_back()?);
        literals.push(Literal {
            starts: begins && joins(first),
            ends: stops && joins(last),
            text,
        });
    }
    literals.sort_unstable();
    literals.dedup();
    Some((literals, lead.filter(|_| same)))
}

/// All strings that a small expression matches, folded, with edges; `None` if they are many.
pub(super) fn exact(hir: &Hir, depth: usize) -> Option<Phrases> {
    if open_ended(hir) {
        return None;
    }
    strings(hir, depth)
}

/// Whether some part of an expression alone matches too many strings: told without writing any.
fn open_ended(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Literal(_) => false,
        HirKind::Class(Class::Unicode(class)) => {
            class.ranges().iter().any(|range| range.len() > MAX_RANGE)
        }
        HirKind::Class(Class::Bytes(_)) => true,
        HirKind::Repetition(r) => {
            let few = match (r.min, r.max) {
                (0, Some(1)) => true,
                (min, Some(max)) => min == max && max <= MAX_ROUNDS,
                (_, None) => false,
            };
            !few || open_ended(&r.sub)
        }
        HirKind::Capture(c) => open_ended(&c.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(open_ended),
    }
}

fn strings(hir: &Hir, depth: usize) -> Option<Phrases> {
    if depth > MAX_DEPTH {
        return None;
    }
    match hir.kind() {
        HirKind::Look(Look::WordAscii) => Some(vec![EDGE.to_string()]),
        HirKind::Empty | HirKind::Look(_) => Some(nothing()),
        HirKind::Literal(l) => {
            let text = std::str::from_utf8(&l.0).ok()?;
            Some(vec![folded(text)])
        }
        HirKind::Class(Class::Unicode(class)) => {
            let mut found = Vec::new();
            for range in class.ranges() {
                if range.len() > MAX_RANGE {
                    return None;
                }
                for c in range.start()..=range.end() {
                    found.push(folded(c.encode_utf8(&mut [0; 4])));
                }
            }
            let found = set(found);
            (found.len() <= MAX_CLASS).then_some(found)
        }
        HirKind::Class(Class::Bytes(_)) => None,
        HirKind::Repetition(r) => {
            let one = strings(&r.sub, depth + 1)?;
            match (r.min, r.max) {
                (0, Some(1)) => {
                    let mut found = one;
                    found.push(String::new());
                    Some(set(found))
                }
                (min, Some(max)) if min == max && max <= MAX_ROUNDS => {
                    let mut all = nothing();
                    for _ in 0..max {
                        all = product(&all, &one)?;
                    }
                    Some(all)
                }
                _ => None,
            }
        }
        HirKind::Capture(c) => strings(&c.sub, depth + 1),
        HirKind::Concat(parts) => parts.iter().try_fold(nothing(), |set, part| {
            product(&set, &strings(part, depth + 1)?)
        }),
        HirKind::Alternation(parts) => {
            let mut found = Vec::new();
            for part in parts {
                found.extend(strings(part, depth + 1)?);
            }
            let found = set(found);
            (found.len() <= MAX_LITERALS).then_some(found)
        }
    }
}

pub(super) fn product(left: &[String], right: &[String]) -> Option<Phrases> {
    if left.len() * right.len() > MAX_LITERALS {
        return None;
    }
    let joined = left
        .iter()
        .flat_map(|l| right.iter().map(move |r| [l.as_str(), r].concat()));
    Some(set(joined.collect()))
}

/// Folds without trimming, since a literal may be part of a longer run.
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !matches!(c, '*' | '`')) {
        for c in fold::fold(c).as_slice() {
            let blank = c.is_whitespace() || c.is_control();
            out.push(if blank { ' ' } else { *c });
        }
    }
    out
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
