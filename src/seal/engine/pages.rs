//! What rules see of one reading.

use std::cell::{OnceCell, RefCell};

use super::check::Caches;
use super::compile::Compiled;
use super::digits::Digits;
use super::evaluate::Page;
use super::regex::Regex;
use super::walk::Hits;
use crate::rule::{Area, ReadingKind, Scope};
use crate::seal::reading::map::Map;
use crate::seal::reading::scout::{Counts, longest};
use crate::seal::reading::{Readings, View};

/// Where a rule looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// Bits of the readings.
    pub readings: u8,
    pub scope: Scope,
    /// Too weak for decoded, reversed and rotated readings.
    pub open_only: bool,
}

impl Compiled {
    pub(super) fn sight(&self) -> Sight {
        Sight {
            readings: self.rule.readings,
            scope: self.rule.scope,
            open_only: self.rule.area == Area::Injection && self.rule.weight < super::STRONG,
        }
    }
}

/// Runs without blanks that ordinary words do not reach, bytes.
const SHORT_RUN: usize = 20;

/// What rules see of one reading: the text before folding, or the folded one.
pub(super) struct Pages<'a> {
    /// The input itself, or what was decoded; repaired readings have only their folded text.
    pub raw: Option<&'a str>,
    raw_map: Option<&'a Map>,
    raw_ascii: bool,
    pub digits: Digits,
    counts: Option<&'a Counts>,
    longest: OnceCell<usize>,
    folded: &'a str,
    folded_ascii: bool,
    /// Whether the raw, and the folded text have short runs only.
    short: [OnceCell<bool>; 2],
    hits: &'a Hits,
    caches: &'a RefCell<Caches>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(
        input: &'a str,
        readings: &'a Readings,
        at: usize,
        view: &'a View,
        (hits, caches): (&'a Hits, &'a RefCell<Caches>),
    ) -> Self {
        let (raw, raw_map) = match (&view.plain, at) {
            (Some((plain, _)), _) => (Some(plain.as_str()), Some(&view.inner)),
            (None, 0) => (Some(input), Some(&view.map)),
            (None, _) => (None, None),
        };
        let counts = readings.counts.as_ref().filter(|_| at == 0);
        let digits = raw
            .filter(|_| counts.is_none_or(|c| c.digits() > 0))
            .map_or_else(Digits::default, Digits::of);
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
            digits,
            counts,
            longest: OnceCell::new(),
            folded: &view.text,
            folded_ascii: (at == 0 && readings.ascii) || view.text.is_ascii(),
            short: Default::default(),
            hits,
            caches,
        }
    }

    /// Whether the text has the bytes that a rule needs which reads it before folding.
    pub(super) fn feeds(&self, rule: &Compiled, kind: ReadingKind, at: usize) -> bool {
        let Some(raw) = self
            .raw
            .filter(|_| rule.raw && rule_reads_raw(rule, kind, at))
        else {
            return true;
        };
        let number = rule.condition.regex.as_ref().and_then(Regex::number);
        if number.is_some_and(|number| !self.digits.have(&number)) {
            return false;
        }
        let Some(counts) = self.counts else {
            return true;
        };
        let demand = &rule.demand;
        demand.signs.iter().all(|(sign, n)| counts.n(*sign) >= *n)
            && (demand.run < SHORT_RUN
                || *self
                    .longest
                    .get_or_init(|| longest(raw.as_bytes(), SHORT_RUN))
                    >= demand.run)
    }

    pub(super) fn of(&self, rule: &Compiled, kind: ReadingKind, at: usize) -> Page<'_> {
        match (rule.raw && rule_reads_raw(rule, kind, at), self.raw) {
            (true, Some(raw)) => Page {
                text: raw,
                hits: self.hits,
                map: self.raw_map,
                ascii: self.raw_ascii,
                short: &self.short[0],
                digits: Some(&self.digits),
                caches: self.caches,
            },
            _ => Page {
                text: self.folded,
                hits: self.hits,
                map: None,
                ascii: self.folded_ascii,
                short: &self.short[1],
                digits: None,
                caches: self.caches,
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
