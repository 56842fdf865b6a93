//! Takes partitions over in Postgres, and what a new owner starts from.
//!
//! Called by the poll thread inside the rebalance callback; blocking it is legal there. Trouble with
//! Postgres is retried within the budget, then the process ends: its supervisor backs off.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::live::Live;
use crate::detect::{Checkpoint, PartitionState};
use crate::event::{Time, TopicPartition};
use crate::ingest::{self, ClaimError, Claims, Fingerprint};
use crate::store::Store;
use crate::telemetry::metrics;

/// Records that are read again where no checkpoint can be used: the window of duplicates.
const REPLAY_WITHOUT_CHECKPOINT: i64 = 65_536;
/// Bytes of ours before the detectors' own in a checkpoint: the append time.
const HEADER: usize = 8;
/// Pause between two tries to claim.
const PAUSE: Duration = Duration::from_millis(500);

/// What a worker needs of a claim.
pub(super) struct Claimed {
    pub(super) state: PartitionState,
    /// Append time at the place where the replay begins.
    pub(super) append: Time,
    /// Audit head.
    pub(super) chain: [u8; 32],
    /// Fingerprint of the last applied record.
    pub(super) last: Fingerprint,
    /// Append times of applied records are at most this.
    pub(super) watermark: Time,
    /// Database time.
    pub(super) clock: Clock,
    /// Records to be passed that made a detector panic before.
    pub(super) poisoned: Vec<i64>,
}

/// Database time, as of one answer and counted on since: equal for all processes, while a machine's own
/// clock may be wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What the database said.
    pub(super) said: Time,
    /// When.
    pub(super) at: Instant,
}

impl Clock {
    /// The time now; not ahead of the database's.
    pub(super) fn now(&self) -> Time {
        let since = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.said.plus_ms(since)
    }
}

impl std::fmt::Debug for Claimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimed")
            .field("append", &self.append)
            .finish_non_exhaustive()
    }
}

/// Claims in Postgres.
pub(super) struct PostgresClaims {
    pub(super) store: Store,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) live: std::sync::Arc<Live>,
    pub(super) accept_truncation: bool,
}

impl Claims for PostgresClaims {
    type State = Claimed;

    fn claim(
        &self,
        wanted: &[(TopicPartition, i64)],
        budget: Duration,
    ) -> Result<Vec<ingest::Claimed<Claimed>>, ClaimError> {
        let deadline = Instant::now() + budget;
        let mut out = Vec::with_capacity(wanted.len());
        for (tp, earliest) in wanted {
            out.push(self.runtime.block_on(self.one(tp, *earliest, deadline))?);
        }
        Ok(out)
    }

    fn partitions(&self, topic: &str, n: usize) {
        self.store.partitions_are(topic, n);
    }
}

impl PostgresClaims {
    async fn one(
        &self,
        tp: &TopicPartition,
        earliest: i64,
        deadline: Instant,
    ) -> Result<ingest::Claimed<Claimed>, ClaimError> {
        loop {
            match self.try_one(tp, earliest).await {
                Ok(claimed) => {
                    metrics().claims.inc(&["claimed"]);
                    return Ok(claimed);
                }
                Err(e) if Instant::now() >= deadline || !e.is_transient() => {
                    metrics().claims.inc(&["failed"]);
                    return Err(ClaimError(e.to_string()));
                }
                Err(error) => {
                    metrics().claims.inc(&["retried"]);
                    tracing::warn!(%error, topic = %tp.topic, partition = tp.partition, "claim failed, will retry");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_one(
        &self,
        tp: &TopicPartition,
        earliest: i64,
    ) -> Result<ingest::Claimed<Claimed>, crate::store::StoreError> {
        let c = self.store.claim(tp, earliest).await?;
        let clock = Clock {
            said: c.now,
            at: Instant::now(),
        };
        let restored = c.checkpoint.as_ref().and_then(|k| self.restore(tp, k));
        let (start, append, mut state) = match restored {
            Some(r) => r,
            None => {
                // Nothing usable: rebuild at least the window of duplicates.
                let from = (c.next_offset - REPLAY_WITHOUT_CHECKPOINT).max(earliest);
                let state = PartitionState::new(self.live.load().detect.clone());
                (from.min(c.next_offset), Time(0), state)
            }
        };
        for (new, old) in self.store.load_aliases().await? {
            state.load_alias(new, old);
        }
        let poisoned = self
            .store
            .panicked(tp, start, c.next_offset, c.watermark)
            .await?;
        let last = Fingerprint {
            ts_ms: c.last_ts_ms,
            crc: c.last_crc,
        };
        let mut halted = c.halted;
        if self.accept_truncation && halted.as_deref() == Some("truncated") {
            self.store.set_halted(tp, c.claim_id, None).await?;
            halted = None;
        }
        Ok(ingest::Claimed {
            id: c.claim_id,
            next_offset: c.next_offset,
            start,
            last: (c.last_ts_ms != 0).then_some(last),
            halted,
            state: Claimed {
                state,
                append,
                chain: c.chain_head,
                last,
                watermark: c.watermark,
                clock,
                poisoned,
            },
        })
    }

    fn restore(&self, tp: &TopicPartition, k: &Checkpoint) -> Option<(i64, Time, PartitionState)> {
        let (head, bytes) = k.bytes.split_at_checked(HEADER)?;
        let append = i64::from_le_bytes(head.try_into().ok()?);
        match PartitionState::restore(self.live.load().detect.clone(), k.fmt, bytes) {
            Ok(state) => Some((k.as_of, Time(append), state)),
            Err(error) => {
                tracing::warn!(%error, topic = %tp.topic, partition = tp.partition, "checkpoint not used, replaying instead");
                None
            }
        }
    }
}

/// Puts the append time before the detectors' state.
pub(super) fn wrap(c: Checkpoint, append: Time) -> Checkpoint {
    let mut bytes = Vec::with_capacity(HEADER + c.bytes.len());
    bytes.extend_from_slice(&append.0.to_le_bytes());
    bytes.extend_from_slice(&c.bytes);
    Checkpoint { bytes, ..c }
}

/// A claim that is void, and when to try again.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) tp: TopicPartition,
    pub(super) claim: Uuid,
    /// Another process claimed it: give the group time to tell us before we take it back.
    pub(super) wait: Duration,
}
