//! The publisher: events to Kafka, fire and forget, with a bounded queue and a drop counter.
//!
//! A gateway must never wait for its monitor. [`Publisher::send`] returns at once; when the queue
//! is full the event is dropped and counted, and the caller can say so in its next event's
//! `dropped` field.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use crate::telemetry::metrics;

/// Records that may wait in memory. At 1 KiB each, 64 MiB.
const QUEUE_RECORDS: &str = "65536";
/// Kilobytes that may wait in memory.
const QUEUE_KBYTES: &str = "65536";

/// How an event was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Queued,
    /// The queue is full: it is gone, and counted.
    Dropped,
}

/// Counts of a publisher.
#[derive(Debug, Default)]
pub struct Counts {
    /// Acknowledged by Kafka.
    pub delivered: AtomicU64,
    /// Given up by Kafka's client, or never queued.
    pub dropped: AtomicU64,
}

#[derive(Debug, Clone)]
struct Context(Arc<Counts>);

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "publisher");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.delivered.fetch_add(1, Ordering::Relaxed);
            metrics().published.inc(&["delivered"]);
        } else {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            metrics().published.inc(&["dropped"]);
        }
    }
}

/// Why no publisher could be made.
#[derive(Debug, thiserror::Error)]
#[error("the kafka client refuses its settings: {0}")]
pub struct PublishError(#[from] KafkaError);

/// A publisher of events to one cluster.
pub struct Publisher {
    producer: ThreadedProducer<Context>,
    counts: Arc<Counts>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({:?})", self.counts)
    }
}

impl Publisher {
    /// A publisher with the client settings of [`super::IngestConfig::client`].
    ///
    /// # Errors
    /// A setting is refused.
    pub fn new(mut config: ClientConfig) -> Result<Self, PublishError> {
        let counts = Arc::new(Counts::default());
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("batch.size", "262144")
            .set("compression.type", "none")
            .set("message.max.bytes", "33554432")
            .set("queue.buffering.max.messages", QUEUE_RECORDS)
            .set("queue.buffering.max.kbytes", QUEUE_KBYTES);
        let producer = config.create_with_context(Context(counts.clone()))?;
        Ok(Self { producer, counts })
    }

    /// Sends a record without waiting. `partition` none: by the key's hash.
    pub fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &[u8],
        value: &[u8],
        headers: &[(&str, &[u8])],
    ) -> Sent {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).key(key).payload(value);
        if let Some(p) = partition {
            record = record.partition(p);
        }
        if !headers.is_empty() {
            let mut h = OwnedHeaders::new_with_capacity(headers.len());
            for (key, value) in headers {
                h = h.insert(Header {
                    key,
                    value: Some(*value),
                });
            }
            record = record.headers(h);
        }
        if self.producer.send(record).is_ok() {
            Sent::Queued
        } else {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            metrics().published.inc(&["dropped"]);
            Sent::Dropped
        }
    }

    /// Sends a record, waiting while the queue is full: for tools that must not drop.
    ///
    /// # Errors
    /// The client refuses the record for another reason (its size, an unknown topic).
    pub fn send_waiting(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), PublishError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).key(key).payload(value);
        if let Some(p) = partition {
            record = record.partition(p);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((e, _)) => return Err(e.into()),
            }
        }
    }

    /// Waits until everything queued is acknowledged or given up.
    ///
    /// # Errors
    /// The time is over.
    pub fn flush(&self, timeout: Duration) -> Result<(), PublishError> {
        Ok(self.producer.flush(timeout)?)
    }

    /// Records that wait.
    pub fn in_flight(&self) -> i32 {
        self.producer.in_flight_count()
    }

    /// What was delivered and dropped.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}
