//! From a rule set to what the scan walks: keyword groups for the automaton, regexes with the
//! places where they can match, and which group or sweep calls which rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::Check;
use super::gate::{Gate, Gates};
use super::letters::Rates;
use super::matcher::{Plain, Wanted, Wide};
use super::pages::{Feed, Sight};
use super::regex::{Place, Regex};
use crate::rule::anchor::{Anchor, anchors};
use crate::rule::need::Literal;
use crate::rule::pattern::worth;
use crate::rule::{Area, Keyword, Node, Pattern, ReadingKind, Rule};
use crate::seal::value::{Validator, validator};

/// A set of keywords; its hits in a reading are kept together.
pub(super) type GroupId = u32;

/// A keyword's part in a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    pub group: GroupId,
    pub starts: Edge,
    pub ends: Edge,
}

/// What waits for a keyword: `postings[from..to]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub from: u32,
    pub to: u32,
    /// The keyword's length in bytes.
    pub len: u32,
}

/// What a hit of a group does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// Rules it calls: `calls[from..to]`.
    pub from: u32,
    pub to: u32,
    /// Whether where its hits stand matters.
    pub placed: bool,
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

impl Condition {
    /// All groups that it asks for.
    fn each_group(&self, see: &mut impl FnMut(GroupId)) {
        self.keywords.iter().for_each(|group| see(*group));
        let places = self.regex.iter().flat_map(|regex| &regex.places);
        places.for_each(|place| see(place.group));
        let children = self.any.iter().chain(&self.all).chain(&self.not);
        children.for_each(|child| child.each_group(see));
    }
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
}

/// Everything the scan walks.
#[derive(Debug)]
pub(super) struct Plan {
    /// Keywords of ASCII.
    pub plain: Plain,
    /// Those of them that matter in a text without digits: most keywords are the headings of numbers.
    pub wordy: Plain,
    /// Keywords of other scripts.
    pub wide: Wide,
    /// The keywords by number.
    pub keywords: Vec<Wait>,
    pub postings: Vec<Posting>,
    pub groups: Vec<Group>,
    /// Rules called by the groups, one behind the other.
    pub calls: Vec<u16>,
    pub rules: Vec<Compiled>,
    /// What each rule looks at, close together: it is asked for every rule called.
    pub sights: Vec<Sight>,
    /// What each rule asks of the bytes of a text.
    pub feeds: Vec<Feed>,
    /// What a text must have for each rule to be judged at all.
    pub gates: Gates,
    /// Rules without literals that look for numbers.
    pub numbers: Vec<u16>,
    /// Rules of which nothing is known.
    pub bare: Vec<u16>,
}

struct Builder {
    rates: Rates,
    /// Automata of checks so far.
    ways: u32,
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

    fn regex(&mut self, pattern: &Pattern, raw: bool) -> Regex {
        // Folding moves the edges of raw text.
        let rate = |l: &Literal| {
            worth(&l.text).then(|| self.rates.of(&l.text, l.starts && !raw, l.ends && !raw))
        };
        let Some((found, _)) = anchors(&pattern.study().hir, &rate) else {
            return Regex::new(pattern.clone(), Vec::new());
        };
        let mut places = Vec::new();
        let phrases = |a: &Anchor| -> Vec<Phrase> {
            a.literals
                .iter()
                .map(|l| Phrase::literal(l, !raw))
                .collect()
        };
        if raw {
            // Places in folded text lead back to raw text only roughly: no letter by letter there.
            let all = found.iter().flat_map(phrases).collect();
            places.extend(
                self.group(all, true)
                    .map(|group| Place { group, check: None }),
            );
        } else {
            for anchor in &found {
                let check = Some(Check::new(anchor, &mut self.ways));
                places.extend(
                    self.group(phrases(anchor), true)
                        .map(|group| Place { group, check }),
                );
            }
        }
        Regex::new(pattern.clone(), places)
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
        if let Some(regex) = node.regex.as_ref().filter(|r| !r.places.is_empty()) {
            let groups: Vec<GroupId> = regex.places.iter().map(|p| p.group).collect();
            let rate = groups.iter().map(|g| self.trigger(*g).1).sum();
            offer(Some((groups, rate)));
        }
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

/// Which groups matter in a text without digits: those of a rule that does not look for a number in
/// the text before folding. Such a rule hits nothing there, whatever calls it.
fn wordy(rules: &[Compiled], groups: usize) -> Vec<bool> {
    let mut wordy = vec![false; groups];
    let mut mark = |group: GroupId| wordy[group as usize] = true;
    for rule in rules {
        let regex = rule.condition.regex.as_ref();
        let number = regex.and_then(Regex::number).is_some()
            && rule.rule.area != Area::Injection
            && rule.rule.reads(ReadingKind::Raw);
        if !number {
            rule.condition.each_group(&mut mark);
            if let Some((group, ..)) = rule.context {
                mark(group);
            }
        }
    }
    wordy
}

/// Compiles all rules that run.
pub(super) fn plan(rules: &[Arc<Rule>]) -> Plan {
    let mut builder = Builder {
        rates: Rates::new(),
        ways: 0,
        patterns: BTreeMap::new(),
        texts: Vec::new(),
        groups: Vec::new(),
        by_content: BTreeMap::new(),
        placed: Vec::new(),
    };
    let mut compiled: Vec<Compiled> = Vec::new();
    let mut gates = Gates::default();
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
            .map(|pattern| Regex::new(pattern, Vec::new()))
            .collect();
        compiled.push(Compiled {
            rule: Arc::clone(rule),
            condition,
            context,
            validators,
            exceptions,
            raw,
        });
        gates.push(&Gate::of(rule, raw, &builder.rates));
        if compiled.len() == usize::from(u16::MAX) {
            break;
        }
    }
    let mut calls = vec![Vec::new(); builder.groups.len()];
    let (mut numbers, mut bare) = (Vec::new(), Vec::new());
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
            let number = rule.condition.regex.as_ref().and_then(Regex::number);
            if number.is_some() {
                numbers.push(at);
            } else {
                bare.push(at);
            }
        }
    }
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
    let plain = Plain::new(&wanted, &builder.rates, |_| true);
    let wordy = wordy(&compiled, builder.groups.len());
    let wordy = Plain::new(&wanted, &builder.rates, |pattern| {
        postings[pattern].iter().any(|p| wordy[p.group as usize])
    });
    let wide = Wide::new(&wanted);
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut flat = Vec::new();
    let mut keywords = Vec::with_capacity(postings.len());
    for (list, text) in postings.into_iter().zip(&builder.texts) {
        let from = small(flat.len());
        flat.extend(list);
        keywords.push(Wait {
            from,
            to: small(flat.len()),
            len: small(text.len()),
        });
    }
    let mut called = Vec::new();
    let mut groups = Vec::with_capacity(calls.len());
    for (rules, placed) in calls.into_iter().zip(builder.placed) {
        let from = small(called.len());
        called.extend(rules);
        groups.push(Group {
            from,
            to: small(called.len()),
            placed,
        });
    }
    Plan {
        plain,
        wordy,
        wide,
        keywords,
        postings: flat,
        groups,
        calls: called,
        sights: compiled.iter().map(Compiled::sight).collect(),
        feeds: compiled.iter().map(Compiled::feed).collect(),
        gates,
        rules: compiled,
        numbers,
        bare,
    }
}
