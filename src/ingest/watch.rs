//! Questions to the brokers beside the poll loop: do the topics exist, how far do the partitions
//! reach, which one holds a record that cannot be fetched.
//!
//! A thread of its own with a client of its own, so that a slow answer never delays a heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::context::{Shared, note_oversize};
use super::errors::is_denied;
use super::{Claims, Delivery, IngestConfig};
use crate::event::TopicPartition;
use crate::telemetry::metrics;

/// How long the brokers may take to answer at start.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two rounds of questions.
const ROUND: Duration = Duration::from_secs(1);
/// How long one answer may take.
const ASK: Duration = Duration::from_secs(2);
/// How long a probe waits for the first record of a partition.
const PROBE: Duration = Duration::from_secs(3);

/// Why the topics cannot be consumed.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The client does not accept its settings.
    #[error("the kafka client refuses its settings: {0}")]
    Settings(KafkaError),
    /// No broker answers.
    #[error(
        "no kafka broker answers at {brokers}{}; check ingest.brokers, the network and ingest.security",
        if .said.is_empty() { String::new() } else { format!(" ({said})") }
    )]
    Unreachable {
        /// As configured.
        brokers: String,
        /// What the client said last.
        said: String,
    },
    /// Credentials or rights.
    #[error(
        "kafka at {brokers} refuses us as {who}: {said}; check ingest.username, the password and the ACLs"
    )]
    Denied {
        /// As configured.
        brokers: String,
        /// The user.
        who: String,
        /// What the client said.
        said: String,
    },
    /// A topic is missing.
    #[error(
        "topic {topic} does not exist at {brokers}; create it (keyed by user, message.timestamp.type=LogAppendTime) or correct ingest.topics"
    )]
    Missing {
        /// The topic.
        topic: String,
        /// As configured.
        brokers: String,
    },
}

/// Remembers what librdkafka says about its connections.
#[derive(Debug, Default)]
struct Listener {
    oversize: AtomicBool,
    said: std::sync::Mutex<(String, bool)>,
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

fn client(config: &ClientConfig) -> Result<BaseConsumer<Listener>, KafkaError> {
    config.create_with_context(Listener::default())
}

/// Checks that every topic exists and may be read, and returns the number of their partitions.
///
/// # Errors
/// One that names the topic, the brokers or the user, and what to do.
pub fn check_topics(config: &IngestConfig) -> Result<Vec<(String, usize)>, TopicError> {
    let consumer = client(&config.reader()).map_err(TopicError::Settings)?;
    let brokers = config.brokers.clone();
    let deadline = Instant::now() + START_TIMEOUT;
    let mut found = Vec::new();
    for topic in &config.topics {
        loop {
            // Polling serves the error callback, which alone knows why nothing connects.
            let _ = consumer.poll(Duration::ZERO);
            let (said, denied) = consumer
                .context()
                .said
                .lock()
                .map(|s| s.clone())
                .unwrap_or_default();
            if denied {
                let who = config.security.username.clone();
                return Err(TopicError::Denied {
                    brokers,
                    who: who.unwrap_or_else(|| "an anonymous client".into()),
                    said,
                });
            }
            match consumer.fetch_metadata(Some(&topic.name), ASK) {
                Ok(m) => {
                    let t = m.topics().iter().find(|t| t.name() == topic.name);
                    let n = t.map_or(0, |t| t.partitions().len());
                    let error = t.and_then(rdkafka::metadata::MetadataTopic::error);
                    if n > 0 && error.is_none() {
                        found.push((topic.name.clone(), n));
                        break;
                    }
                    let code = error.map(rdkafka::error::RDKafkaErrorCode::from);
                    if let Some(code) = code.filter(|c| is_denied(*c)) {
                        let who = config.security.username.clone();
                        return Err(TopicError::Denied {
                            brokers,
                            who: who.unwrap_or_else(|| "an anonymous client".into()),
                            said: format!("topic {}: {code}", topic.name),
                        });
                    }
                    // A leader election answers like a missing topic, for a moment.
                    if Instant::now() + START_TIMEOUT > deadline + Duration::from_secs(3) {
                        return Err(TopicError::Missing {
                            topic: topic.name.clone(),
                            brokers,
                        });
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return Err(TopicError::Unreachable { brokers, said }),
            }
        }
    }
    Ok(found)
}

/// The watching thread's loop.
pub(super) fn watch<K: Claims>(shared: &Arc<Shared<K>>, stop: &AtomicBool) {
    let consumer = match client(&shared.config.reader()) {
        Ok(c) => c,
        Err(error) => {
            tracing::error!(%error, "cannot watch the partitions' ends");
            return;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let _ = consumer.poll(Duration::ZERO);
        let list: Vec<(TopicPartition, i64)> = {
            let slots = shared.slots();
            slots.iter().map(|s| (s.tp.clone(), s.applied)).collect()
        };
        let mut answered = list.is_empty();
        for (tp, _) in &list {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let asked = Instant::now();
            let Ok((_, high)) = consumer.fetch_watermarks(&tp.topic, tp.partition, ASK) else {
                break;
            };
            answered = true;
            report(shared, tp, high, asked);
        }
        metrics().kafka_up.set(&[], f64::from(u8::from(answered)));
        if !list.is_empty() {
            let detail = if answered {
                format!("{} partitions", list.len())
            } else {
                "no broker answers".to_owned()
            };
            shared.health.set("kafka", answered, detail);
        }
        if shared.oversize.load(Ordering::Relaxed) && probe(shared) {
            shared.oversize.store(false, Ordering::Relaxed);
        }
        std::thread::sleep(ROUND);
    }
}

fn report<K: Claims>(shared: &Shared<K>, tp: &TopicPartition, high: i64, asked: Instant) {
    let mut slots = shared.slots();
    let Some(s) = slots.iter_mut().find(|s| s.tp == *tp) else {
        return;
    };
    let part = tp.partition.to_string();
    let lag = high.saturating_sub(s.applied).max(0);
    #[expect(clippy::cast_precision_loss, reason = "a gauge of records")]
    metrics().lag.set(&[&tp.topic, &part], lag as f64);
    s.high = high;
    if s.next >= high && !s.is_pending() && s.halted.is_none() {
        s.progress = Instant::now();
        // Holes at the end (transaction markers) leave `applied` below `high`; what was delivered
        // is what counts.
        s.inbox.push(Delivery::AtEnd {
            tp: tp.clone(),
            claim: s.claim,
            offset: s.applied,
            asked,
        });
    }
}

/// Reads each partition that is behind by itself: the one that shows the same error is halted, by
/// name, and the others go on. False where that is still open: librdkafka says it only once, so the
/// suspicion stays until a partition was found or none is behind.
fn probe<K: Claims>(shared: &Shared<K>) -> bool {
    let (known, list): (bool, Vec<(TopicPartition, i64)>) = {
        let slots = shared.slots();
        let live = slots
            .iter()
            .filter(|s| s.halted.is_none() && s.next < s.high);
        (
            slots.iter().all(|s| s.high > 0 || s.next == 0),
            live.map(|s| (s.tp.clone(), s.next)).collect(),
        )
    };
    let mut found = known && list.is_empty();
    for (tp, next) in list {
        if !is_oversize(&shared.config, &tp, next) {
            continue;
        }
        let mut slots = shared.slots();
        if let Some(s) = slots.iter_mut().find(|s| s.tp == tp && s.next == next) {
            s.halt("oversize");
            s.pause_wanted = true;
            found = true;
        }
    }
    found
}

fn is_oversize(config: &IngestConfig, tp: &TopicPartition, offset: i64) -> bool {
    let Ok(consumer) = client(&config.reader().set("group.id", "veilwatch-probe").clone()) else {
        return false;
    };
    let mut list = TopicPartitionList::new();
    let placed = list.add_partition_offset(&tp.topic, tp.partition, Offset::Offset(offset));
    if placed.is_err() || consumer.assign(&list).is_err() {
        return false;
    }
    let deadline = Instant::now() + PROBE;
    while Instant::now() < deadline {
        if let Some(Ok(_)) = consumer.poll(Duration::from_millis(50)) {
            return false;
        }
        if consumer.context().oversize.load(Ordering::Relaxed) {
            return true;
        }
    }
    false
}
