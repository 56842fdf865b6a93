//! The outbox: notifications wait here between the notifier's transaction and the sinks' workers.
//!
//! Only the lowest unfinished `seq` of an (incident, sink) may be claimed, so that a trigger never
//! overtakes its resolution; among those the most severe goes first. A claim lasts 15 s and a send
//! 10 s, so a claim outlives every send of a live worker. A worker that was stopped finds its claim
//! gone when it marks: it then queues a `repeat` of the present state, which corrects a stale trigger.

mod queue;
mod repair;

use std::time::Duration;

pub(super) use queue::queue;
pub(super) use repair::expire_unsent;
pub use repair::{Queued, STATES, Which};
use sqlx::{PgConnection, Row as _};

use super::{Store, StoreError, Uuid, clean, hash16, uuid};
use crate::event::{Hash16, Severity, SmolStr};

/// How long a claim lasts.
pub const CLAIM_SECONDS: f64 = 15.0;
/// How long a send may take: less than a claim.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of an error that are kept.
const ERROR_CHARS: usize = 300;

/// A notification that this worker may send.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The incident's key.
    pub key: Hash16,
    /// Its number.
    pub number: i32,
    /// The sink.
    pub sink: SmolStr,
    /// Order within (incident, sink).
    pub seq: i64,
    /// `firing`, `repeat`, `escalated`, `acknowledged`, `resolved`, `digest`.
    pub kind: SmolStr,
    /// How bad.
    pub severity: Severity,
    /// The same for every message about this incident number.
    pub dedup_key: Hash16,
    /// Sends tried before this one.
    pub attempts: u32,
    /// What to render.
    pub payload: serde_json::Value,
    /// Milliseconds since the row was written.
    pub age_ms: i64,
    claim_id: Uuid,
}

/// What a worker's mark met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// The claim was still ours.
    Done,
    /// The claim had lapsed and somebody else took the row: a `repeat` of the present state was
    /// queued behind it.
    Stale,
}

/// What of a sink's rows needs attention.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SinkBacklog {
    /// The sink.
    pub sink: SmolStr,
    /// Rows that wait.
    pub pending: u64,
    /// Rows that a worker holds.
    pub claimed: u64,
    /// Rows that the sink refused.
    pub parked: u64,
    /// Age of the oldest that waits, in seconds of database time.
    pub oldest_seconds: f64,
}

impl Store {
    /// Claims at most `limit` rows of a sink that are at least as severe as `floor`: most severe first,
    /// then the longest due.
    pub async fn outbox_claim(
        &self,
        sink: &str,
        limit: i64,
        floor: Severity,
    ) -> Result<Vec<Claimed>, StoreError> {
        let claim_id = Uuid::new_v4();
        // OFFSET keeps the look-up of earlier rows one by key. As a join of the table with itself it is planned by
        // what the table holds, and the plan of an empty one is kept when a storm fills it.
        let rows = sqlx::query(
            "UPDATE vw.outbox o
                SET state = 1, claim_id = $3, claim_until = now() + make_interval(secs => $4)
               FROM (SELECT c.ctid AS row FROM vw.outbox c
                      WHERE c.sink = $1 AND c.finished_at IS NULL AND c.next_at <= now()
                        AND (c.state = 0 OR c.claim_until < now()) AND c.severity >= $5
                        AND NOT EXISTS (SELECT 1 FROM vw.outbox e
                                         WHERE e.key = c.key AND e.number = c.number AND e.sink = c.sink
                                           AND e.seq < c.seq AND e.state IN (0, 1) OFFSET 0)
                      ORDER BY c.severity DESC, c.next_at, c.key, c.seq
                      LIMIT $2 FOR UPDATE SKIP LOCKED) due
              WHERE o.ctid = due.row
             RETURNING o.key, o.number, o.sink, o.seq, o.kind, o.severity, o.dedup_key, o.attempts, o.payload,
                       (extract(epoch FROM now() - o.created_at) * 1000)::bigint, o.next_at",
        )
        .bind(sink)
        .bind(limit)
        .bind(claim_id)
        .bind(CLAIM_SECONDS)
        .bind(super::severity_column(floor))
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not claim notifications"))?;
        let mut claimed = rows
            .iter()
            .map(|r| {
                Ok(Claimed {
                    key: hash16(r.get(0)),
                    number: r.get(1),
                    sink: SmolStr::new(r.get::<&str, _>(2)),
                    seq: r.get(3),
                    kind: SmolStr::new(r.get::<&str, _>(4)),
                    severity: super::severity(r.get(5))?,
                    dedup_key: hash16(r.get(6)),
                    attempts: u32::try_from(r.get::<i32, _>(7)).unwrap_or(0),
                    payload: r.get(8),
                    age_ms: r.get(9),
                    claim_id,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        claimed.sort_by(|a, b| {
            (b.severity, b.age_ms, a.key, a.number, a.seq)
                .cmp(&(a.severity, a.age_ms, b.key, b.number, b.seq))
        });
        Ok(claimed)
    }

    /// Whether the claim still stands, asked just before sending.
    pub async fn outbox_holds(&self, c: &Claimed) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT 1 FROM vw.outbox WHERE key = $1 AND number = $2 AND sink = $3 AND seq = $4
                AND state = 1 AND claim_id = $5 AND claim_until > now()",
        )
        .bind(uuid(c.key))
        .bind(c.number)
        .bind(c.sink.as_str())
        .bind(c.seq)
        .bind(c.claim_id)
        .fetch_optional(self.pool())
        .await
        .map_err(StoreError::statement("could not check a claim"))?;
        Ok(row.is_some())
    }

    /// Marks a row as sent.
    pub async fn outbox_sent(&self, c: &Claimed) -> Result<Marked, StoreError> {
        let (store, c) = (self.clone(), c.clone());
        self.unabortable(async move {
            let what = "could not mark a notification as sent";
            let mut tx = store
                .pool()
                .begin()
                .await
                .map_err(StoreError::statement(what))?;
            let done = sqlx::query(
                "UPDATE vw.outbox SET state = 2, attempts = attempts + 1, finished_at = now(), claim_id = NULL,
                        claim_until = NULL, last_error = ''
                  WHERE key = $1 AND number = $2 AND sink = $3 AND seq = $4 AND state = 1 AND claim_id = $5",
            )
            .bind(uuid(c.key))
            .bind(c.number)
            .bind(c.sink.as_str())
            .bind(c.seq)
            .bind(c.claim_id)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?;
            let mut marked = Marked::Done;
            if done.rows_affected() == 0 {
                marked = Marked::Stale;
                // The message went out late, perhaps after its successor. Repeat what holds now, last.
                repeat(&mut tx, &c).await?;
            }
            tx.commit().await.map_err(StoreError::statement(what))?;
            Ok(marked)
        })
        .await
    }

    /// A send failed and will be tried again after `wait`. False: the claim was gone.
    pub async fn outbox_failed(
        &self,
        c: &Claimed,
        wait: Duration,
        error: &str,
    ) -> Result<bool, StoreError> {
        self.outbox_finish(c, 0, Some(wait), error).await
    }

    /// The sink refuses this for good (401, 400): it stays visible, is not tried again, and does not
    /// hold later ones back.
    pub async fn outbox_park(&self, c: &Claimed, error: &str) -> Result<bool, StoreError> {
        self.outbox_finish(c, 3, None, error).await
    }

    /// What waits for another attempt while a worse row of the same (incident, sink) stands behind it gives
    /// up its place, as if that one had been queued a moment later: the worse one must not wait for the
    /// pause of the milder.
    async fn outbox_finish(
        &self,
        c: &Claimed,
        state: i16,
        wait: Option<Duration>,
        error: &str,
    ) -> Result<bool, StoreError> {
        let (store, c) = (self.clone(), c.clone());
        let error: String = clean(error).chars().take(ERROR_CHARS).collect();
        self.unabortable(async move {
            let sql = StoreError::statement;
            let what = "could not mark a notification";
            let mut tx = store.pool().begin().await.map_err(sql(what))?;
            // The notifier locks the same row before it queues behind it: the next statement sees what it
            // queued.
            let held = sqlx::query(
                "SELECT 1 FROM vw.outbox
                  WHERE key = $1 AND number = $2 AND sink = $3 AND seq = $4 AND state = 1 AND claim_id = $5 FOR UPDATE",
            )
            .bind(uuid(c.key))
            .bind(c.number)
            .bind(c.sink.as_str())
            .bind(c.seq)
            .bind(c.claim_id)
            .fetch_optional(&mut *tx)
            .await
            .map_err(sql(what))?;
            if held.is_none() {
                return Ok(false);
            }
            sqlx::query(
                "UPDATE vw.outbox o
                    SET state = n.state, attempts = o.attempts + 1, claim_id = NULL, claim_until = NULL, last_error = $7,
                        next_at = now() + make_interval(secs => coalesce($6, 0)),
                        finished_at = CASE WHEN n.state = 0 THEN NULL ELSE now() END
                   FROM (SELECT CASE WHEN $5::smallint = 0 AND EXISTS
                                       (SELECT 1 FROM vw.outbox l WHERE l.key = $1 AND l.number = $2 AND l.sink = $3
                                           AND l.seq > $4 AND l.state = 0 AND l.severity > $8)
                                     THEN 5::smallint ELSE $5::smallint END AS state) n
                  WHERE o.key = $1 AND o.number = $2 AND o.sink = $3 AND o.seq = $4",
            )
            .bind(uuid(c.key))
            .bind(c.number)
            .bind(c.sink.as_str())
            .bind(c.seq)
            .bind(state)
            .bind(wait.map(|w| w.as_secs_f64()))
            .bind(error)
            .bind(super::severity_column(c.severity))
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            tx.commit().await.map_err(sql(what))?;
            Ok(true)
        })
        .await
    }

    /// What waits and what is parked, by sink. What is finished is not counted: it may be millions.
    pub async fn outbox_backlog(&self) -> Result<Vec<SinkBacklog>, StoreError> {
        // Two queries, so that each has its partial index.
        let rows = sqlx::query(
            "SELECT sink, state, count(*), coalesce(extract(epoch FROM now() - min(created_at))::float8, 0)
               FROM vw.outbox WHERE finished_at IS NULL GROUP BY sink, state
             UNION ALL
             SELECT sink, state, count(*), 0::float8 FROM vw.outbox WHERE state = 3 GROUP BY sink, state
             ORDER BY 1, 2",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not count the outbox"))?;
        let mut out: Vec<SinkBacklog> = Vec::new();
        for r in &rows {
            let sink = SmolStr::new(r.get::<&str, _>(0));
            if out.last().is_none_or(|b| b.sink != sink) {
                out.push(SinkBacklog {
                    sink,
                    ..SinkBacklog::default()
                });
            }
            let n = super::count(r.get(2));
            if let Some(b) = out.last_mut() {
                match r.get::<i16, _>(1) {
                    0 => b.pending = n,
                    1 => b.claimed = n,
                    _ => b.parked = n,
                }
                b.oldest_seconds = b.oldest_seconds.max(r.get(3));
            }
        }
        Ok(out)
    }
}

/// Queues what a sink is to believe of an incident once more: a change of the notifier's, with its fate,
/// so that it counts like every other message. A digest has no candidates and so no fate.
async fn repeat(conn: &mut PgConnection, c: &Claimed) -> Result<(), StoreError> {
    sqlx::query(
        "WITH last AS (
           SELECT * FROM vw.outbox WHERE key = $1 AND number = $2 AND sink = $3 ORDER BY seq DESC LIMIT 1
         ), again AS (
           INSERT INTO vw.outbox (key, number, sink, seq, kind, severity, dedup_key, payload)
           SELECT l.key, l.number, l.sink, l.seq + 1, k.kind, l.severity, l.dedup_key,
                  jsonb_set(l.payload, '{kind}', to_jsonb(k.kind))
             FROM last l
            CROSS JOIN LATERAL (SELECT CASE WHEN l.kind IN ('resolved', 'digest') THEN l.kind ELSE 'repeat' END AS kind) k
           ON CONFLICT DO NOTHING
           RETURNING key, number, sink, severity, payload
         ), change AS (
           INSERT INTO vw.incident_change (key, number, version, kind, severity, stage, at, reason, taken)
           SELECT a.key, a.number, h.version, 'repeat', a.severity, h.stage, now(), 'sent late, told again', true
             FROM again a
            CROSS JOIN LATERAL (SELECT version, stage FROM vw.incident_change i
                                 WHERE i.key = a.key AND i.number = a.number ORDER BY version DESC, id DESC LIMIT 1) h
           RETURNING key, number, version
         )
         INSERT INTO vw.fate (key, number, version, kind, sink, fate, detail)
         SELECT key, number, version, 'repeat', $3, 'queued', 'sent late, told again' FROM change",
    )
    .bind(uuid(c.key))
    .bind(c.number)
    .bind(c.sink.as_str())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not repeat a notification"))?;
    Ok(())
}
