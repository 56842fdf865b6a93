//! One lane of sequence numbers: what was seen, and what is missing.

use std::collections::BTreeMap;

/// Minutes whose declarations a lane keeps; beyond it the two oldest are one. More than any grace has.
const MAX_DECLARED: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Lane {
    /// Disjoint, ascending.
    pub(super) seen: Vec<(u64, u64)>,
    /// Numbers below this are judged.
    pub(super) floor: u64,
    /// Declared and not yet used to explain a hole: (minute, events), ascending.
    pub(super) declared: Vec<(i64, u64)>,
    /// Open holes: (from, to) → minute of notice.
    pub(super) holes: BTreeMap<(u64, u64), i64>,
    /// Whether the gateway was known when the lane began: what is missing before its first number
    /// is a restart's loss; otherwise we joined late.
    pub(super) restart: bool,
    pub(super) last_minute: i64,
}

impl Lane {
    /// Notes that the publisher says it discarded `events`.
    pub(super) fn declare(&mut self, minute: i64, events: u64) {
        if events == 0 {
            return;
        }
        match self.declared.last_mut() {
            Some((m, n)) if *m == minute => *n = n.saturating_add(events),
            _ => self.declared.push((minute, events)),
        }
        if self.declared.len() > MAX_DECLARED {
            let (_, oldest) = self.declared.remove(0);
            self.declared[0].1 = self.declared[0].1.saturating_add(oldest);
        }
    }

    /// What declarations leave of a hole of `n`, the oldest used first.
    pub(super) fn explain(&mut self, n: u64) -> u64 {
        let mut rest = n;
        for (_, declared) in &mut self.declared {
            let used = rest.min(*declared);
            *declared -= used;
            rest -= used;
        }
        self.declared.retain(|(_, n)| *n > 0);
        rest
    }

    /// Forgets declarations from before a minute: a publisher that numbers only what it sends declares without
    /// a hole, and that must not pay for a later loss.
    pub(super) fn forget_declared(&mut self, before: i64) {
        self.declared.retain(|(minute, _)| *minute >= before);
    }

    /// Holes noticed up to a minute.
    pub(super) fn due(&self, through: i64) -> Vec<(u64, u64)> {
        let due = self.holes.iter().filter(|(_, n)| **n <= through);
        due.map(|(hole, _)| *hole).collect()
    }

    /// A minute does not count.
    pub(super) fn wait(&mut self) {
        self.holes.values_mut().for_each(|noticed| *noticed += 1);
        self.declared
            .iter_mut()
            .for_each(|(minute, _)| *minute += 1);
    }

    /// Numbers in open holes.
    pub(super) fn missing(&self) -> u64 {
        let sizes = self.holes.keys().map(|(a, b)| (b - a).saturating_add(1));
        sizes.fold(0, u64::saturating_add)
    }

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
        before.saturating_sub(self.missing())
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
