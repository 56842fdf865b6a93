//! Questions to the brokers, on a connection of their own.
//!
//! A response above `receive.message.max.bytes` ends the connection that fetches, again and again
//! until the partition is found, and between two tries librdkafka waits for seconds. A question on
//! that connection waits with it: the poll thread once stood still in such questions, found the
//! partition too late and ended the process because the ends of another one did not come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::IngestConfig;
use super::errors::{Class, classify, is_denied};
use crate::event::TopicPartition;

/// How long one answer may take.
pub(super) const ASK: Duration = Duration::from_secs(2);
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
        if let Ok(mut said) = self.said.lock()
            && (denied || !said.1)
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
