//! Replays dead letters: reads their records again from Kafka, decodes them with the present rules and
//! keys, and applies ledgers and findings.
//!
//! Detector state is not touched: baselines, sequences and windows have passed the record's place. An
//! event counts once however many of its records are replayed, by whomever. One that reached the
//! ledgers by a record that could be decoded at once (a gateway that sent it again, mended) counts a
//! second time: replay what was never sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::build::{self, BuildError, Parts};
use super::live::Settings;
use crate::account::{self, Applied, Books};
use crate::config::Config;
use crate::decode::{Decoder, RawRecord};
use crate::detect::{DetectConfig, Effects, PartitionState};
use crate::event::{Event, Hash16, Position, Pseudonym, SmolStr, Time, TopicPartition, hash16};
use crate::ingest::read::{Found, ReadError, read_offsets};
use crate::store::dead_letter::{DeadLetterFilter, StoredDeadLetter};
use crate::store::revive::Revival;
use crate::store::{PartitionBatch, Store, StoreError, Uuid};

/// Why a record that makes the program panic stays a dead letter.
const PANICS: &str = "detector_panic: it panics still; report it";

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
    wanted: &DeadLetterFilter,
    author: &str,
) -> Result<Vec<Replayed>, ReviveError> {
    let parts = Parts::build(config)?;
    // What is in force stays so: an operator's copy of the file may be an old one.
    let store = Store::connect(build::store_config(config)).await?;
    parts.keep_ledgers(&store).await?;
    parts.watch_for(&store).await?;
    let mut by_place: BTreeMap<TopicPartition, Vec<StoredDeadLetter>> = BTreeMap::new();
    for d in store.dead_letters(wanted).await? {
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
        let (ingest, settings) = (config.ingest.clone(), parts.live.load());
        let mut judge = Judge::new(tp.clone(), &settings, ingest.mode(&tp.topic));
        let read = tokio::task::spawn_blocking(move || {
            let offsets: Vec<i64> = letters.iter().map(|d| d.offset).collect();
            let mut decoded = Vec::with_capacity(letters.len());
            let mut waiting = letters.into_iter();
            let tp = judge.tp.clone();
            read_offsets(&ingest, &tp, &offsets, |_, found| {
                if let Some(d) = waiting.next() {
                    decoded.push(judge.decode(&d, &found));
                }
            })?;
            Ok::<_, ReadError>((judge, decoded))
        });
        let (judge, decoded) = read
            .await
            .map_err(|e| ReviveError::Thread(e.to_string()))??;
        let names = judge.names(&decoded);
        let names = store.aliases(&names).await?;
        for (row, event) in decoded {
            out.push(match event {
                None => row,
                Some((position, event)) => match judge.judge(row, position, &event, &names) {
                    (row, None) => row,
                    (mut row, Some((batch, identity))) => {
                        row.outcome = match store.revive(*batch, identity, author).await? {
                            Revival::Applied => row.outcome,
                            Revival::Duplicate => Outcome::Duplicate,
                            Revival::Already => Outcome::Already,
                        };
                        if row.outcome != Outcome::Replayed {
                            (row.findings, row.tokens) = (0, 0);
                        }
                        row
                    }
                },
            });
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

/// A dead letter, and its event where it can be decoded now.
type Decoded = (Replayed, Option<(Position, Box<Event>)>);

/// Decodes and judges the dead letters of one partition, each as the first of its kind: the store
/// knows which events were replayed before.
struct Judge {
    tp: TopicPartition,
    decoder: Decoder,
    kid: SmolStr,
    detect: Arc<DetectConfig>,
    books: Arc<Books>,
}

impl Judge {
    fn new(tp: TopicPartition, settings: &Settings, mode: crate::ingest::TopicMode) -> Self {
        let (decoder, kid) = settings.decoder(mode);
        Self {
            tp,
            decoder,
            kid,
            detect: settings.detect.clone(),
            books: settings.books.clone(),
        }
    }

    fn decode(&mut self, d: &StoredDeadLetter, found: &Found<'_>) -> Decoded {
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
        match catch_unwind(AssertUnwindSafe(|| self.decoder.decode(&raw))) {
            Err(_) => (row(d, Outcome::Refused, PANICS), None),
            Ok(Err(dead)) => (row(d, Outcome::Refused, dead.to_string()), None),
            Ok(Ok(event)) => (row(d, Outcome::Replayed, ""), Some((position, event))),
        }
    }

    /// Pseudonyms whose oldest names must be known before the events are judged.
    fn names(&self, decoded: &[Decoded]) -> BTreeSet<Pseudonym> {
        let events = decoded.iter().filter_map(|(_, e)| e.as_ref());
        let unknown = PartitionState::new(self.detect.clone()).unknown(events.map(|(_, e)| &**e));
        unknown.into_iter().map(|(name, _)| name).collect()
    }

    /// Takes one event through the detectors, under its user's oldest name: whoever has a new pseudonym
    /// has no second budget.
    fn judge(
        &self,
        mut done: Replayed,
        position: Position,
        event: &Event,
        names: &BTreeMap<Pseudonym, (Pseudonym, Time)>,
    ) -> (Replayed, Option<(Box<PartitionBatch>, Hash16)>) {
        let worked = catch_unwind(AssertUnwindSafe(|| {
            let mut state = PartitionState::new(self.detect.clone());
            for (name, _) in state.unknown(std::iter::once(event)) {
                if let Some(known) = names.get(&name) {
                    state.load_alias(name, Some(*known));
                }
            }
            let mut batch = account::Batch::default();
            batch.apply(&mut state, &self.books, position, event);
            batch.finish(&mut state)
        }));
        let Ok(applied) = worked else {
            (done.outcome, done.why) = (Outcome::Refused, PANICS.to_owned());
            return (done, None);
        };
        done.findings = applied.effects.findings.len();
        done.tokens = event.usage.input + event.usage.output;
        let batch = Box::new(self.batch(position.offset, position.append, applied));
        (done, Some((batch, identity(event))))
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
            halt: None,
            gaps: Vec::new(),
            effects,
            ledger: applied.ledger,
            checkpoint: None,
        }
    }
}

/// What makes an event the same in two records, as in a partition's window of duplicates: its id, and its
/// place where it has one. A number without `boot` is no place, and another event at a place is another.
fn identity(e: &Event) -> Hash16 {
    let (gateway, id) = (e.gateway.as_bytes(), e.id.as_bytes());
    match e.place() {
        Some((boot, seq)) => hash16(
            "revived",
            &[
                gateway,
                boot.as_bytes(),
                &e.lane.to_le_bytes(),
                &seq.to_le_bytes(),
                id,
            ],
        ),
        None => hash16("revived", &[gateway, id]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Prices;
    use crate::decode::bare;
    use crate::event::{Kid, Role, Side, Sketch};
    use crate::ingest::TopicMode;

    #[test]
    fn two_events_are_one_only_with_one_id_at_one_place() {
        let event = |id: &str, boot: Option<&str>, seq: Option<u64>| {
            let mut e = bare::event(1, Role::User, Side::Request, Sketch::default());
            (e.id, e.boot, e.seq) = (id.into(), boot.map(Into::into), seq);
            identity(&e)
        };
        // Numbers begin anew at each start, and without `boot` nobody knows which.
        assert_ne!(event("a", None, Some(7)), event("b", None, Some(7)));
        assert_ne!(event("a", Some(""), Some(7)), event("b", Some(""), Some(7)));
        assert_ne!(
            event("a", Some("x"), Some(7)),
            event("b", Some("x"), Some(7)),
            "forged"
        );
        assert_ne!(
            event("a", Some("x"), Some(7)),
            event("a", Some("y"), Some(7))
        );
        assert_eq!(
            event("a", Some("x"), Some(7)),
            event("a", Some("x"), Some(7))
        );
        assert_eq!(
            event("a", None, Some(7)),
            event("a", None, Some(8)),
            "sent again"
        );
    }

    #[test]
    fn a_letter_from_after_a_rotation_is_booked_on_the_user_from_before_it() {
        let settings = Settings {
            detect: Arc::new(DetectConfig::default()),
            sealer: None,
            signatures: Arc::default(),
            books: Arc::new(Books::new(Prices::shipped(), &[])),
            titles: crate::decide::Titles::default(),
        };
        let tp = TopicPartition {
            topic: "t".into(),
            partition: 0,
        };
        let judge = Judge::new(tp, &settings, TopicMode::Sealed);
        let named = |kid| Pseudonym {
            kid: Kid::parse(kid).expect("kid"),
            mac: [7; 16],
        };
        let mut event = bare::event(1, Role::User, Side::Request, Sketch::default());
        event.user = Some(named("k8"));
        let d = StoredDeadLetter {
            topic: "t".to_owned(),
            partition: 0,
            offset: 3,
            reason: String::new(),
            field_path: None,
            byte_position: None,
            size_bytes: 0,
            gateway: None,
            at: String::new(),
            replayed_at: None,
        };
        let position = Position {
            offset: 3,
            append: event.at,
        };
        let decoded = vec![(
            row(&d, Outcome::Replayed, ""),
            Some((position, Box::new(event.clone()))),
        )];
        assert!(judge.names(&decoded).contains(&named("k8")));
        let booked = |names: &BTreeMap<_, _>| -> Vec<String> {
            let (_, batch) = judge.judge(row(&d, Outcome::Replayed, ""), position, &event, names);
            let (batch, _) = batch.expect("judged");
            let users = batch
                .ledger
                .iter()
                .map(|(key, _)| key)
                .filter(|k| k.scope == account::Scope::User);
            users.map(|k| k.subject.to_string()).collect()
        };
        assert_eq!(booked(&BTreeMap::new()), [named("k8").to_string()]);
        let names = BTreeMap::from([(named("k8"), (named("k7"), Time(0)))]);
        assert_eq!(booked(&names), [named("k7").to_string()]);
    }
}
