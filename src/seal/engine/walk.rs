//! The walk over a reading: which keywords stand where, and which rules they call.

use std::cell::RefCell;

use super::check::Caches;
use super::compile::{Edge, GroupId, Plan};
use super::letters::Threes;
use crate::seal::model::Memo;
use crate::seal::reading::{lexicon, scout::Counts};

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
    pub(super) seen: Threes,
    pub(super) caches: RefCell<Caches>,
    /// Keywords compared with a text so far: a measure of work.
    pub(super) compared: usize,
    pub(super) memo: Memo,
    pub(super) words: lexicon::Memo,
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

    /// In the order of their ends: the walk finds them in the order of their rarest letters.
    fn sort(&mut self) {
        for group in &self.touched {
            let places = &mut self.places[*group as usize];
            if !places.is_sorted_by_key(|(_, end)| *end) {
                places.sort_unstable_by_key(|(start, end)| (*end, *start));
            }
        }
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
    /// Work done so far: keywords compared, letters followed around anchors, bytes that regexes
    /// were run on. It grows with the length of the texts, whatever stands in them.
    pub fn work(&self) -> u64 {
        (self.compared + self.caches.borrow().followed) as u64
    }

    /// Ready for the next reading.
    pub(super) fn start(&mut self, plan: &Plan) {
        self.hits.reset(plan.groups.len());
        self.called.clear();
        self.stamps.resize(plan.rules.len(), 0);
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.stamps.fill(0);
            self.stamp = 1;
        }
    }
}

/// The keywords of one folded text: hits by group, rules called, groups of letters seen. Text
/// without letters beyond ASCII never meets the keywords of other scripts.
/// `counts` are those of the text, if it was counted; `wordy`: rules that look for numbers will not
/// be judged.
pub(super) fn walk(
    plan: &Plan,
    text: &str,
    ascii: bool,
    counts: Option<&Counts>,
    wordy: bool,
    scratch: &mut Scratch,
) {
    let Scratch {
        hits,
        called,
        stamps,
        stamp,
        seen,
        compared,
        ..
    } = scratch;
    seen.clear();
    let mut found = |pattern: u32, end: usize| {
        let mut call = |rule| call(called, stamps, *stamp, rule);
        hit(plan, pattern as usize, text, end, hits, &mut call);
    };
    let own;
    let counts = match counts {
        Some(counts) => counts,
        None => {
            own = Counts::of(text);
            &own
        }
    };
    let plain = if wordy { &plan.wordy } else { &plan.plain };
    *compared += plain.walk(text, counts, seen, &mut found);
    if !ascii {
        *compared += plan.wide.walk(text, counts, &mut found);
    }
    hits.sort();
}

/// A keyword was found: its groups are told, and the rules that wait for them.
fn hit(
    plan: &Plan,
    pattern: usize,
    text: &str,
    end: usize,
    hits: &mut Hits,
    call: &mut impl FnMut(u16),
) {
    let wait = plan.keywords[pattern];
    let start = end - wait.len as usize;
    for posting in &plan.postings[wait.from as usize..wait.to as usize] {
        if !(begins(text, start, posting.starts) && stops(text, end, posting.ends)) {
            continue;
        }
        let group = posting.group as usize;
        let does = plan.groups[group];
        if !hits.seen[group] {
            hits.seen[group] = true;
            hits.touched.push(posting.group);
            for rule in &plan.calls[does.from as usize..does.to as usize] {
                call(*rule);
            }
        }
        if does.placed && hits.places[group].len() < MAX_GROUP_HITS {
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

fn begins(text: &str, at: usize, edge: Edge) -> bool {
    match (edge, text.as_bytes()[..at].last()) {
        (Edge::Any, _) | (_, None) => true,
        (Edge::Ascii, Some(b)) => !(b.is_ascii_alphanumeric() || *b == b'_'),
        (Edge::Word, Some(b)) if b.is_ascii() => !b.is_ascii_alphanumeric(),
        (Edge::Word, Some(_)) => !text[..at].chars().next_back().is_some_and(joins_words),
    }
}

fn stops(text: &str, at: usize, edge: Edge) -> bool {
    match (edge, text.as_bytes().get(at)) {
        (Edge::Any, _) | (_, None) => true,
        (Edge::Ascii, Some(b)) => !(b.is_ascii_alphanumeric() || *b == b'_'),
        (Edge::Word, Some(b)) if b.is_ascii() => !b.is_ascii_alphanumeric(),
        (Edge::Word, Some(_)) => !text[at..].chars().next().is_some_and(joins_words),
    }
}

/// Letters next to which a word goes on; scripts without blanks end a word of another script.
fn joins_words(c: char) -> bool {
    c.is_alphanumeric() && !crate::rule::unspaced(c)
}
