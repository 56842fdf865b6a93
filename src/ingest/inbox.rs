//! The queue between the poll thread and one pipeline worker.
//!
//! Bounded by the poll thread, which keeps at most one batch of each partition in it; control
//! messages always enter, since losing one would leave a partition half revoked. The worker takes
//! everything at once, so that one transaction can carry several partitions.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Delivery;

#[derive(Debug)]
struct Queue<C> {
    items: VecDeque<Delivery<C>>,
    /// Whether the worker is waiting for work.
    idle: bool,
    closed: bool,
}

#[derive(Debug)]
struct Shared<C> {
    queue: Mutex<Queue<C>>,
    filled: Condvar,
    drained: Condvar,
}

/// Both ends of the queue; cheap to clone.
#[derive(Debug)]
pub struct Inbox<C>(Arc<Shared<C>>);

impl<C> Clone for Inbox<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> Default for Inbox<C> {
    fn default() -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::new(Queue {
                items: VecDeque::new(),
                idle: false,
                closed: false,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
        }))
    }
}

impl<C> Inbox<C> {
    fn lock(&self) -> MutexGuard<'_, Queue<C>> {
        // A panic of the other side leaves the queue whole: pushes and takes are single calls.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. That a partition stands at its end is asked each second, whether or not the worker
    /// takes anything: a newer answer takes the place of one that waits.
    pub fn push(&self, d: Delivery<C>) {
        let mut q = self.lock();
        if let Delivery::AtEnd { tp, .. } = &d {
            let same =
                |d: &Delivery<C>| matches!(d, Delivery::AtEnd { tp: waits, .. } if waits == tp);
            q.items.retain(|d| !same(d));
        }
        q.items.push_back(d);
        drop(q);
        self.0.filled.notify_one();
    }

    /// Whether the worker waits and nothing is queued: a batch may be closed early.
    pub fn is_hungry(&self) -> bool {
        let q = self.lock();
        q.idle && q.items.is_empty()
    }

    /// Whether a batch of this partition is queued already.
    pub fn holds(&self, tp: &crate::event::TopicPartition) -> bool {
        let q = self.lock();
        q.items
            .iter()
            .any(|d| matches!(d, Delivery::Batch(b) if b.tp == *tp))
    }

    /// Waits until the worker has taken something or the time is over. For the poll thread, which
    /// must not wait longer than heartbeats allow.
    pub fn wait_drained(&self, timeout: Duration) {
        let q = self.lock();
        if !q.items.is_empty() {
            drop(
                self.0
                    .drained
                    .wait_timeout(q, timeout)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }

    /// Ends the queue: the worker finishes what is in it.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.filled.notify_all();
    }

    /// Takes everything, waiting up to `timeout` for the first. `None` once closed and empty.
    pub fn take(&self, timeout: Duration) -> Option<VecDeque<Delivery<C>>> {
        let deadline = Instant::now() + timeout;
        let mut q = self.lock();
        loop {
            if !q.items.is_empty() {
                q.idle = false;
                let items = std::mem::take(&mut q.items);
                drop(q);
                self.0.drained.notify_all();
                return Some(items);
            }
            if q.closed {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(VecDeque::new());
            }
            q.idle = true;
            q = self
                .0
                .filled
                .wait_timeout(q, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{SmolStr, TopicPartition};

    #[test]
    fn what_is_asked_each_second_does_not_pile_up() {
        let inbox: Inbox<()> = Inbox::default();
        let at_end = |partition, offset| Delivery::AtEnd {
            tp: TopicPartition {
                topic: SmolStr::new("t"),
                partition,
            },
            claim: crate::ingest::Uuid::from_bytes([0; 16]),
            offset,
            asked: Instant::now(),
        };
        for second in 0..10_000 {
            for partition in 0..3 {
                inbox.push(at_end(partition, second));
            }
        }
        let taken = inbox.take(Duration::ZERO).expect("open");
        let newest = |d: &Delivery<()>| matches!(d, Delivery::AtEnd { offset: 9_999, .. });
        assert!(taken.len() == 3 && taken.iter().all(newest));
    }
}
