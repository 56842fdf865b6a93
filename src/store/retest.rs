//! Tests stored totals again where a limit was lowered or a raise has lapsed.
//!
//! A budget of every user may have millions of ledger rows, a year of them for each user. The subjects
//! are walked in key order, from one to the next by the index, [`SUBJECTS_AT_ONCE`] a transaction, and of
//! each only the row of the present period is looked at. Until the walk has ended the budgets stay
//! marked: a new leader begins anew, and a crossing that was written fires no second time.
//!
//! A batch that is open when the limit changes may have tested against the old one, and what it adds is seen
//! by nobody before it commits: the walk begins when all of those are over. The server ends a transaction
//! within seconds, so that is never long, and nobody waits for the walk.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row as _};

use super::lease::{self, Lease};
use super::{Counters, Store, StoreError, crowd, incident, ledger, time};
use crate::account::{Crossing, Scope};
use crate::event::Time;

/// Subjects in one transaction: some tens of milliseconds, in which batches of these users wait.
const SUBJECTS_AT_ONCE: i64 = 5_000;

/// Pause between two looks at open batches.
const LOOK: Duration = Duration::from_millis(20);

/// Locks the rows of the present period that stand above a threshold which has not fired, in lock
/// order, so that a batch that comes later waits and tests against the new limit.
const LOCK: &str = r#"
SELECT l.width, l.subject, l.period
  FROM (SELECT b.*, vw.period_name(b.period, now()) AS now_period FROM vw.budget_limit b
         WHERE b.id = ANY ($1) AND b.enabled AND b.width = $2 OFFSET 0) b
 CROSS JOIN unnest($3::text[]) AS u (subject)
  JOIN vw.ledger l ON l.width = b.width AND l.subject = u.subject COLLATE "C" AND l.period = b.now_period COLLATE "C"
 WHERE b.subject IN (u.subject, '*')
   AND EXISTS (SELECT 1 FROM unnest(b.thresholds) AS t (pct)
                WHERE b.amount * t.pct <= CASE b.unit WHEN 'usd' THEN l.cost_pico ELSE (l.tokens_input + l.tokens_output)::numeric END * 100
                  AND NOT EXISTS (SELECT 1 FROM vw.budget_crossing c WHERE c.budget_id = b.id
                                     AND c.subject = l.subject AND c.period = l.period AND c.threshold = t.pct))
 ORDER BY l.width, l.subject, l.period
   FOR UPDATE OF l"#;

const TEST: &str = r#"
INSERT INTO vw.budget_crossing (budget_id, subject, period, threshold, amount, value)
SELECT b.id, l.subject, l.period, t.pct, b.amount + r.extra, v.used
  FROM unnest($2::smallint[], $3::text[], $4::text[]) AS u (width, subject, period)
  JOIN vw.ledger l ON l.width = u.width AND l.subject = u.subject COLLATE "C" AND l.period = u.period COLLATE "C"
  JOIN vw.budget_limit b ON b.id = ANY ($1) AND b.enabled AND b.width = l.width AND b.subject IN (l.subject, '*')
                        AND b.period = vw.period_kind(l.period)
 CROSS JOIN LATERAL (SELECT CASE b.unit WHEN 'usd' THEN l.cost_pico ELSE (l.tokens_input + l.tokens_output)::numeric END AS used) v
 CROSS JOIN LATERAL unnest(b.thresholds) AS t (pct)
 CROSS JOIN LATERAL (SELECT coalesce(sum(x.extra), 0) AS extra FROM vw.budget_raise x
                      WHERE x.budget_id = b.id AND x.subject IN (l.subject, '*')
                        AND x.starts_at <= now() AND x.expires_at > now()) r
 WHERE (b.amount + r.extra) * t.pct <= v.used * 100
 ORDER BY l.width, l.subject, l.period, b.id, t.pct
ON CONFLICT DO NOTHING
RETURNING budget_id, subject, period, threshold, amount::text, value::text,
          (SELECT l.width FROM vw.budget_limit l WHERE l.id = budget_id),
          (SELECT l.unit FROM vw.budget_limit l WHERE l.id = budget_id)"#;

/// The next subjects of a width: one look into the index each, however many periods they have.
const NEXT_SUBJECTS: &str = r"
WITH RECURSIVE s (subject, n) AS (
  (SELECT l.subject, 1::bigint FROM vw.ledger l WHERE l.width = $1 AND l.subject > $2 ORDER BY l.subject LIMIT 1)
  UNION ALL
  SELECT (SELECT l.subject FROM vw.ledger l WHERE l.width = $1 AND l.subject > s.subject ORDER BY l.subject LIMIT 1), s.n + 1
    FROM s WHERE s.subject IS NOT NULL AND s.n < $3
)
SELECT subject FROM s WHERE subject IS NOT NULL ORDER BY n";

/// Budgets under test and how far the walk is.
#[derive(Debug)]
pub(super) struct Retest {
    /// Raises that lapsed by now are what is tested.
    began: DateTime<Utc>,
    /// (id, last change): a change meanwhile is another test's.
    budgets: Vec<(String, DateTime<Utc>)>,
    /// What is left, last first.
    left: Vec<Width>,
    /// Transactions that were open when it began.
    open: Vec<String>,
}

/// The subjects of one width.
#[derive(Debug)]
struct Width {
    width: i16,
    /// Named by the budgets; `None`: each that has a ledger.
    named: Option<Vec<String>>,
    /// The last one done.
    after: String,
}

impl Store {
    /// What must be tested again, if anything.
    pub(super) async fn begin_retest(&self) -> Result<Option<Retest>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.id, b.width, b.subject, b.changed_at, now() FROM vw.budget_limit b
              WHERE b.enabled AND (b.retest OR EXISTS (SELECT 1 FROM vw.budget_raise r
                     WHERE r.budget_id = b.id AND NOT r.lapsed AND r.expires_at <= now()))
              ORDER BY b.width DESC, b.id",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not look for budgets to test"))?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let mut left: Vec<Width> = Vec::new();
        for r in &rows {
            let (width, subject): (i16, String) = (r.get(1), r.get(2));
            if left.last().is_none_or(|w| w.width != width) {
                left.push(Width {
                    width,
                    named: Some(Vec::new()),
                    after: String::new(),
                });
            }
            if let Some(w) = left.last_mut() {
                if subject == "*" && width != i16::from(crate::account::Scope::Everyone.width()) {
                    w.named = None;
                } else if let Some(named) = &mut w.named {
                    named.push(subject);
                }
            }
        }
        // Asked behind the limits: whoever tests later than this sees them.
        let open = self.open_batches().await?;
        Ok(Some(Retest {
            open,
            began: first.get(4),
            budgets: rows.iter().map(|r| (r.get(0), r.get(3))).collect(),
            left,
        }))
    }

    async fn open_batches(&self) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar(ledger::OPEN)
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement("could not look for open batches"))
    }

    /// Tests the next subjects, in one transaction under the lease, once no batch is open that was when it
    /// began. `None` at the end.
    pub(super) async fn go_on_with_retest(
        &self,
        mut retest: Retest,
        lease: &Lease,
    ) -> Result<(Option<Retest>, incident::Applied, BTreeMap<Scope, u64>), StoreError> {
        let what = "could not test the budgets again";
        let sql = StoreError::statement;
        if !retest.open.is_empty() {
            let open = self.open_batches().await?;
            retest.open.retain(|t| open.contains(t));
            if !retest.open.is_empty() {
                tokio::time::sleep(LOOK).await;
                return Ok((Some(retest), Default::default(), BTreeMap::new()));
            }
        }
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        lease::renew(&mut tx, lease).await?;
        let ids: Vec<&str> = retest.budgets.iter().map(|b| b.0.as_str()).collect();
        let mut applied = incident::Applied::default();
        let mut by_scope = BTreeMap::new();
        if let Some(w) = retest.left.last_mut() {
            let subjects = match w.named.take() {
                Some(named) => named,
                None => sqlx::query_scalar(NEXT_SUBJECTS)
                    .bind(w.width)
                    .bind(&w.after)
                    .bind(SUBJECTS_AT_ONCE)
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(sql(what))?,
            };
            let now: DateTime<Utc> = sqlx::query_scalar("SELECT now()")
                .fetch_one(&mut *tx)
                .await
                .map_err(sql(what))?;
            let wide = w.width > 0;
            let crossed = test(&mut tx, &ids, w.width, &subjects, time(now)).await?;
            by_scope = ledger::by_scope(&crossed);
            let (findings, crowded) = crowd::findings(&mut tx, &crossed, self.stages()).await?;
            Counters::add(&self.counters().crowded_budgets, crowded);
            applied = incident::apply(&mut tx, findings, wide).await?;
            let whole = i64::try_from(subjects.len()).unwrap_or(0) == SUBJECTS_AT_ONCE;
            match subjects.last().filter(|_| whole) {
                Some(last) => w.after.clone_from(last),
                None => drop(retest.left.pop()),
            }
        }
        if retest.left.is_empty() {
            sqlx::query(
                "UPDATE vw.budget_limit b SET retest = false
                   FROM unnest($1::text[], $2::timestamptz[]) AS u (id, changed_at)
                  WHERE b.id = u.id COLLATE \"C\" AND b.changed_at = u.changed_at AND b.retest",
            )
            .bind(&ids)
            .bind(retest.budgets.iter().map(|b| b.1).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            sqlx::query(
                "UPDATE vw.budget_raise SET lapsed = true WHERE budget_id = ANY ($1) AND NOT lapsed AND expires_at <= $2",
            )
            .bind(&ids)
            .bind(retest.began)
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
        }
        drop(ids);
        tx.commit().await.map_err(sql(what))?;
        Ok((
            (!retest.left.is_empty()).then_some(retest),
            applied,
            by_scope,
        ))
    }
}

/// The thresholds that these subjects' present totals are above and that had not fired, in lock order.
async fn test(
    conn: &mut PgConnection,
    budgets: &[&str],
    width: i16,
    subjects: &[String],
    at: Time,
) -> Result<Vec<Crossing>, StoreError> {
    let what = "could not test the budgets again";
    let rows = sqlx::query(LOCK)
        .bind(budgets)
        .bind(width)
        .bind(subjects)
        .fetch_all(&mut *conn)
        .await
        .map_err(StoreError::statement(what))?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut keys: (Vec<i16>, Vec<String>, Vec<String>) = Default::default();
    for r in &rows {
        keys.0.push(r.get(0));
        keys.1.push(r.get(1));
        keys.2.push(r.get(2));
    }
    let rows = sqlx::query(TEST)
        .bind(budgets)
        .bind(&keys.0)
        .bind(&keys.1)
        .bind(&keys.2)
        .fetch_all(conn)
        .await
        .map_err(StoreError::statement(what))?;
    ledger::crossings(&rows, at)
}
