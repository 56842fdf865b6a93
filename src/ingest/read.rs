//! Reads a topic once, from its beginning to where it ends now, without a group: for the reference
//! run that checks the pipeline, and for tools that look at retained records again.

use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
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
/// Returns the end of each partition.
///
/// # Errors
/// The topic is missing, or nothing arrives.
pub fn read_topic(
    config: &IngestConfig,
    topic: &str,
    mut each: impl FnMut(i32, &Fetched<'_>, &[(&str, &[u8])]),
) -> Result<Vec<(i32, i64)>, ReadError> {
    let said = |e: &dyn std::fmt::Display| ReadError::Client {
        topic: topic.to_owned(),
        said: e.to_string(),
    };
    let mut client = config.reader();
    // A fetch of a stopped broker must not hide behind a group.
    client
        .set("group.id", "veilwatch-read")
        .set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = client.create().map_err(|e| said(&e))?;
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
        ends.push((p, high));
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
                    let fetched = Fetched {
                        offset: m.offset(),
                        ts_ms: m.timestamp().to_millis().unwrap_or(0),
                        key: m.key(),
                        value: m.payload(),
                    };
                    let headers: Vec<(&str, &[u8])> = m.headers().map_or_else(Vec::new, |h| {
                        (0..h.count())
                            .filter_map(|i| h.try_get(i))
                            .map(|h| (h.key, h.value.unwrap_or_default()))
                            .collect()
                    });
                    each(p, &fetched, &headers);
                }
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
    let said = |e: &dyn std::fmt::Display| ReadError::Client {
        topic: tp.topic.to_string(),
        said: e.to_string(),
    };
    let mut client = config.reader();
    client
        .set("group.id", "veilwatch-read")
        .set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = client.create().map_err(|e| said(&e))?;
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
                    let fetched = Fetched {
                        offset: m.offset(),
                        ts_ms: m.timestamp().to_millis().unwrap_or(0),
                        key: m.key(),
                        value: m.payload(),
                    };
                    let headers = m.headers().map_or_else(Vec::new, |h| {
                        (0..h.count())
                            .filter_map(|i| h.try_get(i))
                            .map(|h| (h.key, h.value.unwrap_or_default()))
                            .collect()
                    });
                    each(wanted, Found::Record(fetched, headers));
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

/// Follows a topic from its present end, all partitions at once, without a group. `each` gets a
/// record, or `None` when nothing came for a moment; false ends it.
///
/// # Errors
/// The topic is missing, or the client fails for good.
pub fn follow(
    config: &IngestConfig,
    topic: &str,
    mut each: impl FnMut(Option<(i32, Fetched<'_>)>) -> bool,
) -> Result<(), ReadError> {
    let said = |e: &dyn std::fmt::Display| ReadError::Client {
        topic: topic.to_owned(),
        said: e.to_string(),
    };
    let mut client = config.reader();
    client
        .set("group.id", "veilwatch-read")
        .set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = client.create().map_err(|e| said(&e))?;
    let metadata = consumer
        .fetch_metadata(Some(topic), ASK)
        .map_err(|e| said(&e))?;
    let mut list = TopicPartitionList::new();
    for t in metadata.topics() {
        for p in t.partitions() {
            let (_, high) = consumer
                .fetch_watermarks(topic, p.id(), ASK)
                .map_err(|e| said(&e))?;
            list.add_partition_offset(topic, p.id(), Offset::Offset(high))
                .map_err(|e| said(&e))?;
        }
    }
    consumer.assign(&list).map_err(|e| said(&e))?;
    loop {
        let go_on = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(m)) => each(Some((
                m.partition(),
                Fetched {
                    offset: m.offset(),
                    ts_ms: m.timestamp().to_millis().unwrap_or(0),
                    key: m.key(),
                    value: m.payload(),
                },
            ))),
            Some(Err(_)) | None => each(None),
        };
        if !go_on {
            return Ok(());
        }
    }
}
