//! Gates: whether a text can hold what a rule needs, told from the groups of three letters it has.
//!
//! A rule is called by its rarest keywords; its gate then asks for everything else that must stand
//! in the text too. A gate may let a rule through for nothing, it never keeps one that would hit.

use super::letters::{self, Rates, Threes};
use crate::rule::need::{Literal, Need};
use crate::rule::{Node, Rule};

/// Most groups of three of a literal that are asked for.
const MAX_THREES: usize = 12;

/// What must stand in a text.
#[derive(Debug, Clone)]
pub(super) enum Gate {
    /// Nothing is known.
    Open,
    /// One of these literals.
    OneOf(Letters),
    /// One of these holds.
    Any(Vec<Gate>),
    /// All of these hold.
    All(Vec<Gate>),
}

/// Literals, by their groups of three.
#[derive(Debug, Clone, Default)]
pub(super) struct Letters {
    /// The groups of all literals, one literal behind the other: a text that has a literal has all
    /// of its groups.
    threes: Vec<u16>,
    /// Where each literal's groups end.
    ends: Vec<u16>,
    /// One of them has letters beyond ASCII: only such a text has it.
    wide: bool,
}

impl Letters {
    /// Puts the commonest literals first; returns how often one of them is in a megabyte, roughly.
    fn sort(&mut self, rates: &Rates) -> f32 {
        let mut from = 0;
        let mut list: Vec<(f32, &[u16])> = Vec::with_capacity(self.ends.len());
        for end in &self.ends {
            let threes = &self.threes[from..usize::from(*end)];
            from = usize::from(*end);
            let each = threes.iter().map(|three| rates.three(u32::from(*three)));
            list.push((each.fold(f32::MAX, f32::min), threes));
        }
        list.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let sum = list.iter().map(|(rate, _)| rate).sum();
        let mut sorted = Self {
            wide: self.wide,
            ..Self::default()
        };
        for (_, threes) in list {
            sorted.threes.extend_from_slice(threes);
            sorted
                .ends
                .push(u16::try_from(sorted.threes.len()).unwrap_or(u16::MAX));
        }
        *self = sorted;
        sum
    }

    fn some(&self, seen: &Threes, ascii: bool) -> bool {
        if self.wide && !ascii {
            return true;
        }
        let mut from = 0;
        self.ends.iter().any(|end| {
            let threes = &self.threes[from..usize::from(*end)];
            from = usize::from(*end);
            threes.iter().all(|t| seen.has(*t))
        })
    }
}

impl Gate {
    /// The gate of a rule. `raw`: its regexes see the text before folding. What is least often in
    /// ordinary text is asked first.
    pub(super) fn of(rule: &Rule, raw: bool, rates: &Rates) -> Self {
        let mut gate = Self::unsorted(rule, raw);
        gate.sort(rates);
        gate
    }

    fn unsorted(rule: &Rule, raw: bool) -> Self {
        let mut parts = vec![node(&rule.condition, raw)];
        if let Some(context) = rule.context.as_ref().filter(|c| c.required) {
            parts.push(one_of(
                context
                    .words
                    .iter()
                    .map(|w| (w.text.as_str(), w.starts_word, w.ends_word)),
            ));
        }
        all(parts)
    }

    /// Puts what decides soonest first; returns how often it passes in a megabyte, roughly.
    fn sort(&mut self, rates: &Rates) -> f32 {
        let ordered = |gates: &mut Vec<Self>| {
            let sorted = gates.drain(..).map(|mut gate| (gate.sort(rates), gate));
            let mut sorted: Vec<(f32, Self)> = sorted.collect();
            sorted.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            sorted
        };
        match self {
            Self::Open => f32::MAX,
            Self::OneOf(literals) => literals.sort(rates),
            Self::Any(gates) => {
                let sorted = ordered(gates);
                let sum = sorted.iter().map(|(rate, _)| rate).sum();
                gates.extend(sorted.into_iter().rev().map(|(_, gate)| gate));
                sum
            }
            Self::All(gates) => {
                let sorted = ordered(gates);
                let least = sorted
                    .iter()
                    .map(|(rate, _)| *rate)
                    .fold(f32::MAX, f32::min);
                gates.extend(sorted.into_iter().map(|(_, gate)| gate));
                least
            }
        }
    }

    /// Whether a text with these groups may pass.
    pub(super) fn lets(&self, seen: &Threes, ascii: bool) -> bool {
        match self {
            Self::Open => true,
            Self::OneOf(literals) => literals.some(seen, ascii),
            Self::Any(gates) => gates.iter().any(|g| g.lets(seen, ascii)),
            Self::All(gates) => gates.iter().all(|g| g.lets(seen, ascii)),
        }
    }
}

fn node(node: &Node, raw: bool) -> Gate {
    let mut parts = Vec::new();
    if !node.keywords.is_empty() {
        let edges = node.regex.is_none();
        parts.push(one_of(node.keywords.iter().map(|k| {
            (
                k.text.as_str(),
                k.starts_word && edges,
                k.ends_word && edges,
            )
        })));
    }
    if let Some(regex) = &node.regex {
        parts.push(need(&regex.study().need, raw));
    }
    if !node.any.is_empty() {
        parts.push(any(node.any.iter().map(|n| self::node(n, raw)).collect()));
    }
    parts.extend(node.all.iter().map(|n| self::node(n, raw)));
    all(parts)
}

fn need(of: &Need, raw: bool) -> Gate {
    match of {
        Need::Nothing => Gate::Open,
        // Folding moves the edges of raw text.
        Need::OneOf(literals) => one_of(
            literals
                .iter()
                .map(|l: &Literal| (l.text.as_str(), l.starts && !raw, l.ends && !raw)),
        ),
        Need::Any(parts) => any(parts.iter().map(|p| need(p, raw)).collect()),
        Need::All(parts) => all(parts.iter().map(|p| need(p, raw)).collect()),
    }
}

fn one_of<'t>(literals: impl Iterator<Item = (&'t str, bool, bool)>) -> Gate {
    let mut list = Letters::default();
    for (text, starts, ends) in literals {
        if !text.is_ascii() {
            list.wide = true;
            continue;
        }
        let row = letters::classes(text, starts, ends);
        let mut threes: Vec<u16> = row
            .windows(3)
            .filter_map(|w| u16::try_from(letters::group(w)).ok())
            .collect();
        // Signs alone say nothing.
        threes.retain(|t| *t != 0);
        threes.dedup();
        threes.truncate(MAX_THREES);
        if threes.is_empty() {
            return Gate::Open;
        }
        list.threes.extend(threes);
        let Ok(end) = u16::try_from(list.threes.len()) else {
            return Gate::Open;
        };
        list.ends.push(end);
    }
    Gate::OneOf(list)
}

fn all(mut gates: Vec<Gate>) -> Gate {
    gates.retain(|g| !matches!(g, Gate::Open));
    match gates.len() {
        0 => Gate::Open,
        1 => gates.remove(0),
        _ => Gate::All(gates),
    }
}

fn any(gates: Vec<Gate>) -> Gate {
    if gates.iter().any(|g| matches!(g, Gate::Open)) {
        Gate::Open
    } else {
        Gate::Any(gates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Threes {
        let mut threes = Threes::default();
        for w in letters::classes(text, true, true).windows(3) {
            threes.set(letters::group(w));
        }
        threes
    }

    #[test]
    fn a_gate_opens_only_for_all_parts() {
        let hir = regex_syntax::parse(r"(?-u:\b)(?:tell|show) me .*(?-u:\b)rules").expect("parses");
        let gate = need(&Need::of(&hir), false);
        assert!(gate.lets(&seen("please show me all the rules"), true));
        assert!(!gate.lets(&seen("please show me all the tricks"), true));
        assert!(!gate.lets(&seen("all the rules"), true));
        let mut sorted = gate.clone();
        sorted.sort(&Rates::new());
        assert!(sorted.lets(&seen("please show me all the rules"), true));
        assert!(!sorted.lets(&seen("please show me all the tricks"), true));
        // Before folding an edge is nothing to go by.
        assert!(!gate.lets(&seen("show me misrules"), true));
        assert!(need(&Need::of(&hir), true).lets(&seen("show me misrules"), true));
    }

    #[test]
    fn other_scripts_pass_where_they_can_stand() {
        let gate = one_of([("правила", true, true)].into_iter());
        assert!(gate.lets(&seen("any"), false) && !gate.lets(&seen("any"), true));
    }
}
