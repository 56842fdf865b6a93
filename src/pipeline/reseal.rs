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

use zeroize::Zeroizing;

use crate::decode::reseal::{Outcome, Resealer};
use crate::decode::signature::{Signatures, sign};
use crate::decode::{DeadLetter, Decoder, RawRecord};
use crate::event::{Kid, Time};
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

/// What the job checks, and what it does.
pub struct Seal {
    /// Seals texts and identities.
    pub sealer: Arc<Sealer>,
    /// Keys of the gateways that sign raw records: what fails is a dead letter, as in `run`.
    pub signatures: Arc<Signatures>,
    /// Whether pseudonyms in the source are taken as such.
    pub from_sealed: bool,
    /// Signs what is published, for whoever reads the sealed topic: a key that speaks for all gateways.
    pub signs: Option<(Kid, Zeroizing<Vec<u8>>)>,
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
pub async fn start(job: Job, seal: Seal, health: Health) -> Result<Running, JobError> {
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
    health.expect_beat_within("kafka", r.from.max_poll_interval);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let http = crate::telemetry::http::serve_until(job.listen, health.clone(), stopped)
        .await
        .map_err(|e| JobError::Http(job.listen, e))?;
    let maker = Resealing {
        topic: r
            .from
            .topics
            .first()
            .map_or_else(String::new, |t| t.name.clone()),
        seal,
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
    seal: Seal,
    partitions: BTreeMap<i32, Resealer>,
}

impl Maker for Resealing {
    fn begin(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    fn make(&mut self, partition: i32, r: &Fetched<'_>, headers: &[(&str, &[u8])]) -> Made {
        let resealer = self.partitions.entry(partition).or_insert_with(|| {
            let mut decoder = Decoder::trusted(self.seal.sealer.clone());
            if self.seal.from_sealed {
                decoder = decoder.taking_pseudonyms();
            }
            Resealer::new(decoder.with_signatures(self.seal.signatures.clone()))
        });
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
            (Ok(()), Some(Outcome::Publish(s))) => {
                let signs = self.seal.signs.as_ref();
                Made::Record {
                    signature: signs.map(|(kid, key)| sign(*kid, key, s.value.as_bytes())),
                    key: s.key,
                    value: s.value,
                }
            }
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
            seal: Seal {
                sealer: Arc::new(Sealer::built_in(Keys::single([7; 32]))),
                signatures: Arc::default(),
                from_sealed: false,
                signs: None,
            },
            partitions: BTreeMap::new(),
        };
        let raw = r#"{"v":1,"id":"e1","gateway":"g","boot":"b","lane":3,"seq":9,"at":"2026-11-21T07:00:00Z","operation":"chat","user":"alice@example.com","model":{"requested":"gpt-4o"},"status":200,"request":{"text":"hello there"}}"#;
        let first = r.make(0, &record(0, raw), &[]);
        let Made::Record { key, value, .. } = &first else {
            panic!("sealed: {first:?}");
        };
        assert!(
            !value.contains("alice") && !value.contains("hello"),
            "{value}"
        );
        assert!(value.contains(r#""seq":9"#) && value.contains(r#""id":"e1""#));
        assert!(!key.is_empty() && value.contains(key.as_str()));
        assert_eq!(r.make(0, &record(1, raw), &[]), Made::Duplicate);
        // The caller chose the id, as he did for the call before.
        let next = raw.replace(r#""seq":9"#, r#""seq":10"#);
        assert!(matches!(
            r.make(0, &record(1, &next), &[]),
            Made::Record { .. }
        ));
        r.begin(0);
        assert_eq!(r.make(0, &record(0, raw), &[]), first);

        let Made::Dead(d) = r.make(0, &record(2, r#"{"v":1,"id":"bob@example.com"#), &[]) else {
            panic!("refused");
        };
        assert_eq!((d.reason, d.bytes), ("not_json", 28));
    }
    /// Base64 of 32 times 7.
    const SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

    fn raw(gateway: &str) -> String {
        format!(
            r#"{{"v":1,"id":"e1","gateway":"{gateway}","at":"2026-11-21T07:00:00Z","operation":"chat","model":{{"requested":"m"}},"status":200}}"#
        )
    }

    #[test]
    fn f41_the_job_launders_no_forged_record_and_signs_what_it_makes() {
        let ring = |line: &str, required| Signatures::parse(line, required).expect("keys");
        let own = format!("job * {SECRET}\n");
        let mut r = Resealing {
            topic: "raw".into(),
            seal: Seal {
                sealer: Arc::new(Sealer::built_in(Keys::single([7; 32]))),
                signatures: Arc::new(ring(&format!("g1 gw-1 {SECRET}\n"), false)),
                from_sealed: false,
                signs: ring(&own, false).into_signing_key(),
            },
            partitions: BTreeMap::new(),
        };
        // gw-2 speaks for gw-1: without a signature, and with none that is known.
        let forged = raw("gw-1");
        for headers in [&[][..], &[("vw-sig", &b"zz:AAAA"[..])]] {
            let Made::Dead(d) = r.make(0, &record(0, &forged), headers) else {
                panic!("refused");
            };
            assert_eq!(d.reason, "bad_signature");
        }
        let kid = Kid::parse("g1").expect("kid");
        let signed = sign(kid, &[7; 32], forged.as_bytes());
        let headers = [("vw-sig", signed.as_bytes())];
        let Made::Record {
            value, signature, ..
        } = r.make(0, &record(1, &forged), &headers)
        else {
            panic!("sealed");
        };
        // The monitor requires signatures and knows the job's key.
        let signature = signature.expect("signed");
        let sealed = [("vw-sig", signature.as_bytes())];
        let known = ring(&own, true);
        let signer = known.check(&sealed, value.as_bytes()).expect("fits");
        assert!(known.speaks_for(signer, "gw-1"));
        assert!(known.check(&sealed, b"another").is_err());
        // A key of one gateway cannot sign for all.
        let bound = format!("g1 gw-1 {SECRET}\n");
        assert!(ring(&bound, false).into_signing_key().is_none());
    }
}
