//! What is on its way: which offsets of a partition may be committed.

use std::collections::VecDeque;
use std::time::Instant;

use crate::event::TopicPartition;

/// One assigned partition of the topic that is read.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) tp: TopicPartition,
    /// Offset that the next record is expected at.
    pub(super) next: i64,
    /// Kafka's end of the partition, when asked last.
    pub(super) high: i64,
    /// When a record came last, or none was there.
    pub(super) progress: Instant,
    /// Offsets that wait for a delivery report, in order; true: theirs came, an earlier one's did not.
    open: VecDeque<(i64, bool)>,
    /// What was committed last.
    pub(super) committed: i64,
    /// Kafka has nothing before this offset any more, and we are before it.
    pub(super) lost: Option<i64>,
    /// The record at this offset is too large to be fetched.
    pub(super) oversize: Option<i64>,
}

impl Part {
    pub(super) fn new(tp: TopicPartition, next: i64, high: i64) -> Self {
        Self {
            tp,
            next,
            high,
            progress: Instant::now(),
            open: VecDeque::new(),
            committed: next,
            lost: None,
            oversize: None,
        }
    }

    /// A record was read and waits for a report. Offsets only grow.
    pub(super) fn open(&mut self, offset: i64) {
        self.open.push_back((offset, false));
        self.next = offset + 1;
        self.progress = Instant::now();
    }

    /// A record was read and needs none.
    pub(super) fn pass(&mut self, offset: i64) {
        self.next = offset + 1;
        self.progress = Instant::now();
    }

    /// The report about an offset came.
    pub(super) fn done(&mut self, offset: i64) {
        if let Ok(i) = self.open.binary_search_by_key(&offset, |o| o.0) {
            self.open[i].1 = true;
        }
        while self.open.front().is_some_and(|o| o.1) {
            self.open.pop_front();
        }
    }

    /// First offset that is not acknowledged, or not read: what may be committed.
    pub(super) fn safe(&self) -> i64 {
        self.open.front().map_or(self.next, |o| o.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_committed_only_when_everything_below_is_acknowledged() {
        let tp = TopicPartition {
            topic: "t".into(),
            partition: 0,
        };
        let mut p = Part::new(tp, 10, 20);
        assert_eq!(p.safe(), 10);
        p.open(10);
        p.open(12);
        p.pass(13);
        p.open(14);
        assert_eq!((p.next, p.safe()), (15, 10));
        p.done(12);
        p.done(14);
        assert_eq!(p.safe(), 10, "10 is still on its way");
        p.done(10);
        assert_eq!(p.safe(), 15);
        p.done(10);
        p.pass(15);
        assert_eq!(p.safe(), 16, "a report that comes twice changes nothing");
    }
}
