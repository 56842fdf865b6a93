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
use crate::store::{Store, StoreError};
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
    /// How often the partition was claimed.
    pub(super) epoch: i64,
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

/// Claims under way at once. Each is a transaction of its own on one row, and half of its time is
/// waited for the disk; more than the pool has would only wait for it.
const AT_ONCE: usize = 4;

/// Claims in Postgres.
#[derive(Clone)]
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
        self.runtime.block_on(self.all(wanted, deadline))
    }

    fn partitions(&self, topic: &str, n: usize) {
        self.store.partitions_are(topic, n);
    }
}

impl PostgresClaims {
    /// Claims all, a few at once, and gives them in the order they were asked for.
    async fn all(
        &self,
        wanted: &[(TopicPartition, i64)],
        deadline: Instant,
    ) -> Result<Vec<ingest::Claimed<Claimed>>, ClaimError> {
        let mut wanted = wanted.iter().cloned().enumerate();
        let mut running = tokio::task::JoinSet::new();
        let mut done = Vec::with_capacity(wanted.len());
        loop {
            while running.len() < AT_ONCE
                && let Some((n, (tp, earliest))) = wanted.next()
            {
                let claims = self.clone();
                running.spawn(async move { (n, claims.one(&tp, earliest, deadline).await) });
            }
            match running.join_next().await {
                Some(Ok(one)) => done.push(one),
                Some(Err(e)) => return Err(ClaimError(e.to_string())),
                None => break,
            }
        }
        done.sort_by_key(|(n, _)| *n);
        let claimed = done.into_iter().map(|(_, one)| one);
        claimed.collect()
    }

    async fn one(
        &self,
        tp: &TopicPartition,
        earliest: i64,
        deadline: Instant,
    ) -> Result<ingest::Claimed<Claimed>, ClaimError> {
        let what = format!("{} partition {}", tp.topic, tp.partition);
        let claimed = until(deadline, &what, || self.try_one(tp, earliest)).await?;
        metrics().claims.inc(&["claimed"]);
        Ok(claimed)
    }

    async fn try_one(
        &self,
        tp: &TopicPartition,
        earliest: i64,
    ) -> Result<ingest::Claimed<Claimed>, StoreError> {
        let c = self.store.claim(tp, earliest).await?;
        let clock = Clock {
            said: c.now,
            at: Instant::now(),
        };
        let restored = c.checkpoint.as_ref().and_then(|k| self.restore(tp, k));
        let (start, append, state) = match restored {
            Some(r) => r,
            None => {
                // Nothing usable: rebuild at least the window of duplicates.
                let from = (c.next_offset - REPLAY_WITHOUT_CHECKPOINT).max(earliest);
                let state = PartitionState::new(self.live.load().detect.clone());
                (from.min(c.next_offset), Time(0), state)
            }
        };
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
                epoch: c.epoch,
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

/// Asks Postgres again until it answers, the deadline is over, or it refuses for good.
async fn until<T, F: Future<Output = Result<T, StoreError>>>(
    deadline: Instant,
    what: &str,
    ask: impl Fn() -> F,
) -> Result<T, ClaimError> {
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(e) if Instant::now() >= deadline || !(e.is_transient() || e.is_waiting()) => {
                metrics().claims.inc(&["failed"]);
                return Err(ClaimError(e.to_string()));
            }
            Err(error) => {
                metrics().claims.inc(&["retried"]);
                tracing::warn!(%error, what, "claim failed, will retry");
                tokio::time::sleep(PAUSE).await;
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
