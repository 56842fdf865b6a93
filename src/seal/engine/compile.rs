//! From a rule set to what the scan walks: keyword groups for the automaton, regexes with the
//! places where they can match, and which group or sweep calls which rule.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use regex_automata::meta;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::gate::Gate;
use super::letters::Rates;
use super::matcher::{Plain, Wanted, Wide};
use crate::rule::need::{Literal, Need};
use crate::rule::pattern::SIZE_LIMIT;
use crate::rule::{Area, Keyword, Node, Pattern, ReadingKind, Rule};
use crate::seal::value::{Validator, validator};

/// Memory that one regex may use for the states it has seen, in bytes.
const REGEX_CACHE: usize = 256 << 10;
/// The same for the sweeps, which hold many patterns.
const SWEEP_CACHE: usize = 4 << 20;
/// A regex with at least this many digits is looked for where digits are.
pub(super) const DIGITS: u32 = 4;
/// Longest stretch that counts as bounded; longer patterns are searched within [`REACH`].
const BOUNDED: usize = 1_024;
/// How far around digits a sweep looks, bytes: longer patterns are mostly optional blanks.
const SWEEP_REACH: usize = 256;
/// How far from a literal an unbounded pattern is looked for, bytes.
pub(super) const REACH: usize = 4_096;

/// A set of keywords; its hits in a reading are kept together.
pub(super) type GroupId = u32;

/// A keyword's part in a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    pub group: GroupId,
    pub starts: Edge,
    pub ends: Edge,
}

/// What must stand next to a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Edge {
    /// Anything.
    Any,
    /// No letter or digit.
    Word,
    /// No ASCII letter or digit and no `_`, as `(?-u:\b)` has it.
    Ascii,
}

/// What the walk looks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Phrase {
    text: String,
    starts: Edge,
    ends: Edge,
}

impl Phrase {
    fn keyword(keyword: &Keyword, edges: bool) -> Self {
        let edge = |is: bool| if is && edges { Edge::Word } else { Edge::Any };
        Self {
            text: keyword.text.clone(),
            starts: edge(keyword.starts_word),
            ends: edge(keyword.ends_word),
        }
    }

    fn literal(literal: &Literal, edges: bool) -> Self {
        let edge = |is: bool| if is && edges { Edge::Ascii } else { Edge::Any };
        Self {
            text: literal.text.clone(),
            starts: edge(literal.starts),
            ends: edge(literal.ends),
        }
    }
}

/// A regex that is built when it is first needed.
#[derive(Debug)]
pub(super) struct Regex {
    built: OnceLock<Option<meta::Regex>>,
    pub pattern: Pattern,
    /// Literals of which one stands in every match.
    pub locate: Option<GroupId>,
}

impl Regex {
    fn new(pattern: Pattern, locate: Option<GroupId>) -> Self {
        Self {
            built: OnceLock::new(),
            pattern,
            locate,
        }
    }

    /// How far a match may reach from any of its bytes.
    pub(super) fn reach(&self) -> usize {
        self.pattern
            .max_len
            .filter(|n| *n <= BOUNDED)
            .unwrap_or(REACH)
    }

    /// The compiled regex; `None` if it does not compile, which loading excludes.
    pub(super) fn get(&self) -> Option<&meta::Regex> {
        self.built
            .get_or_init(|| build(&self.pattern.source))
            .as_ref()
    }
}

fn build(source: &str) -> Option<meta::Regex> {
    meta::Regex::builder()
        .configure(config(1, REGEX_CACHE))
        .build(source)
        .ok()
}

fn config(patterns: usize, cache: usize) -> meta::Config {
    meta::Config::new()
        .nfa_size_limit(Some(SIZE_LIMIT * patterns.max(1)))
        .hybrid_cache_capacity(cache)
        .onepass(false)
}

/// A node, ready to be judged.
#[derive(Debug)]
pub(super) struct Condition {
    pub keywords: Option<GroupId>,
    pub regex: Option<Regex>,
    pub any: Vec<Condition>,
    pub all: Vec<Condition>,
    pub not: Vec<Condition>,
    pub within: Option<u32>,
}

/// A rule, ready to be judged.
#[derive(Debug)]
pub(super) struct Compiled {
    pub rule: Arc<Rule>,
    pub condition: Condition,
    pub context: Option<(GroupId, u32, bool)>,
    pub validators: Vec<(&'static str, Validator)>,
    pub exceptions: Vec<Regex>,
    /// It reads text before folding (PII, secrets, and injection rules on `raw`).
    pub raw: bool,
    /// What a text must have for the rule to be judged at all.
    pub gate: Gate,
}

/// Patterns without literals, looked for together.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    pub set: Option<meta::Regex>,
    /// Rule of each pattern of the set.
    pub rules: Vec<u16>,
    /// Longest match, bytes.
    pub reach: usize,
}

/// Everything the scan walks.
#[derive(Debug)]
pub(super) struct Plan {
    /// Keywords of ASCII.
    pub plain: Plain,
    /// Keywords of other scripts.
    pub wide: Wide,
    /// Postings of pattern `p`: `postings[starts[p]..starts[p + 1]]`.
    pub starts: Vec<u32>,
    pub postings: Vec<Posting>,
    pub lengths: Vec<u32>,
    /// Rules called by a hit of each group.
    pub calls: Vec<Vec<u16>>,
    /// Whether where a group's hits stand matters.
    pub placed: Vec<bool>,
    pub rules: Vec<Compiled>,
    /// Patterns that need digits.
    pub digits: Sweep,
    /// Patterns of which nothing is known.
    pub always: Sweep,
}

struct Builder {
    rates: Rates,
    /// Pattern text → index.
    patterns: BTreeMap<String, u32>,
    texts: Vec<String>,
    groups: Vec<Vec<Phrase>>,
    by_content: BTreeMap<Vec<Phrase>, GroupId>,
    placed: Vec<bool>,
}

/// Groups of which at least one is seen whenever something holds, and how often one is in a byte
/// of ordinary text.
type Trigger = (Vec<GroupId>, f32);

impl Builder {
    fn group(&mut self, keywords: Vec<Phrase>, placed: bool) -> Option<GroupId> {
        if keywords.is_empty() {
            return None;
        }
        let mut keywords = keywords;
        keywords.sort_unstable();
        keywords.dedup();
        let id = match self.by_content.get(&keywords) {
            Some(id) => *id,
            None => {
                let id = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
                for keyword in &keywords {
                    if !self.patterns.contains_key(&keyword.text) {
                        let at = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
                        self.patterns.insert(keyword.text.clone(), at);
                        self.texts.push(keyword.text.clone());
                    }
                }
                self.by_content.insert(keywords.clone(), id);
                self.groups.push(keywords);
                self.placed.push(false);
                id
            }
        };
        self.placed[id as usize] |= placed;
        Some(id)
    }

    fn rate(&self, phrases: &[Phrase]) -> f32 {
        phrases
            .iter()
            .map(|p| {
                self.rates
                    .of(&p.text, p.starts != Edge::Any, p.ends != Edge::Any)
            })
            .sum()
    }

    /// The rarest literals of which one stands in every match.
    fn rarest(&self, need: &Need, edges: bool) -> Option<(Vec<Phrase>, f32)> {
        match need {
            Need::Nothing => None,
            Need::OneOf(literals) => {
                if !literals
                    .iter()
                    .all(|l| crate::rule::pattern::worth(&l.text))
                {
                    return None;
                }
                let phrases: Vec<Phrase> =
                    literals.iter().map(|l| Phrase::literal(l, edges)).collect();
                let rate = self.rate(&phrases);
                Some((phrases, rate))
            }
            Need::All(parts) => parts
                .iter()
                .filter_map(|p| self.rarest(p, edges))
                .min_by(|(_, a), (_, b)| a.total_cmp(b)),
            Need::Any(parts) => {
                let (mut all, mut sum) = (Vec::new(), 0.0);
                for part in parts {
                    let (phrases, rate) = self.rarest(part, edges)?;
                    all.extend(phrases);
                    sum += rate;
                }
                Some((all, sum))
            }
        }
    }

    fn regex(&mut self, pattern: &Pattern, raw: bool) -> Regex {
        let locate = self
            .rarest(&pattern.need, !raw)
            .and_then(|(phrases, _)| self.group(phrases, true));
        Regex::new(pattern.clone(), locate)
    }

    fn condition(&mut self, node: &Node, raw: bool) -> Condition {
        // Beside a regex keywords are a prefilter, compared as parts of words.
        let keywords = node
            .keywords
            .iter()
            .map(|k| Phrase::keyword(k, node.regex.is_none()))
            .collect();
        let placed = node.regex.is_none() || node.within.is_some();
        Condition {
            keywords: self.group(keywords, placed),
            regex: node.regex.as_ref().map(|p| self.regex(p, raw)),
            any: node.any.iter().map(|n| self.condition(n, raw)).collect(),
            all: node.all.iter().map(|n| self.condition(n, raw)).collect(),
            not: node.not.iter().map(|n| self.condition(n, raw)).collect(),
            within: node.within,
        }
    }

    fn trigger(&self, group: GroupId) -> Trigger {
        (vec![group], self.rate(&self.groups[group as usize]))
    }

    /// The rarest groups of which at least one is seen whenever the condition holds; `None` if
    /// there are none.
    fn triggers(&self, node: &Condition) -> Option<Trigger> {
        let mut best: Option<Trigger> = None;
        let mut offer = |found: Option<Trigger>| {
            if let Some((triggers, rate)) = found
                && best.as_ref().is_none_or(|(_, old)| rate < *old)
            {
                best = Some((triggers, rate));
            }
        };
        offer(node.keywords.map(|g| self.trigger(g)));
        offer(
            node.regex
                .as_ref()
                .and_then(|r| r.locate)
                .map(|g| self.trigger(g)),
        );
        for child in &node.all {
            offer(self.triggers(child));
        }
        if !node.any.is_empty() {
            let mut all = Vec::new();
            let mut sum = 0.0;
            let complete = node.any.iter().all(|child| match self.triggers(child) {
                Some((triggers, rate)) => {
                    all.extend(triggers);
                    sum += rate;
                    true
                }
                None => false,
            });
            if complete {
                offer(Some((all, sum)));
            }
        }
        best
    }
}

/// Regexes without literals inside a condition that nothing else calls.
fn bare<'c>(node: &'c Condition, out: &mut Vec<&'c Regex>) {
    out.extend(node.regex.iter());
    for child in node.any.iter().chain(&node.all) {
        bare(child, out);
    }
}

/// Compiles all rules that run.
pub(super) fn plan(rules: &[Arc<Rule>]) -> Plan {
    let mut builder = Builder {
        rates: Rates::new(),
        patterns: BTreeMap::new(),
        texts: Vec::new(),
        groups: Vec::new(),
        by_content: BTreeMap::new(),
        placed: Vec::new(),
    };
    let mut compiled: Vec<Compiled> = Vec::new();
    for rule in rules.iter().filter(|r| r.runs()) {
        let raw = rule.area != Area::Injection || rule.reads(ReadingKind::Raw);
        let condition = builder.condition(&rule.condition, raw);
        let context = rule.context.as_ref().and_then(|c| {
            let words = c.words.iter().map(|w| Phrase::keyword(w, true)).collect();
            let group = builder.group(words, true)?;
            Some((group, c.within, c.required))
        });
        let validators = rule
            .validators
            .iter()
            .filter_map(|name| {
                let known = crate::seal::value::VALIDATORS
                    .iter()
                    .find(|(n, _)| n == name)?;
                Some((known.0, validator(name)?))
            })
            .collect();
        let exceptions = rule
            .exceptions
            .iter()
            .filter_map(|e| crate::rule::pattern::study(&e.regex).ok())
            .map(|(pattern, _)| Regex::new(pattern, None))
            .collect();
        compiled.push(Compiled {
            rule: Arc::clone(rule),
            condition,
            context,
            validators,
            exceptions,
            raw,
            gate: Gate::of(rule, raw),
        });
        if compiled.len() == usize::from(u16::MAX) {
            break;
        }
    }
    let mut calls = vec![Vec::new(); builder.groups.len()];
    let mut digit_sources: Vec<(&Regex, u16)> = Vec::new();
    let mut other_sources: Vec<(&Regex, u16)> = Vec::new();
    for (at, rule) in compiled.iter().enumerate() {
        let at = u16::try_from(at).unwrap_or(u16::MAX);
        let mut found = builder.triggers(&rule.condition);
        if let Some((group, _, true)) = rule.context {
            let context = builder.trigger(group);
            if found.as_ref().is_none_or(|(_, old)| context.1 < *old) {
                found = Some(context);
            }
        }
        let triggers = found.map_or_else(Vec::new, |(t, _)| t);
        for group in &triggers {
            if !calls[*group as usize].contains(&at) {
                calls[*group as usize].push(at);
            }
        }
        if triggers.is_empty() {
            let mut regexes = Vec::new();
            bare(&rule.condition, &mut regexes);
            for regex in regexes {
                if regex.pattern.min_digits >= DIGITS {
                    digit_sources.push((regex, at));
                } else {
                    other_sources.push((regex, at));
                }
            }
        }
    }
    let digits = sweep(&digit_sources);
    let always = sweep(&other_sources);
    let mut postings: Vec<Vec<Posting>> = vec![Vec::new(); builder.texts.len()];
    for (id, keywords) in builder.groups.iter().enumerate() {
        for keyword in keywords {
            let pattern = builder.patterns[&keyword.text];
            postings[pattern as usize].push(Posting {
                group: u32::try_from(id).unwrap_or(u32::MAX),
                starts: keyword.starts,
                ends: keyword.ends,
            });
        }
    }
    let wanted: Vec<Wanted<'_>> = builder
        .texts
        .iter()
        .zip(&postings)
        .map(|(text, list)| Wanted {
            text,
            starts: list.iter().all(|p| p.starts != Edge::Any),
            ends: list.iter().all(|p| p.ends != Edge::Any),
        })
        .collect();
    let plain = Plain::new(&wanted, &builder.rates);
    let wide = Wide::new(&wanted);
    let mut starts = vec![0];
    let mut flat = Vec::new();
    for list in postings {
        flat.extend(list);
        starts.push(u32::try_from(flat.len()).unwrap_or(u32::MAX));
    }
    Plan {
        plain,
        wide,
        starts,
        postings: flat,
        lengths: builder
            .texts
            .iter()
            .map(|t| u32::try_from(t.len()).unwrap_or(u32::MAX))
            .collect(),
        calls,
        placed: builder.placed,
        rules: compiled,
        digits,
        always,
    }
}

fn sweep(sources: &[(&Regex, u16)]) -> Sweep {
    if sources.is_empty() {
        return Sweep::default();
    }
    let patterns: Option<Vec<Hir>> = sources
        .iter()
        .map(|(r, _)| regex_syntax::parse(&r.pattern.source).ok().map(plain_words))
        .collect();
    let set = patterns.and_then(|patterns| {
        meta::Regex::builder()
            // Every pattern that matches anywhere, not only the first of those that compete.
            .configure(
                config(patterns.len(), SWEEP_CACHE).match_kind(regex_automata::MatchKind::All),
            )
            .build_many_from_hir(&patterns)
            .ok()
    });
    Sweep {
        set,
        rules: sources.iter().map(|(_, rule)| *rule).collect(),
        reach: sources
            .iter()
            .filter_map(|(r, _)| r.pattern.max_len)
            .max()
            .unwrap_or(0)
            .min(SWEEP_REACH),
    }
}

/// A pattern of ASCII with `\b` as ASCII knows it. Next to an ASCII letter or digit the two differ
/// only in that ASCII's holds more often, which is right for a sweep; and a lazy automaton can
/// follow it through text that is not ASCII, while Unicode's would send it to the slowest engine.
fn plain_words(hir: Hir) -> Hir {
    if ascii_only(&hir) {
        replace_words(hir)
    } else {
        hir
    }
}

fn ascii_only(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(l) => l.0.is_ascii(),
        // A class of "anything but" stands for separators; letters of other scripts do not begin
        // what these patterns look for.
        HirKind::Class(Class::Unicode(c)) => {
            c.is_ascii()
                || !c
                    .ranges()
                    .iter()
                    .any(|r| r.start() <= 'é' && 'é' <= r.end())
                || c.ranges().iter().any(|r| r.end() == char::MAX)
        }
        HirKind::Repetition(r) => ascii_only(&r.sub),
        HirKind::Capture(c) => ascii_only(&c.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().all(ascii_only),
        _ => true,
    }
}

fn replace_words(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(l) => Hir::literal(l.0),
        HirKind::Class(c) => Hir::class(c),
        HirKind::Look(Look::WordUnicode) => Hir::look(Look::WordAscii),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(mut r) => {
            r.sub = Box::new(replace_words(*r.sub));
            Hir::repetition(r)
        }
        HirKind::Capture(mut c) => {
            c.sub = Box::new(replace_words(*c.sub));
            Hir::capture(c)
        }
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(replace_words).collect()),
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.into_iter().map(replace_words).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_follow_text_beyond_ascii() {
        let hir = regex_syntax::parse(r"\b[A-Z]{2}[0-9]{6}\b").expect("parses");
        let plain = plain_words(hir);
        let looks = plain.properties().look_set();
        assert!(looks.contains(Look::WordAscii) && !looks.contains(Look::WordUnicode));
        let letters = regex_syntax::parse(r"\b\w{3}[0-9]{6}\b").expect("parses");
        let kept = plain_words(letters).properties().look_set();
        assert!(kept.contains(Look::WordUnicode));
    }
}
