//! Questions to the brokers beside the poll loop: do the topics exist, how far do the partitions
//! reach, which one holds a record that cannot be fetched.
//!
//! A thread of its own with a client of its own, so that a slow answer never delays a heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use super::ask::{self, ASK, Probe};
use super::context::Shared;
use super::errors::is_denied;
use super::{Claims, Delivery, IngestConfig, said};
use crate::event::TopicPartition;
use crate::telemetry::metrics;

/// How long the brokers may take to answer at start.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two rounds of questions.
const ROUND: Duration = Duration::from_secs(1);
/// Pause between two questions how many partitions the topics have.
const COUNT: Duration = Duration::from_secs(30);
/// How long a partition stands still below its end before somebody looks what is there.
const STILL: Duration = Duration::from_secs(1);
/// Partitions looked behind in one round: each takes a question and a fetch of one client.
const ENDS_AT_ONCE: usize = 64;
/// How long a suspicion lasts. librdkafka tells the same error of a connection once in 30 s.
const SUSPICION: Duration = Duration::from_secs(60);

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

/// Checks that every topic exists and may be read, and returns the number of their partitions.
///
/// # Errors
/// One that names the topic, the brokers or the user, and what to do.
pub fn check_topics(config: &IngestConfig) -> Result<Vec<(String, usize)>, TopicError> {
    let consumer = ask::asker(&config.reader()).map_err(TopicError::Settings)?;
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
    // Closing a client takes a tenth of a second, and nothing depends on it.
    std::thread::spawn(move || drop(consumer));
    Ok(found)
}

/// What the watching thread remembers from round to round.
#[derive(Default)]
struct Suspicion {
    /// Something in the stream may be unreadable, up to this moment.
    until: Option<Instant>,
    /// What one probe could not unpack: two in a row halt it, since a connection can garble, too.
    corrupt: Option<(TopicPartition, i64)>,
}

/// The watching thread's loop.
pub(super) fn watch<K: Claims>(shared: &Arc<Shared<K>>, stop: &AtomicBool) {
    let mut suspicion = Suspicion::default();
    let mut counted = None;
    while !stop.load(Ordering::Relaxed) {
        // Polling serves the callbacks of the client that asks.
        let _ = shared.asker.poll(Duration::ZERO);
        let look = shared.look.swap(false, Ordering::Relaxed);
        let list: Vec<(TopicPartition, i64)> = {
            let slots = shared.slots();
            slots.iter().map(|s| (s.tp.clone(), s.next)).collect()
        };
        if counted.is_none_or(|at: Instant| at.elapsed() >= COUNT) {
            counted = Some(Instant::now());
            count_partitions(shared);
        }
        let (mut answers, mut lost) = (0, false);
        for (tp, next) in &list {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let asked = Instant::now();
            let marks = shared.asker.fetch_watermarks(&tp.topic, tp.partition, ASK);
            let Ok((low, high)) = marks else { break };
            answers += 1;
            report(shared, tp, high, asked);
            lost |= look && place(shared, tp, *next, low, high);
        }
        let answering = said::answered(&shared.health, answers, list.len());
        shared.answering.store(answering, Ordering::Relaxed);
        if look && answers < list.len() {
            shared.look.store(true, Ordering::Relaxed);
        } else if look && !lost {
            // Nobody lost its place: something in the stream cannot be read.
            shared.oversize.store(true, Ordering::Relaxed);
        }
        if shared.oversize.swap(false, Ordering::Relaxed) {
            suspicion.until = Some(Instant::now() + SUSPICION);
        }
        if suspicion.until.is_some_and(|u| Instant::now() < u) {
            examine(shared, &mut suspicion, stop);
        }
        find_ends(shared, stop);
        std::thread::sleep(ROUND);
    }
}

/// Looks behind partitions that stand still below their end: a transaction leaves a marker there which is
/// no record. Where the seal job writes, every partition that falls silent ends so.
fn find_ends<K: Claims>(shared: &Shared<K>, stop: &AtomicBool) {
    for topic in &shared.config.topics {
        let list: Vec<(i32, i64, i64)> = {
            let slots = shared.slots();
            let still = slots.iter().filter(|s| {
                let idle = s.halted.is_none() && !s.paused && !s.is_pending();
                idle && s.next >= s.floor && !s.is_at_end() && s.progress.elapsed() >= STILL
            });
            let places = still
                .filter(|s| *s.tp.topic == *topic.name)
                .map(|s| (s.tp.partition, s.next, s.high));
            places.take(ENDS_AT_ONCE).collect()
        };
        if list.is_empty() || stop.load(Ordering::Relaxed) {
            continue;
        }
        for partition in ask::at_end(&shared.config, &topic.name, &list) {
            let Some((_, next, high)) = list.iter().find(|l| l.0 == partition) else {
                continue;
            };
            let mut slots = shared.slots();
            let slot = slots.iter_mut().find(|s| {
                s.tp.partition == partition && *s.tp.topic == *topic.name && s.next == *next
            });
            if let Some(s) = slot {
                s.end = s.end.max(*high);
            }
        }
    }
}

/// Passes on how many partitions each topic has. A topic that is missing or has an error is left as it
/// was: the answer may be of a moment.
fn count_partitions<K: Claims>(shared: &Shared<K>) {
    for topic in &shared.config.topics {
        let Ok(m) = shared.asker.fetch_metadata(Some(&topic.name), ASK) else {
            return;
        };
        let found = m.topics().iter().find(|t| t.name() == topic.name);
        if let Some(t) = found.filter(|t| t.error().is_none() && !t.partitions().is_empty()) {
            shared.claims.partitions(&topic.name, t.partitions().len());
        }
    }
}

fn report<K: Claims>(shared: &Shared<K>, tp: &TopicPartition, high: i64, asked: Instant) {
    let mut slots = shared.slots();
    let Some(s) = slots.iter_mut().find(|s| s.tp == *tp) else {
        return;
    };
    let part = tp.partition.to_string();
    s.high = high;
    // Markers of transactions at the end are nobody's work.
    let done = s.is_at_end() && !s.is_pending();
    let lag = if done {
        0
    } else {
        high.saturating_sub(s.applied).max(0)
    };
    #[expect(clippy::cast_precision_loss, reason = "a gauge of records")]
    metrics().lag.set(&[&tp.topic, &part], lag as f64);
    if s.is_at_end() && !s.is_pending() && s.halted.is_none() {
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

/// Compares a partition's place with what Kafka has; the error that made us look does not say whose
/// place is lost. `next` is from before the question. True if this one lost its place.
fn place<K: Claims>(
    shared: &Shared<K>,
    tp: &TopicPartition,
    next: i64,
    low: i64,
    high: i64,
) -> bool {
    let mut slots = shared.slots();
    let found = slots
        .iter_mut()
        .find(|s| s.tp == *tp && s.halted.is_none() && s.next == next);
    // One that moved since has not lost anything.
    let Some(s) = found else { return false };
    if next < low {
        s.skip_to(low, "retention");
        s.restart_wanted = true;
    } else if next > high {
        drop(slots);
        shared.cut(tp, next);
    } else {
        return false;
    }
    true
}

/// Reads each partition that is behind and stands still by itself: the one that cannot be read is
/// halted, by name, and the others go on.
fn examine<K: Claims>(shared: &Shared<K>, suspicion: &mut Suspicion, stop: &AtomicBool) {
    let list: Vec<(TopicPartition, i64)> = {
        let slots = shared.slots();
        let still = slots.iter().filter(|s| {
            s.halted.is_none() && !s.paused && s.next < s.high && s.progress.elapsed() >= ROUND
        });
        still.map(|s| (s.tp.clone(), s.next)).collect()
    };
    for (tp, next) in list {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let found = ask::probe(&shared.config, &tp, next);
        tracing::info!(topic = %tp.topic, partition = tp.partition, offset = next, ?found, "probed");
        let corrupt = (found == Probe::Corrupt).then(|| (tp.clone(), next));
        let reason = match found {
            Probe::Oversize => Some("oversize"),
            Probe::Corrupt if suspicion.corrupt == corrupt => Some("corrupt"),
            _ => None,
        };
        if corrupt.is_some() {
            suspicion.corrupt = corrupt;
        }
        let mut slots = shared.slots();
        let slot = slots.iter_mut().find(|s| s.tp == tp && s.next == next);
        if let Some(s) = slot.filter(|s| s.halted.is_none()) {
            s.readable = found == Probe::Readable;
            if let Some(reason) = reason {
                s.halt(reason);
                s.pause_wanted = true;
            }
        }
    }
}
