//! What can be known about a regex before it runs: its length, its digits, and the literals of
//! which one stands in every match. The engine uses them to run it only where it can match.

use std::collections::BTreeSet;

use regex_syntax::hir::{Class, Hir, HirKind};

use super::{Pattern, fold};

/// Most literals that stand for one regex: more would fill the automaton with guesses.
pub(super) const MAX_LITERALS: usize = 96;
/// Most characters of a class that are spelled out as literals.
pub(super) const MAX_CLASS: usize = 6;
/// Shortest literal made of letters, digits and blanks that is worth looking for, in characters;
/// shorter ones stand in nearly every text.
const MIN_LITERAL: usize = 3;
/// Largest compiled size of one regex, in bytes: bounds memory and the time of a step.
pub const SIZE_LIMIT: usize = 2 << 20;
/// Beyond this length a literal makes nothing more selective.
const LONG_ENOUGH: usize = 8;

/// Parses and studies a regex.
///
/// # Errors
/// The regex crate's syntax error, or that it compiles too large.
pub fn study(source: &str) -> Result<(Pattern, Hir), Box<Mistake>> {
    let hir = regex_syntax::parse(source).map_err(|e| Box::new(Mistake::of(&e)))?;
    let properties = hir.properties();
    let mut has_value = false;
    captures(&hir, &mut |name| has_value |= name == "value");
    let literals = required(&hir)
        .map(|set| set.into_iter().collect())
        .unwrap_or_default();
    let pattern = Pattern {
        source: source.to_owned(),
        min_len: properties.minimum_len().unwrap_or(0),
        max_len: properties.maximum_len(),
        literals,
        min_digits: min_digits(&hir),
        has_value,
        need: super::need::Need::of(&hir),
        front: super::front::Front::of(&hir),
        demand: super::demand::Demand::of(&hir),
        hir: std::sync::Arc::new(hir.clone()),
    };
    Ok((pattern, hir))
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

/// All strings that a small expression matches, folded; `None` if they are many.
fn exact(hir: &Hir) -> Option<BTreeSet<String>> {
    match hir.kind() {
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
            let one = exact(&r.sub)?;
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
        HirKind::Capture(c) => exact(&c.sub),
        HirKind::Concat(parts) => parts
            .iter()
            .try_fold(BTreeSet::from([String::new()]), |set, part| {
                product(&set, &exact(part)?)
            }),
        HirKind::Alternation(parts) => {
            let mut set = BTreeSet::new();
            for part in parts {
                set.extend(exact(part)?);
            }
            (set.len() <= MAX_LITERALS).then_some(set)
        }
    }
}

fn product(left: &BTreeSet<String>, right: &BTreeSet<String>) -> Option<BTreeSet<String>> {
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

/// The best set of literals of which one stands in every match, if any is worth looking for.
fn required(hir: &Hir) -> Option<BTreeSet<String>> {
    let mut best: Option<BTreeSet<String>> = None;
    let mut offer = |set: BTreeSet<String>| {
        // White space collapses in folded text, so that only what is inside a literal is certain.
        let set: BTreeSet<String> = set.iter().map(|s| fold::phrase(s)).collect();
        if set.iter().all(|s| worth(s)) && best.as_ref().is_none_or(|old| score(&set) > score(old))
        {
            best = Some(set);
        }
    };
    match hir.kind() {
        HirKind::Concat(parts) => {
            let mut run: BTreeSet<String> = BTreeSet::from([String::new()]);
            for part in parts {
                let Some(set) = exact(part) else {
                    offer(std::mem::replace(&mut run, BTreeSet::from([String::new()])));
                    if let Some(inner) = required(part) {
                        offer(inner);
                    }
                    continue;
                };
                match product(&run, &set) {
                    Some(longer) => run = longer,
                    None => offer(std::mem::replace(&mut run, set)),
                }
            }
            offer(run);
        }
        HirKind::Alternation(parts) => {
            if let Some(set) = exact(hir) {
                offer(set);
            } else {
                let mut all = BTreeSet::new();
                for part in parts {
                    all.extend(required(part)?);
                }
                if all.len() <= MAX_LITERALS {
                    offer(all);
                }
            }
        }
        HirKind::Repetition(r) if r.min >= 1 => {
            return exact(hir)
                .filter(|set| set.iter().all(|s| worth(s)))
                .or_else(|| required(&r.sub));
        }
        HirKind::Capture(c) => return required(&c.sub),
        _ => {
            if let Some(set) = exact(hir) {
                offer(set);
            }
        }
    }
    best
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

/// More is better: the shortest literal's length, then fewer literals.
fn score(set: &BTreeSet<String>) -> (usize, usize) {
    let shortest = set.iter().map(|s| s.chars().count()).min().unwrap_or(0);
    (shortest.min(LONG_ENOUGH), usize::MAX - set.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literals(source: &str) -> Vec<String> {
        study(source).map(|(p, _)| p.literals).unwrap_or_default()
    }

    #[test]
    fn literals_stand_in_every_match() {
        assert_eq!(literals(r"\bghp_[A-Za-z0-9]{36}\b"), ["ghp_"]);
        assert_eq!(
            literals(r"(?:ignore|disregard) (?:all|the) rules"),
            [
                "disregard all rules",
                "disregard the rules",
                "ignore all rules",
                "ignore the rules"
            ]
        );
        assert_eq!(literals(r"(?i)Bearer\s+\w+"), ["bearer"]);
        assert_eq!(literals(r"\w+ (?:ignore|forget) \w+"), ["forget", "ignore"]);
        assert_eq!(literals(r"\d{3}-\d{2}-\d{4}"), Vec::<String>::new());
        assert_eq!(literals(r"[\w.]+@[\w.]+"), ["@"]);
        assert_eq!(literals(r"foobar|\d+"), Vec::<String>::new());
    }

    #[test]
    fn digits_are_counted() {
        let digits = |s: &str| study(s).map(|(p, _)| p.min_digits).unwrap_or_default();
        assert_eq!(digits(r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b"), 9);
        assert_eq!(digits(r"(?:[0-9]{4}[ -]?){3}[0-9]{1,4}"), 13);
        assert_eq!(digits(r"[a-z]+|[0-9]+"), 0);
    }
}
