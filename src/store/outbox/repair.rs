//! What was parked or waits too long: queued again when a sink works, by hand, or given up in the end.
//!
//! The last row of an (incident, sink) is what the receiver is to believe: the notifier writes one more
//! whenever that changes. So only last rows are queued again; earlier ones would say what is no longer so.

use sqlx::{PgConnection, Row as _};

use super::super::{Store, StoreError, budget, clean, count, severity, time, uuid};
use crate::event::{Hash16, SmolStr};

/// Days after which an unsent row is of no use: its incident is told again every few hours by newer ones,
/// and a sink that was taken out of the configuration would keep its rows for ever.
const UNSENT_DAYS: i32 = 7;
/// Most rows given up in one transaction.
const EXPIRE_AT_ONCE: i64 = 1_000;

/// Rows that may be queued again: parked ones of these days.
const LAST_WORD: &str = "o.state = 3 AND o.created_at > now() - make_interval(days => $2) AND ";
/// The last word about its incident, and no end of what was never told. Each look-up is one by key (OFFSET), also
/// where the plan was made while the table was empty.
const LAST: &str = "NOT EXISTS (SELECT 1 FROM vw.outbox l WHERE l.key = o.key AND l.number = o.number AND l.sink = o.sink AND l.seq > o.seq OFFSET 0)
   AND (o.kind <> 'resolved' OR EXISTS
        (SELECT 1 FROM vw.outbox e WHERE e.key = o.key AND e.number = o.number AND e.sink = o.sink
            AND e.seq < o.seq AND e.state = 2 OFFSET 0))";

/// A row of the outbox, as an operator sees it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Queued {
    /// The incident, 32 hexadecimal digits.
    pub incident: String,
    /// Its number.
    pub number: i32,
    /// The sink.
    pub sink: String,
    /// Order within (incident, sink).
    pub seq: i64,
    /// What it says.
    pub kind: String,
    /// How bad.
    pub severity: String,
    /// `pending`, `claimed`, `sent`, `parked`, `expired`, `grouped`.
    pub state: String,
    /// Sends tried.
    pub attempts: i32,
    /// When it was queued, RFC 3339.
    pub created_at: String,
    /// When it is tried next, RFC 3339; none once it is finished.
    pub next_at: Option<String>,
    /// Why it was not sent.
    pub error: String,
    /// One line.
    pub title: String,
}

/// Which rows.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Only of this sink.
    pub sink: Option<String>,
    /// Only of this incident.
    pub incident: Option<Hash16>,
    /// Only in these states; empty: those that wait or are parked.
    pub states: Vec<i16>,
    /// Retry those too that say what is no longer so: a later row of their incident stands behind them.
    pub overtaken: bool,
    /// At most so many.
    pub limit: i64,
}

/// The states by their columns' values.
pub const STATES: [&str; 6] = ["pending", "claimed", "sent", "parked", "expired", "grouped"];

impl Store {
    /// A sink takes messages again: what waits is due now, and parked last words are queued again.
    /// Returns how many of those.
    pub async fn outbox_heal(&self, sink: &str) -> Result<u64, StoreError> {
        let what = "could not queue parked notifications again";
        sqlx::query(
            "UPDATE vw.outbox SET next_at = now() WHERE sink = $1 AND finished_at IS NULL AND state = 0 AND next_at > now()",
        )
        .bind(sink)
        .execute(self.pool())
        .await
        .map_err(StoreError::statement(what))?;
        let sql = format!(
            "UPDATE vw.outbox o SET state = 0, next_at = now(), finished_at = NULL WHERE o.sink = $1 AND {LAST_WORD}{LAST}"
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(sink)
            .bind(UNSENT_DAYS)
            .execute(self.pool())
            .await
            .map_err(StoreError::statement(what))?;
        Ok(done.rows_affected())
    }

    /// Queues one parked last word of a sink again: the most severe, then the newest. False: none.
    pub async fn outbox_probe(&self, sink: &str) -> Result<bool, StoreError> {
        let sql = format!(
            "UPDATE vw.outbox p SET state = 0, next_at = now(), finished_at = NULL
              WHERE p.state = 3 AND (p.key, p.number, p.sink, p.seq) =
                    (SELECT o.key, o.number, o.sink, o.seq FROM vw.outbox o WHERE o.sink = $1 AND {LAST_WORD}{LAST}
                      ORDER BY o.severity DESC, o.created_at DESC LIMIT 1)"
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(sink)
            .bind(UNSENT_DAYS)
            .execute(self.pool())
            .await
            .map_err(StoreError::statement("could not try a parked notification"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Rows, the most severe and then the oldest first.
    pub async fn outbox_list(&self, which: &Which) -> Result<Vec<Queued>, StoreError> {
        let states = if which.states.is_empty() {
            vec![0, 1, 3]
        } else {
            which.states.clone()
        };
        let rows = sqlx::query(
            "SELECT vw.hex(key), number, sink, seq, kind, severity, state, attempts, created_at,
                    CASE WHEN state < 2 THEN next_at END, last_error, coalesce(payload ->> 'title', '')
               FROM vw.outbox
              WHERE state = ANY ($1) AND ($2::text IS NULL OR sink = $2) AND ($3::uuid IS NULL OR key = $3)
              ORDER BY severity DESC, created_at, key, seq LIMIT $4",
        )
        .bind(states)
        .bind(which.sink.as_deref())
        .bind(which.incident.map(uuid))
        .bind(which.limit)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not list the outbox"))?;
        rows.iter()
            .map(|r| {
                let state = usize::try_from(r.get::<i16, _>(6)).unwrap_or(usize::MAX);
                Ok(Queued {
                    incident: r.get(0),
                    number: r.get(1),
                    sink: r.get(2),
                    seq: r.get(3),
                    kind: r.get(4),
                    severity: severity(r.get(5))?.as_str().to_owned(),
                    state: STATES.get(state).copied().unwrap_or("unknown").to_owned(),
                    attempts: r.get(7),
                    created_at: time(r.get(8)).to_string(),
                    next_at: r
                        .get::<Option<chrono::DateTime<chrono::Utc>>, _>(9)
                        .map(|t| time(t).to_string()),
                    error: r.get(10),
                    title: r.get(11),
                })
            })
            .collect()
    }

    /// Queues parked and expired rows again and makes waiting ones due now. Of those that are finished only
    /// last words, unless `overtaken` is asked for: a `firing` sent after its `resolved` opens the alert
    /// at the receiver again, and nothing ever resolves it. Returns how many.
    pub async fn outbox_retry(&self, which: &Which, author: &str) -> Result<u64, StoreError> {
        let what = "could not queue notifications again";
        let states = if which.states.is_empty() {
            vec![0, 3]
        } else {
            which.states.clone()
        };
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        let sql = format!(
            "UPDATE vw.outbox o SET state = 0, next_at = now(), finished_at = NULL
              WHERE o.state = ANY ($1) AND o.state IN (0, 3, 4)
                AND ($2::text IS NULL OR o.sink = $2) AND ($3::uuid IS NULL OR o.key = $3)
                AND (o.state = 0 OR $4 OR ({LAST}))"
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(states)
            .bind(which.sink.as_deref())
            .bind(which.incident.map(uuid))
            .bind(which.overtaken)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?;
        let detail = serde_json::json!({
            "sink": which.sink.as_deref().map(clean),
            "incident": which.incident.map(|k| k.to_string()),
            "rows": done.rows_affected(),
        });
        budget::act(&mut tx, author, "outbox retry", detail).await?;
        sqlx::query("SELECT pg_notify($1, '')")
            .bind(super::super::notifier::OUTBOX)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        Ok(done.rows_affected())
    }
}

/// Gives up rows that nobody took for [`UNSENT_DAYS`]. Returns how many, by sink.
pub(in crate::store) async fn expire_unsent(
    conn: &mut PgConnection,
) -> Result<Vec<(SmolStr, u64)>, StoreError> {
    let rows = sqlx::query(
        "WITH gone AS (
           UPDATE vw.outbox SET state = 4, finished_at = now(), claim_id = NULL, claim_until = NULL
            WHERE (key, number, sink, seq) IN
                  (SELECT key, number, sink, seq FROM vw.outbox
                    WHERE finished_at IS NULL AND (state = 0 OR claim_until < now()) AND created_at < now() - make_interval(days => $1)
                    LIMIT $2 FOR UPDATE SKIP LOCKED)
           RETURNING sink)
         SELECT sink, count(*) FROM gone GROUP BY sink ORDER BY sink",
    )
    .bind(UNSENT_DAYS)
    .bind(EXPIRE_AT_ONCE)
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not give up old notifications"))?;
    Ok(rows
        .iter()
        .map(|r| (SmolStr::new(r.get::<&str, _>(0)), count(r.get(1))))
        .collect())
}
