//! What rules see of one reading.

use std::cell::{OnceCell, RefCell};

use super::check::Caches;
use super::compile::{Compiled, Condition};
use super::digits::{Digits, Number};
use super::evaluate::Page;
use super::regex::Regex;
use super::walk::Hits;
use crate::rule::demand::Demand;
use crate::rule::front::Front;
use crate::rule::{Area, ReadingKind, Scope};
use crate::seal::reading::map::Map;
use crate::seal::reading::scout::{Counts, longest};
use crate::seal::reading::spelling::Spelt;
use crate::seal::reading::{Readings, View};

/// Where a rule looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// Bits of the readings.
    pub readings: u8,
    pub scope: Scope,
    /// Too weak for decoded, reversed and rotated readings.
    pub open_only: bool,
    /// It looks for injections.
    injection: bool,
    /// It asks for bytes that a text must have before folding.
    fed: bool,
}

impl Sight {
    /// Whether the rule sees this reading before folding.
    fn reads_raw(self, kind: ReadingKind, at: usize) -> bool {
        let raw = self.readings & ReadingKind::Raw.bit() != 0;
        if self.injection {
            at == 0 && raw
        } else {
            !(at == 0 && !raw && self.readings & kind.bit() != 0)
        }
    }
}

/// What a rule that reads texts before folding asks of their bytes: apart from the rest of the rule,
/// since it is asked for many rules in a row of which few are judged.
#[derive(Debug)]
pub(super) struct Feed {
    /// Digits within so many bytes, and what stands before the first of them.
    number: Option<(usize, usize, Front)>,
    demand: Demand,
}

impl Compiled {
    pub(super) fn sight(&self) -> Sight {
        let injection = self.rule.area == Area::Injection;
        Sight {
            readings: self.rule.readings,
            scope: self.rule.scope,
            open_only: injection && self.rule.weight < super::STRONG,
            injection,
            fed: self.raw,
        }
    }

    /// What it asks of a raw text's bytes.
    pub(super) fn feed(&self) -> Feed {
        let number = self.condition.regex.as_ref().and_then(Regex::number);
        Feed {
            number: number.map(|number| (number.n, number.len, *number.front)),
            demand: demand(&self.condition),
        }
    }
}

/// What bytes a raw text must have for a condition to hold.
fn demand(node: &Condition) -> Demand {
    let own = node
        .regex
        .as_ref()
        .map_or_else(Demand::default, |r| r.pattern.study().demand.clone());
    node.all
        .iter()
        .fold(own, |all, child| all.and(&demand(child)))
}

/// Runs without blanks that ordinary words do not reach, bytes.
const SHORT_RUN: usize = 20;

/// What rules see of one reading: the text before folding, or the folded one.
pub(super) struct Pages<'a> {
    /// The input itself, or what was decoded; repaired readings have only their folded text.
    pub raw: Option<&'a str>,
    raw_map: Option<&'a Map>,
    /// Plain spelling → the text before folding, if that is what `raw` is.
    spelt: Option<&'a Map>,
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
            spelt: None,
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

    /// The same reading with the plain spelling of its text before folding in that one's place.
    pub(super) fn spelt(
        view: &'a View,
        spelt: &'a Spelt,
        (hits, caches): (&'a Hits, &'a RefCell<Caches>),
    ) -> Self {
        Self {
            raw: Some(&spelt.text),
            raw_map: Some(&spelt.inner),
            spelt: Some(&spelt.map),
            raw_ascii: spelt.text.is_ascii(),
            digits: Digits::of(&spelt.text),
            counts: None,
            longest: OnceCell::new(),
            folded: &view.text,
            folded_ascii: view.text.is_ascii(),
            short: Default::default(),
            hits,
            caches,
        }
    }

    /// Whether a rule has to look: in a plain spelling only those that look for values there.
    pub(super) fn serves(&self, sight: Sight, kind: ReadingKind, at: usize) -> bool {
        self.spelt.is_none() || (sight.fed && !sight.injection && sight.reads_raw(kind, at))
    }

    /// The text before folding, if a rule sees that of this reading and asks for its bytes.
    fn fed(&self, sight: Sight, kind: ReadingKind, at: usize) -> Option<&'a str> {
        self.raw.filter(|_| sight.fed && sight.reads_raw(kind, at))
    }

    /// Whether the text has the digits that a rule needs which reads it before folding.
    pub(super) fn has_number(
        &self,
        sight: Sight,
        feed: &Feed,
        kind: ReadingKind,
        at: usize,
    ) -> bool {
        feed.number.as_ref().is_none_or(|(n, len, front)| {
            let (n, len) = (*n, *len);
            self.fed(sight, kind, at).is_none() || self.digits.have(&Number { n, len, front })
        })
    }

    /// Whether the text has the other bytes that a rule needs which reads it before folding.
    pub(super) fn feeds(&self, sight: Sight, feed: &Feed, kind: ReadingKind, at: usize) -> bool {
        let (Some(raw), Some(counts)) = (self.fed(sight, kind, at), self.counts) else {
            return true;
        };
        let demand = &feed.demand;
        demand.signs.iter().all(|(sign, n)| counts.n(*sign) >= *n)
            && (demand.run < SHORT_RUN
                || *self
                    .longest
                    .get_or_init(|| longest(raw.as_bytes(), SHORT_RUN))
                    >= demand.run)
    }

    pub(super) fn of(&self, rule: &Compiled, kind: ReadingKind, at: usize) -> Page<'_> {
        match (rule.raw && rule.sight().reads_raw(kind, at), self.raw) {
            (true, Some(raw)) => Page {
                text: raw,
                hits: self.hits,
                map: self.raw_map,
                spelt: self.spelt,
                ascii: self.raw_ascii,
                short: &self.short[0],
                digits: Some(&self.digits),
                caches: self.caches,
            },
            _ => Page {
                text: self.folded,
                hits: self.hits,
                map: None,
                spelt: None,
                ascii: self.folded_ascii,
                short: &self.short[1],
                digits: None,
                caches: self.caches,
            },
        }
    }
}
