//! The batch transaction: results and offset live or die together.
//!
//! One transaction carries one batch each of several partitions of a process. It begins with the
//! compare-and-set of every partition in (topic, part) order; if one fails it is rolled back and tried
//! again without that partition. An unknown COMMIT is resolved by reading the partition's row. The
//! same batch is a pure value, so trying again writes the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, Row as _};

use super::chaos::{self, Point};
use super::{Counters, Store, StoreError, Uuid, append, crowd, incident, ledger, value};
use crate::account::{LedgerRows, Scope};
use crate::detect::{Checkpoint, Effects, ValueDelta, ValueKey};
use crate::event::{SmolStr, Time, TopicPartition};

/// Times the same batch is tried after a transient error. Then the caller pauses and asks again.
const TRIES: u32 = 5;
/// First pause between tries; doubled each time, with jitter of a half.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How long to go on asking for the outcome of a COMMIT while the database does not answer. A crash
/// recovery takes seconds.
const ASK_FOR: Duration = Duration::from_secs(30);

/// A record that could not be decoded. Never its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// Where.
    pub offset: i64,
    /// Append time.
    pub append: Time,
    /// Why, from a fixed list.
    pub reason: SmolStr,
    /// Field path, names only.
    pub path: String,
    /// Byte position.
    pub byte: Option<u64>,
    /// Size of the record in bytes.
    pub bytes: u64,
    /// Who published it, where that could be read.
    pub gateway: Option<SmolStr>,
}

/// Offsets that were lost: never silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    /// First offset lost.
    pub lo: i64,
    /// First offset after.
    pub hi: i64,
    /// `retention`, `skipped`, `truncated`.
    pub reason: SmolStr,
}

/// One batch of one partition, complete.
#[derive(Debug)]
pub struct PartitionBatch {
    /// Which partition.
    pub tp: TopicPartition,
    /// The claim it was read under.
    pub claim_id: Uuid,
    /// The offset that must be next: the batch covers `lo..hi`.
    pub lo: i64,
    /// First offset after the batch.
    pub hi: i64,
    /// Records read (holes left by transactions and compaction are not records).
    pub records: u32,
    /// Append time of the last record.
    pub watermark: Time,
    /// Timestamp of record `hi - 1`.
    pub last_ts_ms: i64,
    /// Fingerprint of record `hi - 1`.
    pub last_crc: i32,
    /// Audit head before the batch.
    pub chain_prev: [u8; 32],
    /// Audit head after it.
    pub chain_head: [u8; 32],
    /// Key id of the leaves in a trusted source, else empty.
    pub kid: SmolStr,
    /// What could not be decoded.
    pub dead_letters: Vec<DeadLetterRow>,
    /// Why the partition stops here, if it does: one word.
    pub halt: Option<&'static str>,
    /// What was lost.
    pub gaps: Vec<GapRow>,
    /// What detect wants written, closed. Rows of a checkpoint stand in its `user_rows`.
    pub effects: Effects,
    /// Usage.
    pub ledger: LedgerRows,
    /// Detector state as of `hi`, when its turn has come.
    pub checkpoint: Option<Checkpoint>,
}

/// Why a partition's batch was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Another process claimed the partition: drop it.
    Claimed,
    /// The claim is ours, the offset is not: claim again and go on from there.
    Moved {
        /// Where it stands.
        next_offset: i64,
    },
    /// The row is gone (a database restored from before the first claim): claim again.
    Gone,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Partitions whose batch was refused, in order. All others are applied.
    pub fenced: Vec<(TopicPartition, Fence)>,
    /// Findings by what became of them.
    pub findings: incident::Fates,
    /// Incident changes written: the notifier has work.
    pub changes: u64,
    /// Thresholds of budgets crossed, by scope.
    pub crossings: BTreeMap<Scope, u64>,
    /// Transactions tried, 1 without trouble.
    pub tries: u32,
}

enum Outcome {
    Done(Commit),
    Fenced(usize, Fence),
}

/// A failed attempt: whether COMMIT had been sent, and what it would have done.
struct Failed {
    error: StoreError,
    committing: Option<Commit>,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self {
            error,
            committing: None,
        }
    }
}

impl Store {
    /// Applies batches of several partitions in one transaction. Runs to its end even if the caller
    /// is dropped.
    ///
    /// # Errors
    /// A transient error after several tries (pause, then call again with the same batches), or one
    /// that trying again does not cure.
    pub async fn commit(&self, batches: Arc<[PartitionBatch]>) -> Result<Commit, StoreError> {
        let store = self.clone();
        self.unabortable(async move { store.commit_loop(&batches).await })
            .await
    }

    async fn commit_loop(&self, batches: &[PartitionBatch]) -> Result<Commit, StoreError> {
        let mut live: Vec<&PartitionBatch> = batches.iter().collect();
        live.sort_by(|a, b| a.tp.cmp(&b.tp));
        if live.windows(2).any(|w| w[0].tp == w[1].tp) {
            return Err(StoreError::Refusal(
                "one transaction takes one batch of a partition".to_owned(),
            ));
        }
        let mut fenced = Vec::new();
        let mut tries = 0;
        let mut failures = 0;
        // What an attempt would have done whose COMMIT got no answer.
        let mut unknown: Option<Commit> = None;
        loop {
            if live.is_empty() {
                return Ok(Commit {
                    fenced,
                    tries,
                    ..Commit::default()
                });
            }
            tries += 1;
            match self.attempt(&live).await {
                Ok(Outcome::Done(mut done)) => {
                    Counters::add(&self.counters().commits, 1);
                    done.fenced = fenced;
                    done.tries = tries;
                    return Ok(done);
                }
                Ok(Outcome::Fenced(at, fence)) => {
                    // The attempt whose outcome was unknown may have committed while this one waited
                    // for its lock.
                    if let Some(mut done) = unknown.take()
                        && fence
                            == (Fence::Moved {
                                next_offset: live[at].hi,
                            })
                    {
                        done.fenced = fenced;
                        done.tries = tries;
                        return Ok(done);
                    }
                    Counters::add(&self.counters().fenced, 1);
                    fenced.push((live.remove(at).tp.clone(), fence));
                }
                Err(Failed { error, committing }) => {
                    if let Some(would) = committing
                        && error.is_connection()
                    {
                        Counters::add(&self.counters().unknown_commits, 1);
                        if self.ask(&live).await? {
                            let mut done = would;
                            done.fenced = fenced;
                            done.tries = tries;
                            return Ok(done);
                        }
                        unknown = Some(would);
                    }
                    failures += 1;
                    if !error.is_transient() || failures >= TRIES {
                        return Err(error);
                    }
                    Counters::add(&self.counters().retries, 1);
                    if error.code() == Some("40P01") {
                        Counters::add(&self.counters().deadlocks, 1);
                    }
                    tokio::time::sleep(jittered(FIRST_PAUSE * 2u32.pow(failures - 1))).await;
                }
            }
        }
    }

    /// Whether a transaction whose COMMIT got no answer took effect. It is one transaction, so one
    /// row that shows it is enough.
    async fn ask(&self, live: &[&PartitionBatch]) -> Result<bool, StoreError> {
        let until = tokio::time::Instant::now() + ASK_FOR;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.ask_once(live).await {
                Err(e) if e.is_transient() && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                answer => return answer,
            }
        }
    }

    async fn ask_once(&self, live: &[&PartitionBatch]) -> Result<bool, StoreError> {
        for b in live {
            let row = sqlx::query(
                "SELECT claim_id, next_offset FROM vw.stream_partition WHERE topic = $1 AND part = $2",
            )
            .bind(b.tp.topic.as_str())
            .bind(b.tp.partition)
            .fetch_optional(self.pool())
            .await
            .map_err(StoreError::statement("could not ask for the outcome of a commit"))?;
            if row.is_some_and(|r| r.get::<Uuid, _>(0) == b.claim_id && r.get::<i64, _>(1) == b.hi)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn attempt(&self, live: &[&PartitionBatch]) -> Result<Outcome, Failed> {
        let mut tx = self
            .writers()
            .begin()
            .await
            .map_err(StoreError::statement("could not begin a batch"))?;
        chaos::reach(Point::BeforeCas);
        let links = match compare_and_set(&mut tx, live).await? {
            Ok(links) => links,
            Err((i, fence)) => {
                tx.rollback()
                    .await
                    .map_err(StoreError::statement("could not roll a batch back"))?;
                return Ok(Outcome::Fenced(i, fence));
            }
        };
        chaos::reach(Point::AfterCas);
        let repeated_letters = append::append(&mut tx, live, &links).await?;
        append::state(&mut tx, live).await?;

        let mut values: BTreeMap<ValueKey, ValueDelta> = BTreeMap::new();
        let mut findings = Vec::new();
        for b in live {
            for (key, delta) in &b.effects.values {
                values.entry(*key).or_default().merge(delta);
            }
            findings.extend(b.effects.findings.iter().cloned());
        }
        let usage = ledger::sum(live.iter().map(|b| &b.ledger));
        let at = live.iter().map(|b| b.watermark).max().unwrap_or_default();
        let left = value::merge(&mut tx, &values).await?;

        let narrow = ledger::add(&mut tx, &ledger::Columns::of(&usage, false), at).await?;
        let (told, mut crowded) = crowd::findings(&mut tx, &narrow, self.stages()).await?;
        findings.extend(told);
        let mut summary = incident::apply(&mut tx, findings, false).await?;

        let wide = ledger::add(&mut tx, &ledger::Columns::of(&usage, true), at).await?;
        let (crossed, more) = crowd::findings(&mut tx, &wide, self.stages()).await?;
        crowded += more;
        summary.add(&incident::apply(&mut tx, crossed, true).await?);

        let done = Commit {
            findings: summary.fates,
            changes: summary.changes,
            crossings: ledger::by_scope(narrow.iter().chain(&wide)),
            ..Commit::default()
        };
        chaos::reach(Point::BeforeCommit);
        if let Err(e) = tx.commit().await {
            return Err(Failed {
                error: StoreError::statement("could not commit a batch")(e),
                committing: Some(done),
            });
        }
        chaos::reach(Point::AfterCommit);
        let counters = self.counters();
        Counters::add(&counters.repeated_findings, summary.repeated);
        Counters::add(&counters.repeated_dead_letters, repeated_letters);
        Counters::add(&counters.crowded_budgets, crowded);
        Counters::add(&counters.value_overflow, left.overflow);
        Counters::add(&counters.unreadable_values, left.unreadable);
        Ok(Outcome::Done(done))
    }
}

/// Seals one row of `audit_batch` onto those before it, so that a row changed, removed or swapped
/// shows even without the records.
pub(super) fn seal(before: &[u8], lo: i64, hi: i64, n: u32, prev: &[u8], head: &[u8]) -> Vec<u8> {
    let mut h = Sha256::new();
    h.update(before);
    h.update(lo.to_be_bytes());
    h.update(hi.to_be_bytes());
    h.update(n.to_be_bytes());
    h.update(prev);
    h.update(head);
    h.finalize().to_vec()
}

/// What the rows of a batch go on from.
#[derive(Debug)]
pub(super) struct Link {
    /// The new row's seal.
    pub(super) seal: Vec<u8>,
    /// How far the partition was: never back, whatever a batch without records says of itself.
    pub(super) watermark: Time,
}

/// The first statements of a batch: locks the partitions' rows in order, compares claim and offset,
/// and advances all. Gives what the rows go on from, or the first partition that is refused and why.
async fn compare_and_set(
    conn: &mut PgConnection,
    live: &[&PartitionBatch],
) -> Result<Result<Vec<Link>, (usize, Fence)>, StoreError> {
    let what = "could not advance the partitions";
    let topics: Vec<&str> = live.iter().map(|b| b.tp.topic.as_str()).collect();
    let parts: Vec<i32> = live.iter().map(|b| b.tp.partition).collect();
    // Two round trips however many partitions: a lock is taken row by row in the order of the sort.
    let rows = sqlx::query(
        // The last column shows that limits will be tested, as `ledger::show` does.
        "SELECT p.topic, p.part, p.claim_id, p.next_offset, p.audit_seal, p.watermark,
                pg_advisory_xact_lock_shared(30327, 1)
           FROM unnest($1::text[], $2::int[]) AS u (topic, part)
           JOIN vw.stream_partition p ON p.topic = u.topic COLLATE \"C\" AND p.part = u.part
          ORDER BY p.topic, p.part
            FOR UPDATE OF p",
    )
    .bind(&topics)
    .bind(&parts)
    .fetch_all(&mut *conn)
    .await
    .map_err(StoreError::statement(what))?;
    let mut found = rows.iter().peekable();
    let mut links = Vec::with_capacity(live.len());
    for (i, b) in live.iter().enumerate() {
        let row = found.next_if(|r| {
            r.get::<&str, _>(0) == b.tp.topic.as_str() && r.get::<i32, _>(1) == b.tp.partition
        });
        let fence = match row {
            None => Fence::Gone,
            Some(r) if r.get::<Uuid, _>(2) != b.claim_id => Fence::Claimed,
            Some(r) if r.get::<i64, _>(3) != b.lo => Fence::Moved {
                next_offset: r.get(3),
            },
            Some(r) => {
                let n = i32::try_from(b.records).unwrap_or(i32::MAX);
                let n = u32::try_from(n).unwrap_or_default();
                let before: &[u8] = r.get(4);
                links.push(Link {
                    seal: seal(before, b.lo, b.hi, n, &b.chain_prev, &b.chain_head),
                    watermark: b.watermark.max(Time(r.get(5))),
                });
                continue;
            }
        };
        return Ok(Err((i, fence)));
    }
    let done = sqlx::query(
        "UPDATE vw.stream_partition p
            SET next_offset = u.hi, watermark = greatest(p.watermark, u.watermark), last_ts_ms = u.ts, last_crc = u.crc,
                audit_seal = u.seal, chain = u.chain, applied_at = now()
           FROM unnest($1::text[], $2::int[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                       $8::int[], $9::bytea[], $10::bytea[])
             AS u (topic, part, claim_id, lo, hi, watermark, ts, crc, seal, chain)
          WHERE p.topic = u.topic COLLATE \"C\" AND p.part = u.part AND p.claim_id = u.claim_id AND p.next_offset = u.lo",
    )
    .bind(&topics)
    .bind(&parts)
    .bind(live.iter().map(|b| b.claim_id).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.lo).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.hi).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.watermark.0).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.last_ts_ms).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.last_crc).collect::<Vec<_>>())
    .bind(links.iter().map(|l| l.seal.as_slice()).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.chain_head.as_slice()).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement(what))?;
    if done.rows_affected() != live.len() as u64 {
        // The rows are locked, so this cannot be; going on would break exactness.
        return Err(StoreError::Refusal(
            "a locked partition moved: the batch is not applied".to_owned(),
        ));
    }
    Ok(Ok(links))
}

/// Half to one and a half of a pause: writers that collided must not collide again.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}
