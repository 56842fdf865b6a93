//! One lane of sequence numbers: what was seen, and what is missing.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Lane {
    /// Disjoint, ascending.
    pub(super) seen: Vec<(u64, u64)>,
    /// Numbers below this are judged.
    pub(super) floor: u64,
    /// Declared and not yet used to explain a hole.
    pub(super) declared: u64,
    /// Open holes: (from, to) → minute of notice.
    pub(super) holes: BTreeMap<(u64, u64), i64>,
    /// Whether the gateway was known when the lane began: what is missing before its first number
    /// is a restart's loss; otherwise we joined late.
    pub(super) restart: bool,
    pub(super) last_minute: i64,
}

impl Lane {
    /// The gaps above the floor; one that was noticed before keeps its minute, also where events
    /// have split it.
    pub(super) fn rebuild_holes(&mut self, minute: i64) {
        let mut holes = BTreeMap::new();
        let mut next = self.floor;
        for (from, to) in &self.seen {
            if *to < self.floor {
                continue;
            }
            if *from > next {
                let gap = (next, *from - 1);
                let noticed = self
                    .holes
                    .iter()
                    .filter(|((a, b), _)| *a <= gap.1 && gap.0 <= *b)
                    .map(|(_, m)| *m)
                    .min();
                holes.insert(gap, noticed.unwrap_or(minute));
            }
            next = next.max(to.saturating_add(1));
        }
        self.holes = holes;
    }

    /// How much smaller the holes became, given their size before. New holes hide nothing: they
    /// make the difference smaller, never negative.
    pub(super) fn holes_filled(&self, before: u64) -> u64 {
        let now: u64 = self.holes.keys().map(|(a, b)| b - a + 1).sum();
        before.saturating_sub(now)
    }

    /// What is judged becomes one interval.
    pub(super) fn compact(&mut self) {
        let until = self
            .holes
            .keys()
            .next()
            .map(|h| h.0)
            .or_else(|| self.seen.last().map(|i| i.1.saturating_add(1)));
        let Some(until) = until else { return };
        self.floor = self.floor.max(until);
        let floor = self.floor;
        self.seen.retain(|(_, to)| to.saturating_add(1) >= floor);
    }
}
