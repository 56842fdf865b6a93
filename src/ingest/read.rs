//! Reads a topic once, from its beginning to where it ends now, without a group: for the reference
//! run that checks the pipeline, and for tools that look at retained records again.

use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::batch::Fetched;
use super::settings::IngestConfig;
use crate::event::TopicPartition;

/// How long nothing may arrive before the read fails.
const STALLED: Duration = Duration::from_secs(30);
/// Offsets closer than this are reached by reading on.
const NEAR: i64 = 1_000;
/// How long one question may take.
const ASK: Duration = Duration::from_secs(5);

/// Why a topic could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client failed.
    #[error("cannot read topic {topic}: {said}")]
    Client {
        /// Which.
        topic: String,
        /// What the client said.
        said: String,
    },
    /// Nothing came for a while though something must.
    #[error(
        "topic {topic} partition {partition}: nothing arrived behind offset {offset} of {high}"
    )]
    Stalled {
        /// Which.
        topic: String,
        /// Which.
        partition: i32,
        /// The last offset seen, or the first asked for.
        offset: i64,
        /// Where the partition ends.
        high: i64,
    },
}

/// Calls `each` for every retained record of a topic, partition by partition, in offset order.
/// Returns where each partition ends: behind its last record, or where it begins if it has none.
///
/// # Errors
/// The topic is missing, or nothing arrives.
pub fn read_topic(
    config: &IngestConfig,
    topic: &str,
    mut each: impl FnMut(i32, &Fetched<'_>, &[(&str, &[u8])]),
) -> Result<Vec<(i32, i64)>, ReadError> {
    let said = |e: &KafkaError| client_error(topic, e);
    let consumer = ungrouped(config).map_err(|e| said(&e))?;
    let metadata = consumer
        .fetch_metadata(Some(topic), ASK)
        .map_err(|e| said(&e))?;
    let partitions: Vec<i32> = metadata
        .topics()
        .iter()
        .flat_map(|t| {
            t.partitions()
                .iter()
                .map(rdkafka::metadata::MetadataPartition::id)
        })
        .collect();
    let mut ends = Vec::new();
    for p in partitions {
        let (low, high) = consumer
            .fetch_watermarks(topic, p, ASK)
            .map_err(|e| said(&e))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, p, Offset::Offset(low))
            .map_err(|e| said(&e))?;
        consumer.assign(&list).map_err(|e| said(&e))?;
        let (mut next, mut moved) = (low, Instant::now());
        while next < high {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(m)) => {
                    next = m.offset() + 1;
                    moved = Instant::now();
                    each(p, &fetched(&m), &headers(&m));
                }
                // Only markers of transactions stand behind the last record.
                Some(Err(KafkaError::PartitionEOF(at))) if at == p => break,
                _ if moved.elapsed() > STALLED => {
                    return Err(ReadError::Stalled {
                        topic: topic.to_owned(),
                        partition: p,
                        offset: next,
                        high,
                    });
                }
                _ => {}
            }
        }
        ends.push((p, next));
    }
    Ok(ends)
}

/// What Kafka has at an offset.
#[derive(Debug)]
pub enum Found<'a> {
    /// The record, and its headers.
    Record(Fetched<'a>, Vec<(&'a str, &'a [u8])>),
    /// Nothing: it lies outside of what is retained, or was compacted away.
    Gone {
        /// First retained offset.
        low: i64,
        /// Where the partition ends.
        high: i64,
    },
}

/// Calls `each` once for each of these offsets of a partition, in order (`offsets` must be sorted).
///
/// # Errors
/// The topic is missing, or nothing arrives.
pub fn read_offsets(
    config: &IngestConfig,
    tp: &TopicPartition,
    offsets: &[i64],
    mut each: impl FnMut(i64, Found<'_>),
) -> Result<(), ReadError> {
    let said = |e: &KafkaError| client_error(&tp.topic, e);
    let consumer = ungrouped(config).map_err(|e| said(&e))?;
    let (low, high) = consumer
        .fetch_watermarks(&tp.topic, tp.partition, ASK)
        .map_err(|e| said(&e))?;
    // Where the fetch stands: what is near is read on, what is far is sought.
    let mut next: Option<i64> = None;
    for &wanted in offsets {
        if wanted < low || wanted >= high {
            each(wanted, Found::Gone { low, high });
            continue;
        }
        if next.is_none_or(|n| n > wanted || wanted - n > NEAR) {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(wanted))
                .map_err(|e| said(&e))?;
            consumer.assign(&list).map_err(|e| said(&e))?;
        }
        let moved = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(m)) if m.offset() < wanted => {}
                Some(Ok(m)) => {
                    next = Some(m.offset() + 1);
                    if m.offset() > wanted {
                        each(wanted, Found::Gone { low, high });
                        // The record belongs to a later one: it is read again.
                        next = None;
                        break;
                    }
                    each(wanted, Found::Record(fetched(&m), headers(&m)));
                    break;
                }
                // A marker stood there, and no record behind it.
                Some(Err(KafkaError::PartitionEOF(at))) if at == tp.partition => {
                    each(wanted, Found::Gone { low, high });
                    next = None;
                    break;
                }
                _ if moved.elapsed() > STALLED => {
                    return Err(ReadError::Stalled {
                        topic: tp.topic.to_string(),
                        partition: tp.partition,
                        offset: wanted,
                        high,
                    });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Reads what is put on a topic in passes, all partitions at once, without a group.
pub struct Passes {
    consumer: BaseConsumer,
    topic: String,
    /// Where the next pass begins.
    next: Vec<(i32, i64)>,
}

impl Passes {
    /// The first pass begins at the topic's present end.
    ///
    /// # Errors
    /// The topic is missing, or no broker answers.
    pub fn new(config: &IngestConfig, topic: &str) -> Result<Self, ReadError> {
        let consumer = ungrouped(config).map_err(|e| client_error(topic, &e))?;
        let metadata = consumer
            .fetch_metadata(Some(topic), ASK)
            .map_err(|e| client_error(topic, &e))?;
        let mut next = Vec::new();
        for p in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
            let (_, high) = consumer
                .fetch_watermarks(topic, p.id(), ASK)
                .map_err(|e| client_error(topic, &e))?;
            next.push((p.id(), high));
        }
        Ok(Self {
            consumer,
            topic: topic.to_owned(),
            next,
        })
    }

    /// Reads so many records. Between two passes nothing is fetched.
    ///
    /// # Errors
    /// Nothing arrives.
    pub fn pass(
        &mut self,
        count: u64,
        mut each: impl FnMut(&Fetched<'_>),
    ) -> Result<(), ReadError> {
        let mut list = TopicPartitionList::new();
        for (partition, at) in &self.next {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*at))
                .map_err(|e| client_error(&self.topic, &e))?;
        }
        self.consumer
            .assign(&list)
            .map_err(|e| client_error(&self.topic, &e))?;
        let (mut left, mut moved) = (count, Instant::now());
        while left > 0 {
            if let Some(Ok(m)) = self.consumer.poll(Duration::from_millis(100)) {
                each(&fetched(&m));
                left -= 1;
                if let Some(at) = self.next.iter_mut().find(|(p, _)| *p == m.partition()) {
                    at.1 = m.offset() + 1;
                }
                if left % NEAR.unsigned_abs() == 0 {
                    moved = Instant::now();
                }
            } else if moved.elapsed() > STALLED {
                let (partition, offset) = self.next.first().copied().unwrap_or_default();
                return Err(ReadError::Stalled {
                    topic: self.topic.clone(),
                    partition,
                    offset,
                    high: offset,
                });
            }
        }
        self.consumer
            .assign(&TopicPartitionList::new())
            .map_err(|e| client_error(&self.topic, &e))
    }
}

/// A consumer with the pipeline's settings that is no member of its group.
fn ungrouped(config: &IngestConfig) -> Result<BaseConsumer, KafkaError> {
    let mut client = config.reader();
    // A fetch of a stopped broker must not hide behind a group.
    client
        .set("group.id", "veilwatch-read")
        // A transaction ends in a marker, which is no record: nothing comes before the end.
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .create()
}

fn client_error(topic: &str, e: &KafkaError) -> ReadError {
    ReadError::Client {
        topic: topic.to_owned(),
        said: e.to_string(),
    }
}

pub(super) fn fetched<'m>(m: &'m BorrowedMessage<'_>) -> Fetched<'m> {
    Fetched {
        offset: m.offset(),
        ts_ms: m.timestamp().to_millis().unwrap_or(0),
        key: m.key(),
        value: m.payload(),
    }
}

pub(super) fn headers<'m>(m: &'m BorrowedMessage<'_>) -> Vec<(&'m str, &'m [u8])> {
    m.headers().map_or_else(Vec::new, |h| {
        (0..h.count())
            .filter_map(|i| h.try_get(i))
            .map(|h| (h.key, h.value.unwrap_or_default()))
            .collect()
    })
}
