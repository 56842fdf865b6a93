//! Housekeeping, done by the leader: partitions ahead, retention, expiry of plain tables.
//!
//! Tables that grow are partitioned by day and expire by dropping partitions. Plain tables expire at
//! most [`ROWS_AT_ONCE`] rows a transaction, so that no batch waits long.

use chrono::{Days, NaiveDate};
use sqlx::Row as _;

use super::{Counters, Store, StoreError, count};

/// Most rows that one transaction deletes.
const ROWS_AT_ONCE: i64 = 5_000;
/// Most such transactions per statement and round: the rest waits for the next minute.
const ROUNDS: u32 = 4;
/// Days ahead for which partitions exist.
pub const DAYS_AHEAD: u64 = 8;
/// Days back: an event's end may lie 24 h before its append.
const DAYS_BACK: u64 = 2;

/// Expiry of a plain table: the rows to delete, by age in days ($1), at most $2.
const EXPIRE: &[(Age, &str)] = &[
    (
        Age::Values,
        "DELETE FROM vw.value WHERE (kid, mac) IN
           (SELECT kid, mac FROM vw.value WHERE last_day < current_date - $1::int LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.incident_past WHERE (key, number) IN
           (SELECT key, number FROM vw.incident_past WHERE resolved_at < now() - make_interval(days => $1) LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.incident_head WHERE key IN
           (SELECT key FROM vw.incident_head WHERE state = 2 AND resolved_at < now() - make_interval(days => $1) LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.incident_change WHERE id IN
           (SELECT id FROM vw.incident_change WHERE taken AND stored_at < now() - make_interval(days => $1) ORDER BY id LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.fate WHERE id IN
           (SELECT id FROM vw.fate WHERE at < now() - make_interval(days => $1) LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.outbox WHERE (key, number, sink, seq) IN
           (SELECT key, number, sink, seq FROM vw.outbox WHERE finished_at < now() - make_interval(days => $1) LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.incident_note WHERE id IN
           (SELECT id FROM vw.incident_note WHERE at < now() - make_interval(days => $1) LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.silence WHERE id IN
           (SELECT id FROM vw.silence WHERE ends_at < now() - make_interval(days => $1) LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.budget_crossing WHERE (budget_id, subject, period, threshold) IN
           (SELECT budget_id, subject, period, threshold FROM vw.budget_crossing
             WHERE at < now() - make_interval(days => $1) AND left(period, 1) <> 't' LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.stream_hour WHERE (topic, part, hour) IN
           (SELECT topic, part, hour FROM vw.stream_hour WHERE hour < now() - make_interval(days => $1) LIMIT $2)",
    ),
    (
        Age::Findings,
        "DELETE FROM vw.partial_minute WHERE minute IN
           (SELECT minute FROM vw.partial_minute WHERE at < now() - make_interval(days => $1) LIMIT $2)",
    ),
];

/// Expiry that must read whole tables, because no index may stand on what changes: once an hour.
const EXPIRE_SCANS: &[(Age, &str)] = &[
    (
        // Hours and days; weeks, months and totals are few and stay.
        Age::Ledgers,
        "DELETE FROM vw.ledger WHERE (width, subject, period) IN
           (SELECT width, subject, period FROM vw.ledger
             WHERE left(period, 1) IN ('h', 'd')
               AND substr(period, 3, 10) < to_char(current_date - $1::int, 'YYYY-MM-DD') LIMIT $2)",
    ),
    (
        Age::Ledgers,
        "DELETE FROM vw.user_state WHERE (user_id, topic, part) IN
           (SELECT user_id, topic, part FROM vw.user_state
             WHERE at_ms < (extract(epoch FROM now() - make_interval(days => $1)) * 1000)::bigint LIMIT $2)",
    ),
    (
        Age::Ledgers,
        "DELETE FROM vw.alias WHERE new_id IN
           (SELECT new_id FROM vw.alias WHERE at < now() - make_interval(days => $1) LIMIT $2)",
    ),
];

#[derive(Debug, Clone, Copy)]
enum Age {
    Values,
    Findings,
    Ledgers,
}

impl Store {
    /// One round of housekeeping. Failing parts are tried again in the next minute; what was not
    /// done shows in [`Counters::default_rows`] and `db status`.
    pub(super) async fn keep_house(&self) -> Result<(), StoreError> {
        let today = self.today().await?;
        self.partitions_ahead(today).await?;
        self.rescue_default(today).await?;
        self.drop_old(today).await?;
        self.expire(EXPIRE).await?;
        // The scans run in one minute of the hour.
        let minute: i32 = sqlx::query_scalar("SELECT extract(minute FROM now())::int")
            .fetch_one(self.pool())
            .await
            .map_err(StoreError::statement("could not ask for the time"))?;
        if minute == 17 {
            self.expire(EXPIRE_SCANS).await?;
        }
        Ok(())
    }

    async fn today(&self) -> Result<NaiveDate, StoreError> {
        sqlx::query_scalar("SELECT (now() AT TIME ZONE 'UTC')::date")
            .fetch_one(self.pool())
            .await
            .map_err(StoreError::statement("could not ask for the day"))
    }

    /// Makes the partitions of the days around a day. Returns how many were missing.
    pub async fn partitions_ahead(&self, today: NaiveDate) -> Result<u64, StoreError> {
        let what = "could not make partitions";
        let missing = sqlx::query("SELECT parent, d FROM vw.missing_partitions($1, $2)")
            .bind(today - Days::new(DAYS_BACK))
            .bind(today + Days::new(DAYS_AHEAD))
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement(what))?;
        for r in &missing {
            self.make_partition(r.get(0), r.get(1)).await?;
        }
        Ok(missing.len() as u64)
    }

    /// One partition, one transaction: its locks are short.
    async fn make_partition(&self, parent: &str, day: NaiveDate) -> Result<(), StoreError> {
        sqlx::query("SELECT vw.ensure_partition($1, $2)")
            .bind(parent)
            .bind(day)
            .execute(self.pool())
            .await
            .map_err(StoreError::statement("could not make a partition"))?;
        Ok(())
    }

    /// Rows that fell into DEFAULT (a clock far off, housekeeping that stood still) move into
    /// partitions of their own; those beyond retention are dropped with it.
    async fn rescue_default(&self, today: NaiveDate) -> Result<(), StoreError> {
        let rows = sqlx::query("SELECT parent, d, n FROM vw.default_rows()")
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement(
                "could not look into the default partitions",
            ))?;
        let total: u64 = rows.iter().map(|r| count(r.get(2))).sum();
        self.counters()
            .default_rows
            .store(total, std::sync::atomic::Ordering::Relaxed);
        for r in &rows {
            let (parent, day): (&str, NaiveDate) = (r.get(0), r.get(1));
            if day >= today - Days::new(self.keep_days(parent)) {
                self.make_partition(parent, day).await?;
            }
        }
        Ok(())
    }

    /// Rows now in a DEFAULT partition; 0 in a healthy database.
    pub async fn default_rows(&self) -> Result<u64, StoreError> {
        let n: i64 =
            sqlx::query_scalar("SELECT coalesce(sum(n), 0)::bigint FROM vw.default_rows()")
                .fetch_one(self.pool())
                .await
                .map_err(StoreError::statement(
                    "could not look into the default partitions",
                ))?;
        Ok(count(n))
    }

    fn keep_days(&self, table: &str) -> u64 {
        let keep = &self.config().keep;
        u64::from(match table {
            "dead_letter" => keep.dead_letters,
            "event" => keep.events,
            "audit_batch" => keep.audit,
            "minute_part" | "value_pending" => keep.minutes,
            _ => keep.findings,
        })
    }

    /// Drops the partitions that are beyond retention as of a day. Returns their names.
    pub async fn drop_old(&self, today: NaiveDate) -> Result<Vec<String>, StoreError> {
        let mut dropped = Vec::new();
        for table in [
            "dead_letter",
            "event",
            "finding",
            "audit_batch",
            "minute_part",
            "value_pending",
        ] {
            let names: Vec<String> = sqlx::query_scalar("SELECT vw.drop_partitions($1, $2)")
                .bind(table)
                .bind(today - Days::new(self.keep_days(table)))
                .fetch_all(self.pool())
                .await
                .map_err(StoreError::statement("could not drop old partitions"))?;
            dropped.extend(names);
        }
        Counters::add(&self.counters().dropped_partitions, dropped.len() as u64);
        Ok(dropped)
    }

    /// Expires every plain table now, the scans included.
    pub async fn expire_all(&self) -> Result<u64, StoreError> {
        Ok(self.expire(EXPIRE).await? + self.expire(EXPIRE_SCANS).await?)
    }

    async fn expire(&self, what: &'static [(Age, &'static str)]) -> Result<u64, StoreError> {
        let keep = self.config().keep;
        let mut total = 0;
        for (age, sql) in what {
            let days = i32::from(match age {
                Age::Values => keep.values,
                Age::Findings => keep.findings,
                Age::Ledgers => keep.ledgers,
            });
            for _ in 0..ROUNDS {
                let done = sqlx::query(*sql)
                    .bind(days)
                    .bind(ROWS_AT_ONCE)
                    .execute(self.pool())
                    .await
                    .map_err(StoreError::statement("could not expire rows"))?
                    .rows_affected();
                total += done;
                if done < ROWS_AT_ONCE.unsigned_abs() {
                    break;
                }
            }
        }
        Counters::add(&self.counters().expired_rows, total);
        Ok(total)
    }
}
