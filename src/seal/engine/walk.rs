//! The walk over a reading: which keywords stand where, and which rules they call.

use aho_corasick::Anchored;
use aho_corasick::automaton::Automaton as _;
use regex_automata::{Input, PatternSet};

use super::compile::{Automaton, GroupId, Plan, Sweep};
use super::evaluate;

/// Most hits of one keyword group in one reading whose places are kept; beyond it the group counts
/// as standing everywhere.
const MAX_GROUP_HITS: usize = 4_096;

/// Memory that is used again from text to text.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) hits: Hits,
    pub(super) called: Vec<u16>,
    pub(super) stamps: Vec<u32>,
    pub(super) stamp: u32,
}

/// Keyword hits of one reading.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    places: Vec<Vec<(u32, u32)>>,
    seen: Vec<bool>,
    touched: Vec<GroupId>,
}

impl Hits {
    fn reset(&mut self, groups: usize) {
        for group in self.touched.drain(..) {
            self.places[group as usize].clear();
            self.seen[group as usize] = false;
        }
        self.places.resize(groups, Vec::new());
        self.seen.resize(groups, false);
    }

    pub(super) fn of(&self, group: GroupId) -> &[(u32, u32)] {
        &self.places[group as usize]
    }

    pub(super) fn seen(&self, group: GroupId) -> bool {
        self.seen[group as usize]
    }

    pub(super) fn dense(&self, group: GroupId) -> bool {
        self.places[group as usize].len() >= MAX_GROUP_HITS
    }
}

impl Scratch {
    /// Ready for the next reading.
    pub(super) fn start(&mut self, plan: &Plan) {
        self.hits.reset(plan.calls.len());
        self.called.clear();
        self.stamps.resize(plan.rules.len(), 0);
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.stamps.fill(0);
            self.stamp = 1;
        }
    }
}

/// The automata over one folded text: hits by group, rules called. Text without letters beyond
/// ASCII never meets the keywords of other scripts.
pub(super) fn walk(plan: &Plan, text: &str, ascii: bool, scratch: &mut Scratch) {
    if let Some(dfa) = &plan.ascii {
        walk_one(plan, dfa, text, scratch);
    }
    if !ascii && let Some(dfa) = &plan.wide {
        walk_one(plan, dfa, text, scratch);
    }
}

fn walk_one(plan: &Plan, automaton: &Automaton, text: &str, scratch: &mut Scratch) {
    let dfa = &automaton.dfa;
    let Ok(mut state) = dfa.start_state(Anchored::No) else {
        return;
    };
    for (at, byte) in text.as_bytes().iter().enumerate() {
        state = dfa.next_state(Anchored::No, state, *byte);
        if !dfa.is_special(state) || !dfa.is_match(state) {
            continue;
        }
        for n in 0..dfa.match_len(state) {
            let local = dfa.match_pattern(state, n).as_usize();
            let pattern = automaton.patterns[local] as usize;
            let end = at + 1;
            hit(plan, pattern, text, end, scratch);
        }
    }
}

/// A keyword was found: its groups are told, and the rules that wait for them.
fn hit(plan: &Plan, pattern: usize, text: &str, end: usize, scratch: &mut Scratch) {
    let start = end - plan.lengths[pattern] as usize;
    let (from, to) = (
        plan.starts[pattern] as usize,
        plan.starts[pattern + 1] as usize,
    );
    for posting in &plan.postings[from..to] {
        if (posting.starts_word && !starts_word(text, start))
            || (posting.ends_word && !ends_word(text, end))
        {
            continue;
        }
        let group = posting.group as usize;
        let hits = &mut scratch.hits;
        if !hits.seen[group] {
            hits.seen[group] = true;
            hits.touched.push(posting.group);
            for rule in &plan.calls[group] {
                call(
                    &mut scratch.called,
                    &mut scratch.stamps,
                    scratch.stamp,
                    *rule,
                );
            }
        }
        if plan.placed[group] && hits.places[group].len() < MAX_GROUP_HITS {
            let place = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            hits.places[group].push((place(start), place(end)));
        }
    }
}

fn call(called: &mut Vec<u16>, stamps: &mut [u32], stamp: u32, rule: u16) {
    let mark = &mut stamps[usize::from(rule)];
    if *mark != stamp {
        *mark = stamp;
        called.push(rule);
    }
}

fn starts_word(text: &str, at: usize) -> bool {
    match text.as_bytes()[..at].last() {
        None => true,
        Some(b) if b.is_ascii() => !b.is_ascii_alphanumeric(),
        Some(_) => !text[..at].chars().next_back().is_some_and(joins_words),
    }
}

fn ends_word(text: &str, at: usize) -> bool {
    match text.as_bytes().get(at) {
        None => true,
        Some(b) if b.is_ascii() => !b.is_ascii_alphanumeric(),
        Some(_) => !text[at..].chars().next().is_some_and(joins_words),
    }
}

/// Letters next to which a word goes on; scripts without blanks end a word of another script.
fn joins_words(c: char) -> bool {
    c.is_alphanumeric() && !crate::rule::unspaced(c)
}

/// Patterns without literals over the places that can hold them.
pub(super) fn sweep(
    sweep: &Sweep,
    text: &str,
    zones: &[(usize, usize)],
    called: &mut Vec<u16>,
    stamps: &mut [u32],
    stamp: u32,
) {
    let Some(set) = &sweep.set else { return };
    let mut patterns = PatternSet::new(set.pattern_len());
    for (from, to) in zones {
        let (from, to) = (evaluate::floor(text, *from), evaluate::ceil(text, *to));
        set.which_overlapping_matches(&Input::new(text).range(from..to), &mut patterns);
        if patterns.is_full() {
            break;
        }
    }
    for pattern in patterns.iter() {
        let rule = sweep.rules[pattern.as_usize()];
        call(called, stamps, stamp, rule);
    }
}
