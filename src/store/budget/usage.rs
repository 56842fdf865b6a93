//! What stands against the limits: use of the present periods, ledgers, thresholds crossed.

use sqlx::Row as _;

use crate::account::{LedgerDelta, LedgerKey, Period};
use crate::event::SmolStr;
use crate::store::{Store, StoreError, ledger};

/// A budget as it stands, for one subject and period.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct BudgetUse {
    /// Which budget.
    pub budget: String,
    /// `user`, `key`, …
    pub scope: String,
    /// Whose.
    pub subject: String,
    /// When.
    pub period: String,
    /// `tokens` or `usd`.
    pub unit: String,
    /// Tokens, or dollars with 12 decimals, as text: exact.
    pub limit: String,
    /// With the raises that hold now.
    pub in_force: String,
    /// Used so far.
    pub used: String,
    /// Percent of the limit in force.
    pub percent: f64,
    /// Events counted.
    pub events: i64,
    /// Events whose usage is unknown.
    pub missing_events: i64,
    /// Events without a price.
    pub unpriced_events: i64,
}

impl Store {
    /// How much of the present periods is used, most used first.
    pub async fn budget_use(
        &self,
        budget: Option<&str>,
        subject: Option<&str>,
        limit: i64,
    ) -> Result<Vec<BudgetUse>, StoreError> {
        let rows = sqlx::query(
            // The view's rows, with the period found by its name: of a year of rows for each subject only the
            // present one is worked out.
            "SELECT b.id, vw.scope_name(b.width), l.subject, l.period, b.unit, trim_scale(b.amount / b.one)::text,
                    trim_scale(f.amount / b.one)::text, trim_scale(u.used / b.one)::text,
                    round(100 * u.used / f.amount, 2)::float8, l.events, l.missing_events, l.unpriced_events
               FROM (SELECT *, vw.period_name(period, now()) AS present, CASE unit WHEN 'usd' THEN 1e12 ELSE 1 END AS one
                       FROM vw.budget_limit WHERE enabled AND ($1::text IS NULL OR id = $1) OFFSET 0) b
               JOIN vw.ledger l ON l.width = b.width AND l.period = b.present COLLATE \"C\"
                               AND (b.subject = '*' OR b.subject = l.subject) AND ($2::text IS NULL OR l.subject = $2)
              CROSS JOIN LATERAL (SELECT CASE b.unit WHEN 'usd' THEN l.cost_pico ELSE (l.tokens_input + l.tokens_output)::numeric END AS used) u
              CROSS JOIN LATERAL (SELECT b.amount + coalesce(sum(r.extra), 0) AS amount FROM vw.budget_raise r
                                   WHERE r.budget_id = b.id AND r.subject IN (l.subject, '*')
                                     AND r.starts_at <= now() AND r.expires_at > now()) f
              ORDER BY 9 DESC, b.id, l.subject LIMIT $3",
        )
        .bind(budget)
        .bind(subject)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the budgets"))?;
        Ok(rows
            .iter()
            .map(|r| BudgetUse {
                budget: r.get(0),
                scope: r.get(1),
                subject: r.get(2),
                period: r.get(3),
                unit: r.get(4),
                limit: r.get(5),
                in_force: r.get(6),
                used: r.get(7),
                percent: r.get(8),
                events: r.get(9),
                missing_events: r.get(10),
                unpriced_events: r.get(11),
            })
            .collect())
    }

    /// Every ledger row: reconciliation compares them with the sum of the events.
    pub async fn ledger(
        &self,
    ) -> Result<std::collections::BTreeMap<LedgerKey, LedgerDelta>, StoreError> {
        let mut conn = self
            .pool()
            .acquire()
            .await
            .map_err(StoreError::statement("could not read the ledgers"))?;
        ledger::read(&mut conn).await
    }

    /// Thresholds crossed so far: (budget, subject, period, percent), sorted.
    pub async fn crossings(&self) -> Result<Vec<(SmolStr, SmolStr, Period, u32)>, StoreError> {
        let rows = sqlx::query(
            "SELECT budget_id, subject, period, threshold FROM vw.budget_crossing ORDER BY 1, 2, 3, 4",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the crossings"))?;
        Ok(rows
            .iter()
            .map(|r| {
                (
                    SmolStr::new(r.get::<&str, _>(0)),
                    SmolStr::new(r.get::<&str, _>(1)),
                    Period::from_name(r.get(2)),
                    u32::try_from(r.get::<i32, _>(3)).unwrap_or(0),
                )
            })
            .collect())
    }
}
