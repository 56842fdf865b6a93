//! One rule against one reading: which spans hold, or the step at which it stopped.

use std::cell::{OnceCell, RefCell};

use super::check::Caches;
use super::compile::{Compiled, Condition, GroupId};
use super::digits::Digits;
use super::regex::{Letters, REACH};
use super::search::matches;
use super::walk::Hits;
use crate::seal::reading::map::Map;
use crate::seal::value::shannon_entropy;

/// Most matches of one rule in one reading that are kept.
pub(super) const MAX_MATCHES: usize = 4_096;

/// Most characters between two values of a list, such as `, ` or ` and `, over which the second has the
/// context of the first: one heading stands above a whole column.
pub(super) const LIST_GAP: u32 = 6;

/// Where something holds, in bytes of the text the rule reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    /// The value inside.
    pub from: usize,
    pub to: usize,
    /// A context word stands near.
    pub context: bool,
}

/// Why a rule did not hit.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// Not its role or side.
    Scope,
    /// It does not look at this reading.
    Reading,
    /// No keyword occurs.
    Keyword,
    /// The regex matches nowhere.
    Regex,
    /// A part of `any` or `all` does not hold, or not near enough.
    Part,
    /// Something under `not` holds.
    Excluded,
    /// No context word near the value.
    Context,
    /// The value fails this check.
    Validator(&'static str),
    /// The value's entropy is too low.
    Entropy,
    /// An exception covers it.
    Exception,
    /// Another rule's value covers it.
    Overlapped,
}

/// A reading as one rule reads it.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    /// The text that regexes see.
    pub text: &'a str,
    /// Keyword hits, in bytes of the folded text.
    pub hits: &'a Hits,
    /// Folded offsets → offsets of `text`; `None` if they are the same.
    pub map: Option<&'a Map>,
    /// Offsets of `text` → offsets of the reading's text before folding, if `text` is its plain
    /// spelling.
    pub spelt: Option<&'a Map>,
    /// Whether `text` is ASCII (bytes are characters).
    pub ascii: bool,
    /// Whether no run without a blank in it is long; asked for once.
    pub short: &'a OnceCell<bool>,
    /// Digits of `text`; none in folded text.
    pub digits: Option<&'a Digits>,
    /// States of the checks around anchors.
    pub caches: &'a RefCell<Caches>,
}

impl Page<'_> {
    pub(super) fn place(&self, (start, end): (u32, u32)) -> (usize, usize) {
        let (start, end) = (start as usize, end as usize);
        match self.map {
            Some(map) => (map.start(start), map.end(end)),
            None => (start, end),
        }
    }

    /// Bytes that hold at least `chars` characters.
    pub(super) fn bytes(&self, chars: u32) -> usize {
        chars as usize * if self.ascii { 1 } else { 4 }
    }

    /// Whether a value that begins at `from` follows one that ended at `end` as in a list.
    fn listed(&self, end: usize, from: usize) -> bool {
        self.text.get(end..from).is_some_and(|gap| {
            !gap.bytes().any(|b| b.is_ascii_digit())
                && gap.len() <= self.bytes(LIST_GAP)
                && gap.chars().count() <= LIST_GAP as usize
        })
    }

    /// Whether at most `within` characters lie between two places.
    fn near(&self, a: (usize, usize), b: (usize, usize), within: u32) -> bool {
        let (from, to) = if a.1 <= b.0 {
            (a.1, b.0)
        } else if b.1 <= a.0 {
            (b.1, a.0)
        } else {
            return true;
        };
        let gap = to - from;
        gap <= within as usize
            || (!self.ascii
                && gap <= self.bytes(within)
                && self
                    .text
                    .get(from..to)
                    .is_some_and(|t| t.chars().count() <= within as usize))
    }
}

/// Judges a rule. On success its spans; else the furthest step it reached.
pub(super) fn judge(rule: &Compiled, page: &Page<'_>) -> Result<Vec<Span>, Stop> {
    if let Some((group, _, true)) = rule.context
        && !page.hits.seen(group)
    {
        return Err(Stop::Context);
    }
    let near = rule
        .context
        .filter(|(_, _, required)| *required)
        .map(|(group, within, _)| (group, within));
    let spans = hold(&rule.condition, page, near)?;
    let mut stop = Stop::Regex;
    let mut kept = Vec::new();
    let mut before = None;
    for mut span in spans {
        match check(rule, page, &mut span, &mut before) {
            Ok(()) => kept.push(span),
            Err(why) => stop = why,
        }
    }
    if kept.is_empty() { Err(stop) } else { Ok(kept) }
}

/// Entropy, validators, context and exceptions of one span. `before` is the end of the last value that
/// had context.
fn check(
    rule: &Compiled,
    page: &Page<'_>,
    span: &mut Span,
    before: &mut Option<usize>,
) -> Result<(), Stop> {
    let value = page.text.get(span.from..span.to).unwrap_or("");
    if rule.rule.min_entropy > 0.0 && shannon_entropy(value) < f64::from(rule.rule.min_entropy) {
        return Err(Stop::Entropy);
    }
    if let Some((group, within, required)) = rule.context {
        let near = context(page, group, within, (span.from, span.to))
            || before.is_some_and(|end| page.listed(end, span.from));
        if near {
            *before = Some(span.to);
        }
        span.context |= near;
        if required && !near {
            return Err(Stop::Context);
        }
    }
    for (name, valid) in &rule.validators {
        if !valid(value) {
            return Err(Stop::Validator(name));
        }
    }
    for exception in &rule.exceptions {
        if exception
            .get(Letters::of(value, 0, value.len()))
            .is_some_and(|re| re.is_match(value))
        {
            return Err(Stop::Exception);
        }
    }
    Ok(())
}

/// Whether a context word stands within reach of a value, and not only inside it.
fn context(page: &Page<'_>, group: GroupId, within: u32, value: (usize, usize)) -> bool {
    if page.hits.dense(group) {
        return true;
    }
    let hits = page.hits.of(group);
    // Hits come in the order of their ends.
    let after = hits.partition_point(|hit| page.place(*hit).1 <= value.0);
    if after > 0 && page.near(page.place(hits[after - 1]), value, within) {
        return true;
    }
    for hit in &hits[after..] {
        let hit = page.place(*hit);
        let inside = hit.0 >= value.0 && hit.1 <= value.1;
        if !inside {
            return page.near(hit, value, within);
        }
    }
    false
}

/// Spans of a condition.
fn hold(
    node: &Condition,
    page: &Page<'_>,
    near: Option<(GroupId, u32)>,
) -> Result<Vec<Span>, Stop> {
    if let Some(group) = node.keywords
        && !page.hits.seen(group)
    {
        return Err(Stop::Keyword);
    }
    let mut spans: Option<Vec<Span>> = None;
    if let Some(regex) = &node.regex {
        let mut found = matches(regex, node, page, near)?;
        if let (Some(group), Some(within)) = (node.keywords, node.within)
            && !page.hits.dense(group)
        {
            let mut before = None;
            found.retain(|s| {
                let hits = page.hits.of(group);
                let near = before.is_some_and(|end| page.listed(end, s.from))
                    || hits
                        .iter()
                        .any(|hit| page.near(page.place(*hit), (s.from, s.to), within));
                if near {
                    before = Some(s.to);
                }
                near
            });
            if found.is_empty() {
                return Err(Stop::Keyword);
            }
            // The provider's name near a value is a context word.
            for span in &mut found {
                span.context = true;
            }
        }
        spans = Some(found);
    } else if let Some(group) = node.keywords {
        spans = Some(
            page.hits
                .of(group)
                .iter()
                .map(|hit| {
                    let (start, end) = page.place(*hit);
                    whole(start, end)
                })
                .collect(),
        );
    }
    if !node.any.is_empty() {
        let mut found: Vec<Span> = Vec::new();
        let mut stop = Stop::Part;
        for child in &node.any {
            match hold(child, page, near) {
                Ok(more) => found.extend(more),
                Err(why) => stop = why,
            }
        }
        if found.is_empty() {
            return Err(stop);
        }
        found.sort_by_key(|s| (s.start, s.end));
        spans.get_or_insert(found);
    }
    if !node.all.is_empty() {
        let mut parts = Vec::with_capacity(node.all.len());
        for child in &node.all {
            parts.push(hold(child, page, near)?);
        }
        let found = together(page, &parts, node.within);
        if found.is_empty() {
            return Err(Stop::Part);
        }
        spans.get_or_insert(found);
    }
    let mut spans = spans.ok_or(Stop::Part)?;
    for child in &node.not {
        let Ok(found) = hold(child, page, near) else {
            continue;
        };
        match node.within {
            Some(within) => spans.retain(|s| {
                !found
                    .iter()
                    .any(|f| page.near((f.start, f.end), (s.start, s.end), within))
            }),
            None => spans.clear(),
        }
        if spans.is_empty() {
            return Err(Stop::Excluded);
        }
    }
    Ok(spans)
}

pub(super) fn whole(start: usize, end: usize) -> Span {
    Span {
        start,
        end,
        from: start,
        to: end,
        context: false,
    }
}

/// Spans of the first part that have one of each other part near; each spans them all.
fn together(page: &Page<'_>, parts: &[Vec<Span>], within: Option<u32>) -> Vec<Span> {
    let Some((first, others)) = parts.split_first() else {
        return Vec::new();
    };
    let Some(within) = within else {
        return first.clone();
    };
    let mut found = Vec::new();
    'spans: for span in first {
        let mut hull = *span;
        for part in others {
            let place = (hull.start, hull.end);
            let reach = page.bytes(within);
            // Parts are sorted by start; only those in reach are looked at.
            let from = part.partition_point(|p| p.start + reach + REACH_BACK < place.0);
            let near = part[from..]
                .iter()
                .take_while(|p| p.start <= place.1 + reach)
                .find(|p| page.near((p.start, p.end), place, within));
            let Some(near) = near else {
                continue 'spans;
            };
            hull.start = hull.start.min(near.start);
            hull.end = hull.end.max(near.end);
        }
        found.push(hull);
    }
    found
}

/// Longest span whose end may still be near although its start is not.
const REACH_BACK: usize = REACH;
