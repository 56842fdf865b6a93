//! Replays dead letters: reads their records again from Kafka, decodes them with the present rules and
//! keys, and applies ledgers and findings.
//!
//! Detector state is not touched: baselines, sequences and windows have passed the record's place. An
//! event counts once however many of its records are replayed, by whomever. One that reached the
//! ledgers by a record that could be decoded at once (a gateway that sent it again, mended) counts a
//! second time: replay what was never sent again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::build::{self, BuildError, Parts};
use super::live::Settings;
use crate::account::{self, Applied, Books};
use crate::config::Config;
use crate::decode::{Decoder, RawRecord};
use crate::detect::{DetectConfig, Effects, PartitionState};
use crate::event::{Event, Hash16, Position, SmolStr, Time, TopicPartition, hash16};
use crate::ingest::read::{Found, ReadError, read_offsets};
use crate::store::dead_letter::{DeadLetterFilter, StoredDeadLetter};
use crate::store::revive::Revival;
use crate::store::{PartitionBatch, StoreError, Uuid};

/// Which dead letters.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As listed.
    pub filter: DeadLetterFilter,
    /// Only of this partition.
    pub partition: Option<i32>,
    /// Only at this offset.
    pub offset: Option<i64>,
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Decoded and applied.
    Replayed,
    /// Decoded; the same event was replayed before, from another record: it counts once.
    Duplicate,
    /// Somebody else replayed it meanwhile.
    Already,
    /// It still cannot be decoded.
    Refused,
    /// Kafka does not have the record any more, or another one stands there.
    Gone,
    /// The configuration does not name its topic.
    Unread,
}

impl Outcome {
    /// The name in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Duplicate => "duplicate",
            Self::Already => "already",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Unread => "unread",
        }
    }

    /// Whether nothing is left to be done.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Replayed | Self::Duplicate | Self::Already)
    }
}

/// One dead letter after the replay.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Replayed {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// What became of it.
    pub outcome: Outcome,
    /// Findings it made.
    pub findings: usize,
    /// Tokens that it added to each of its ledgers.
    pub tokens: u64,
    /// Why it stays a dead letter, and what to do; empty where it does not.
    pub why: String,
}

/// Why nothing could be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReviveError {
    /// Rules, keys, prices.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The reading thread panicked.
    #[error("the reading thread ended: {0}")]
    Thread(String),
}

/// Replays every dead letter that is wanted and open; a row for each, in order of place.
///
/// # Errors
/// Kafka or Postgres does not answer, or the configuration has a mistake. What was applied before
/// stays applied.
pub async fn revive(
    config: &Config,
    wanted: &Wanted,
    author: &str,
) -> Result<Vec<Replayed>, ReviveError> {
    let mut parts = Parts::build(config)?;
    let store = build::connect(config).await?;
    parts.take_limits(&store).await?;
    parts.watch_for(&store).await?;
    let mut by_place: BTreeMap<TopicPartition, Vec<StoredDeadLetter>> = BTreeMap::new();
    for d in store.dead_letters(&wanted.filter).await? {
        if wanted.partition.is_some_and(|p| p != d.partition)
            || wanted.offset.is_some_and(|o| o != d.offset)
        {
            continue;
        }
        let tp = TopicPartition {
            topic: SmolStr::new(&d.topic),
            partition: d.partition,
        };
        by_place.entry(tp).or_default().push(d);
    }
    let mut out = Vec::new();
    for (tp, mut letters) in by_place {
        letters.sort_by_key(|d| d.offset);
        if config.ingest.topics.iter().all(|t| t.name != tp.topic) {
            let why = "its topic is not in ingest.topics; use the configuration that consumes it";
            out.extend(letters.iter().map(|d| row(d, Outcome::Unread, why)));
            continue;
        }
        let (ingest, settings, books) = (
            config.ingest.clone(),
            parts.live.load(),
            parts.books.clone(),
        );
        let read = tokio::task::spawn_blocking(move || {
            let offsets: Vec<i64> = letters.iter().map(|d| d.offset).collect();
            let mut judge = Judge::new(&tp, &settings, ingest.mode(&tp.topic), &books);
            let mut judged = Vec::with_capacity(letters.len());
            let mut waiting = letters.into_iter();
            read_offsets(&ingest, &tp, &offsets, |_, found| {
                if let Some(d) = waiting.next() {
                    judged.push(judge.judge(&d, &found));
                }
            })?;
            Ok::<_, ReadError>(judged)
        });
        let judged = read
            .await
            .map_err(|e| ReviveError::Thread(e.to_string()))??;
        for (mut row, batch) in judged {
            if let Some((batch, identity)) = batch {
                row.outcome = match store.revive(*batch, identity, author).await? {
                    Revival::Applied => row.outcome,
                    Revival::Duplicate => Outcome::Duplicate,
                    Revival::Already => Outcome::Already,
                };
                if row.outcome != Outcome::Replayed {
                    (row.findings, row.tokens) = (0, 0);
                }
            }
            out.push(row);
        }
    }
    store.close().await;
    Ok(out)
}

fn row(d: &StoredDeadLetter, outcome: Outcome, why: impl Into<String>) -> Replayed {
    Replayed {
        topic: d.topic.clone(),
        partition: d.partition,
        offset: d.offset,
        outcome,
        findings: 0,
        tokens: 0,
        why: why.into(),
    }
}

/// Decodes and judges the dead letters of one partition, each as the first of its kind: the store
/// knows which events were replayed before.
struct Judge<'a> {
    tp: &'a TopicPartition,
    decoder: Decoder,
    kid: SmolStr,
    detect: Arc<DetectConfig>,
    books: &'a Arc<Books>,
}

impl<'a> Judge<'a> {
    fn new(
        tp: &'a TopicPartition,
        settings: &Settings,
        mode: crate::ingest::TopicMode,
        books: &'a Arc<Books>,
    ) -> Self {
        let (decoder, kid) = settings.decoder(mode);
        Self {
            tp,
            decoder,
            kid,
            detect: settings.detect.clone(),
            books,
        }
    }

    fn judge(
        &mut self,
        d: &StoredDeadLetter,
        found: &Found<'_>,
    ) -> (Replayed, Option<(Box<PartitionBatch>, Hash16)>) {
        let (r, headers) = match found {
            Found::Record(r, headers) => (r, headers),
            Found::Gone { low, high } => {
                let why = format!(
                    "Kafka has not got it any more: it retains offsets {low} to {high} of this partition; the event is lost to the ledgers"
                );
                return (row(d, Outcome::Gone, why), None);
            }
        };
        let size = r.value.map_or(0, <[u8]>::len);
        if i64::try_from(size).ok() != Some(d.size_bytes) {
            let why = format!(
                "another record stands there, of {size} bytes instead of {}: the topic was recreated",
                d.size_bytes
            );
            return (row(d, Outcome::Gone, why), None);
        }
        // The append time it was refused at: windows and periods are those of its own time.
        let append = Time::parse_rfc3339(&d.at).unwrap_or(Time(r.ts_ms));
        let raw = RawRecord {
            topic: &self.tp.topic,
            partition: self.tp.partition,
            offset: r.offset,
            append,
            key: r.key,
            value: r.value,
            headers,
        };
        let position = Position {
            offset: r.offset,
            append,
        };
        let worked = catch_unwind(AssertUnwindSafe(|| {
            let event = self.decoder.decode(&raw)?;
            let mut state = PartitionState::new(self.detect.clone());
            let mut batch = account::Batch::default();
            batch.apply(&mut state, self.books, position, &event);
            Ok::<_, crate::decode::DeadLetter>((
                identity(&event),
                event.usage,
                batch.finish(&mut state),
            ))
        }));
        match worked {
            Err(_) => (
                row(
                    d,
                    Outcome::Refused,
                    "detector_panic: it panics still; report it",
                ),
                None,
            ),
            Ok(Err(dead)) => (
                row(
                    d,
                    Outcome::Refused,
                    format!("{dead}: {}", dead.reason.remedy()),
                ),
                None,
            ),
            Ok(Ok((identity, usage, applied))) => {
                let mut done = row(d, Outcome::Replayed, "");
                done.findings = applied.effects.findings.len();
                done.tokens = usage.input + usage.output;
                let batch = Box::new(self.batch(r.offset, append, applied));
                (done, Some((batch, identity)))
            }
        }
    }

    fn batch(&self, offset: i64, append: Time, applied: Applied) -> PartitionBatch {
        // Minute parts, values and users' rows are detector state.
        let mut effects = Effects::default();
        effects.findings = applied.effects.findings;
        effects.flagged = applied.effects.flagged;
        PartitionBatch {
            tp: self.tp.clone(),
            claim_id: Uuid::nil(),
            lo: offset,
            hi: offset,
            records: 0,
            watermark: append,
            last_ts_ms: 0,
            last_crc: 0,
            chain_prev: [0; 32],
            chain_head: [0; 32],
            kid: self.kid.clone(),
            dead_letters: Vec::new(),
            gaps: Vec::new(),
            effects,
            ledger: applied.ledger,
            checkpoint: None,
        }
    }
}

/// What makes an event the same in two records, as in a partition's window of duplicates.
fn identity(e: &Event) -> Hash16 {
    let (gateway, id) = (e.gateway.as_bytes(), e.id.as_bytes());
    match e.seq {
        Some(seq) => hash16(
            "revived",
            &[
                gateway,
                e.boot.as_deref().unwrap_or_default().as_bytes(),
                &e.lane.to_le_bytes(),
                &seq.to_le_bytes(),
            ],
        ),
        None => hash16("revived", &[gateway, id]),
    }
}
