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
    /// have split it. Gives the steps taken: gaps and old holes are both in order, so each is met about once,
    /// whatever a publisher leaves out.
    pub(super) fn rebuild_holes(&mut self, minute: i64) -> usize {
        let old: Vec<((u64, u64), i64)> = std::mem::take(&mut self.holes).into_iter().collect();
        let (mut first, mut steps) = (0, 0);
        let mut holes = Vec::new();
        let mut next = self.floor;
        for (from, to) in &self.seen {
            steps += 1;
            if *to < self.floor {
                continue;
            }
            if *from > next {
                let gap = (next, *from - 1);
                while old.get(first).is_some_and(|((_, end), _)| *end < gap.0) {
                    first += 1;
                    steps += 1;
                }
                let mut noticed = None;
                for ((_, end), at) in old[first..].iter().take_while(|((a, _), _)| *a <= gap.1) {
                    steps += 1;
                    noticed = Some(noticed.map_or(*at, |n: i64| n.min(*at)));
                    // The last one may reach into the next gap: it stays first.
                    if *end <= gap.1 {
                        first += 1;
                    }
                }
                holes.push((gap, noticed.unwrap_or(minute)));
            }
            next = next.max(to.saturating_add(1));
        }
        // They are in order, so the map is built in one go.
        self.holes = holes.into_iter().collect();
        steps
    }

    /// Closes the oldest intervals beyond `most`, with their holes. Gives how many were closed.
    pub(super) fn cut(&mut self, most: usize) -> u64 {
        let cut = self.seen.len().saturating_sub(most);
        if cut > 0 {
            self.floor = self.seen[cut].0;
            self.seen.drain(..cut);
            let floor = self.floor;
            self.holes.retain(|(from, _), _| *from >= floor);
        }
        cut as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every second number is missing: an interval and a hole for each event.
    fn gappy(n: u64) -> Lane {
        Lane {
            seen: (0..n).map(|i| (2 * i, 2 * i)).collect(),
            ..Lane::default()
        }
    }

    #[test]
    fn a_lane_full_of_gaps_costs_one_step_each() {
        let n = 65_536;
        let mut lane = gappy(n);
        let first = lane.rebuild_holes(1);
        assert_eq!(lane.holes.len(), 65_535);
        // Again over as many holes as there are gaps, and once more with those of half of them filled.
        let again = lane.rebuild_holes(2);
        lane.seen.retain(|(from, _)| from % 4 == 0);
        let fewer = lane.rebuild_holes(3);
        for steps in [first, again, fewer] {
            assert!(steps <= 4 * 65_536, "{steps} steps");
        }
        assert!(lane.holes.values().all(|noticed| *noticed == 1));
    }

    #[test]
    fn holes_keep_the_minute_in_which_they_were_noticed() {
        let mut lane = Lane {
            seen: vec![(0, 9), (20, 29), (40, 49)],
            ..Lane::default()
        };
        lane.rebuild_holes(1);
        // One hole is split by late events, one grows at its end, one is new.
        lane.seen = vec![(0, 9), (12, 13), (16, 17), (20, 29), (40, 49), (60, 60)];
        lane.rebuild_holes(5);
        let holes: Vec<_> = lane.holes.iter().map(|(h, m)| (*h, *m)).collect();
        let expected = [
            ((10, 11), 1),
            ((14, 15), 1),
            ((18, 19), 1),
            ((30, 39), 1),
            ((50, 59), 5),
        ];
        assert_eq!(holes, expected);
        // An interval between two holes was forgotten: the gap is as old as the older of them.
        lane.seen = vec![(0, 9), (20, 29), (60, 60)];
        lane.holes = [((10, 11), 3), ((14, 19), 2), ((30, 39), 4), ((50, 59), 5)].into();
        lane.rebuild_holes(6);
        let holes: Vec<_> = lane.holes.iter().map(|(h, m)| (*h, *m)).collect();
        assert_eq!(holes, [((10, 19), 2), ((30, 59), 4)]);
        // Everything below the floor is judged.
        assert_eq!(lane.cut(1), 2);
        assert!(lane.holes.is_empty());
        assert_eq!((lane.floor, lane.seen.len()), (60, 1));
    }
}
