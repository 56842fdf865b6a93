//! Questions to the brokers, on a connection of their own.
//!
//! A response above `receive.message.max.bytes` ends the connection that fetches, again and again
//! until the partition is found, and between two tries librdkafka waits for seconds. A question on
//! that connection waits with it: the poll thread once stood still in such questions, found the
//! partition too late and ended the process because the ends of another one did not come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::IngestConfig;
use super::errors::{Class, classify, is_denied};
use crate::event::TopicPartition;

/// How long one answer may take.
pub(super) const ASK: Duration = Duration::from_secs(2);
/// Questions under way at once.
const AT_ONCE: usize = 16;
/// How long a tool asks for the ends of a partition before it gives up.
const ENDS: Duration = Duration::from_secs(10);
/// How long a probe waits for the first record of a partition.
const PROBE: Duration = Duration::from_secs(3);
/// How long the client may take to say that an unreadable response was too large.
const SAID: Duration = Duration::from_millis(500);

/// Remembers what librdkafka says about its connections.
#[derive(Debug, Default)]
pub(super) struct Listener {
    pub(super) oversize: AtomicBool,
    pub(super) said: std::sync::Mutex<(String, bool)>,
}

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        note_oversize(&self.oversize, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        note_oversize(&self.oversize, reason);
        let denied = error.rdkafka_error_code().is_some_and(is_denied);
        // How many brokers are down is librdkafka's count of its own tries, and no reason.
        let counted = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if let Ok(mut said) = self.said.lock()
            && (denied || !said.1)
            && !counted
        {
            *said = (reason.to_owned(), denied);
        }
    }
}
impl ConsumerContext for Listener {}

/// A client that asks and never fetches unless it is assigned something.
pub(super) type Asker = BaseConsumer<Listener>;

/// Makes one.
pub(super) fn asker(config: &ClientConfig) -> Result<Asker, KafkaError> {
    config.create_with_context(Listener::default())
}

/// Makes one that asks for the ends as they are written, records of open transactions included: whoever
/// says that nothing comes before an end must mean those, too.
pub(super) fn ends_asker(config: &IngestConfig) -> Result<Asker, KafkaError> {
    asker(config.reader().set("isolation.level", "read_uncommitted"))
}

/// librdkafka drops the connection on a response above `receive.message.max.bytes` and says so
/// only in words.
pub(super) fn note_oversize(flag: &AtomicBool, message: &str) {
    if message.contains("receive.message.max.bytes") || message.contains("Invalid response size") {
        flag.store(true, Ordering::Relaxed);
    }
}

/// First offset and end of a partition; asked again until the deadline.
pub(super) fn watermarks(
    asker: &Asker,
    tp: &TopicPartition,
    deadline: Instant,
) -> Result<(i64, i64), String> {
    loop {
        match asker.fetch_watermarks(&tp.topic, tp.partition, ASK) {
            Ok(marks) => return Ok(marks),
            Err(e) if Instant::now() >= deadline => {
                return Err(format!(
                    "no answer about the offsets of {} partition {}: {e}",
                    tp.topic, tp.partition
                ));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// [`watermarks`] of several partitions, in their order. Each answer takes some round trips, and they are
/// waited for together: a start or a rebalance waits for all of them.
pub(super) fn all_watermarks(
    asker: &Asker,
    tps: &[TopicPartition],
    deadline: Instant,
) -> Result<Vec<(i64, i64)>, String> {
    let mut marks = Vec::with_capacity(tps.len());
    for some in tps.chunks(AT_ONCE) {
        let answers = std::thread::scope(|scope| {
            let ask = |tp| scope.spawn(move || watermarks(asker, tp, deadline));
            let asked: Vec<_> = some.iter().map(ask).collect();
            let heard = asked.into_iter().map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err("asking for offsets panicked".to_owned()))
            });
            heard.collect::<Result<Vec<_>, _>>()
        })?;
        marks.extend(answers);
    }
    Ok(marks)
}

/// What a client that reads nothing but one partition says about its next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// It came.
    Readable,
    /// Too large to be fetched.
    Oversize,
    /// It cannot be unpacked, or its checksum is wrong.
    Corrupt,
    /// Nothing came.
    Unknown,
}

/// Kafka's timestamp of the first record at or behind an offset, with a client of its own. `None`:
/// nothing came.
pub(super) fn first_ts(config: &IngestConfig, tp: &TopicPartition, offset: i64) -> Option<i64> {
    let consumer = asker(config.reader().set("group.id", "veilwatch-probe")).ok()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(offset))
        .ok()?;
    consumer.assign(&list).ok()?;
    let deadline = Instant::now() + PROBE;
    while Instant::now() < deadline {
        if let Some(Ok(m)) = consumer.poll(Duration::from_millis(50)) {
            return Some(m.timestamp().to_millis().unwrap_or(0));
        }
    }
    None
}

/// Of these partitions of a topic (`(partition, next offset, end)`), those that have nothing but markers of
/// transactions from the offset to the end: a client of its own, one for all, comes to the end without a
/// record. One with an open transaction before the end is not among them: its records may still come.
pub(super) fn at_end(config: &IngestConfig, topic: &str, places: &[(i32, i64, i64)]) -> Vec<i32> {
    let mut reader = config.reader();
    reader
        .set("group.id", "veilwatch-probe")
        .set("enable.partition.eof", "true");
    let Ok(consumer) = asker(&reader) else {
        return Vec::new();
    };
    let tps: Vec<TopicPartition> = places
        .iter()
        .map(|(partition, ..)| TopicPartition {
            topic: topic.into(),
            partition: *partition,
        })
        .collect();
    // Asked before the read, and by one who reads what is committed: this end is that of the last finished
    // transaction.
    let Ok(marks) = all_watermarks(&consumer, &tps, Instant::now() + ASK) else {
        return Vec::new();
    };
    let mut list = TopicPartitionList::new();
    let mut open = Vec::new();
    for ((partition, next, high), (_, finished)) in places.iter().zip(marks) {
        let at = Offset::Offset(*next);
        if finished >= *high && list.add_partition_offset(topic, *partition, at).is_ok() {
            open.push(*partition);
        }
    }
    let mut ended = Vec::new();
    if open.is_empty() || consumer.assign(&list).is_err() {
        return ended;
    }
    let deadline = Instant::now() + PROBE;
    while !open.is_empty() && Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(50)) {
            Some(Err(KafkaError::PartitionEOF(p))) => {
                if open.contains(&p) {
                    ended.push(p);
                }
                open.retain(|o| *o != p);
            }
            Some(Ok(m)) => open.retain(|o| *o != m.partition()),
            // Something there cannot be fetched: no end, and others look for it.
            _ if consumer.context().oversize.load(Ordering::Relaxed) => break,
            _ => {}
        }
    }
    ended
}

/// Where a partition begins and ends in Kafka now.
///
/// # Errors
/// No broker answers, or the partition does not exist.
pub fn ends(config: &IngestConfig, tp: &TopicPartition) -> Result<(i64, i64), String> {
    let asker = asker(&config.reader()).map_err(|e| e.to_string())?;
    watermarks(&asker, tp, Instant::now() + ENDS)
}

/// Reads the record at an offset with a client and a connection of its own.
pub(super) fn probe(config: &IngestConfig, tp: &TopicPartition, offset: i64) -> Probe {
    let Ok(consumer) = asker(config.reader().set("group.id", "veilwatch-probe")) else {
        return Probe::Unknown;
    };
    let mut list = TopicPartitionList::new();
    let placed = list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(offset));
    if placed.is_err() || consumer.assign(&list).is_err() {
        return Probe::Unknown;
    }
    let deadline = Instant::now() + PROBE;
    let mut broken: Option<Instant> = None;
    while Instant::now() < deadline {
        let polled = consumer.poll(Duration::from_millis(50));
        if consumer.context().oversize.load(Ordering::Relaxed) {
            return Probe::Oversize;
        }
        match polled {
            Some(Ok(_)) => return Probe::Readable,
            Some(Err(e)) if classify(&e) == Class::Halt => {
                broken.get_or_insert_with(Instant::now);
            }
            _ => {}
        }
        if broken.is_some_and(|at| at.elapsed() > SAID) {
            return Probe::Corrupt;
        }
    }
    Probe::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::broker::EmbeddedBroker;
    use crate::ingest::publish::Publisher;
    use crate::ingest::{TopicConfig, TopicMode};

    #[test]
    fn how_many_brokers_are_down_is_no_reason() {
        let listener = Listener::default();
        let said = || listener.said.lock().expect("said").0.clone();
        let down = KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
        let refused = "connect to 127.0.0.1:1 failed: connection refused";
        let transport = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
        listener.error(down.clone(), "1/1 brokers are down");
        assert_eq!(said(), "");
        listener.error(transport, refused);
        listener.error(down, "1/1 brokers are down");
        assert_eq!(said(), refused);
    }

    #[test]
    fn the_end_is_where_nothing_comes() {
        let broker = EmbeddedBroker::start(&[("t".into(), 1)]).expect("broker");
        let topic = TopicConfig {
            name: "t".into(),
            mode: TopicMode::Sealed,
        };
        let config = IngestConfig::new(broker.address(), "test", vec![topic]);
        let p = Publisher::new(config.client()).expect("publisher");
        for _ in 0..3 {
            p.send_waiting("t", Some(0), b"k", b"{}").expect("sent");
        }
        p.flush(Duration::from_secs(20)).expect("flushed");
        let tp = TopicPartition {
            topic: "t".into(),
            partition: 0,
        };
        assert_eq!(at_end(&config, "t", &[(0, 3, 3)]), vec![0]);
        assert_eq!(at_end(&config, "t", &[(0, 2, 3)]), Vec::<i32>::new());
        // The end that was told lies behind what is finished.
        assert_eq!(at_end(&config, "t", &[(0, 3, 4)]), Vec::<i32>::new());
        assert_eq!(ends(&config, &tp), Ok((0, 3)));
        let asker = asker(&config.reader()).expect("client");
        let many = vec![tp.clone(); 2 * AT_ONCE + 1];
        let until = Instant::now() + ENDS;
        let marks = all_watermarks(&asker, &many, until).expect("answers");
        assert_eq!(marks, vec![(0, 3); many.len()]);
        assert!(first_ts(&config, &tp, 1).is_some_and(|ts| ts > 0));
    }
}
