//! Claiming partitions anew while they are assigned: after a lost claim, a halt, or standing still.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::Claims;
use super::super::context::{NoClaim, assign};
use super::Poller;
use crate::event::TopicPartition;
use crate::telemetry::metrics;

/// Claims in a row without progress after which the process ends, where another client can read what
/// ours does not get: a replica may do better.
const MAX_STALLS: u32 = 3;
/// Pause before a claim is tried again for which Kafka gave no offsets.
const UNANSWERED: Duration = Duration::from_secs(1);

impl<K: Claims> Poller<K> {
    pub(super) fn reclaim_later(&mut self, tp: TopicPartition, claim: uuid::Uuid, after: Duration) {
        if self.later.iter().all(|(_, _, c)| *c != claim) {
            self.later.push((Instant::now() + after, tp, claim));
        }
    }

    /// Claims a partition anew and starts it at the offset from Postgres.
    pub(super) fn reclaim(&mut self, tp: &TopicPartition, void: Option<uuid::Uuid>) {
        {
            let slots = self.shared.slots();
            let Some(s) = slots.iter().find(|s| s.tp == *tp) else {
                return;
            };
            if void.is_some_and(|v| v != s.claim) {
                return;
            }
        }
        tracing::warn!(topic = %tp.topic, partition = tp.partition, "claiming the partition anew");
        let stalls = self.stalls(tp);
        match self.shared.claim(std::slice::from_ref(tp), true) {
            Err(NoClaim::Refused(why)) => self.shared.fail(why),
            Err(NoClaim::Unanswered(why)) => {
                tracing::warn!(why, "not claimed, will retry");
                let claim = self
                    .shared
                    .slots()
                    .iter()
                    .find(|s| s.tp == *tp)
                    .map(|s| s.claim);
                if let Some(claim) = claim {
                    self.reclaim_later(tp.clone(), claim, UNANSWERED);
                }
            }
            Ok(starts) => {
                if let Some(s) = self.shared.slots().iter_mut().find(|s| s.tp == *tp) {
                    s.stalls = stalls;
                }
                self.restart(&starts);
            }
        }
    }

    pub(super) fn stalls(&self, tp: &TopicPartition) -> u32 {
        let slots = self.shared.slots();
        slots.iter().find(|s| s.tp == *tp).map_or(0, |s| s.stalls)
    }

    /// Starts partitions at new offsets: by a new assignment, since a seek does not reach a
    /// partition whose fetcher has stopped after an offset error.
    pub(super) fn restart(&self, starts: &[(TopicPartition, i64)]) {
        let mut list = TopicPartitionList::new();
        let cooperative = matches!(
            self.consumer.rebalance_protocol(),
            RebalanceProtocol::Cooperative
        );
        if cooperative {
            for (tp, from) in starts {
                let _ = list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(*from));
            }
            let _ = self.consumer.incremental_unassign(&list);
        } else {
            for s in self.shared.slots().iter_mut() {
                let _ =
                    list.add_partition_offset(&s.tp.topic, s.tp.partition, Offset::Offset(s.next));
                s.paused = false;
            }
        }
        if let Err(e) = assign(&self.consumer, &list) {
            self.shared.fail(format!("cannot restart partitions: {e}"));
        }
        let _ = self.consumer.resume(&list);
        self.shared.pause_halted(&self.consumer);
    }

    /// A partition that has records, is not paused, waits for nothing of ours and fetches nothing:
    /// its fetcher is stuck, or the record cannot be read. A new claim helps the first, the watching
    /// thread's probe finds the second. Silent brokers are neither.
    pub(super) fn watch_progress(&mut self) {
        if !self.shared.answering.load(Ordering::Relaxed) {
            return;
        }
        let limit = self.shared.config.progress_timeout;
        let mut stuck = Vec::new();
        for s in self.shared.slots().iter_mut() {
            let waiting = s.is_pending() && s.next >= s.floor;
            if s.halted.is_some() || s.paused || waiting || s.is_at_end() {
                continue;
            }
            if s.progress.elapsed() > limit {
                s.stalls += 1;
                s.progress = Instant::now();
                stuck.push((s.tp.clone(), s.stalls, s.readable));
            }
        }
        for (tp, stalls, readable) in stuck {
            metrics().watchdog.inc(&[&tp.topic]);
            self.shared.oversize.store(true, Ordering::Relaxed);
            if stalls > MAX_STALLS && readable {
                self.shared.fail(format!(
                    "{} partition {} has records that another client can read but none arrive, after {MAX_STALLS} new claims",
                    tp.topic, tp.partition
                ));
                return;
            }
            self.reclaim(&tp, None);
        }
    }
}
