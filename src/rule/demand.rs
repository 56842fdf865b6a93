//! What bytes a text must have for a regex to match: how many of a sign, how long a run without
//! blanks. Credentials and numbers ask for much that ordinary text has not.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Longest run that is asked for; beyond it nothing more is gained.
const MAX_RUN: usize = 4_096;

/// Bytes of a raw text without which a regex cannot match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Signs of ASCII (no letters, digits or blanks) and how many of them.
    pub signs: Vec<(u8, u32)>,
    /// Longest run of visible ASCII without a blank, in bytes.
    pub run: usize,
}

impl Demand {
    /// Studies a parsed regex that reads raw text.
    pub fn of(hir: &Hir) -> Self {
        let counts = signs(hir);
        Self {
            signs: (0_u8..).zip(counts).filter(|(_, n)| *n > 0).collect(),
            run: run(hir).best.min(MAX_RUN),
        }
    }

    /// What both ask for.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (sign, n) in &other.signs {
            match self.signs.iter_mut().find(|(s, _)| s == sign) {
                Some((_, old)) => *old = (*old).max(*n),
                None => self.signs.push((*sign, *n)),
            }
        }
        self.run = self.run.max(other.run);
        self
    }
}

type Counts = [u32; 128];

fn is_sign(b: u8) -> bool {
    b.is_ascii_punctuation()
}

fn signs(hir: &Hir) -> Counts {
    let mut counts = [0; 128];
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(l) => {
            for b in l.0.iter().filter(|b| is_sign(**b)) {
                counts[usize::from(*b)] += 1;
            }
        }
        HirKind::Class(class) => {
            // A class of one letter is a literal.
            if let Some(lit) = class.literal()
                && let [b] = lit[..]
                && is_sign(b)
            {
                counts[usize::from(b)] = 1;
            }
        }
        HirKind::Repetition(r) => {
            let one = signs(&r.sub);
            for (n, one) in counts.iter_mut().zip(one) {
                *n = one.saturating_mul(r.min);
            }
        }
        HirKind::Capture(c) => return signs(&c.sub),
        HirKind::Concat(parts) => {
            for part in parts {
                for (n, more) in counts.iter_mut().zip(signs(part)) {
                    *n = n.saturating_add(more);
                }
            }
        }
        HirKind::Alternation(parts) => {
            counts = [u32::MAX; 128];
            for part in parts {
                for (n, other) in counts.iter_mut().zip(signs(part)) {
                    *n = (*n).min(other);
                }
            }
        }
    }
    counts
}

/// Least lengths of runs of visible ASCII in any match.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// The whole match is one run, at least this long.
    all: Option<usize>,
    head: usize,
    tail: usize,
    best: usize,
}

impl Run {
    fn whole(n: usize) -> Self {
        Self {
            all: Some(n),
            head: n,
            tail: n,
            best: n,
        }
    }

    fn then(self, next: Self) -> Self {
        let joined = self.tail.saturating_add(next.head);
        Self {
            all: self.all.zip(next.all).map(|(a, b)| a.saturating_add(b)),
            head: self.all.map_or(self.head, |n| n.saturating_add(next.head)),
            tail: next.all.map_or(next.tail, |n| n.saturating_add(self.tail)),
            best: self.best.max(next.best).max(joined),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            all: self.all.zip(other.all).map(|(a, b)| a.min(b)),
            head: self.head.min(other.head),
            tail: self.tail.min(other.tail),
            best: self.best.min(other.best),
        }
    }
}

fn visible(class: &Class) -> bool {
    match class {
        Class::Unicode(c) => c
            .ranges()
            .iter()
            .all(|r| r.start() >= '!' && r.end() <= '~'),
        Class::Bytes(c) => c
            .ranges()
            .iter()
            .all(|r| r.start() >= b'!' && r.end() <= b'~'),
    }
}

fn run(hir: &Hir) -> Run {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Run::whole(0),
        HirKind::Literal(l) => {
            l.0.iter()
                .map(|b| {
                    if b.is_ascii_graphic() {
                        Run::whole(1)
                    } else {
                        Run::default()
                    }
                })
                .fold(Run::whole(0), Run::then)
        }
        HirKind::Class(class) if visible(class) => Run::whole(1),
        HirKind::Class(_) => Run::default(),
        HirKind::Capture(c) => run(&c.sub),
        HirKind::Concat(parts) => parts.iter().map(run).fold(Run::whole(0), Run::then),
        HirKind::Alternation(parts) => parts.iter().map(run).reduce(Run::or).unwrap_or_default(),
        HirKind::Repetition(r) => {
            let one = run(&r.sub);
            let min = r.min as usize;
            match (one.all, min) {
                (Some(n), _) => Run::whole(n.saturating_mul(min)),
                (None, 0) => Run::default(),
                (None, 1) => one,
                (None, _) => Run {
                    best: one.best.max(one.tail.saturating_add(one.head)),
                    ..one
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Demand {
        Demand::of(&regex_syntax::parse(source).expect("parses"))
    }

    #[test]
    fn signs_are_counted() {
        assert_eq!(of(r"(?:[0-9A-F]{1,4}:){7}[0-9A-F]{1,4}").signs, [(b':', 7)]);
        assert_eq!(of(r"\w+@\w+(?:\.\w+)+").signs, [(b'.', 1), (b'@', 1)]);
        assert_eq!(of(r"a:b|c").signs, []);
    }

    #[test]
    fn runs_are_the_longest_that_every_match_has() {
        assert_eq!(of(r"key.{0,20}[=: ]\s?[0-9a-f]{32}\b").run, 32);
        assert_eq!(of(r"ghp_[A-Za-z0-9]{36}").run, 40);
        assert_eq!(of(r"[0-9]{4} [0-9]{6}|x{9}").run, 6);
        assert_eq!(of(r"(?:ab){3}-?c").run, 7);
        assert_eq!(of(r"a*").run, 0);
        assert_eq!(of(r"(?:ab c){2}").run, 3);
    }

    #[test]
    fn both_demands_hold() {
        let both = of(r"a::b").and(&of(r"x:y@[0-9]{9}"));
        assert_eq!(both.signs, [(b':', 2), (b'@', 1)]);
        assert_eq!(both.run, 13);
    }
}
