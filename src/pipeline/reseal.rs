//! The Kafka→Kafka seal job: raw topic in, sealed topic out, keyed by user.
//!
//! Joins `ingest::relay` (who reads, publishes and commits) with `decode::reseal` (what a record
//! becomes). Text is in memory only between the two. It needs no database: Kafka's group holds the
//! offsets, and a record published twice has the same id and sequence, which `run` recognises.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::decode::reseal::{Outcome, Resealer};
use crate::decode::{DeadLetter, Decoder, RawRecord};
use crate::event::Time;
use crate::ingest::relay::{self, Dead, Made, Maker, RelayConfig};
use crate::ingest::{self, Ended, Fetched, IngestConfig, TopicConfig, TopicMode};
use crate::seal::Sealer;
use crate::telemetry::Health;

/// What the job reads and writes.
#[derive(Debug, Clone)]
pub struct Job {
    /// The relay's settings.
    pub relay: RelayConfig,
    /// Where `/livez /readyz /metrics` are served.
    pub listen: SocketAddr,
}

/// Why the job does not start.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A topic is missing, or the brokers refuse us or do not answer.
    #[error(transparent)]
    Topics(#[from] ingest::TopicError),
    /// Kafka's client.
    #[error("{0}")]
    Ingest(String),
    /// No address.
    #[error("cannot listen on {0}: {1}; choose another port with --listen")]
    Http(SocketAddr, std::io::Error),
}

/// The running job.
pub struct Running {
    relay: ingest::Handle,
    stop: tokio::sync::watch::Sender<bool>,
    /// Where `/livez /readyz /metrics` are.
    pub http: SocketAddr,
}

/// Checks the topics and starts the job.
///
/// # Errors
/// Whatever is missing or wrong, with what to do about it.
pub async fn start(job: Job, sealer: Arc<Sealer>, health: Health) -> Result<Running, JobError> {
    let r = &job.relay;
    let topic = |name: &str| TopicConfig {
        name: name.to_owned(),
        mode: TopicMode::Trusted,
    };
    let mut all = r.from.clone();
    all.topics.push(topic(&r.to));
    all.topics.push(topic(&r.dead));
    tokio::task::spawn_blocking(move || check(&all))
        .await
        .map_err(|e| JobError::Ingest(e.to_string()))??;
    health.set("kafka", false, "joining the group");
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let routes = crate::telemetry::http::routes(health.clone());
    let http = crate::telemetry::http::serve(job.listen, routes, async move {
        let _ = stopped.wait_for(|s| *s).await;
    })
    .await
    .map_err(|e| JobError::Http(job.listen, e))?;
    let maker = Resealing {
        topic: r
            .from
            .topics
            .first()
            .map_or_else(String::new, |t| t.name.clone()),
        sealer,
        partitions: BTreeMap::new(),
    };
    let relay = relay::spawn(job.relay, maker, health).map_err(JobError::Ingest)?;
    Ok(Running { relay, stop, http })
}

fn check(all: &IngestConfig) -> Result<(), ingest::TopicError> {
    for (topic, partitions) in ingest::check_topics(all)? {
        tracing::info!(topic, partitions, "found");
    }
    Ok(())
}

impl Running {
    /// Waits until the job ends by itself, which it does only when it cannot go on.
    pub async fn failed(&self) {
        while !self.relay.is_finished() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Drains and stops.
    pub async fn stop(self) -> Ended {
        let Self { relay, stop, .. } = self;
        relay.stop();
        let ended = tokio::task::spawn_blocking(move || relay.join()).await;
        let _ = stop.send(true);
        ended.unwrap_or_else(|e| Ended::Failed(e.to_string()))
    }
}

/// Seals records, each partition with its own memory of what was published.
struct Resealing {
    topic: String,
    sealer: Arc<Sealer>,
    partitions: BTreeMap<i32, Resealer>,
}

impl Maker for Resealing {
    fn begin(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    fn make(&mut self, partition: i32, r: &Fetched<'_>, headers: &[(&str, &[u8])]) -> Made {
        let resealer = self
            .partitions
            .entry(partition)
            .or_insert_with(|| Resealer::new(Decoder::trusted(self.sealer.clone())));
        let raw = RawRecord {
            topic: &self.topic,
            partition,
            offset: r.offset,
            append: Time(r.ts_ms),
            key: r.key,
            value: r.value,
            headers,
        };
        let made = Cell::new(None);
        let done = catch_unwind(AssertUnwindSafe(|| made.set(Some(resealer.seal(&raw)))));
        match (done, made.into_inner()) {
            (Ok(()), Some(Outcome::Publish(s))) => Made::Record {
                key: s.key,
                value: s.value,
            },
            (Ok(()), Some(Outcome::Duplicate)) => Made::Duplicate,
            (Ok(()), Some(Outcome::Refused(d))) => Made::Dead(dead(d)),
            _ => {
                // Its scratch may be half written; what it remembers only saves work.
                self.partitions.remove(&partition);
                Made::Dead(Dead {
                    reason: "seal_panic",
                    path: None,
                    byte: None,
                    bytes: r.value.map_or(0, <[u8]>::len) as u64,
                })
            }
        }
    }
}

fn dead(d: DeadLetter) -> Dead {
    Dead {
        reason: d.reason.as_str(),
        path: d.path.map(String::from),
        byte: d.byte,
        bytes: d.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Keys;

    fn record(offset: i64, value: &str) -> Fetched<'_> {
        Fetched {
            offset,
            ts_ms: 1_750_000_000_000,
            key: None,
            value: Some(value.as_bytes()),
        }
    }

    #[test]
    fn a_record_made_again_after_a_new_assignment_is_the_same_one() {
        let mut r = Resealing {
            topic: "raw".into(),
            sealer: Arc::new(Sealer::built_in(Keys::single([7; 32]))),
            partitions: BTreeMap::new(),
        };
        let raw = r#"{"v":1,"id":"e1","gateway":"g","boot":"b","lane":3,"seq":9,"at":"2026-11-21T07:00:00Z","operation":"chat","user":"alice@example.com","model":{"requested":"gpt-4o"},"status":200,"request":{"text":"hello there"}}"#;
        let first = r.make(0, &record(0, raw), &[]);
        let Made::Record { key, value } = &first else {
            panic!("sealed: {first:?}");
        };
        assert!(
            !value.contains("alice") && !value.contains("hello"),
            "{value}"
        );
        assert!(value.contains(r#""seq":9"#) && value.contains(r#""id":"e1""#));
        assert!(!key.is_empty() && value.contains(key.as_str()));
        assert_eq!(r.make(0, &record(1, raw), &[]), Made::Duplicate);
        r.begin(0);
        assert_eq!(r.make(0, &record(0, raw), &[]), first);

        let Made::Dead(d) = r.make(0, &record(2, r#"{"v":1,"id":"bob@example.com"#), &[]) else {
            panic!("refused");
        };
        assert_eq!((d.reason, d.bytes), ("not_json", 28));
    }
}
