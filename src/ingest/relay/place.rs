//! How far each partition of the raw topic is.

use std::time::Instant;

use crate::event::TopicPartition;

/// One assigned partition of the topic that is read.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) tp: TopicPartition,
    /// Offset that the next record is expected at: everything below is in a transaction, open or committed.
    pub(super) next: i64,
    /// Kafka's end of the partition, when asked last.
    pub(super) high: i64,
    /// When a record came last, or none was there.
    pub(super) progress: Instant,
    /// The group's offset.
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
            committed: next,
            lost: None,
            oversize: None,
        }
    }

    /// What stands at an offset is dealt with. Offsets only grow.
    pub(super) fn pass(&mut self, offset: i64) {
        self.next = offset + 1;
        self.progress = Instant::now();
    }
}
