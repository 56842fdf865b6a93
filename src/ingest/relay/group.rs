//! Membership of the group: where a partition starts, and what is committed when it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::place::Part;
use super::{Place, Shared};
use crate::event::TopicPartition;
use crate::ingest::ask::watermarks;
use crate::ingest::said;
use crate::telemetry::metrics;

/// How long a revocation waits for delivery reports; what is not acknowledged then is made again by
/// the next owner.
const DRAIN: Duration = Duration::from_secs(2);
/// How long one answer about committed offsets may take.
const ASK: Duration = Duration::from_secs(5);

/// The consumer's callbacks.
pub(super) struct Group(pub(super) Arc<Shared>);

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        said::log(&self.0.oversize, level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        said::error(&self.0.oversize, &error, reason, |why| self.0.fail(why));
    }
}

impl ConsumerContext for Group {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        tpl: &mut TopicPartitionList,
    ) {
        let done = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, tpl),
            _ => self.revoked(consumer),
        };
        if let Err(e) = done {
            self.0.fail(e);
            // The group waits for an answer to the callback; the loop ends right after.
            let _ = consumer.assign(&TopicPartitionList::new());
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if result.is_err() {
            metrics().hint_commit_errors.inc(&[]);
        }
    }
}

impl Group {
    fn assigned(
        &self,
        consumer: &BaseConsumer<Self>,
        tpl: &TopicPartitionList,
    ) -> Result<(), String> {
        metrics().rebalances.inc(&["assign"]);
        let deadline = Instant::now() + self.0.config.from.max_poll_interval / 2;
        let committed = committed(consumer, tpl, deadline)?;
        let mut list = TopicPartitionList::new();
        let mut parts = Vec::new();
        for (tp, at) in committed {
            let (low, high) = watermarks(&self.0.asker, &tp, deadline)?;
            let from = at.unwrap_or(low);
            // The owner before us may have gone on after the first question.
            if from > high && from > watermarks(&self.0.asker, &tp, deadline)?.1 {
                return Err(format!(
                    "group {} stands at offset {from} of {} partition {}, which ends at {high}: the topic was recreated or cut; reset the group's offsets once you know why",
                    self.0.config.from.group, tp.topic, tp.partition
                ));
            }
            let _ =
                list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(from.max(low)));
            let mut part = Part::new(tp, from, high);
            part.lost = (from < low).then_some(low);
            parts.push(part);
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of partitions")]
        metrics().assigned.set(&[], parts.len() as f64);
        tracing::info!(partitions = parts.len(), "assigned");
        self.0
            .health
            .set("kafka", true, format!("{} partitions", parts.len()));
        {
            let mut state = self.0.state();
            state.epoch += 1;
            state.refused.clear();
            state.begun = parts.iter().map(|p| p.tp.partition).collect();
            state.parts = parts;
        }
        consumer
            .assign(&list)
            .map_err(|e| format!("cannot take the assigned partitions: {e}"))?;
        // A pause can survive a new assignment.
        let _ = consumer.resume(&list);
        Ok(())
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>) -> Result<(), String> {
        let lost = consumer.assignment_lost();
        metrics()
            .rebalances
            .inc(&[if lost { "lost" } else { "revoke" }]);
        if !lost {
            let deadline = Instant::now() + DRAIN;
            while self.0.state().in_flight > 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            commit(&self.0, consumer, CommitMode::Sync);
        }
        {
            let mut state = self.0.state();
            state.epoch += 1;
            for p in std::mem::take(&mut state.parts) {
                metrics()
                    .lag
                    .remove(&[&p.tp.topic, &p.tp.partition.to_string()]);
            }
        }
        metrics().assigned.set(&[], 0.0);
        tracing::info!(lost, "revoked");
        consumer
            .unassign()
            .map_err(|e| format!("cannot give partitions back: {e}"))
    }
}

/// The group's offsets of these partitions; none: never committed.
fn committed(
    consumer: &BaseConsumer<Group>,
    tpl: &TopicPartitionList,
    deadline: Instant,
) -> Result<Vec<(TopicPartition, Option<i64>)>, String> {
    loop {
        match consumer.committed_offsets(tpl.clone(), ASK) {
            Ok(list) => {
                let all = list.elements();
                return Ok(all
                    .iter()
                    .map(|e| {
                        let tp = TopicPartition {
                            topic: e.topic().into(),
                            partition: e.partition(),
                        };
                        let at = match e.offset() {
                            Offset::Offset(o) => Some(o),
                            _ => None,
                        };
                        (tp, at)
                    })
                    .collect());
            }
            Err(e) if Instant::now() >= deadline => {
                return Err(format!("no answer about the group's offsets: {e}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Commits what is acknowledged. Errors are counted: what is not committed is made again.
pub(super) fn commit(shared: &Shared, consumer: &BaseConsumer<Group>, mode: CommitMode) {
    let mut list = TopicPartitionList::new();
    for p in &mut shared.state().parts {
        let safe = p.safe();
        // The last word is said in any case: an earlier one may have been lost.
        if safe > p.committed || matches!(mode, CommitMode::Sync) {
            p.committed = safe;
            let _ = list.add_partition_offset(&p.tp.topic, p.tp.partition, Offset::Offset(safe));
        }
    }
    if list.count() > 0
        && let Err(error) = consumer.commit(&list, mode)
    {
        metrics().hint_commit_errors.inc(&[]);
        tracing::warn!(%error, "offsets not committed; they are tried again with the next");
    }
}

/// The producer's callbacks.
pub(super) struct Reports(pub(super) Arc<Shared>);

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        said::error(&self.0.oversize, &error, reason, |why| self.0.fail(why));
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Place>;
    fn delivery(&self, result: &DeliveryResult<'_>, place: Box<Place>) {
        match result {
            Ok(_) => self.0.report(*place, Ok(())),
            Err((e, _)) => self.0.report(*place, Err(e)),
        }
    }
}
