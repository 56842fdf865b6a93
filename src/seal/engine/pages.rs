//! What rules see of one reading.

use super::Engine;
use super::compile::{self, Compiled};
use super::evaluate::{self, Page};
use super::walk::Hits;
use crate::rule::{Area, ReadingKind};
use crate::seal::reading::map::Map;
use crate::seal::reading::{Readings, View};

/// What rules see of one reading: the text before folding, or the folded one.
pub(super) struct Pages<'a> {
    /// The input itself, or what was decoded; repaired readings have only their folded text.
    pub raw: Option<&'a str>,
    raw_map: Option<&'a Map>,
    raw_ascii: bool,
    pub zones: Vec<(usize, usize)>,
    folded: &'a str,
    folded_ascii: bool,
    hits: &'a Hits,
}

impl<'a> Pages<'a> {
    pub(super) fn new(
        engine: &Engine,
        input: &'a str,
        readings: &Readings,
        at: usize,
        view: &'a View,
        hits: &'a Hits,
    ) -> Self {
        let (raw, raw_map) = match (&view.plain, at) {
            (Some((plain, _)), _) => (Some(plain.as_str()), Some(&view.inner)),
            (None, 0) => (Some(input), Some(&view.map)),
            (None, _) => (None, None),
        };
        let digits = match (&readings.counts, at) {
            (Some(counts), 0) => counts.digits() >= compile::DIGITS,
            _ => true,
        };
        let zones = raw
            .filter(|_| digits)
            .map_or_else(Vec::new, |r| evaluate::digit_zones(r, engine.zone_reach()));
        let ascii = |text: &str| {
            if at == 0 {
                readings.ascii
            } else {
                text.is_ascii()
            }
        };
        Self {
            raw,
            raw_map,
            raw_ascii: raw.is_some_and(ascii),
            zones,
            folded: &view.text,
            folded_ascii: (at == 0 && readings.ascii) || view.text.is_ascii(),
            hits,
        }
    }

    pub(super) fn of(&self, rule: &Compiled, kind: ReadingKind, at: usize) -> Page<'_> {
        match (rule.raw && rule_reads_raw(rule, kind, at), self.raw) {
            (true, Some(raw)) => Page {
                text: raw,
                hits: self.hits,
                map: self.raw_map,
                ascii: self.raw_ascii,
                digit_zones: &self.zones,
            },
            _ => Page {
                text: self.folded,
                hits: self.hits,
                map: None,
                ascii: self.folded_ascii,
                digit_zones: &[],
            },
        }
    }
}

/// Whether the rule sees this reading before folding.
fn rule_reads_raw(rule: &Compiled, kind: ReadingKind, at: usize) -> bool {
    if rule.rule.area == Area::Injection {
        at == 0 && rule.rule.reads(ReadingKind::Raw)
    } else {
        !(at == 0 && !rule.rule.reads(ReadingKind::Raw) && rule.rule.reads(kind))
    }
}
