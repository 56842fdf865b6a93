//! Housekeeping, done by the leader: partitions ahead, retention, expiry of plain tables.
//!
//! Tables that grow are partitioned by day and expire by dropping partitions; plain tables expire row by
//! row ([`super::expire`]). A round may take minutes, so it runs beside the leader's merges.

use chrono::{Days, NaiveDate};
use sqlx::{PgConnection, Postgres, Row as _, Transaction};

use super::{Counters, Keep, Store, StoreError, count, expire};
use crate::event::Time;

/// The server cancels a statement of housekeeping after this long: moving a day out of DEFAULT, or the
/// first page of a table that nobody has read for a year, takes longer than any batch.
const PATIENCE: &str = "5min";
/// Dropping a partition locks the whole table. While that waits for an analyst's long query, everybody's
/// inserts wait behind it: so it gives up at once and is tried again a minute later.
const DROP_WAITS: &str = "100ms";
/// Tables partitioned by day.
pub(super) const BY_DAY: [&str; 6] = [
    "dead_letter",
    "event",
    "finding",
    "audit_batch",
    "minute_part",
    "value_pending",
];
/// Days ahead for which partitions exist.
pub const DAYS_AHEAD: u64 = 8;
/// Days back: an event's end may lie 24 h before its append.
const DAYS_BACK: u64 = 2;
/// How much longer minutes and values are kept that no leader has merged or judged: while it cannot, for want
/// of a partition or of its own, they must not fill the disk.
const UNSEEN_DAYS: u64 = 30;

/// A part of housekeeping that failed; it is tried again in the next round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Which part.
    pub task: &'static str,
    /// What went wrong.
    pub said: String,
}

impl Keep {
    /// How many days a table of [`BY_DAY`] is kept.
    pub(super) fn days(&self, table: &str) -> u64 {
        u64::from(match table {
            "dead_letter" => self.dead_letters,
            "event" => self.events,
            "audit_batch" => self.audit,
            "minute_part" | "value_pending" => self.minutes,
            _ => self.findings,
        })
    }
}

impl Store {
    /// One round of housekeeping: partitions first, since a day without one is the worst that can be
    /// left undone. Each part stands alone: one that fails is tried again in the next round and keeps no
    /// other from its work. Gives those that failed.
    pub(super) async fn keep_house(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut note = |task: &'static str, done: Result<(), StoreError>| {
            if let Err(e) = done {
                troubles.push(Trouble {
                    task,
                    said: e.to_string(),
                });
            }
        };
        let today = match self.today().await {
            Ok(today) => today,
            Err(e) => {
                note("partitions", Err(e));
                return troubles;
            }
        };
        note("partitions", self.partitions_ahead(today).await.map(drop));
        note("default partitions", self.rescue_default(today).await);
        for table in BY_DAY {
            note("retention", self.drop_old_of(table, today).await.map(drop));
        }
        for task in expire::tasks() {
            note(task, self.expire(task).await.map(drop));
        }
        troubles
    }

    /// A transaction of housekeeping: its statements may take minutes where a batch's may not.
    pub(super) async fn patient(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let what = "could not begin housekeeping";
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        sqlx::query(
            "SELECT set_config(name, CASE name WHEN 'statement_timeout' THEN $1 ELSE '0' END, true)
               FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout')",
        )
        .bind(PATIENCE)
        .execute(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        Ok(tx)
    }

    /// Commits what [`Store::patient`] began.
    pub(super) async fn kept(&self, tx: Transaction<'static, Postgres>) -> Result<(), StoreError> {
        tx.commit()
            .await
            .map_err(StoreError::statement("could not commit housekeeping"))
    }

    pub(super) async fn today(&self) -> Result<NaiveDate, StoreError> {
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
        let mut tx = self.patient().await?;
        sqlx::query("SELECT vw.ensure_partition($1, $2)")
            .bind(parent)
            .bind(day)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement("could not make a partition"))?;
        self.kept(tx).await
    }

    /// Rows that fell into DEFAULT (a clock far off, housekeeping that stood still) move into
    /// partitions of their own; those beyond retention are dropped with it.
    async fn rescue_default(&self, today: NaiveDate) -> Result<(), StoreError> {
        let mut tx = self.patient().await?;
        let rows = sqlx::query("SELECT parent, d, n FROM vw.default_rows()")
            .fetch_all(&mut *tx)
            .await
            .map_err(StoreError::statement(
                "could not look into the default partitions",
            ))?;
        self.kept(tx).await?;
        let total: u64 = rows.iter().map(|r| count(r.get(2))).sum();
        self.counters().found_default_rows(total);
        for r in &rows {
            let (parent, day): (&str, NaiveDate) = (r.get(0), r.get(1));
            if day >= self.keep_from(parent, today).await? {
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

    /// The first day of a table that is kept. What waits for the leader is kept by the time of the stream
    /// and not by the clock: while a backlog is worked off, its minutes are older than any retention, and are
    /// merged all the same.
    pub(super) async fn keep_from(
        &self,
        table: &str,
        today: NaiveDate,
    ) -> Result<NaiveDate, StoreError> {
        let what = "could not ask how far the stream is";
        let days = Days::new(self.config().keep.days(table));
        let unseen = match table {
            "minute_part" => "SELECT min(minute) FROM vw.minute_part WHERE NOT merged",
            "value_pending" => "SELECT min(minute) FROM vw.value_pending WHERE NOT judged",
            _ => return Ok(today - days),
        };
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        steady(&mut tx).await?;
        // One that waits for an operator may wait for months.
        let marks = self.watermarks(&mut tx).await?;
        let going = marks.iter().filter(|m| !m.halted && m.watermark.0 > 0);
        let applied = going.map(|m| m.watermark.minute()).min();
        let merged: Option<i64> =
            sqlx::query_scalar("SELECT merged_through FROM vw.lease WHERE name = 'leader'")
                .fetch_optional(&mut *tx)
                .await
                .map_err(StoreError::statement(what))?
                .flatten();
        let unseen: Option<i64> = sqlx::query_scalar(unseen)
            .fetch_one(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        let day = |minute: i64| super::day(Time::from_minute(minute));
        let stream = applied.into_iter().chain(merged).map(|m| day(m) - days);
        let first = stream.chain(unseen.map(day)).min();
        let from = first.map_or(today - days, |first| first.min(today - days));
        Ok(from.max(today - days - Days::new(UNSEEN_DAYS)))
    }

    /// Drops the partitions that are beyond retention as of a day. Returns their names.
    pub async fn drop_old(&self, today: NaiveDate) -> Result<Vec<String>, StoreError> {
        let mut dropped = Vec::new();
        for table in BY_DAY {
            dropped.extend(self.drop_old_of(table, today).await?);
        }
        Ok(dropped)
    }

    async fn drop_old_of(&self, table: &str, today: NaiveDate) -> Result<Vec<String>, StoreError> {
        let before = self.keep_from(table, today).await?;
        let mut tx = self.patient().await?;
        let unseen = expire::unseen(&mut tx, table, before).await?;
        sqlx::query("SELECT set_config('lock_timeout', $1, true)")
            .bind(DROP_WAITS)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement("could not drop old partitions"))?;
        let names: Vec<String> = sqlx::query_scalar("SELECT vw.drop_partitions($1, $2)")
            .bind(table)
            .bind(before)
            .fetch_all(&mut *tx)
            .await
            .map_err(StoreError::statement("could not drop old partitions"))?;
        self.kept(tx).await?;
        let counters = self.counters();
        match table {
            "value_pending" => Counters::add(&counters.unjudged_values, unseen),
            "minute_part" => Counters::add(&counters.unmerged_parts, unseen),
            _ => {}
        }
        Counters::add(&counters.dropped_partitions, names.len() as u64);
        Ok(names)
    }
}

/// From here to the end of the transaction no read of what waits for the leader misses a row.
///
/// A statement looks up the partitions of a table before it waits for them. If housekeeping attaches one
/// meanwhile and moves rows there from DEFAULT, the statement sees them in neither. With the locks held first,
/// what follows is planned with the partitions as they are, and none can be attached or dropped.
///
/// # Errors
/// The database's.
pub(super) async fn steady(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("LOCK TABLE vw.minute_part, vw.value_pending IN ACCESS SHARE MODE")
        .execute(conn)
        .await
        .map_err(StoreError::statement(
            "could not look at what waits for the leader",
        ))?;
    Ok(())
}
