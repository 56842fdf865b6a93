//! Where a regex is anchored: its rarest literals, and what must stand right before and behind each.
//!
//! A regex over ordinary words (`what … your … instructions`) meets its literals in many harmless
//! texts. From the place of the rarest one, what comes before and behind it can be followed letter
//! by letter, and nearly always ends after a few of them.

use regex_syntax::hir::{Class, Hir, HirKind, Repetition};

use super::need::{Literal, exact, nothing, product, settle};

/// Literals, and the parts of the regex around them.
#[derive(Debug, Clone)]
pub struct Anchor {
    /// One of these stands in every match that comes this way.
    pub literals: Vec<Literal>,
    /// Bytes before the literal at which `ahead` begins: a blank that was trimmed off, or none.
    /// `None` if that is not the same for all literals.
    pub lead: Option<u8>,
    /// What the text before it ends with.
    pub behind: Hir,
    /// What the text from there on begins with, the literal included.
    pub ahead: Hir,
}

/// How often a literal stands in ordinary text; `None` if it is not worth looking for.
pub type Rate<'r> = &'r dyn Fn(&Literal) -> Option<f32>;

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 64;
/// Most anchors of one regex: beyond it the literals alone must do.
const MAX_ANCHORS: usize = 48;

/// The rarest anchors of which one stands in every match, and how often one does in ordinary text.
pub fn anchors(hir: &Hir, rate: Rate<'_>) -> Option<(Vec<Anchor>, f32)> {
    pick(hir, rate, 0)
}

fn pick(hir: &Hir, rate: Rate<'_>, depth: usize) -> Option<(Vec<Anchor>, f32)> {
    if depth > MAX_DEPTH {
        return None;
    }
    match hir.kind() {
        HirKind::Concat(parts) => concat(parts, rate, depth),
        HirKind::Alternation(branches) => {
            if let Some(set) = exact(hir, depth) {
                return whole(hir, &set, rate);
            }
            let (mut all, mut sum) = (Vec::new(), 0.0);
            for branch in branches {
                let (anchors, rate) = pick(branch, rate, depth + 1)?;
                all.extend(anchors);
                sum += rate;
            }
            (all.len() <= MAX_ANCHORS).then_some((all, sum))
        }
        HirKind::Repetition(r) if r.min >= 1 => {
            if let Some(set) = exact(hir, depth) {
                return whole(hir, &set, rate);
            }
            let (mut anchors, sum) = pick(&r.sub, rate, depth + 1)?;
            // Other rounds may stand before and behind this one.
            let others = || {
                Hir::repetition(Repetition {
                    min: 0,
                    max: None,
                    greedy: true,
                    sub: r.sub.clone(),
                })
            };
            for anchor in &mut anchors {
                anchor.behind = Hir::concat(vec![others(), anchor.behind.clone()]);
                anchor.ahead = Hir::concat(vec![anchor.ahead.clone(), others()]);
            }
            Some((anchors, sum))
        }
        HirKind::Capture(c) => pick(&c.sub, rate, depth + 1),
        _ => whole(hir, &exact(hir, depth)?, rate),
    }
}

/// An anchor that is all of an expression.
fn whole(hir: &Hir, set: &[String], rate: Rate<'_>) -> Option<(Vec<Anchor>, f32)> {
    let (literals, lead) = settle(set)?;
    let sum = rates(&literals, rate)?;
    let anchor = Anchor {
        literals,
        lead,
        behind: Hir::empty(),
        ahead: hir.clone(),
    };
    Some((vec![anchor], sum))
}

fn rates(literals: &[Literal], rate: Rate<'_>) -> Option<f32> {
    literals.iter().map(rate).sum()
}

/// The rarest of a row of parts.
fn concat(parts: &[Hir], rate: Rate<'_>, depth: usize) -> Option<(Vec<Anchor>, f32)> {
    let row = |parts: &[Hir]| Hir::concat(parts.to_vec());
    let mut best: Option<(Vec<Anchor>, f32)> = None;
    // What stands around an anchor is copied only for those that are rarer than all before.
    let rarer = |best: &Option<(Vec<Anchor>, f32)>, sum: f32| {
        best.as_ref().is_none_or(|(_, old)| sum < *old)
    };
    let offer = |best: &mut Option<(Vec<Anchor>, f32)>, run: &[String], from: usize| {
        let Some((literals, lead)) = settle(run) else {
            return;
        };
        if let Some(sum) = rates(&literals, rate).filter(|sum| rarer(best, *sum)) {
            let anchor = Anchor {
                literals,
                lead,
                behind: row(&parts[..from]),
                ahead: row(&parts[from..]),
            };
            *best = Some((vec![anchor], sum));
        }
    };
    let mut run = nothing();
    let mut from = 0;
    for (at, part) in parts.iter().enumerate() {
        let Some(set) = exact(part, depth) else {
            offer(&mut best, &run, from);
            run = nothing();
            from = at + 1;
            let picked = pick(part, rate, depth + 1).filter(|(_, sum)| rarer(&best, *sum));
            if let Some((mut anchors, sum)) = picked {
                for anchor in &mut anchors {
                    anchor.behind = Hir::concat(vec![row(&parts[..at]), anchor.behind.clone()]);
                    anchor.ahead = Hir::concat(vec![anchor.ahead.clone(), row(&parts[at + 1..])]);
                }
                best = Some((anchors, sum));
            }
            continue;
        };
        if let Some(longer) = product(&run, &set) {
            run = longer;
        } else {
            offer(&mut best, &run, from);
            run = set;
            from = at;
        }
    }
    offer(&mut best, &run, from);
    best
}

/// The same expression without counting gaps: an automaton of it stays small. It matches wherever
/// the expression does.
pub fn relaxed(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => hir.clone(),
        HirKind::Capture(c) => relaxed(&c.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(relaxed).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(relaxed).collect()),
        HirKind::Repetition(r) => {
            let counts = r.max.is_some_and(|max| max > 1);
            let (min, max) = if counts && is_gap(&r.sub) {
                (r.min.min(1), None)
            } else {
                (r.min, r.max)
            };
            Hir::repetition(Repetition {
                min,
                max,
                greedy: true,
                sub: Box::new(relaxed(&r.sub)),
            })
        }
    }
}

/// Whether a repeated expression is a gap between words: a class that holds blanks, or several
/// letters at once.
fn is_gap(sub: &Hir) -> bool {
    match sub.kind() {
        HirKind::Class(Class::Unicode(c)) => c
            .ranges()
            .iter()
            .any(|r| r.start() <= ' ' && ' ' <= r.end()),
        HirKind::Class(Class::Bytes(c)) => c
            .ranges()
            .iter()
            .any(|r| r.start() <= b' ' && b' ' <= r.end()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Vec<Anchor> {
        let hir = regex_syntax::parse(source).expect("parses");
        // Shorter is commoner.
        let rate = |l: &Literal| {
            (l.text.len() > 2).then(|| 1.0 / f32::from(u16::try_from(l.text.len()).unwrap_or(1)))
        };
        anchors(&hir, &rate).map(|(a, _)| a).unwrap_or_default()
    }

    #[test]
    fn the_rarest_part_anchors_the_rest() {
        let found = of(r"(?:what|how) .{0,9}your instructions(?: please)?\d");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].literals[0].text, "your instructions");
        assert_eq!(found[0].lead, Some(0));
        let behind = regex_automata::meta::Regex::builder()
            .build_from_hir(&found[0].behind)
            .expect("compiles");
        assert!(behind.is_match("what are ") && !behind.is_match("that are "));
        let ahead = regex_automata::meta::Regex::builder()
            .build_from_hir(&found[0].ahead)
            .expect("compiles");
        assert!(ahead.is_match("your instructions please1"));
        assert!(!ahead.is_match("your instructions plea"));
    }

    #[test]
    fn each_branch_has_its_own() {
        let found = of(r"x(?:\w+ reveal|forget \w+)y");
        let texts: Vec<&str> = found.iter().map(|a| a.literals[0].text.as_str()).collect();
        assert_eq!(texts, ["reveal", "forget"]);
        assert_eq!(found[0].lead, Some(1));
    }

    #[test]
    fn relaxed_gaps_are_wider_and_words_are_not() {
        let hir = regex_syntax::parse(r"a.{0,3}b(?:[a-z]+ ){0,2}c[0-9]{4}").expect("parses");
        let re = regex_automata::meta::Regex::builder()
            .build_from_hir(&relaxed(&hir))
            .expect("compiles");
        assert!(re.is_match("a 12345 bone two three four c1234"));
        assert!(!re.is_match("a bc123"));
    }
}
