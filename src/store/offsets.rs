//! Where partitions stand, and what people do to one that stands still.

use sqlx::Row as _;

use super::{Store, StoreError, Uuid, budget};
use crate::event::{SmolStr, Time, TopicPartition};

impl Store {
    /// Moves a partition past records that cannot be read: one transaction writes the gap row,
    /// the action and the new offset, and fences the present owner. Returns false when the
    /// partition does not stand at `from`.
    pub async fn skip_offsets(
        &self,
        tp: &TopicPartition,
        from: i64,
        to: i64,
        reason: &str,
        author: &str,
    ) -> Result<bool, StoreError> {
        let (store, tp) = (self.clone(), tp.clone());
        let (reason, author) = (super::clean(reason), super::clean(author));
        self.unabortable(async move {
            let what = "could not skip offsets";
            let sql = StoreError::statement;
            let mut tx = store.pool().begin().await.map_err(sql(what))?;
            let moved = sqlx::query(
                "UPDATE vw.stream_partition
                    SET next_offset = $4, claim_id = $5, epoch = epoch + 1, halted = NULL, last_ts_ms = 0, last_crc = 0
                  WHERE topic = $1 AND part = $2 AND next_offset = $3",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(from)
            .bind(to)
            .bind(Uuid::new_v4())
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            if moved.rows_affected() != 1 {
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO vw.stream_gap (topic, part, lo, hi, reason, author) VALUES ($1, $2, $3, $4, 'skipped', $5)",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(from)
            .bind(to)
            .bind(&author)
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            let detail = serde_json::json!({
                "topic": tp.topic, "partition": tp.partition, "from": from, "to": to, "reason": reason,
            });
            budget::act(&mut tx, &author, "offsets skip", detail).await?;
            tx.commit().await.map_err(sql(what))?;
            Ok(true)
        })
        .await
    }

    /// Lets a halted partition go on where it stands; nothing is lost. Fences the present owner, so that
    /// a mark that is on its way does not stop it anew. `None`: it is not halted. Else where it stands and why
    /// it halted.
    pub async fn resume_partition(
        &self,
        tp: &TopicPartition,
        reason: &str,
        author: &str,
    ) -> Result<Option<(i64, String)>, StoreError> {
        let (store, tp) = (self.clone(), tp.clone());
        let (reason, author) = (super::clean(reason), super::clean(author));
        self.unabortable(async move {
            let what = "could not let a partition go on";
            let sql = StoreError::statement;
            let mut tx = store.pool().begin().await.map_err(sql(what))?;
            let stood: Option<(i64, String)> = sqlx::query_as(
                "SELECT next_offset, halted FROM vw.stream_partition
                  WHERE topic = $1 AND part = $2 AND halted IS NOT NULL FOR UPDATE",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .fetch_optional(&mut *tx)
            .await
            .map_err(sql(what))?;
            let Some((next, why)) = stood else {
                return Ok(None);
            };
            sqlx::query(
                "UPDATE vw.stream_partition SET claim_id = $3, epoch = epoch + 1, halted = NULL
                  WHERE topic = $1 AND part = $2",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(Uuid::new_v4())
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            let detail = serde_json::json!({
                "topic": tp.topic, "partition": tp.partition, "at": next, "halted": why, "reason": reason,
            });
            budget::act(&mut tx, &author, "offsets resume", detail).await?;
            tx.commit().await.map_err(sql(what))?;
            Ok(Some((next, why)))
        })
        .await
    }

    /// Follows the partitions of a topic over a connection of its own.
    pub async fn follow(&self, topic: &str) -> Result<Follower, StoreError> {
        let what = "could not follow the partitions";
        Ok(Follower {
            conn: self
                .pool()
                .acquire()
                .await
                .map_err(StoreError::statement(what))?,
            topic: topic.to_owned(),
        })
    }

    /// Where every partition stands.
    pub async fn partitions(&self) -> Result<Vec<PartitionRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT topic, part, next_offset, epoch, owner, watermark, halted, claimed_at,
                    (extract(epoch FROM clock_timestamp() - applied_at) * 1000)::bigint
               FROM vw.stream_partition ORDER BY topic, part",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not list the partitions"))?;
        Ok(rows
            .iter()
            .map(|r| PartitionRow {
                tp: TopicPartition {
                    topic: SmolStr::new(r.get::<&str, _>(0)),
                    partition: r.get(1),
                },
                next_offset: r.get(2),
                epoch: r.get(3),
                owner: r.get(4),
                watermark: Time(r.get(5)),
                halted: r.get(6),
                claimed_at: super::time(r.get(7)),
                idle_ms: r.get::<i64, _>(8).max(0),
            })
            .collect())
    }
}

/// Asks how far a topic is, again and again, for as little as one question costs.
#[derive(Debug)]
pub struct Follower {
    conn: sqlx::pool::PoolConnection<sqlx::Postgres>,
    topic: String,
}

impl Follower {
    /// The partitions and the offset that each applies next.
    pub async fn offsets(&mut self) -> Result<Vec<(i32, i64)>, StoreError> {
        sqlx::query_as("SELECT part, next_offset FROM vw.stream_partition WHERE topic = $1")
            .bind(&self.topic)
            .fetch_all(&mut *self.conn)
            .await
            .map_err(StoreError::statement("could not follow the partitions"))
    }
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRow {
    /// Which.
    pub tp: TopicPartition,
    /// First offset not applied.
    pub next_offset: i64,
    /// How often it was claimed.
    pub epoch: i64,
    /// Who claimed it last.
    pub owner: String,
    /// Append time of the last applied record.
    pub watermark: Time,
    /// Why it is halted.
    pub halted: Option<String>,
    /// When it was claimed.
    pub claimed_at: Time,
    /// Milliseconds of database time since the row last moved.
    pub idle_ms: i64,
}
