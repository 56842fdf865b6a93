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
        let rate = |three: &u16| rates.three(u32::from(*three));
        let mut list: Vec<(f32, Vec<u16>)> = Vec::with_capacity(self.ends.len());
        for threes in self.each() {
            let mut threes = threes.to_vec();
            // The rarest group of a literal first.
            threes.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
            list.push((threes.first().map_or(f32::MAX, rate), threes));
        }
        list.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let sum = list.iter().map(|(rate, _)| rate).sum();
        let mut sorted = Self {
            wide: self.wide,
            ..Self::default()
        };
        for (_, threes) in list {
            sorted.threes.extend(threes);
            sorted
                .ends
                .push(u16::try_from(sorted.threes.len()).unwrap_or(u16::MAX));
        }
        *self = sorted;
        sum
    }

    /// The groups of each literal.
    fn each(&self) -> impl Iterator<Item = &[u16]> {
        let mut from = 0;
        self.ends.iter().map(move |end| {
            let threes = &self.threes[from..usize::from(*end)];
            from = usize::from(*end);
            threes
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

    /// Adds what [`Gates::lets`] reads: a sign for the kind, how much belongs to it, and that.
    fn write(&self, code: &mut Vec<u16>) {
        let from = code.len();
        let sign = match self {
            Self::Open => OPEN,
            Self::OneOf(literals) if literals.wide => ONE_OF_WIDE,
            Self::OneOf(_) => ONE_OF,
            Self::Any(_) => ANY,
            Self::All(_) => ALL,
        };
        code.extend([sign, 0]);
        match self {
            Self::Open => {}
            Self::OneOf(literals) => {
                for threes in literals.each() {
                    code.push(u16::try_from(threes.len()).unwrap_or(0));
                    code.extend(threes);
                }
            }
            Self::Any(gates) | Self::All(gates) => gates.iter().for_each(|g| g.write(code)),
        }
        match u16::try_from(code.len() - from - HEAD) {
            Ok(len) => code[from + 1] = len,
            // Far more than any rule has.
            Err(_) => {
                code.truncate(from);
                code.extend([OPEN, 0]);
            }
        }
    }
}

/// Signs of the kinds of gates.
const OPEN: u16 = 0;
const ONE_OF: u16 = 1;
const ONE_OF_WIDE: u16 = 2;
const ANY: u16 = 3;
const ALL: u16 = 4;
/// Numbers before what belongs to a gate: its sign and how many they are.
const HEAD: usize = 2;

/// The gates of all rules, one behind the other: a rule's whole gate is in a few neighbouring lines
/// of the cache, while hundreds of rules take turns there.
#[derive(Debug, Default)]
pub(super) struct Gates {
    code: Vec<u16>,
    starts: Vec<u32>,
}

impl Gates {
    /// Adds the gate of the next rule.
    pub(super) fn push(&mut self, gate: &Gate) {
        self.starts
            .push(u32::try_from(self.code.len()).unwrap_or(u32::MAX));
        gate.write(&mut self.code);
    }

    /// Whether a text with these groups may pass the gate of a rule.
    pub(super) fn lets(&self, rule: u16, seen: &Threes, ascii: bool) -> bool {
        let code = self
            .starts
            .get(usize::from(rule))
            .and_then(|start| self.code.get(*start as usize..));
        code.is_none_or(|code| passes(code, seen, ascii).0)
    }
}

/// Whether the first gate of the code lets a text through, and what stands behind it.
fn passes<'c>(code: &'c [u16], seen: &Threes, ascii: bool) -> (bool, &'c [u16]) {
    let [sign, len, rest @ ..] = code else {
        return (true, &[]);
    };
    let (mut own, rest) = rest
        .split_at_checked(usize::from(*len))
        .unwrap_or((rest, &[]));
    let lets = match *sign {
        OPEN => true,
        ONE_OF_WIDE if !ascii => true,
        ONE_OF | ONE_OF_WIDE => {
            while let [n, literals @ ..] = own {
                let n = usize::from(*n).min(literals.len());
                let (threes, others) = literals.split_at(n);
                if threes.iter().all(|t| seen.has(*t)) {
                    return (true, rest);
                }
                own = others;
            }
            false
        }
        sign => {
            // `All` ends at the first that does not, `Any` at the first that does.
            let all = sign == ALL;
            let mut lets = all;
            while !own.is_empty() && lets == all {
                (lets, own) = passes(own, seen, ascii);
            }
            lets
        }
    };
    (lets, rest)
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

    impl Gate {
        /// Whether a text with these groups may pass.
        fn lets(&self, seen: &Threes, ascii: bool) -> bool {
            let mut gates = Gates::default();
            // Of several gates the one that is asked for.
            gates.push(&Self::OneOf(Letters::default()));
            gates.push(self);
            gates.push(&Self::Open);
            assert!(!gates.lets(0, seen, ascii) && gates.lets(2, seen, ascii));
            gates.lets(1, seen, ascii)
        }
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
