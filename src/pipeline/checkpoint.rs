//! When a partition's checkpoint is written.
//!
//! Every so many records of the process or so much time, whichever is first, chosen so that the
//! replay after a crash fits the recovery target. Partitions take turns: each starts its count at
//! another point, and a transaction carries few, so that no batch carries all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::event::TopicPartition;

/// Checkpoints in one transaction. An overdue partition goes first in the next.
const PER_TRANSACTION: u32 = 2;

/// The worker's schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    /// A partition is due after so many records of the worker …
    every_records: u64,
    /// … or after this time.
    every: Duration,
    /// Records of the worker so far.
    pub(super) records: u64,
    /// Partitions that commit alone after their next claim.
    pub(super) solo: BTreeSet<TopicPartition>,
    /// Partitions whose batches are cut to so many records: more took Postgres too long.
    pub(super) limits: BTreeMap<TopicPartition, usize>,
    /// Partitions that halt at once when they are claimed anew: at which offset, and why.
    pub(super) halting: BTreeMap<TopicPartition, (i64, &'static str)>,
    next_phase: u32,
}

/// When one partition was written last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    records: u64,
    at: Instant,
}

/// What a transaction may still carry.
#[derive(Debug)]
pub(super) struct Turn {
    every_records: u64,
    every: Duration,
    records: u64,
    left: u32,
}

/// Phases over which partitions spread their turns.
const PHASES: u32 = 16;

impl Schedule {
    pub(super) fn new(every_records: u64, every: Duration) -> Self {
        Self {
            every_records,
            every,
            records: 0,
            solo: BTreeSet::new(),
            limits: BTreeMap::new(),
            halting: BTreeMap::new(),
            next_phase: 0,
        }
    }

    /// A new partition's place in the turns.
    pub(super) fn join(&mut self) -> Last {
        // Golden-ratio steps spread any number of partitions evenly.
        self.next_phase = (self.next_phase + 7) % PHASES;
        let share = f64::from(self.next_phase) / f64::from(PHASES);
        let ahead = self.every.mul_f64(share);
        let records = self.every_records * u64::from(self.next_phase) / u64::from(PHASES);
        Last {
            // A partition that is counted as written earlier is due earlier.
            records: self.records.saturating_sub(records),
            at: Instant::now()
                .checked_sub(ahead)
                .unwrap_or_else(Instant::now),
        }
    }

    pub(super) fn begin(&self) -> Turn {
        Turn {
            every_records: self.every_records,
            every: self.every,
            records: self.records,
            left: PER_TRANSACTION,
        }
    }
}

/// Sizes that batches are cut to, one after the other, while they take Postgres too long.
const SMALLER: [usize; 4] = [256, 32, 4, 1];

/// The next smaller size; `None` behind the smallest.
pub(super) fn smaller(than: Option<usize>) -> Option<usize> {
    SMALLER
        .into_iter()
        .find(|n| than.is_none_or(|than| *n < than))
}

impl Turn {
    /// Whether this partition writes its checkpoint now; then its count starts anew.
    pub(super) fn take(&mut self, last: &mut Last) -> bool {
        let due = self.records.saturating_sub(last.records) >= self.every_records
            || last.at.elapsed() >= self.every;
        if !due || self.left == 0 {
            return false;
        }
        self.left -= 1;
        *last = Last {
            records: self.records,
            at: Instant::now(),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_become_smaller_down_to_one_record() {
        let mut sizes = vec![smaller(None)];
        while let Some(Some(n)) = sizes.last() {
            sizes.push(smaller(Some(*n)));
        }
        assert_eq!(sizes, [Some(256), Some(32), Some(4), Some(1), None]);
    }

    #[test]
    fn partitions_take_turns_and_none_is_forgotten() {
        let mut s = Schedule::new(1_600, Duration::from_secs(3_600));
        let mut lasts: Vec<Last> = (0..16).map(|_| s.join()).collect();
        let mut written = vec![0; 16];
        let mut most = 0;
        for _ in 0..100 {
            s.records += 100;
            let mut turn = s.begin();
            let mut now = 0;
            for (i, last) in lasts.iter_mut().enumerate() {
                if turn.take(last) {
                    written[i] += 1;
                    now += 1;
                }
            }
            most = most.max(now);
        }
        assert!(most <= PER_TRANSACTION, "{most}");
        assert!(written.iter().all(|w| (5..=8).contains(w)), "{written:?}");
    }
}
