//! Which rule names a value that several found: one value, one name.

use std::collections::BTreeMap;

use super::compile::Compiled;
use super::evaluate::{Page, Span};
use super::{Found, MAX_FOUND, ValueKind};
use crate::event::{Severity, Stage};
use crate::rule::{Area, Rule};
use crate::seal::reading::View;
use crate::seal::value;

/// A value before it is known whether another rule names it.
struct Candidate {
    rule: u16,
    /// Bytes of the input.
    start: usize,
    end: usize,
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
            let (start, end) = match (&view.plain, page.map) {
                // The text before folding: decoded, or the input itself.
                (Some((_, plain_map)), Some(_)) => {
                    (plain_map.start(span.from), plain_map.end(span.to))
                }
                (None, Some(_)) if at == 0 => (span.from, span.to),
                _ => (view.map.start(span.from), view.map.end(span.to)),
            };
            self.candidates.push(Candidate {
                rule: index,
                start,
                end: end.max(start),
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
        // Accepted spans by start, per area; they never overlap within one map. What only counts in
        // the shadow must not push aside what counts.
        let mut taken: [BTreeMap<usize, usize>; 4] = Default::default();
        let mut kept: Vec<&Candidate> = Vec::new();
        for candidate in order {
            let rule = &rules[usize::from(candidate.rule)].rule;
            let shadow = rule.stage == Stage::Shadow || rule.window.is_some();
            let secret = rule.area == Area::Secret;
            let own = usize::from(shadow) * 2 + usize::from(secret);
            let other = usize::from(shadow) * 2 + usize::from(!secret);
            let span = (candidate.start, candidate.end);
            if covering(&taken[own], span).is_some()
                || covering(&taken[other], span).is_some_and(|by| explains(by, !secret, span))
            {
                continue;
            }
            if kept.len() >= MAX_FOUND {
                dropped += 1;
                continue;
            }
            taken[own].insert(candidate.start, candidate.end);
            kept.push(candidate);
        }
        kept.sort_by_key(|c| (c.start, c.end, c.rule));
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

/// The accepted span that overlaps this one, if any.
fn covering(
    taken: &BTreeMap<usize, usize>,
    (start, end): (usize, usize),
) -> Option<(usize, usize)> {
    taken
        .range(..end.max(start + 1))
        .next_back()
        .filter(|(_, other_end)| **other_end > start)
        .map(|(a, b)| (*a, *b))
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
