//! Adding usage to ledgers and testing thresholds, in one statement.
//!
//! The statement sorts the rows by (width, subject, period), which is the lock order. The totals that the
//! upsert returns are tested against the limits in the same statement, so every replica tests the
//! same limits against the true total; a threshold has crossed when its row in `budget_crossing`
//! could be inserted, so it fires once per period however many writers see it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::{StoreError, big};
use crate::account::{Crossing, LedgerDelta, LedgerKey, LedgerRows, Period, Scope, Subject, Unit};
use crate::event::{SmolStr, Time};

/// Shows that this transaction will test limits: a lock that nobody takes against it, so that nobody waits.
/// It must stand in a statement before the one that reads them; a batch has it in its first.
const SHOW: &str = "SELECT pg_advisory_xact_lock_shared(30327, 1)";

/// Transactions that have shown it and are not over (see [`SHOW`]).
pub(super) const OPEN: &str = "
SELECT virtualtransaction FROM pg_locks
 WHERE locktype = 'advisory' AND classid = 30327 AND objid = 1 AND objsubid = 2 AND granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Shows that this transaction will test limits.
pub(super) async fn show(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query(SHOW)
        .execute(conn)
        .await
        .map_err(StoreError::statement("could not show an open batch"))?;
    Ok(())
}

/// The usage added and the thresholds that it crossed. The first test is against the plain limit: raises only
/// lift it, and most rows are far below. `ON CONFLICT` is what decides; `NOT EXISTS` only spares the attempt. The
/// period's kind is `vw.period_kind` written out: its regular expression would run for every row. Each step is a
/// table of its own, so that the next one finds its rows by a whole key.
///
/// `seen` reads some of the rows that are about to change. `ON CONFLICT` reaches a row without reading its page by
/// the index, and only such a read prunes the page: without it pages stay full of dead versions and updates stop
/// being HOT (measured: 84 % instead of over 90 %). A page of a half-filled table has thirty-odd rows and room for
/// as many versions of them: one row in four is enough.
const ADD: &str = r#"
WITH u AS MATERIALIZED (
  SELECT * FROM unnest($1::smallint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
                       $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]) WITH ORDINALITY
      AS u (width, subject, period, events, ti, tob, cost, est, miss, une, unt, n)
), seen AS MATERIALIZED (
  SELECT count(l.events) FROM u
    JOIN vw.ledger l ON l.width = u.width AND l.subject = u.subject COLLATE "C" AND l.period = u.period COLLATE "C"
   WHERE u.n % 4 = 0
), up AS (
  INSERT INTO vw.ledger AS l (width, subject, period, events, tokens_input, tokens_output, cost_pico,
                              estimated_tokens, missing_events, unpriced_events, unpriced_tokens)
  SELECT u.width, u.subject, u.period, u.events, u.ti, u.tob, u.cost::numeric, u.est, u.miss, u.une, u.unt
    FROM seen CROSS JOIN u
   ORDER BY u.width, u.subject COLLATE "C", u.period COLLATE "C"
  ON CONFLICT (width, subject, period) DO UPDATE SET
    events = l.events + excluded.events,
    tokens_input = l.tokens_input + excluded.tokens_input,
    tokens_output = l.tokens_output + excluded.tokens_output,
    cost_pico = l.cost_pico + excluded.cost_pico,
    estimated_tokens = l.estimated_tokens + excluded.estimated_tokens,
    missing_events = l.missing_events + excluded.missing_events,
    unpriced_events = l.unpriced_events + excluded.unpriced_events,
    unpriced_tokens = l.unpriced_tokens + excluded.unpriced_tokens
  RETURNING width, subject, period, tokens_input + tokens_output AS tokens, cost_pico
), over AS MATERIALIZED (
  SELECT up.width, up.subject, up.period, b.id, b.amount, b.thresholds, v.used
    FROM up
    JOIN vw.budget_limit b ON b.width = up.width AND b.enabled AND b.subject = ANY (ARRAY[up.subject, '*'])
                          AND b.period = left(up.period, 1)
                              || CASE strpos(up.period, '@') WHEN 0 THEN '' ELSE substr(up.period, strpos(up.period, '@')) END
   CROSS JOIN LATERAL (SELECT CASE b.unit WHEN 'usd' THEN up.cost_pico ELSE up.tokens::numeric END AS used) v
   -- Whole percents that are used, as far as an integer goes.
   WHERE least(div(v.used * 100, b.amount), 2147483647)::int >= ANY (b.thresholds)
), reached AS MATERIALIZED (
  SELECT o.width, o.subject, o.period, o.id, t.pct, o.amount + r.extra AS amount, o.used
    FROM over o
   CROSS JOIN LATERAL (SELECT coalesce(sum(x.extra), 0) AS extra FROM vw.budget_raise x
                        WHERE x.budget_id = o.id AND x.subject IN (o.subject, '*')
                          AND x.starts_at <= statement_timestamp() AND x.expires_at > statement_timestamp()) r
   CROSS JOIN LATERAL unnest(o.thresholds) AS t (pct)
   WHERE (o.amount + r.extra) * t.pct <= o.used * 100
)
INSERT INTO vw.budget_crossing (budget_id, subject, period, threshold, amount, value)
SELECT r.id, r.subject, r.period, r.pct, r.amount, r.used
  FROM reached r
 WHERE NOT EXISTS (SELECT 1 FROM vw.budget_crossing c WHERE c.budget_id = r.id AND c.subject = r.subject
                      AND c.period = r.period AND c.threshold = r.pct)
 ORDER BY r.width, r.subject, r.period, r.id, r.pct
ON CONFLICT DO NOTHING
RETURNING budget_id, subject, period, threshold, amount::text, value::text,
          (SELECT l.width FROM vw.budget_limit l WHERE l.id = budget_id),
          (SELECT l.unit FROM vw.budget_limit l WHERE l.id = budget_id)"#;

/// What several batches add, by row.
pub(super) fn sum<'a>(
    batches: impl Iterator<Item = &'a LedgerRows>,
) -> Vec<(&'a LedgerKey, LedgerDelta)> {
    let mut rows: Vec<&(LedgerKey, LedgerDelta)> = batches.flatten().collect();
    // Stable, since it joins runs that are sorted already.
    rows.sort_by_key(|r| &r.0);
    let mut out: Vec<(&LedgerKey, LedgerDelta)> = Vec::with_capacity(rows.len());
    for (key, delta) in rows {
        match out.last_mut().filter(|last| last.0 == key) {
            Some(same) => same.1.add(delta),
            None => out.push((key, *delta)),
        }
    }
    out
}

/// Columns of a batch's ledger rows.
#[derive(Debug, Default)]
pub(super) struct Columns<'a> {
    width: Vec<i16>,
    subject: Texts,
    period: Vec<&'a str>,
    events: Vec<i64>,
    tokens_input: Vec<i64>,
    tokens_output: Vec<i64>,
    cost: Texts,
    estimated: Vec<i64>,
    missing: Vec<i64>,
    unpriced_events: Vec<i64>,
    unpriced_tokens: Vec<i64>,
}

impl<'a> Columns<'a> {
    /// The rows of one half. `wide`: everything but users.
    pub(super) fn of(rows: &[(&'a LedgerKey, LedgerDelta)], wide: bool) -> Self {
        let mut c = Self::default();
        for (key, d) in rows {
            if (key.scope.width() > 0) != wide {
                continue;
            }
            c.width.push(i16::from(key.scope.width()));
            c.subject.push(&key.subject);
            c.period.push(key.period.as_str());
            c.events.push(big(d.events));
            c.tokens_input.push(big(d.tokens_input));
            c.tokens_output.push(big(d.tokens_output));
            c.cost.push(d.cost_pico);
            c.estimated.push(big(d.estimated_tokens));
            c.missing.push(big(d.missing_events));
            c.unpriced_events.push(big(d.unpriced_events));
            c.unpriced_tokens.push(big(d.unpriced_tokens));
        }
        c
    }
}

/// Texts of a column, one after the other: a string for each row would be thousands of them in every batch.
#[derive(Debug, Default)]
struct Texts {
    all: String,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: impl fmt::Display) {
        // A string takes everything.
        let _ = write!(self.all, "{text}");
        self.ends.push(self.all.len());
    }

    fn rows(&self) -> Vec<&str> {
        let mut at = 0;
        let cut = |end: &usize| self.all.get(std::mem::replace(&mut at, *end)..*end);
        self.ends
            .iter()
            .map(cut)
            .map(Option::unwrap_or_default)
            .collect()
    }
}

/// Adds usage; returns the thresholds that crossed for the first time, in lock order.
pub(super) async fn add(
    conn: &mut PgConnection,
    c: &Columns<'_>,
    at: Time,
) -> Result<Vec<Crossing>, StoreError> {
    if c.width.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(ADD)
        .bind(&c.width)
        .bind(c.subject.rows())
        .bind(&c.period)
        .bind(&c.events)
        .bind(&c.tokens_input)
        .bind(&c.tokens_output)
        .bind(c.cost.rows())
        .bind(&c.estimated)
        .bind(&c.missing)
        .bind(&c.unpriced_events)
        .bind(&c.unpriced_tokens)
        .fetch_all(conn)
        .await
        .map_err(StoreError::statement("could not add usage to the ledgers"))?;
    crossings(&rows, at)
}

/// How many crossings there are of each scope.
pub(super) fn by_scope<'a>(
    crossings: impl IntoIterator<Item = &'a Crossing>,
) -> BTreeMap<Scope, u64> {
    let mut out = BTreeMap::new();
    for c in crossings {
        *out.entry(c.scope).or_default() += 1;
    }
    out
}

/// The rows that `INSERT INTO vw.budget_crossing … RETURNING` gives, in lock order.
pub(super) fn crossings(rows: &[PgRow], at: Time) -> Result<Vec<Crossing>, StoreError> {
    let mut out = rows
        .iter()
        .map(|r| crossing(r, at))
        .collect::<Result<Vec<_>, _>>()?;
    // RETURNING gives no order; what follows must not depend on the plan.
    out.sort_by(|a, b| {
        let key = |c: &Crossing| {
            (
                c.scope,
                c.subject.clone(),
                c.period.clone(),
                c.budget_id.clone(),
                c.threshold_pct,
            )
        };
        key(a).cmp(&key(b))
    });
    Ok(out)
}

fn crossing(r: &PgRow, at: Time) -> Result<Crossing, StoreError> {
    let corrupt = |said: &str| StoreError::Corrupt {
        what: "a budget",
        said: said.to_owned(),
    };
    let width: i16 = r.get(6);
    let scope = u8::try_from(width)
        .ok()
        .and_then(Scope::from_width)
        .ok_or_else(|| corrupt("its width is not a scope"))?;
    let unit = match r.get::<&str, _>(7) {
        "tokens" => Unit::Tokens,
        "usd" => Unit::Usd,
        _ => return Err(corrupt("its unit is neither tokens nor usd")),
    };
    let number = |i: usize| {
        r.get::<&str, _>(i)
            .parse::<i128>()
            .map_err(|_| corrupt("its amount is not an integer"))
    };
    Ok(Crossing {
        budget_id: SmolStr::new(r.get::<&str, _>(0)),
        scope,
        subject: SmolStr::new(r.get::<&str, _>(1)),
        period: Period::from_name(r.get(2)),
        unit,
        limit: number(4)?,
        threshold_pct: u32::try_from(r.get::<i32, _>(3)).unwrap_or(0),
        new_value: number(5)?,
        at,
    })
}

/// Reads every ledger row: reconciliation compares them with the sum of the events.
pub(super) async fn read(
    conn: &mut PgConnection,
) -> Result<BTreeMap<LedgerKey, LedgerDelta>, StoreError> {
    let rows = sqlx::query(
        "SELECT width, subject, period, events, tokens_input, tokens_output, cost_pico::text,
                estimated_tokens, missing_events, unpriced_events, unpriced_tokens
           FROM vw.ledger",
    )
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read the ledgers"))?;
    rows.iter()
        .map(|r| {
            let corrupt = |said: &str| StoreError::Corrupt {
                what: "a ledger row",
                said: said.to_owned(),
            };
            let scope = u8::try_from(r.get::<i16, _>(0))
                .ok()
                .and_then(Scope::from_width)
                .ok_or_else(|| corrupt("its width is not a scope"))?;
            let key = LedgerKey {
                scope,
                subject: Subject::read(scope, r.get(1)),
                period: Period::from_name(r.get(2)),
            };
            let n = |i: usize| super::count(r.get(i));
            let delta = LedgerDelta {
                events: n(3),
                tokens_input: n(4),
                tokens_output: n(5),
                cost_pico: r
                    .get::<&str, _>(6)
                    .parse()
                    .map_err(|_| corrupt("its cost is not an integer"))?,
                estimated_tokens: n(7),
                missing_events: n(8),
                unpriced_events: n(9),
                unpriced_tokens: n(10),
            };
            Ok((key, delta))
        })
        .collect()
}
