//! The rebalance callback: claim in Postgres, then assign once, with the offsets from there.
//!
//! librdkafka calls it on the poll thread, from inside `poll`, so it may block on Postgres. The
//! pre/post hooks of rust-rdkafka would assign twice, first with wrong offsets, and its default
//! drops the return codes; so `rebalance` itself is overridden.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::ask::{self, Asker, all_watermarks, first_ts, watermarks};
use super::slot::Slot;
use super::{Claims, Delivery, Inbox, IngestConfig, said};
use crate::event::TopicPartition;
use crate::telemetry::{Health, metrics};

/// How long a revocation waits for the batch in flight. Longer would hold up the whole group; a
/// batch that is not done by then commits before the next claim or fails its fence.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the brokers may take to say where a partition ends that is claimed anew. The others wait
/// meanwhile, and it can be tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What the callback and the poll loop share. Both run on the same thread; the lock is for the
/// compiler and for the watching thread, which only looks.
pub(super) struct Shared<K: Claims> {
    pub(super) config: IngestConfig,
    pub(super) claims: Arc<K>,
    pub(super) inboxes: Vec<Inbox<K::State>>,
    pub(super) health: Health,
    slots: Mutex<Vec<Slot<K::State>>>,
    /// Why the process must end.
    fatal: Mutex<Option<String>>,
    /// A response was larger than we accept: some partition holds an oversize record.
    pub(super) oversize: AtomicBool,
    /// An error did not say which partition lost its place: the watching thread looks at all.
    pub(super) look: AtomicBool,
    /// Whether a broker answered in the last round of questions.
    pub(super) answering: AtomicBool,
    /// Asks the brokers, on a connection that never fetches.
    pub(super) asker: Asker,
}

/// Why partitions could not be claimed.
#[derive(Debug)]
pub(super) enum NoClaim {
    /// Kafka does not say where they begin and end.
    Unanswered(String),
    /// The place that holds the offsets refuses, or cannot be reached.
    Refused(String),
}

impl NoClaim {
    pub(super) fn why(self) -> String {
        match self {
            Self::Unanswered(why) | Self::Refused(why) => why,
        }
    }
}

impl<K: Claims> Shared<K> {
    pub(super) fn new(
        config: IngestConfig,
        claims: Arc<K>,
        inboxes: Vec<Inbox<K::State>>,
        health: Health,
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            asker: ask::ends_asker(&config)?,
            config,
            claims,
            inboxes,
            health,
            slots: Mutex::default(),
            fatal: Mutex::default(),
            oversize: AtomicBool::new(false),
            look: AtomicBool::new(false),
            answering: AtomicBool::new(true),
        })
    }

    pub(super) fn slots(&self) -> MutexGuard<'_, Vec<Slot<K::State>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, why: String) {
        let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.get_or_insert(why);
    }

    pub(super) fn failure(&self) -> Option<String> {
        let fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.clone()
    }

    fn inbox(&self, tp: &TopicPartition) -> Option<Inbox<K::State>> {
        let topic = self.config.topics.iter().position(|t| t.name == tp.topic);
        let n = topic.unwrap_or(0) + usize::try_from(tp.partition).unwrap_or(0);
        self.inboxes.get(n % self.inboxes.len().max(1)).cloned()
    }

    /// Claims partitions and makes their slots. Returns where to read from. `again`: they are
    /// assigned already, and a failure is not the end.
    pub(super) fn claim(
        &self,
        tps: &[TopicPartition],
        again: bool,
    ) -> Result<Vec<(TopicPartition, i64)>, NoClaim> {
        let budget = self.config.max_poll_interval / 2;
        let deadline = Instant::now() + budget;
        let answer = if again {
            Instant::now() + AGAIN.min(budget)
        } else {
            deadline
        };
        let marks =
            |tp: &TopicPartition| watermarks(&self.asker, tp, answer).map_err(NoClaim::Unanswered);
        let asked = all_watermarks(&self.asker, tps, answer).map_err(NoClaim::Unanswered)?;
        let lows = asked.iter().map(|(low, _)| *low);
        let wanted: Vec<_> = tps.iter().cloned().zip(lows).collect();
        let high = asked.iter().map(|(_, high)| *high);
        let left = deadline.saturating_duration_since(Instant::now());
        let claimed = self
            .claims
            .claim(&wanted, left)
            .map_err(|e| NoClaim::Refused(e.to_string()))?;
        let mut starts = Vec::with_capacity(tps.len());
        for (((tp, low), high), claim) in wanted.into_iter().zip(high).zip(claimed) {
            let Some(inbox) = self.inbox(&tp) else {
                return Err(NoClaim::Refused("no worker takes the partition".into()));
            };
            let mode = self.config.mode(&tp.topic);
            // One record more is read to compare it with the one that was applied last.
            let with_last = match claim.last {
                Some(_) => claim.next_offset - 1,
                None => claim.next_offset,
            };
            let from = claim.start.min(with_last).max(low);
            let gone = claim.next_offset < low;
            // The owner before us may have gone on after we asked: ask again before believing that
            // the topic was cut.
            let high = if claim.next_offset > high {
                marks(&tp)?.1
            } else {
                high
            };
            let beyond = claim.next_offset > high;
            let halted = claim.halted.is_some();
            let mut slot = Slot::new(tp.clone(), mode, &claim, from, inbox.clone());
            slot.high = high;
            inbox.push(Delivery::Assigned {
                tp: tp.clone(),
                mode,
                claim,
            });
            if beyond && self.config.accept_truncation {
                let to = self
                    .behind_cut(&tp, (low, high), slot.last_ts)?
                    .unwrap_or(high);
                slot.skip_to(to, "truncated");
            } else if beyond {
                slot.halt("truncated");
            } else if halted {
                slot.halted = Some("operator");
            } else if gone {
                slot.skip_to(low, "retention");
            }
            starts.push((tp.clone(), slot.next.min(high).max(low)));
            let mut slots = self.slots();
            slots.retain(|s| s.tp != tp);
            slots.push(slot);
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of partitions")]
        metrics().assigned.set(&[], self.slots().len() as f64);
        Ok(starts)
    }

    /// Where to go on in a topic that is not the one we read: at its first record if it was made anew,
    /// which is after the last record we applied; `None` if only its end was cut, since what is left of
    /// it was applied before and must not count twice.
    fn behind_cut(
        &self,
        tp: &TopicPartition,
        (low, high): (i64, i64),
        last_ts: i64,
    ) -> Result<Option<i64>, NoClaim> {
        if low >= high {
            return Ok(Some(low));
        }
        let Some(first) = first_ts(&self.config, tp, low) else {
            return Err(NoClaim::Unanswered(format!(
                "{} partition {} was cut or made anew, and its first record does not come: cannot tell which",
                tp.topic, tp.partition
            )));
        };
        // Without a last record (an operator moved the place) only the end is safe.
        let anew = last_ts != 0 && first > last_ts;
        tracing::warn!(
            topic = %tp.topic,
            partition = tp.partition,
            "topic was {}: going on, as configured",
            if anew { "made anew" } else { "cut" }
        );
        Ok(anew.then_some(low))
    }

    /// A partition that stands at `next` was found to be cut or made anew: goes on as configured, or
    /// halts.
    pub(super) fn cut(&self, tp: &TopicPartition, next: i64) {
        let last_ts = {
            let slots = self.slots();
            slots.iter().find(|s| s.tp == *tp).map(|s| s.last_ts)
        };
        let Some(last_ts) = last_ts else { return };
        // Asked without the lock: the poll thread needs it.
        let to = if self.config.accept_truncation {
            watermarks(&self.asker, tp, Instant::now() + AGAIN)
                .map_err(NoClaim::Unanswered)
                .and_then(|marks| {
                    let anew = self.behind_cut(tp, marks, last_ts)?;
                    Ok(anew.unwrap_or(next.min(marks.1)))
                })
                .inspect_err(|_| tracing::warn!(topic = %tp.topic, partition = tp.partition, "halted instead"))
                .ok()
        } else {
            None
        };
        let mut slots = self.slots();
        let found = slots
            .iter_mut()
            .find(|s| s.tp == *tp && s.halted.is_none() && s.next == next);
        let Some(s) = found else { return };
        match to {
            Some(to) => {
                s.skip_to(to, "truncated");
                s.restart_wanted = true;
            }
            None => {
                s.halt("truncated");
                s.pause_wanted = true;
            }
        }
    }

    fn assigned(&self, consumer: &BaseConsumer<Context<K>>, tpl: &TopicPartitionList) {
        metrics().rebalances.inc(&["assign"]);
        let tps = partitions(tpl);
        let starts = match self.claim(&tps, false) {
            Ok(s) => s,
            Err(no) => {
                self.fail(no.why());
                // The group waits for an answer to the callback; the loop ends right after.
                let _ = assign(consumer, &TopicPartitionList::new());
                return;
            }
        };
        let mut list = TopicPartitionList::with_capacity(starts.len());
        for (tp, from) in &starts {
            let _ = list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(*from));
        }
        if let Err(e) = assign(consumer, &list) {
            self.fail(format!("cannot take the assigned partitions: {e}"));
            return;
        }
        // A pause can survive a new assignment.
        let _ = consumer.resume(&list);
        self.pause_halted(consumer);
        self.health
            .set("kafka", true, format!("{} partitions", self.slots().len()));
        tracing::info!(partitions = starts.len(), "assigned");
    }

    /// Pauses what an operator must look at first.
    pub(super) fn pause_halted(&self, consumer: &BaseConsumer<Context<K>>) {
        let mut list = TopicPartitionList::new();
        for s in self.slots().iter().filter(|s| s.halted.is_some()) {
            list.add_partition(&s.tp.topic, s.tp.partition);
        }
        if list.count() > 0
            && let Err(error) = consumer.pause(&list)
        {
            tracing::warn!(%error, "cannot pause halted partitions");
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Context<K>>, tpl: &TopicPartitionList) {
        let lost = consumer.assignment_lost();
        metrics()
            .rebalances
            .inc(&[if lost { "lost" } else { "revoke" }]);
        let tps = partitions(tpl);
        let (done, waiting) = mpsc::channel();
        let mut asked = 0;
        {
            let mut slots = self.slots();
            slots.retain(|s| {
                if !tps.contains(&s.tp) {
                    return true;
                }
                asked += 1;
                s.inbox.push(Delivery::Revoked {
                    tp: s.tp.clone(),
                    done: done.clone(),
                });
                let part = s.tp.partition.to_string();
                metrics().lag.remove(&[&s.tp.topic, &part]);
                false
            });
        }
        if !lost {
            let deadline = Instant::now() + DRAIN;
            for _ in 0..asked {
                let left = deadline.saturating_duration_since(Instant::now());
                if waiting.recv_timeout(left).is_err() {
                    break;
                }
            }
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(tpl),
            _ => consumer.unassign(),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "cannot give partitions back");
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of partitions")]
        metrics().assigned.set(&[], self.slots().len() as f64);
        tracing::info!(partitions = tps.len(), lost, "revoked");
    }
}

/// Gives librdkafka a list of partitions, in the way the group's protocol wants.
pub(super) fn assign<K: Claims>(
    consumer: &BaseConsumer<Context<K>>,
    list: &TopicPartitionList,
) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        _ => consumer.assign(list),
    }
}

fn partitions(tpl: &TopicPartitionList) -> Vec<TopicPartition> {
    let all = tpl.elements();
    all.iter()
        .map(|e| TopicPartition {
            topic: e.topic().into(),
            partition: e.partition(),
        })
        .collect()
}

/// librdkafka's callbacks.
pub(super) struct Context<K: Claims>(pub(super) Arc<Shared<K>>);

impl<K: Claims> ClientContext for Context<K> {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        said::log(&self.0.oversize, level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        said::error(&self.0.oversize, &error, reason, |why| self.0.fail(why));
    }
}

impl<K: Claims> ConsumerContext for Context<K> {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        tpl: &mut TopicPartitionList,
    ) {
        match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.0.assigned(consumer, tpl);
            }
            _ => self.0.revoked(consumer, tpl),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if result.is_err() {
            metrics().hint_commit_errors.inc(&[]);
        }
    }
}
