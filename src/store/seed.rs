//! Puts what the core learnt from a history into an empty database, so that baselines need not start
//! from nothing: the demo's fourteen days. Refused where anything was applied already.

use super::claim::checksum;
use super::{Store, StoreError, Uuid};
use crate::detect::{Checkpoint, UserRow};
use crate::event::{Time, TopicPartition};

/// What was learnt for one partition.
#[derive(Debug, Clone)]
pub struct Learnt {
    /// Which.
    pub tp: TopicPartition,
    /// Its state, as of offset 0.
    pub checkpoint: Checkpoint,
    /// Its users, as of offset 0 at most.
    pub users: Vec<UserRow>,
}

impl Store {
    /// Writes the learnt state: per partition, and the leader's with the last minute it merged.
    /// False if the database holds work already; then nothing is written.
    pub async fn seed(
        &self,
        partitions: &[Learnt],
        leader: &Checkpoint,
        merged_through: i64,
        at: Time,
    ) -> Result<bool, StoreError> {
        let what = "could not write the learnt state";
        let sql = || StoreError::statement(what);
        let mut tx = self.pool().begin().await.map_err(sql())?;
        let used: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM vw.stream_partition) OR EXISTS (SELECT 1 FROM vw.detector_checkpoint)
                 OR EXISTS (SELECT 1 FROM vw.lease)",
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(sql())?;
        if used {
            return Ok(false);
        }
        for p in partitions {
            sqlx::query(
                "INSERT INTO vw.detector_checkpoint (topic, part, as_of, fmt, crc, state) VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(p.tp.topic.as_str())
            .bind(p.tp.partition)
            .bind(p.checkpoint.as_of)
            .bind(p.checkpoint.fmt)
            .bind(checksum(&p.checkpoint.bytes))
            .bind(&p.checkpoint.bytes)
            .execute(&mut *tx)
            .await
            .map_err(sql())?;
            for u in &p.users {
                sqlx::query(
                    "INSERT INTO vw.user_state (user_id, topic, part, as_of, at_ms, state) VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind(u.user.to_string())
                .bind(p.tp.topic.as_str())
                .bind(p.tp.partition)
                .bind(u.as_of)
                .bind(at.0)
                .bind(&*u.state)
                .execute(&mut *tx)
                .await
                .map_err(sql())?;
            }
        }
        sqlx::query(
            "INSERT INTO vw.lease (name, claim_id, owner, renewed_at, merged_through, fmt, state)
             VALUES ('leader', $1, 'seed', '-infinity', $2, $3, $4)",
        )
        .bind(Uuid::new_v4())
        .bind(merged_through)
        .bind(leader.fmt)
        .bind(&leader.bytes)
        .execute(&mut *tx)
        .await
        .map_err(sql())?;
        tx.commit().await.map_err(sql())?;
        Ok(true)
    }
}
