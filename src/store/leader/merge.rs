//! Merging closed minutes: what is read, the work on it without a transaction, and what is marked after.
//!
//! A minute of a busy fleet has tens of thousands of parts. They are read a page at a time and united at
//! once, so that memory does not depend on how many there are, nor on how many minutes wait.

use std::time::Duration;

use sqlx::PgConnection;

use super::missing::Noted;
use super::{Held, Mark};
use crate::detect::{Finding, Gathered};
use crate::event::{SmolStr, TopicPartition};
use crate::store::{Store, StoreError, Uuid, maintain};

/// How long minutes are merged before they are written. The lease is renewed meanwhile, but findings wait.
pub(super) const MERGE_FOR: Duration = Duration::from_secs(4);
/// Parts read at once, some 2 KB each; one of a busy batch may have some 100 KB.
const PAGE: usize = 500;

/// A part's row, without the part.
pub(super) struct StoredPart {
    minute: i64,
    late: bool,
    lo: i64,
    day: chrono::NaiveDate,
    claim_id: Uuid,
    from: TopicPartition,
}

/// What merging gave.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) minutes: Vec<MergedMinute>,
    /// Those that were used.
    pub(super) parts: Vec<StoredPart>,
    /// What is missing, by minute and gateway.
    pub(super) missing: Noted,
}

pub(super) struct MergedMinute {
    pub(super) minute: i64,
    pub(super) left_out: Vec<TopicPartition>,
    pub(super) findings: Vec<Finding>,
}

impl Store {
    /// Merges a minute without a transaction, and not on a thread that others wait for: this may take a
    /// while, and the server ends a transaction that is idle for long. Late and left-out parts of earlier
    /// minutes come with it, but those of `merged` already.
    pub(super) async fn merge_one(
        &self,
        mut held: Held,
        minute: i64,
        marks: &[Mark],
        merged: &mut Merged,
    ) -> Result<Held, StoreError> {
        let what = "could not read minute parts";
        let sql = StoreError::statement;
        let after = merged.minutes.last().map(|m| m.minute);
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        maintain::steady(&mut tx).await?;
        let parts = list(&mut tx, marks, after, minute).await?;
        tx.commit().await.map_err(sql(what))?;
        let mut conn = self.pool().acquire().await.map_err(sql(what))?;
        let mut gathered = Gathered::new(minute);
        for page in parts.chunks(PAGE) {
            let blobs = read(&mut conn, page).await?;
            gathered = off_thread(move || {
                for blob in &blobs {
                    gathered.add(blob);
                }
                gathered
            })
            .await?;
        }
        drop(conn);
        let behind: Vec<&Mark> = marks.iter().filter(|m| m.minute() < minute).collect();
        let partial_after = self.config().partial_after;
        let mut findings = held.note_left_out(minute, &behind, partial_after);
        let left_out: Vec<TopicPartition> = behind.iter().map(|m| m.tp.clone()).collect();
        let partial = !left_out.is_empty();
        let (mut held, found) = off_thread(move || {
            let found = held.leader.merge_gathered(gathered, partial);
            (held, found)
        })
        .await?;
        for (gateway, missing) in held.leader.take_missing() {
            merged.missing.insert((minute, gateway), missing);
        }
        findings.extend(found);
        merged.minutes.push(MergedMinute {
            minute,
            left_out,
            findings,
        });
        merged.parts.extend(parts);
        Ok(held)
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| StoreError::Task(e.to_string()))
}

/// Which parts belong to a minute: those of it and, late or left out, of minutes before it, behind `after`
/// where given. Parts of a partition that has not passed their minute stay for later.
async fn list(
    conn: &mut PgConnection,
    marks: &[Mark],
    after: Option<i64>,
    minute: i64,
) -> Result<Vec<StoredPart>, StoreError> {
    // As tuples: rows as they come would each hold what the server said of all columns.
    let rows: Vec<(i64, String, i32, bool, i64, chrono::NaiveDate, Uuid)> = sqlx::query_as(
        "SELECT p.minute, p.topic, p.part, p.late, p.lo, p.day, p.claim_id FROM vw.minute_part p
          WHERE NOT p.merged AND p.minute <= $1 AND ($5::bigint IS NULL OR p.minute > $5)
            AND NOT EXISTS (SELECT 1 FROM unnest($2::text[], $3::int[], $4::bigint[]) AS u (topic, part, through)
                             WHERE u.topic = p.topic AND u.part = p.part AND u.through < p.minute)",
    )
    .bind(minute)
    .bind(marks.iter().map(|m| m.tp.topic.as_str()).collect::<Vec<_>>())
    .bind(marks.iter().map(|m| m.tp.partition).collect::<Vec<_>>())
    .bind(marks.iter().map(Mark::minute).collect::<Vec<_>>())
    .bind(after)
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read minute parts"))?;
    let mut parts: Vec<StoredPart> = rows
        .into_iter()
        .map(
            |(minute, topic, partition, late, lo, day, claim_id)| StoredPart {
                minute,
                late,
                lo,
                day,
                claim_id,
                from: TopicPartition {
                    topic: SmolStr::new(topic),
                    partition,
                },
            },
        )
        .collect();
    // The order of rows is the plan's; merging must not depend on it.
    parts.sort_by(|a, b| {
        let other = (b.minute, b.late, &b.from, b.lo);
        (a.minute, a.late, &a.from, a.lo).cmp(&other)
    });
    Ok(parts)
}

/// Rows of parts as the statements take them.
const ROWS: &str =
    "unnest($1::date[], $2::bigint[], $3::text[], $4::int[], $5::bigint[], $6::bool[], $7::uuid[])
                       WITH ORDINALITY AS u (day, minute, topic, part, lo, late, claim_id, n)";
/// A part is the row's.
const SAME: &str =
    "p.day = u.day AND p.minute = u.minute AND p.topic = u.topic COLLATE \"C\" AND p.part = u.part
                    AND p.lo = u.lo AND p.late = u.late AND p.claim_id = u.claim_id";

/// Binds [`ROWS`].
macro_rules! bound {
    ($query:expr, $parts:expr) => {{
        let parts = $parts;
        $query
            .bind(parts.iter().map(|p| p.day).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| p.minute).collect::<Vec<_>>())
            .bind(
                parts
                    .iter()
                    .map(|p| p.from.topic.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(parts.iter().map(|p| p.from.partition).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| p.lo).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| p.late).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| p.claim_id).collect::<Vec<_>>())
    }};
}

/// Reads parts, in the order given: all of them or an error.
async fn read(conn: &mut PgConnection, parts: &[StoredPart]) -> Result<Vec<Vec<u8>>, StoreError> {
    // The text is put together from constants only.
    let sql = format!("SELECT p.blob FROM {ROWS} JOIN vw.minute_part p ON {SAME} ORDER BY u.n");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
    let blobs = bound!(query, parts)
        .fetch_all(conn)
        .await
        .map_err(StoreError::statement("could not read minute parts"))?;
    if blobs.len() == parts.len() {
        Ok(blobs)
    } else {
        Err(changed())
    }
}

/// Only the leader changes parts, but housekeeping moves them: what was read would not be what is stored.
fn changed() -> StoreError {
    StoreError::Refusal(
        "minute parts changed while they were merged: they are merged again".to_owned(),
    )
}

/// Marks the parts that were merged, each once.
pub(super) async fn mark_merged(
    conn: &mut PgConnection,
    parts: &[StoredPart],
) -> Result<(), StoreError> {
    if parts.is_empty() {
        return Ok(());
    }
    // `NOT p.merged` would let the planner find each part among all that wait for their minute.
    let sql = format!(
        "UPDATE vw.minute_part p SET merged = true FROM {ROWS} WHERE {SAME} AND p.merged IS DISTINCT FROM true"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql));
    let done = bound!(query, parts)
        .execute(conn)
        .await
        .map_err(StoreError::statement("could not mark minute parts"))?;
    if done.rows_affected() == parts.len() as u64 {
        Ok(())
    } else {
        Err(changed())
    }
}
