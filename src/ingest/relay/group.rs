//! Membership of the group: where a partition starts, and what is committed when it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaRespErr;

use super::Shared;
use super::place::Part;
use super::writer::{Trouble, Writer};
use crate::event::TopicPartition;
use crate::ingest::ask::watermarks;
use crate::ingest::said;
use crate::telemetry::metrics;

/// How long a revocation tries to commit; what is not committed then is made again by the next owner.
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
}

impl Group {
    fn assigned(
        &self,
        consumer: &BaseConsumer<Self>,
        tpl: &TopicPartitionList,
    ) -> Result<(), String> {
        metrics().rebalances.inc(&["assign"]);
        let deadline = Instant::now() + self.0.config.from.max_poll_interval / 2;
        if tpl.count() == 0 {
            self.0.health.set("kafka", true, "0 partitions");
            metrics().assigned.set(&[], 0.0);
            return consumer
                .assign(tpl)
                .map_err(|e| format!("cannot take the assigned partitions: {e}"));
        }
        loop {
            match begin(&self.0, consumer, tpl, deadline) {
                Ok(n) => {
                    #[expect(clippy::cast_precision_loss, reason = "a count of partitions")]
                    metrics().assigned.set(&[], n as f64);
                    self.0.health.set("kafka", true, format!("{n} partitions"));
                    tracing::info!(partitions = n, "assigned");
                    return Ok(());
                }
                Err(Trouble::Again(why)) if Instant::now() < deadline => {
                    tracing::warn!(why, "cannot begin yet");
                }
                Err(Trouble::Again(why) | Trouble::End(why)) => return Err(why),
            }
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>) -> Result<(), String> {
        let lost = consumer.assignment_lost();
        metrics()
            .rebalances
            .inc(&[if lost { "lost" } else { "revoke" }]);
        if !lost
            && let Err(Trouble::Again(why) | Trouble::End(why)) = commit(&self.0, consumer, DRAIN)
        {
            tracing::warn!(why, "not committed; the next owner makes it again");
        }
        give_up(&self.0);
        {
            let mut state = self.0.state();
            state.anew = None;
            state.troubled = None;
            state.too_large.clear();
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

/// Aborts what is open. A producer that cannot is thrown away: the next of its name aborts.
pub(super) fn give_up(shared: &Shared) {
    let mut slot = shared.writer();
    if let Some(mut writer) = slot.take() {
        let refused = writer.too_large();
        if writer.abort() {
            *slot = Some(writer);
        } else {
            writer.discard();
        }
        let mut state = shared.state();
        for r in refused {
            state.too_large.insert((r.partition, r.offset), r.bytes);
        }
    }
}

/// Begins reading these partitions where the group stands, with a producer of their name and nothing
/// open. Returns how many they are.
///
/// The name is that of the lowest partition. In one generation of the group nobody else has it; and a
/// process that comes back to the partitions it had shuts out and aborts what it was.
pub(super) fn begin(
    shared: &Shared,
    consumer: &BaseConsumer<Group>,
    tpl: &TopicPartitionList,
    deadline: Instant,
) -> Result<usize, Trouble> {
    give_up(shared);
    let config = &shared.config;
    let lowest = tpl
        .elements()
        .iter()
        .map(TopicPartitionListElem::partition)
        .min();
    let name = format!(
        "{}/{}/{}",
        config.from.group,
        shared.topic(),
        lowest.unwrap_or(0)
    );
    {
        let mut slot = shared.writer();
        if slot.as_ref().is_none_or(|w| w.name() != name) {
            if let Some(other) = slot.take() {
                other.discard();
            }
            *slot = Some(Writer::new(config, name, deadline)?);
        }
    }
    // Asked behind the producer's start: an offset that a transaction still holds is waited for.
    let committed = committed(consumer, tpl, deadline).map_err(Trouble::Again)?;
    let mut list = TopicPartitionList::new();
    let mut parts = Vec::new();
    for (tp, at) in committed {
        let ends = |tp| watermarks(&shared.asker, tp, deadline).map_err(Trouble::Again);
        let (low, high) = ends(&tp)?;
        let from = at.unwrap_or(low);
        // The owner before us may have gone on after the first question.
        if from > high && from > ends(&tp)?.1 {
            return Err(Trouble::End(format!(
                "group {} stands at offset {from} of {} partition {}, which ends at {high}: the topic was recreated or cut; reset the group's offsets once you know why",
                config.from.group, tp.topic, tp.partition
            )));
        }
        let _ = list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(from.max(low)));
        let mut part = Part::new(tp, from, high);
        part.lost = (from < low).then_some(low);
        parts.push(part);
    }
    let n = parts.len();
    {
        let mut state = shared.state();
        state.begun = parts.iter().map(|p| p.tp.partition).collect();
        state.parts = parts;
        state.anew = None;
    }
    consumer
        .assign(&list)
        .map_err(|e| Trouble::Again(format!("cannot take the assigned partitions: {e}")))?;
    // A pause can survive a new assignment.
    let _ = consumer.resume(&list);
    Ok(n)
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

/// Commits the open transaction with the offsets of what it was made of.
pub(super) fn commit(
    shared: &Shared,
    consumer: &BaseConsumer<Group>,
    limit: Duration,
) -> Result<(), Trouble> {
    let mut list = TopicPartitionList::new();
    {
        let state = shared.state();
        for p in state.parts.iter().filter(|p| p.next > p.committed) {
            let (topic, at) = (&p.tp.topic, Offset::Offset(p.next));
            let _ = list.add_partition_offset(topic, p.tp.partition, at);
        }
    }
    let mut slot = shared.writer();
    let Some(writer) = slot.as_mut().filter(|_| list.count() > 0) else {
        return Ok(());
    };
    let Some(group) = consumer.group_metadata() else {
        return Err(Trouble::Again("not a member of the group".into()));
    };
    writer.commit(&list, &group, limit)?;
    let mut state = shared.state();
    state.troubled = None;
    for e in list.elements() {
        if let (Some(p), Offset::Offset(at)) = (state.part(e.partition()), e.offset()) {
            p.committed = at;
        }
        if let Offset::Offset(at) = e.offset() {
            let done = |k: &(i32, i64)| k.0 == e.partition() && k.1 < at;
            state.too_large.retain(|k, _| !done(k));
        }
    }
    Ok(())
}
