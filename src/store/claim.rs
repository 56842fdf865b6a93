//! Taking over a partition: from here on the previous owner's batches change nothing.

use std::time::Instant;

use sqlx::Row as _;

use super::{Store, StoreError, Uuid};
use crate::detect::Checkpoint;
use crate::event::{Time, TopicPartition};

/// Domain of the genesis head of a chain, so that two partitions' heads differ from the start.
const GENESIS: &str = "veilwatch audit chain v1";

/// How far an idle watermark stays behind database time, milliseconds: what the clocks of brokers and
/// database may differ by.
const BEHIND_MS: i64 = 1_000;

/// What a new owner of a partition starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The fence: every batch carries it.
    pub claim_id: Uuid,
    /// How often the partition was claimed.
    pub epoch: i64,
    /// First offset that is not applied.
    pub next_offset: i64,
    /// Audit head after `next_offset - 1`.
    pub chain_head: [u8; 32],
    /// Append time of the last applied record.
    pub watermark: Time,
    /// Database time of the claim.
    pub now: Time,
    /// Timestamp of record `next_offset - 1`, 0 where none was applied.
    pub last_ts_ms: i64,
    /// Fingerprint of record `next_offset - 1`.
    pub last_crc: i32,
    /// Why the partition is halted, where it is.
    pub halted: Option<String>,
    /// Detector state to restore; then records up to `next_offset` are replayed without effects.
    pub checkpoint: Option<Checkpoint>,
    /// A checkpoint was there and its checksum is wrong: state is rebuilt by replaying.
    pub checkpoint_damaged: bool,
}

/// The chain's head before the first record of a partition.
pub fn genesis(tp: &TopicPartition) -> [u8; 32] {
    let mut h = blake3::Hasher::new_derive_key(GENESIS);
    h.update(tp.topic.as_bytes());
    h.update(&tp.partition.to_le_bytes());
    *h.finalize().as_bytes()
}

/// Checksum of a checkpoint's bytes.
pub(crate) fn checksum(bytes: &[u8]) -> i32 {
    let hash = blake3::hash(bytes);
    let [a, b, c, d, ..] = *hash.as_bytes();
    i32::from_le_bytes([a, b, c, d])
}

impl Store {
    /// Takes a partition over. `earliest` is the first offset where nothing was ever applied. Waits
    /// for the old owner's open transaction: afterwards its last batch is either inside
    /// `next_offset` or can never commit.
    pub async fn claim(&self, tp: &TopicPartition, earliest: i64) -> Result<Claim, StoreError> {
        let (store, tp) = (self.clone(), tp.clone());
        self.unabortable(async move { store.claim_in(&tp, earliest).await })
            .await
    }

    async fn claim_in(&self, tp: &TopicPartition, earliest: i64) -> Result<Claim, StoreError> {
        let what = "could not claim a partition";
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        // Claims are durable and may wait longer than a batch: the old owner's transaction is ended
        // by the server within its idle timeout.
        sqlx::query(
            "SELECT set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '8s', true)",
        )
        .execute(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        let genesis = genesis(tp);
        let row = sqlx::query(
            "INSERT INTO vw.stream_partition AS s (topic, part, next_offset, claim_id, owner, chain, audit_seal)
             VALUES ($1, $2, $3, $4, $5, $6, $6)
             ON CONFLICT (topic, part) DO UPDATE
               SET claim_id = excluded.claim_id, epoch = s.epoch + 1, owner = excluded.owner, claimed_at = now()
             RETURNING claim_id, epoch, next_offset, chain, watermark, last_ts_ms, last_crc, halted,
                       (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(earliest)
        .bind(Uuid::new_v4())
        .bind(&self.config().owner)
        .bind(genesis.as_slice())
        .fetch_one(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        let checkpoint = sqlx::query(
            "SELECT as_of, fmt, crc, state FROM vw.detector_checkpoint WHERE topic = $1 AND part = $2",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .fetch_optional(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        let chain: Vec<u8> = row.get(3);
        let chain_head = chain.try_into().map_err(|c: Vec<u8>| StoreError::Corrupt {
            what: "the audit head",
            said: format!("{} bytes instead of 32", c.len()),
        })?;
        let next_offset: i64 = row.get(2);
        let mut checkpoint_damaged = false;
        let checkpoint = checkpoint.and_then(|c| {
            let (as_of, bytes): (i64, Vec<u8>) = (c.get(0), c.get(3));
            if c.get::<i32, _>(2) != checksum(&bytes) || as_of > next_offset {
                checkpoint_damaged = true;
                return None;
            }
            Some(Checkpoint {
                as_of,
                fmt: c.get(1),
                bytes,
            })
        });
        Ok(Claim {
            claim_id: row.get(0),
            epoch: row.get(1),
            next_offset,
            chain_head,
            watermark: Time(row.get(4)),
            now: Time(row.get(8)),
            last_ts_ms: row.get(5),
            last_crc: row.get(6),
            halted: row.get(7),
            checkpoint,
            checkpoint_damaged,
        })
    }

    /// The owner of an idle partition that stood at its high watermark when Kafka was `asked` says so:
    /// the database time of that moment − 1 s, so that minutes close. What was appended while this waited
    /// for a connection or a lock is not passed. False: the partition has another owner, or moved.
    pub async fn idle_watermark(
        &self,
        tp: &TopicPartition,
        claim_id: Uuid,
        next_offset: i64,
        asked: Instant,
    ) -> Result<bool, StoreError> {
        let sql = StoreError::statement;
        let what = "could not advance an idle watermark";
        // The time is read at once, the row may be locked for long.
        let mut conn = self.pool().acquire().await.map_err(sql(what))?;
        let now: i64 =
            sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
                .fetch_one(&mut *conn)
                .await
                .map_err(sql(what))?;
        let elapsed = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
        let done = sqlx::query(
            "UPDATE vw.stream_partition
                SET watermark = greatest(watermark, $5),
                    applied_at = now()
              WHERE topic = $1 AND part = $2 AND claim_id = $3 AND next_offset = $4",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(claim_id)
        .bind(next_offset)
        .bind(now.saturating_sub(elapsed).saturating_sub(BEHIND_MS))
        .execute(&mut *conn)
        .await
        .map_err(sql(what))?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes whose timestamps a partition's records carry: producers' clocks make minutes less complete, and
    /// the view `completeness` says so.
    pub async fn note_timestamps(
        &self,
        tp: &TopicPartition,
        create_time: bool,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE vw.stream_partition SET create_time = $3
              WHERE topic = $1 AND part = $2 AND create_time IS DISTINCT FROM $3",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(create_time)
        .execute(self.pool())
        .await
        .map_err(StoreError::statement(
            "could not note the kind of timestamps",
        ))?;
        Ok(())
    }

    /// Marks a partition as halted (a record that cannot be fetched, a truncated topic), or not. Under
    /// its claim: a mark that comes after `offsets skip` would stop it anew. False: it has another.
    pub async fn set_halted(
        &self,
        tp: &TopicPartition,
        claim_id: Uuid,
        why: Option<&str>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE vw.stream_partition SET halted = $3 WHERE topic = $1 AND part = $2 AND claim_id = $4",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(why)
        .bind(claim_id)
        .execute(self.pool())
        .await
        .map_err(StoreError::statement("could not mark a partition"))?;
        Ok(done.rows_affected() == 1)
    }
}
