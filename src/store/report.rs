//! What the demo and the console show: reads of the documented views, nothing that changes.

use sqlx::Row as _;

use super::{Store, StoreError};
use crate::event::Time;

/// Most incidents that one look returns, newest first.
const MOST: i64 = 500;

/// An incident as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenIncident {
    /// 32 hex of the key.
    pub id: String,
    /// Number under the key.
    pub number: i32,
    /// `open`, `acknowledged`, `resolved`.
    pub state: String,
    /// How bad.
    pub severity: String,
    /// `ticket` or `page`.
    pub stage: String,
    /// Detector.
    pub detector: String,
    /// Rule.
    pub rule: String,
    /// Tenant.
    pub tenant: String,
    /// Subject.
    pub subject: String,
    /// User's pseudonym.
    pub user: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Gateway.
    pub gateway: Option<String>,
    /// What was seen.
    pub reason: String,
    /// When it opened, by the events' clock.
    pub opened: Time,
    /// When it was last seen, by the events' clock.
    pub last: Time,
    /// When its first finding was stored, by the database's clock.
    pub stored: Time,
    /// Findings so far.
    pub findings: i64,
}

/// Totals of everything that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records read.
    pub records: i64,
    /// Events counted.
    pub events: i64,
    /// Records seen before.
    pub duplicates: i64,
    /// Records that could not be decoded.
    pub dead_letters: i64,
    /// Tokens in the ledger of everyone.
    pub tokens: i64,
    /// Micro-dollars in the ledger of everyone.
    pub micro_usd: i64,
}

impl Store {
    /// The incidents, newest first, at most 500.
    pub async fn report_incidents(&self) -> Result<Vec<SeenIncident>, StoreError> {
        let rows = sqlx::query(
            "SELECT i.incident_id, i.number, i.state, i.severity, i.stage, i.detector, i.rule, i.tenant,
                    i.subject, i.user_id, i.model, i.gateway, i.reason, i.findings,
                    (extract(epoch FROM i.opened_at) * 1000)::bigint,
                    (extract(epoch FROM coalesce((SELECT min(f.stored_at) FROM findings f
                       WHERE f.incident_id = i.incident_id AND f.incident_number = i.number), now())) * 1000)::bigint,
                    (extract(epoch FROM i.last_seen_at) * 1000)::bigint
               FROM incidents i ORDER BY i.opened_at DESC, i.incident_id LIMIT $1",
        )
        .bind(MOST)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the incidents"))?;
        Ok(rows
            .iter()
            .map(|r| SeenIncident {
                id: r.get(0),
                number: r.get(1),
                state: r.get(2),
                severity: r.get(3),
                stage: r.get(4),
                detector: r.get(5),
                rule: r.get(6),
                tenant: r.get(7),
                subject: r.get(8),
                user: r.get(9),
                model: r.get(10),
                gateway: r.get(11),
                reason: r.get(12),
                findings: r.get(13),
                opened: Time(r.get(14)),
                stored: Time(r.get(15)),
                last: Time(r.get(16)),
            })
            .collect())
    }

    /// What was applied so far.
    pub async fn report_totals(&self) -> Result<Totals, StoreError> {
        let row = sqlx::query(
            "SELECT coalesce(sum(records), 0)::bigint, coalesce(sum(events), 0)::bigint,
                    coalesce(sum(duplicates), 0)::bigint, coalesce(sum(dead_letters), 0)::bigint,
                    (SELECT coalesce(sum(tokens), 0)::bigint FROM usage_hourly WHERE scope = 'everyone'),
                    (SELECT coalesce(sum(cost_usd) * 1000000, 0)::bigint FROM usage_hourly WHERE scope = 'everyone')
               FROM completeness",
        )
        .fetch_one(self.pool())
        .await
        .map_err(StoreError::statement("could not read the totals"))?;
        Ok(Totals {
            records: row.get(0),
            events: row.get(1),
            duplicates: row.get(2),
            dead_letters: row.get(3),
            tokens: row.get(4),
            micro_usd: row.get(5),
        })
    }

    /// Messages that are not sent and not given up.
    pub async fn report_unsent(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar(
            "SELECT count(*) FROM notifications WHERE state IN ('pending', 'claimed')",
        )
        .fetch_one(self.pool())
        .await
        .map_err(StoreError::statement("could not count what is not sent"))
    }

    /// Budgets of the current periods, at most 100.
    pub async fn report_budgets(&self) -> Result<Vec<SeenBudget>, StoreError> {
        let rows = sqlx::query(
            "SELECT scope, subject, period, unit, limit_in_force::float8, used::float8, used_percent::float8,
                    highest_threshold, missing_events, unpriced_events
               FROM budgets WHERE current ORDER BY used_percent DESC, scope, subject LIMIT 100",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the budgets"))?;
        let budget = |r: &sqlx::postgres::PgRow| SeenBudget {
            scope: r.get(0),
            subject: r.get(1),
            period: r.get(2),
            unit: r.get(3),
            limit: r.get(4),
            used: r.get(5),
            percent: r.get(6),
            threshold: r.get(7),
            missing: r.get(8),
            unpriced: r.get(9),
        };
        Ok(rows.iter().map(budget).collect())
    }

    /// The partitions, all hours together.
    pub async fn report_partitions(&self) -> Result<Vec<SeenPartition>, StoreError> {
        let rows = sqlx::query(
            "SELECT topic, partition, sum(records)::bigint, sum(events)::bigint, sum(duplicates)::bigint, sum(late)::bigint,
                    sum(dead_letters)::bigint, sum(lost_records)::bigint,
                    (extract(epoch FROM max(applied_through)) * 1000)::bigint, max(halted)
               FROM completeness GROUP BY topic, partition ORDER BY topic, partition LIMIT 1000",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the completeness"))?;
        let partition = |r: &sqlx::postgres::PgRow| SeenPartition {
            topic: r.get(0),
            partition: r.get(1),
            records: r.get(2),
            events: r.get(3),
            duplicates: r.get(4),
            late: r.get(5),
            dead_letters: r.get(6),
            lost: r.get(7),
            applied_ms: r.get(8),
            halted: r.get(9),
        };
        Ok(rows.iter().map(partition).collect())
    }

    /// The newest dead letters, at most 20.
    pub async fn report_dead_letters(&self) -> Result<Vec<SeenDeadLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT topic, partition, \"offset\", reason, field_path, byte_position, size_bytes::bigint
               FROM dead_letters ORDER BY at DESC, topic, partition, \"offset\" LIMIT 20",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the dead letters"))?;
        let letter = |r: &sqlx::postgres::PgRow| SeenDeadLetter {
            topic: r.get(0),
            partition: r.get(1),
            offset: r.get(2),
            reason: r.get(3),
            path: r.get(4),
            byte: r.get(5),
            bytes: r.get(6),
        };
        Ok(rows.iter().map(letter).collect())
    }

    /// The leader's newest checkpoint, and how many users have a baseline row.
    pub async fn report_learning(&self) -> Result<(Option<(i32, Vec<u8>)>, i64), StoreError> {
        let what = "could not read what was learnt";
        let leader =
            sqlx::query("SELECT fmt, state FROM vw.lease WHERE name = 'leader' AND fmt > 0")
                .fetch_optional(self.pool())
                .await
                .map_err(StoreError::statement(what))?;
        let users = sqlx::query_scalar("SELECT count(DISTINCT user_id) FROM vw.user_state")
            .fetch_one(self.pool())
            .await
            .map_err(StoreError::statement(what))?;
        Ok((leader.map(|r| (r.get(0), r.get(1))), users))
    }
}

/// A budget in its current period.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SeenBudget {
    /// Of what.
    pub scope: String,
    /// Of whom.
    pub subject: String,
    /// The period, such as `d:2026-01-31`.
    pub period: String,
    /// `tokens` or `usd`.
    pub unit: String,
    /// The limit with its raises.
    pub limit: f64,
    /// Used so far.
    pub used: f64,
    /// The same in percent of the limit.
    pub percent: f64,
    /// The highest threshold crossed.
    pub threshold: Option<i32>,
    /// Events whose usage is not known.
    pub missing: i64,
    /// Events whose model has no price.
    pub unpriced: i64,
}

/// A partition and what became of its records.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SeenPartition {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Records read.
    pub records: i64,
    /// Events counted.
    pub events: i64,
    /// Seen before.
    pub duplicates: i64,
    /// Late.
    pub late: i64,
    /// Not decoded.
    pub dead_letters: i64,
    /// Lost before they could be read.
    pub lost: i64,
    /// Everything up to here is applied, milliseconds since the epoch.
    pub applied_ms: i64,
    /// Why it stands still.
    pub halted: Option<String>,
}

/// A dead letter: its place and reason, never its bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SeenDeadLetter {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Why.
    pub reason: String,
    /// Which field.
    pub path: Option<String>,
    /// At which byte.
    pub byte: Option<i64>,
    /// Size in bytes.
    pub bytes: i64,
}
