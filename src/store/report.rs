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
                       WHERE f.incident_id = i.incident_id AND f.incident_number = i.number), now())) * 1000)::bigint
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

    /// Budgets of the current periods: scope, subject, percent used.
    pub async fn report_budgets(&self) -> Result<Vec<(String, String, f64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT scope, subject, used_percent::float8 FROM budgets WHERE current ORDER BY scope, subject LIMIT 100",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the budgets"))?;
        Ok(rows
            .iter()
            .map(|r| (r.get(0), r.get(1), r.get(2)))
            .collect())
    }
}
