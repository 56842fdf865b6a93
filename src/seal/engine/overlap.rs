//! Which rule names a value that several found: one value, one name.
//!
//! Values of one decoded reading are told apart by their places in what was decoded: all of an
//! encoded run stand at the same place of the input.

use std::collections::BTreeMap;

use super::compile::Compiled;
use super::evaluate::{Page, Span};
use super::{Found, MAX_FOUND, ValueKind};
use crate::event::{Severity, Stage};
use crate::rule::{Area, Rule};
use crate::seal::reading::View;
use crate::seal::reading::map::Map;
use crate::seal::value;

/// A value before it is known whether another rule names it.
struct Candidate {
    rule: u16,
    /// Bytes of the input.
    start: usize,
    end: usize,
    /// Bytes of the reading's text before folding; those of the input where it has none.
    own: (usize, usize),
    context: bool,
    /// Index of the reading: the text itself first.
    view: usize,
    text: String,
}

/// All values that rules found in a text.
#[derive(Default)]
pub(super) struct Pool {
    candidates: Vec<Candidate>,
    dropped: u32,
}

impl Pool {
    /// Adds a rule's spans of one reading.
    pub(super) fn add(
        &mut self,
        index: u16,
        at: usize,
        view: &View,
        page: &Page<'_>,
        spans: &[Span],
    ) {
        for span in spans {
            if self.candidates.len() >= 4 * MAX_FOUND {
                self.dropped += 1;
                continue;
            }
            let through = |map: &Map, (from, to): (usize, usize)| (map.start(from), map.end(to));
            let span_here = (span.from, span.to);
            // The text before folding: decoded, or the input itself.
            let before = page.spelt.map_or(span_here, |map| through(map, span_here));
            let ((start, end), own) = match (&view.plain, page.map) {
                (Some((_, plain_map)), Some(_)) => (through(plain_map, before), before),
                (Some(_), None) => (
                    through(&view.map, span_here),
                    through(&view.inner, span_here),
                ),
                (None, Some(_)) if at == 0 => (before, before),
                (None, _) => {
                    let source = through(&view.map, span_here);
                    (source, source)
                }
            };
            self.candidates.push(Candidate {
                rule: index,
                start,
                end: end.max(start),
                own,
                context: span.context,
                view: at,
                text: page.text.get(span.from..span.to).unwrap_or("").to_owned(),
            });
        }
    }

    /// Keeps the best of overlapping values; counts hits by rule. Also how many were left out.
    pub(super) fn resolve(
        self,
        rules: &[Compiled],
        text: &str,
        ascii: bool,
        counts: &mut BTreeMap<u16, u32>,
    ) -> (Vec<Found>, u32) {
        let mut dropped = self.dropped;
        if self.candidates.is_empty() {
            return (Vec::new(), dropped);
        }
        let mut order: Vec<&Candidate> = self.candidates.iter().collect();
        order.sort_by_cached_key(|c| rank(c, &rules[usize::from(c.rule)].rule));
        // Accepted spans, per area. What only counts in the shadow must not push aside what counts.
        let mut taken: [Taken; 4] = Default::default();
        let mut kept: Vec<&Candidate> = Vec::new();
        for candidate in order {
            let rule = &rules[usize::from(candidate.rule)].rule;
            let shadow = rule.stage == Stage::Shadow || rule.window.is_some();
            let secret = rule.area == Area::Secret;
            let own = usize::from(shadow) * 2 + usize::from(secret);
            let other = usize::from(shadow) * 2 + usize::from(!secret);
            if taken[own].covering(candidate).is_some()
                || taken[other]
                    .covering(candidate)
                    .is_some_and(|(by, span)| explains(by, !secret, span))
            {
                continue;
            }
            if kept.len() >= MAX_FOUND {
                dropped += 1;
                continue;
            }
            taken[own].insert(candidate);
            kept.push(candidate);
        }
        kept.sort_by_key(|c| (c.start, c.end, c.view, c.own, c.rule));
        let mut chars = Chars::new(text, ascii);
        let mut values = Vec::with_capacity(kept.len());
        for candidate in kept {
            let rule = &rules[usize::from(candidate.rule)].rule;
            let n = counts.entry(candidate.rule).or_insert(0);
            *n = n.saturating_add(1);
            if rule.window.is_some() {
                continue;
            }
            values.push(Found {
                rule: rule.id.clone(),
                kind: if rule.area == Area::Secret {
                    ValueKind::Secret
                } else {
                    ValueKind::Pii
                },
                entity: rule.kind.clone(),
                typed: rule.typed,
                stage: rule.stage,
                start: chars.at(candidate.start),
                end: chars.at(candidate.end),
                canonical: value::canonical(&rule.kind, &candidate.text),
            });
        }
        (values, dropped)
    }
}

/// Smaller is better. Typed secrets name a value before personal data, personal data before generic
/// secrets, and those before links; then the rule's priority, a context word near, the text itself before decoded readings,
/// the longer value, the graver rule, the id.
fn rank(c: &Candidate, rule: &Rule) -> impl Ord + use<> {
    let class = match (rule.area, rule.typed) {
        (Area::Secret, true) => 0_u8,
        (Area::Secret, false) => 2,
        // A link is personal by whose page it is: a credential inside it says more.
        _ if rule.level == Severity::Informational => 3,
        _ => 1,
    };
    (
        class,
        100 - rule.priority.min(100),
        !c.context,
        c.view,
        usize::MAX - (c.end - c.start),
        std::cmp::Reverse(rule.level),
        c.rule,
        c.start,
    )
}

/// First and last-but-one byte of a value.
type Place = (usize, usize);

/// Accepted spans. Those of one reading never overlap in its own text; in the input they may, if
/// they were decoded from the same run.
#[derive(Default)]
struct Taken {
    /// By start in the input; where spans of one reading overlap, their union. With the reading.
    input: BTreeMap<usize, (usize, usize)>,
    /// By reading and start in its own text.
    own: BTreeMap<(usize, usize), usize>,
}

impl Taken {
    /// The accepted span that overlaps this one, if any, and this one's, in the same text.
    fn covering(&self, c: &Candidate) -> Option<(Place, Place)> {
        let (start, end) = c.own;
        let own = self
            .own
            .range((c.view, 0)..(c.view, end.max(start + 1)))
            .next_back()
            .filter(|(_, taken)| **taken > start)
            .map(|((_, a), b)| ((*a, *b), c.own));
        own.or_else(|| {
            let (start, end) = (c.start, c.end);
            self.overlapping(start, end)
                .find(|(_, (_, view))| *view != c.view)
                .map(|(a, (b, _))| ((a, b), (start, end)))
        })
    }

    /// Spans of the input that overlap this one, the last first.
    fn overlapping(
        &self,
        start: usize,
        end: usize,
    ) -> impl Iterator<Item = (usize, (usize, usize))> + '_ {
        self.input
            .range(..end.max(start + 1))
            .rev()
            .take_while(move |(_, (taken, _))| *taken > start)
            .map(|(a, b)| (*a, *b))
    }

    fn insert(&mut self, c: &Candidate) {
        self.own.insert((c.view, c.own.0), c.own.1);
        let (mut start, mut end) = (c.start, c.end);
        let last = |taken: &Self, start, end| taken.overlapping(start, end).next();
        while let Some((a, (b, _))) = last(self, start, end) {
            self.input.remove(&a);
            (start, end) = (start.min(a), end.max(b));
        }
        self.input.insert(start, (end, c.view));
    }
}

/// Whether an accepted value of the other area says what this one is. A phone number inside a token
/// is none; a token inside a link is one, and the link stays a link.
fn explains(by: (usize, usize), by_secret: bool, span: (usize, usize)) -> bool {
    let shared = by.1.min(span.1) - by.0.max(span.0);
    let (by_len, len) = (by.1 - by.0, span.1 - span.0);
    shared * 5 >= len * 4 && (by_secret || by_len <= len * 2)
}

/// Byte offsets as character offsets, asked in nearly ascending order.
struct Chars<'t> {
    text: &'t str,
    ascii: bool,
    byte: usize,
    chars: usize,
}

impl<'t> Chars<'t> {
    fn new(text: &'t str, ascii: bool) -> Self {
        Self {
            text,
            ascii,
            byte: 0,
            chars: 0,
        }
    }

    fn at(&mut self, byte: usize) -> usize {
        if self.ascii {
            return byte;
        }
        if byte >= self.byte {
            self.chars += self.text[self.byte..byte].chars().count();
        } else {
            self.chars -= self.text[byte..self.byte].chars().count();
        }
        self.byte = byte;
        self.chars
    }
}
