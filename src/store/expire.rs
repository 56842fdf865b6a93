//! Expiry of plain tables: what no partition can be dropped for.
//!
//! Where an index finds what is old, [`BY_INDEX`] deletes [`ROWS_AT_ONCE`] rows a transaction. Where
//! none may stand (it would be on a column that batches change), a walk over the primary key goes
//! through the table a page a transaction; `vw.house` remembers where it stands, so that a table of any
//! size is walked, however often the leader changes. Rows that somebody else holds are passed over:
//! expiry never waits for a batch and so cannot break the lock order.

use sqlx::{PgConnection, Row as _};

use super::{Counters, Keep, Store, StoreError, count};

/// Most rows that one transaction deletes.
const ROWS_AT_ONCE: i64 = 5_000;
/// Most such transactions per table and round: the rest waits for the next minute.
const ROUNDS: u32 = 4;
/// Most pages of [`ROWS_AT_ONCE`] rows that a walk looks at per round: twelve million rows an hour.
const PAGES: u32 = 40;
/// A walk that has reached the end begins anew after so long.
const WALK_EVERY: &str = "1 hour";

/// Deletes rows found by an index. `$1` days, `$2` rows.
macro_rules! old_rows {
    ($table:literal, $key:literal, $old:literal) => {
        old_rows!(@ $table, $key, $old, "")
    };
    // Rows that others lock: without a wait.
    ($table:literal, $key:literal, $old:literal, unlocked) => {
        old_rows!(@ $table, $key, $old, " FOR UPDATE SKIP LOCKED")
    };
    (@ $table:literal, $key:literal, $old:literal, $lock:literal) => {
        concat!(
            "WITH gone AS MATERIALIZED (SELECT ",
            $key,
            " FROM vw.",
            $table,
            " WHERE ",
            $old,
            " LIMIT $2",
            $lock,
            ")
             DELETE FROM vw.",
            $table,
            " WHERE (",
            $key,
            ") IN (SELECT ",
            $key,
            " FROM gone)"
        )
    };
}

/// A walk over a table's primary key: `$1` the last key passed (null: none).
struct Walk {
    name: &'static str,
    age: Age,
    /// Last key of the page after `$1`, if a whole page of `$2` rows is left.
    page: &'static str,
    /// Deletes what is older than `$3` days from after `$1` to `$2` (null: the end).
    delete: &'static str,
}

macro_rules! walk {
    ($name:literal, $age:expr, $table:literal, $key:literal, $text:literal, $after:literal, $until:literal, $old:literal, $lock:literal) => {
        Walk {
            name: $name,
            age: $age,
            page: concat!(
                "SELECT ",
                $text,
                " FROM vw.",
                $table,
                " t WHERE (",
                $key,
                ") > (",
                $after,
                ") ORDER BY ",
                $key,
                " OFFSET $2::bigint - 1 LIMIT 1"
            ),
            delete: concat!(
                "WITH gone AS MATERIALIZED (SELECT ",
                $key,
                " FROM vw.",
                $table,
                " t WHERE (",
                $key,
                ") > (",
                $after,
                ") AND (",
                $key,
                ") <= (",
                $until,
                ") AND ",
                $old,
                " ",
                $lock,
                ")
                 DELETE FROM vw.",
                $table,
                " WHERE (",
                $key,
                ") IN (SELECT ",
                $key,
                " FROM gone)"
            ),
        }
    };
}

/// How long what is kept.
#[derive(Debug, Clone, Copy)]
enum Age {
    Values,
    Findings,
    Ledgers,
    Letters,
}

impl Age {
    fn days(self, keep: &Keep) -> i32 {
        i32::from(match self {
            Self::Values => keep.values,
            Self::Findings => keep.findings,
            Self::Ledgers => keep.ledgers,
            Self::Letters => keep.dead_letters,
        })
    }
}

const BY_INDEX: &[(&str, Age, &str)] = &[
    (
        "values",
        Age::Values,
        old_rows!(
            "value",
            "kid, mac",
            "last_day < current_date - $1::int",
            unlocked
        ),
    ),
    (
        "fates",
        Age::Findings,
        old_rows!("fate", "id", "at < now() - make_interval(days => $1)"),
    ),
    (
        "outbox",
        Age::Findings,
        old_rows!(
            "outbox",
            "key, number, sink, seq",
            "finished_at < now() - make_interval(days => $1)",
            unlocked
        ),
    ),
    (
        "silences",
        Age::Findings,
        old_rows!(
            "silence",
            "id",
            "ends_at < now() - make_interval(days => $1)"
        ),
    ),
    (
        "hours of partitions",
        Age::Findings,
        old_rows!(
            "stream_hour",
            "topic, part, hour",
            "hour < now() - make_interval(days => $1)",
            unlocked
        ),
    ),
    (
        "hours of gateways",
        Age::Findings,
        old_rows!(
            "missing_hour",
            "hour, gateway",
            "hour < now() - make_interval(days => $1)",
            unlocked
        ),
    ),
    (
        "partial minutes",
        Age::Findings,
        old_rows!(
            "partial_minute",
            "minute",
            "minute < extract(epoch FROM now() - make_interval(days => $1))::bigint / 60"
        ),
    ),
    (
        // An event may stand in two dead letters, the later one as old as they are kept.
        "replayed events",
        Age::Letters,
        old_rows!(
            "revived",
            "event",
            "at < now() - make_interval(days => 2 * $1)"
        ),
    ),
];

const WALKS: &[Walk] = &[
    walk!(
        "incidents",
        Age::Findings,
        "incident_head",
        "key",
        "ARRAY[t.key::text]",
        "coalesce(($1::text[])[1]::uuid, '00000000-0000-0000-0000-000000000000')",
        "coalesce(($2::text[])[1]::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')",
        "state = 2 AND resolved_at < now() - make_interval(days => $3)",
        "FOR UPDATE SKIP LOCKED"
    ),
    walk!(
        "past incidents",
        Age::Findings,
        "incident_past",
        "key, number",
        "ARRAY[t.key::text, t.number::text]",
        "coalesce(($1::text[])[1]::uuid, '00000000-0000-0000-0000-000000000000'), coalesce(($1)[2]::int, -1)",
        "coalesce(($2::text[])[1]::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'), coalesce(($2)[2]::int, 2147483647)",
        "resolved_at < now() - make_interval(days => $3)",
        ""
    ),
    walk!(
        "incident changes",
        Age::Findings,
        "incident_change",
        "id",
        "ARRAY[t.id::text]",
        "coalesce(($1::text[])[1]::bigint, 0)",
        "coalesce(($2::text[])[1]::bigint, 9223372036854775807)",
        "taken AND stored_at < now() - make_interval(days => $3)",
        "FOR UPDATE SKIP LOCKED"
    ),
    walk!(
        "incident notes",
        Age::Findings,
        "incident_note",
        "id",
        "ARRAY[t.id::text]",
        "coalesce(($1::text[])[1]::bigint, 0)",
        "coalesce(($2::text[])[1]::bigint, 9223372036854775807)",
        "at < now() - make_interval(days => $3)",
        ""
    ),
    // Hours and days; weeks, months and totals are few and stay.
    walk!(
        "ledgers",
        Age::Ledgers,
        "ledger",
        "width, subject, period",
        "ARRAY[t.width::text, t.subject, t.period]",
        "coalesce(($1::text[])[1]::smallint, -1), coalesce(($1)[2], ''), coalesce(($1)[3], '')",
        "coalesce(($2::text[])[1]::smallint, 32767), coalesce(($2)[2], ''), coalesce(($2)[3], '')",
        "left(period, 1) IN ('h', 'd') AND substr(period, 3, 10) < to_char(current_date - $3::int, 'YYYY-MM-DD')",
        "FOR UPDATE SKIP LOCKED"
    ),
    // After the ledgers. A crossing is the proof that a threshold has fired: while the total that it is
    // about stands, it would fire again without it.
    walk!(
        "crossings",
        Age::Findings,
        "budget_crossing",
        "budget_id, subject, period, threshold",
        "ARRAY[t.budget_id, t.subject, t.period, t.threshold::text]",
        "coalesce(($1::text[])[1], ''), coalesce(($1)[2], ''), coalesce(($1)[3], ''), coalesce(($1)[4]::int, -1)",
        "coalesce(($2::text[])[1], chr(1114111)), coalesce(($2)[2], ''), coalesce(($2)[3], ''), coalesce(($2)[4]::int, 0)",
        "at < now() - make_interval(days => $3)
           AND NOT EXISTS (SELECT 1 FROM vw.ledger l JOIN vw.budget_limit b ON b.width = l.width
                            WHERE b.id = t.budget_id AND l.subject = t.subject AND l.period = t.period)",
        ""
    ),
    walk!(
        "users' state",
        Age::Ledgers,
        "user_state",
        "user_id, topic, part",
        "ARRAY[t.user_id, t.topic, t.part::text]",
        "coalesce(($1::text[])[1], ''), coalesce(($1)[2], ''), coalesce(($1)[3]::int, -1)",
        "coalesce(($2::text[])[1], chr(1114111)), coalesce(($2)[2], ''), coalesce(($2)[3]::int, 0)",
        "at_ms < (extract(epoch FROM now() - make_interval(days => $3)) * 1000)::bigint",
        "FOR UPDATE SKIP LOCKED"
    ),
    // By last use: `at` follows it, a day behind at most.
    walk!(
        "aliases",
        Age::Ledgers,
        "alias",
        "new_id",
        "ARRAY[t.new_id]",
        "coalesce(($1::text[])[1], '')",
        "coalesce(($2::text[])[1], chr(1114111))",
        "at < now() - make_interval(days => $3)",
        "FOR UPDATE SKIP LOCKED"
    ),
];

/// Names of everything that expires here, in the order of a round.
pub(super) fn tasks() -> impl Iterator<Item = &'static str> {
    let by_index = BY_INDEX.iter().map(|t| t.0);
    by_index.chain(WALKS.iter().map(|w| w.name))
}

impl Store {
    /// Expires rows of one of the [`tasks`], some minutes of a table's size at most. Returns how many.
    pub(super) async fn expire(&self, task: &str) -> Result<u64, StoreError> {
        if let Some((_, age, sql)) = BY_INDEX.iter().find(|t| t.0 == task) {
            return self.expire_old(*age, sql).await;
        }
        match WALKS.iter().find(|w| w.name == task) {
            Some(walk) => self.walk(walk).await,
            None => Ok(0),
        }
    }

    /// Expires every plain table now, as far as one round goes.
    pub async fn expire_all(&self) -> Result<u64, StoreError> {
        let mut total = 0;
        for task in tasks() {
            total += self.expire(task).await?;
        }
        Ok(total)
    }

    /// By how many days the stream, and what waits to be judged, is behind the clock.
    async fn behind(&self) -> Result<i32, StoreError> {
        let today = self.today().await?;
        let from = self.keep_from("value_pending", today).await?;
        let kept = (today - from).num_days() - i64::from(self.config().keep.minutes);
        Ok(i32::try_from(kept.max(0)).unwrap_or(i32::MAX))
    }

    async fn expire_old(&self, age: Age, sql: &'static str) -> Result<u64, StoreError> {
        let mut total = 0;
        let mut days = age.days(&self.config().keep);
        if matches!(age, Age::Values) {
            days = days.saturating_add(self.behind().await?);
        }
        for _ in 0..ROUNDS {
            let mut tx = self.patient().await?;
            let done = sqlx::query(sql)
                .bind(days)
                .bind(ROWS_AT_ONCE)
                .execute(&mut *tx)
                .await
                .map_err(StoreError::statement("could not expire rows"))?
                .rows_affected();
            self.kept(tx).await?;
            total += done;
            if done < ROWS_AT_ONCE.unsigned_abs() {
                break;
            }
        }
        Counters::add(&self.counters().expired_rows, total);
        Ok(total)
    }

    async fn walk(&self, walk: &Walk) -> Result<u64, StoreError> {
        let what = "could not expire rows";
        let mut total = 0;
        for _ in 0..PAGES {
            let mut tx = self.patient().await?;
            let Some(after) = begin(&mut tx, walk.name).await? else {
                break;
            };
            let until: Option<Vec<String>> = sqlx::query_scalar(walk.page)
                .bind(&after)
                .bind(ROWS_AT_ONCE)
                .fetch_optional(&mut *tx)
                .await
                .map_err(StoreError::statement(what))?;
            total += sqlx::query(walk.delete)
                .bind(&after)
                .bind(&until)
                .bind(walk.age.days(&self.config().keep))
                .execute(&mut *tx)
                .await
                .map_err(StoreError::statement(what))?
                .rows_affected();
            sqlx::query(
                "UPDATE vw.house SET cursor = $2, walked_at = CASE WHEN $2 IS NULL THEN now() ELSE walked_at END
                  WHERE task = $1",
            )
            .bind(walk.name)
            .bind(&until)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?;
            self.kept(tx).await?;
            if until.is_none() {
                break;
            }
        }
        Counters::add(&self.counters().expired_rows, total);
        Ok(total)
    }
}

/// The key after which a walk goes on: `Some(None)` at the beginning, `None` where it is not due.
async fn begin(
    conn: &mut PgConnection,
    task: &str,
) -> Result<Option<Option<Vec<String>>>, StoreError> {
    let what = "could not read how expiry stands";
    sqlx::query("INSERT INTO vw.house (task) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(task)
        .execute(&mut *conn)
        .await
        .map_err(StoreError::statement(what))?;
    // Two leaders for a moment: one page after the other.
    let row = sqlx::query(
        "SELECT cursor, cursor IS NOT NULL OR walked_at IS NULL OR walked_at < now() - $2::text::interval
           FROM vw.house WHERE task = $1 FOR UPDATE",
    )
    .bind(task)
    .bind(WALK_EVERY)
    .fetch_one(conn)
    .await
    .map_err(StoreError::statement(what))?;
    Ok(row.get::<bool, _>(1).then(|| row.get(0)))
}

/// Rows of tables that are dropped by day and still wait to be judged or merged: what retention discards
/// unseen.
pub(super) async fn unseen(
    conn: &mut PgConnection,
    table: &str,
    before: chrono::NaiveDate,
) -> Result<u64, StoreError> {
    let sql = match table {
        "value_pending" => {
            "SELECT count(*) FROM vw.value_pending WHERE NOT judged AND day < $1 AND minute < $2"
        }
        "minute_part" => {
            "SELECT count(*) FROM vw.minute_part WHERE NOT merged AND day < $1 AND minute < $2"
        }
        _ => return Ok(0),
    };
    let minute = before
        .and_time(chrono::NaiveTime::MIN)
        .and_utc()
        .timestamp()
        .div_euclid(60);
    let n: i64 = sqlx::query_scalar(sql)
        .bind(before)
        .bind(minute)
        .fetch_one(conn)
        .await
        .map_err(StoreError::statement("could not count what expires unseen"))?;
    Ok(count(n))
}
