//! How far from an anchor a regex can still fail: its far end without what may be left out, and how
//! many bytes of ordinary text the rest covers.

use regex_syntax::hir::{Class, Hir, HirKind, Repetition};

/// Longest run without a blank in text that counts as ordinary, bytes.
pub const ORDINARY_RUN: usize = 40;

/// The expression without what it may do without at its far end: its front if it is read backwards,
/// else its back. Whatever the expression matches begins, read that way, with a match of the rest.
pub fn trimmed(hir: &Hir, back: bool) -> Hir {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => hir.clone(),
        HirKind::Capture(c) => trimmed(&c.sub, back),
        HirKind::Concat(parts) => {
            let mut rest = &parts[..];
            loop {
                let far = if back { rest.first() } else { rest.last() };
                let Some(far) = far else {
                    return Hir::empty();
                };
                let near = if back {
                    &rest[1..]
                } else {
                    &rest[..rest.len() - 1]
                };
                let far = trimmed(far, back);
                if !matches!(far.kind(), HirKind::Empty) {
                    return joined(near.to_vec(), far, back);
                }
                rest = near;
            }
        }
        HirKind::Alternation(branches) => {
            let branches: Vec<Hir> = branches.iter().map(|b| trimmed(b, back)).collect();
            if branches.iter().any(|b| matches!(b.kind(), HirKind::Empty)) {
                Hir::empty()
            } else {
                Hir::alternation(branches)
            }
        }
        HirKind::Repetition(r) => match r.min.checked_sub(1) {
            None => Hir::empty(),
            Some(others) => {
                let near = Hir::repetition(Repetition {
                    min: others,
                    max: Some(others),
                    greedy: true,
                    sub: r.sub.clone(),
                });
                joined(vec![near], trimmed(&r.sub, back), back)
            }
        },
    }
}

fn joined(mut near: Vec<Hir>, far: Hir, back: bool) -> Hir {
    if back {
        near.insert(0, far);
    } else {
        near.push(far);
    }
    Hir::concat(near)
}

/// Most bytes of ASCII text that a match covers, where no run without a blank is longer than
/// [`ORDINARY_RUN`]; `None` if there is no bound.
pub fn ordinary(hir: &Hir) -> Option<usize> {
    let whole = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(0),
        HirKind::Literal(l) => Some(l.0.len()),
        HirKind::Class(_) => Some(1),
        HirKind::Capture(c) => return ordinary(&c.sub),
        HirKind::Concat(parts) => parts
            .iter()
            .try_fold(0_usize, |n, p| Some(n.saturating_add(ordinary(p)?))),
        HirKind::Alternation(branches) => branches
            .iter()
            .try_fold(0_usize, |n, b| Some(n.max(ordinary(b)?))),
        HirKind::Repetition(r) => match (r.max, ordinary(&r.sub)) {
            (Some(max), Some(n)) => Some(n.saturating_mul(max as usize)),
            _ => None,
        },
    };
    match whole {
        Some(n) if n <= ORDINARY_RUN => Some(n),
        other if may_hold_blank(hir) => other,
        _ => Some(ORDINARY_RUN),
    }
}

/// Whether a match may hold a blank.
fn may_hold_blank(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(l) => l.0.contains(&b' '),
        HirKind::Class(Class::Unicode(c)) => c
            .ranges()
            .iter()
            .any(|r| r.start() <= ' ' && ' ' <= r.end()),
        HirKind::Class(Class::Bytes(c)) => c
            .ranges()
            .iter()
            .any(|r| r.start() <= b' ' && b' ' <= r.end()),
        HirKind::Capture(c) => may_hold_blank(&c.sub),
        HirKind::Repetition(r) => may_hold_blank(&r.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(may_hold_blank),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(source: &str) -> Hir {
        regex_syntax::parse(source).expect("parses")
    }

    fn same(given: &Hir, source: &str) {
        assert_eq!(given, &parse(source), "{source}");
    }

    #[test]
    fn far_ends_go_and_near_ones_stay() {
        same(&trimmed(&parse("a.{0,9}bc{2,7}"), false), "a.{0,9}bcc");
        same(&trimmed(&parse("a.{0,9}b(?: now)?.*"), false), "a.{0,9}b");
        same(&trimmed(&parse("-+a.{0,9}"), true), "-a.{0,9}");
        same(&trimmed(&parse("x?(?:a|b*)y?zu?"), true), "zu?");
        same(&trimmed(&parse("ab|cd?"), false), "ab|c");
        same(&trimmed(&parse("(?:a|b*)?"), false), "");
        same(&trimmed(&parse(r"a\b.*"), false), r"a\b");
    }

    #[test]
    fn what_is_left_still_begins_every_match() {
        for (source, text) in [
            (r"(?:what|how) (?:[a-z]+ ){1,3}do.{0,3}", "how a b do it"),
            (r"x{2,}(?:ab|c)+", "xxxcabc"),
            (r"(?:a{2}b){2,3}c{4,}", "aabaabaabccccc"),
        ] {
            for back in [false, true] {
                let left = regex_automata::meta::Regex::builder()
                    .build_from_hir(&trimmed(&parse(source), back))
                    .expect("compiles");
                assert!(left.is_match(text), "{source} {back}");
            }
        }
    }

    #[test]
    fn ordinary_text_bounds_words_and_not_gaps() {
        assert_eq!(ordinary(&parse("ab.{0,9}c")), Some(12));
        assert_eq!(ordinary(&parse("[a-z]+ x")), Some(ORDINARY_RUN + 2));
        assert_eq!(
            ordinary(&parse("(?:[a-z]+ ){0,5}")),
            Some(5 * (ORDINARY_RUN + 1))
        );
        assert_eq!(ordinary(&parse("(?:[a-z]+ )*")), None);
        assert_eq!(ordinary(&parse("a.*")), None);
        assert_eq!(ordinary(&parse("[a-z0-9]{64}")), Some(ORDINARY_RUN));
    }
}
