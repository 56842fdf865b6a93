//! Who spends and who is found: what `top` reads from the ledgers and the findings.

use sqlx::Row as _;

use super::{Store, StoreError};
use crate::account::{Grain, PeriodKind, Scope};
use crate::event::Time;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TopRow {
    /// `user`, `model`, `tenant`, `key`, `team`.
    pub scope: String,
    /// Whose.
    pub subject: String,
    /// Dollars.
    pub cost_usd: f64,
    /// Input and output.
    pub tokens: i64,
    /// Events.
    pub events: i64,
    /// Events whose cost is not known: no usage, or no price.
    pub uncosted_events: i64,
    /// Findings that are not shadow.
    pub findings: i64,
    /// Of them, those that may page.
    pub pages: i64,
    /// The worst of them.
    pub worst: Option<String>,
}

/// What the lines are ordered by, falling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopBy {
    /// Dollars, then tokens.
    Spend,
    /// Findings, then dollars.
    Findings,
}

/// Most periods that are summed: a month of hours.
const MAX_PERIODS: i64 = 31 * 24;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The names of the periods from `from` to `to`, both included. Users have ledgers of days, the others of
/// hours.
fn periods(scope: Scope, from: Time, to: Time) -> Vec<String> {
    let (kind, step) = match scope {
        Scope::User => (PeriodKind::Day, DAY_MS),
        _ => (PeriodKind::Hour, HOUR_MS),
    };
    let grain = Grain::utc(kind);
    let (first, last) = (from.0.div_euclid(step), to.0.div_euclid(step));
    (first.max(last - MAX_PERIODS + 1)..=last)
        .map(|n| grain.period(Time(n * step)).to_string())
        .collect()
}

impl Store {
    /// The first `limit` of a scope between two times. The ledgers' part of it begins with the hour (users:
    /// the day) in which `from` lies.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn top(
        &self,
        scope: Scope,
        (from, to): (Time, Time),
        by: TopBy,
        limit: i64,
    ) -> Result<Vec<TopRow>, StoreError> {
        // A finding names no key and no team.
        let column = match scope {
            Scope::User => "user_id",
            Scope::Model => "model",
            Scope::Tenant => "tenant",
            Scope::Key | Scope::Team | Scope::Everyone => "NULL::text",
        };
        let order = match by {
            TopBy::Spend => "cost DESC, tokens DESC, findings DESC",
            TopBy::Findings => "findings DESC, pages DESC, cost DESC",
        };
        let sql = format!(
            "WITH spent AS (
               SELECT subject::text COLLATE \"C\" AS subject, sum(cost_pico) AS cost, sum(tokens_input + tokens_output)::bigint AS tokens,
                      sum(events)::bigint AS events, sum(missing_events + unpriced_events)::bigint AS uncosted
                 FROM vw.ledger WHERE width = $1 AND period = ANY ($2) GROUP BY 1),
             found AS (
               SELECT {column} COLLATE \"C\" AS subject, count(*) AS findings, count(*) FILTER (WHERE stage = 2) AS pages,
                      max(severity) AS worst
                 FROM vw.finding
                WHERE day BETWEEN ($3 AT TIME ZONE 'UTC')::date AND ($4 AT TIME ZONE 'UTC')::date
                  AND end_at BETWEEN $3 AND $4 AND stage > 0 AND {column} <> '' GROUP BY 1)
             SELECT subject, (coalesce(cost, 0) / 1e12)::float8, coalesce(tokens, 0) AS tokens, coalesce(events, 0),
                    coalesce(uncosted, 0), coalesce(findings, 0) AS findings, coalesce(pages, 0) AS pages,
                    vw.severity_name(worst), coalesce(cost, 0) AS cost
               FROM spent FULL JOIN found USING (subject) ORDER BY {order}, subject LIMIT $5"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i16::from(scope.width()))
            .bind(periods(scope, from, to))
            .bind(super::stamp(from))
            .bind(super::stamp(to))
            .bind(limit)
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement("could not sum up the usage"))?;
        Ok(rows
            .iter()
            .map(|r| TopRow {
                scope: scope.as_str().to_owned(),
                subject: r.get(0),
                cost_usd: r.get(1),
                tokens: r.get(2),
                events: r.get(3),
                uncosted_events: r.get(4),
                findings: r.get(5),
                pages: r.get(6),
                worst: r.get(7),
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_days_and_others_hours() {
        let noon = Time(1_795_262_400_000);
        let day = (Time(noon.0 - 20 * HOUR_MS), noon);
        assert_eq!(
            periods(Scope::User, day.0, day.1),
            ["d:2026-11-20", "d:2026-11-21"]
        );
        let hours = periods(Scope::Tenant, Time(noon.0 - HOUR_MS), noon);
        assert_eq!(hours, ["h:2026-11-21T11", "h:2026-11-21T12"]);
        let many = periods(Scope::Model, Time(0), noon);
        assert_eq!(many.len(), 31 * 24);
    }
}
