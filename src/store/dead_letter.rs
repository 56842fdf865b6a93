//! Dead letters: where and why, never what.

use sqlx::Row as _;

use super::{Store, StoreError, count, day, time};
use crate::event::{Time, TopicPartition};

/// How far before the watermark a replay may reach, milliseconds: checkpoints are minutes apart, an idle
/// partition's watermark may be far ahead of its last record.
const REPLAYED_MS: i64 = 7 * 86_400_000;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// Only of this topic.
    pub topic: Option<String>,
    /// Only of this partition.
    pub partition: Option<i32>,
    /// Only at this offset.
    pub offset: Option<i64>,
    /// Only with this reason.
    pub reason: Option<String>,
    /// Only appended at or after.
    pub since: Option<Time>,
    /// Only those not replayed.
    pub open_only: bool,
    /// At most so many, newest first.
    pub limit: i64,
}

/// A stored dead letter.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StoredDeadLetter {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Why.
    pub reason: String,
    /// Field path.
    pub field_path: Option<String>,
    /// Byte position.
    pub byte_position: Option<i64>,
    /// Size in bytes.
    pub size_bytes: i64,
    /// Publisher, where known.
    pub gateway: Option<String>,
    /// Append time, RFC 3339.
    pub at: String,
    /// When it was replayed.
    pub replayed_at: Option<String>,
}

/// Dead letters by reason.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ReasonCount {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// The latest, RFC 3339.
    pub latest: String,
}

const COLUMNS: &str = "SELECT topic, part, off, reason, nullif(path, ''), byte_pos, bytes, gateway, at, replayed_at FROM vw.dead_letter";

fn stored(r: &sqlx::postgres::PgRow) -> StoredDeadLetter {
    StoredDeadLetter {
        topic: r.get(0),
        partition: r.get(1),
        offset: r.get(2),
        reason: r.get(3),
        field_path: r.get(4),
        byte_position: r.get(5),
        size_bytes: r.get(6),
        gateway: r.get(7),
        at: time(r.get(8)).to_string(),
        replayed_at: r
            .get::<Option<chrono::DateTime<chrono::Utc>>, _>(9)
            .map(|t| time(t).to_string()),
    }
}

impl Store {
    /// Offsets from `lo` to below `hi` whose records made a detector panic: a replay over them must leave
    /// them out. `near` is the partition's watermark: dead letters of long before are not looked through.
    pub async fn panicked(
        &self,
        tp: &TopicPartition,
        lo: i64,
        hi: i64,
        near: Time,
    ) -> Result<Vec<i64>, StoreError> {
        if lo >= hi {
            return Ok(Vec::new());
        }
        sqlx::query_scalar(
            "SELECT off FROM vw.dead_letter
              WHERE day >= $5 AND topic = $1 AND part = $2 AND off >= $3 AND off < $4 AND reason = 'detector_panic'
              ORDER BY off LIMIT 1000",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(lo)
        .bind(hi)
        .bind(day(near.minus_ms(REPLAYED_MS)))
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the dead letters of a replay"))
    }

    /// Lists dead letters, newest first.
    pub async fn dead_letters(
        &self,
        f: &DeadLetterFilter,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        // The text is put together from constants only.
        let sql = format!(
            "{COLUMNS} WHERE ($1::text IS NULL OR topic = $1) AND ($2::text IS NULL OR reason = $2)
                AND ($3::timestamptz IS NULL OR (at >= $3 AND day >= ($3 AT TIME ZONE 'UTC')::date))
                AND (NOT $4 OR replayed_at IS NULL)
                AND ($6::int IS NULL OR part = $6) AND ($7::bigint IS NULL OR off = $7)
              ORDER BY at DESC, topic, part, off DESC LIMIT $5"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&f.topic)
            .bind(&f.reason)
            .bind(f.since.map(super::stamp))
            .bind(f.open_only)
            .bind(f.limit)
            .bind(f.partition)
            .bind(f.offset)
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement("could not list dead letters"))?;
        Ok(rows.iter().map(stored).collect())
    }

    /// One dead letter.
    pub async fn dead_letter(
        &self,
        tp: &TopicPartition,
        offset: i64,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        let sql = format!(
            "{COLUMNS} WHERE topic = $1 AND part = $2 AND off = $3 ORDER BY at DESC LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(offset)
            .fetch_optional(self.pool())
            .await
            .map_err(StoreError::statement("could not read a dead letter"))?;
        Ok(row.as_ref().map(stored))
    }

    /// Dead letters by reason since a time, most first.
    pub async fn dead_letter_reasons(&self, since: Time) -> Result<Vec<ReasonCount>, StoreError> {
        let rows = sqlx::query(
            "SELECT reason, count(*), max(at) FROM vw.dead_letter
              WHERE at >= $1 AND day >= ($1 AT TIME ZONE 'UTC')::date
              GROUP BY reason ORDER BY 2 DESC, 1",
        )
        .bind(super::stamp(since))
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not count dead letters"))?;
        Ok(rows
            .iter()
            .map(|r| ReasonCount {
                reason: r.get(0),
                count: count(r.get(1)),
                latest: time(r.get(2)).to_string(),
            })
            .collect())
    }
}
