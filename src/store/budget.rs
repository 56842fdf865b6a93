//! Budgets as rows: limits from the config and by hand, temporary raises, and how much is used.

mod usage;

use sqlx::Row as _;
pub use usage::BudgetUse;

use super::{Store, StoreError, clean, stamp, time};
use crate::account::{Budget, Grain, Limit, PeriodKind, Scope, Unit, Zone};
use crate::event::{SmolStr, Time};

/// Longest raise: a raise that outlives a quarter is a limit and should be one.
pub const MAX_RAISE_DAYS: i64 = 92;

/// A limit as it stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LimitRow {
    /// Its name.
    pub budget: String,
    /// `user`, `key`, …
    pub scope: String,
    /// Whose; `*` for each subject of the scope.
    pub subject: String,
    /// `day`, `month@Europe/Berlin`, …
    pub period: String,
    /// `tokens` or `usd`.
    pub unit: String,
    /// Tokens, or dollars, as text.
    pub limit: String,
    /// Percent.
    pub thresholds: Vec<i32>,
    /// `config` or `cli`.
    pub source: String,
    /// Raises that hold now, as text.
    pub raised_by: String,
    /// Until when the last of them holds, RFC 3339.
    pub raised_until: Option<String>,
    /// Since when its ledger is kept, RFC 3339; `None`: as long as there are events.
    pub counts_from: Option<String>,
}

/// A raise to be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raise {
    /// Which budget.
    pub budget: String,
    /// Whose; `*` for every subject of it.
    pub subject: String,
    /// Tokens, or pico-dollars.
    pub extra: i128,
    /// When it lapses.
    pub expires: Time,
    /// Who grants it.
    pub author: String,
    /// Why.
    pub reason: String,
}

/// The kind column of a budget's period: `d`, `m@Europe/Berlin`.
fn kind(b: &Budget) -> String {
    let letter = b.grain.kind.as_str().get(..1).unwrap_or("t");
    match &b.grain.zone {
        Some(zone) if letter != "t" => format!("{letter}@{}", zone.name()),
        _ => letter.to_owned(),
    }
}

fn kind_in_words(kind: &str) -> String {
    let (letter, zone) = kind.split_at(1.min(kind.len()));
    let word = match letter {
        "h" => "hour",
        "d" => "day",
        "w" => "week",
        "m" => "month",
        _ => "total",
    };
    format!("{word}{zone}")
}

fn scope_name(width: i16) -> String {
    u8::try_from(width)
        .ok()
        .and_then(Scope::from_width)
        .map_or_else(|| width.to_string(), |s| s.as_str().to_owned())
}

impl Store {
    /// Makes the limits of the config hold: inserts, changes, and disables those that the config no
    /// longer has. Limits set by hand stay. Lowered ones are tested against stored totals by the
    /// leader. Every replica does this at its start; the last config wins.
    pub async fn sync_budgets(&self, budgets: &[Budget]) -> Result<(), StoreError> {
        self.put_budgets(budgets, "config", "", true).await
    }

    /// Sets one limit by hand. Gives since when its ledger is kept: usage before that is in no total;
    /// `None`: all usage is.
    pub async fn set_budget(
        &self,
        budget: &Budget,
        author: &str,
    ) -> Result<Option<Time>, StoreError> {
        self.put_budgets(std::slice::from_ref(budget), "cli", author, false)
            .await?;
        let from: Option<chrono::DateTime<chrono::Utc>> =
            sqlx::query_scalar("SELECT counts_from FROM vw.budget_limit WHERE id = $1")
                .bind(budget.id.as_str())
                .fetch_one(self.pool())
                .await
                .map_err(StoreError::statement("could not read a budget"))?;
        Ok(from.map(time))
    }

    /// What changes whenever a limit is set, changed or removed: cheap to ask for often.
    pub async fn budgets_stamp(&self) -> Result<String, StoreError> {
        sqlx::query_scalar(
            "SELECT count(*) || '/' || coalesce(sum(extract(epoch FROM changed_at)), 0) FROM vw.budget_limit",
        )
        .fetch_one(self.pool())
        .await
        .map_err(StoreError::statement("could not look for changed budgets"))
    }

    async fn put_budgets(
        &self,
        budgets: &[Budget],
        source: &'static str,
        author: &str,
        all: bool,
    ) -> Result<(), StoreError> {
        let what = "could not set budgets";
        let mut rows: Vec<&Budget> = budgets.iter().collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let ids: Vec<String> = rows.iter().map(|b| b.id.to_string()).collect();
        let widths: Vec<i16> = rows.iter().map(|b| i16::from(b.scope.width())).collect();
        let subjects: Vec<String> = rows
            .iter()
            .map(|b| b.subject.as_deref().unwrap_or("*").to_owned())
            .collect();
        let kinds: Vec<String> = rows.iter().map(|b| kind(b)).collect();
        let units: Vec<String> = rows
            .iter()
            .map(|b| b.limit.unit.as_str().to_owned())
            .collect();
        let amounts: Vec<String> = rows.iter().map(|b| b.limit.amount.to_string()).collect();
        // An array of arrays must be rectangular; a list in text need not be.
        let thresholds: Vec<String> = rows
            .iter()
            .map(|b| {
                let t: Vec<String> = b.thresholds.iter().map(ToString::to_string).collect();
                format!("{{{}}}", t.join(","))
            })
            .collect();
        let (store, author) = (self.clone(), clean(author));
        self.unabortable(async move {
            let mut tx = store.pool().begin().await.map_err(StoreError::statement(what))?;
            sqlx::query(
                // Some ledgers are kept for all (`Books::new`); one that another limit needs is kept since then.
                "INSERT INTO vw.budget_limit AS b (id, width, subject, period, unit, amount, thresholds, source, author, counts_from)
                 SELECT u.id, u.width, u.subject, u.period, u.unit, u.amount::numeric, u.thresholds::int[], $8, $9,
                        CASE WHEN u.period = 'd' OR (u.period = 'h' AND u.width > 0) THEN NULL
                             WHEN k.n > 0 THEN k.since ELSE now() END
                   FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
                     AS u (id, width, subject, period, unit, amount, thresholds)
                  CROSS JOIN LATERAL (SELECT count(*) AS n, CASE WHEN bool_or(o.counts_from IS NULL) THEN NULL ELSE min(o.counts_from) END AS since
                                        FROM vw.budget_limit o
                                       WHERE o.enabled AND o.width = u.width AND o.period = u.period COLLATE \"C\") k
                  ORDER BY u.id COLLATE \"C\"
                 ON CONFLICT (id) DO UPDATE SET
                   retest = b.retest OR excluded.amount < b.amount OR NOT b.enabled OR excluded.thresholds <> b.thresholds
                            OR (excluded.width, excluded.subject, excluded.period, excluded.unit)
                               IS DISTINCT FROM (b.width, b.subject, b.period, b.unit),
                   width = excluded.width, subject = excluded.subject, period = excluded.period, unit = excluded.unit,
                   amount = excluded.amount, thresholds = excluded.thresholds, source = excluded.source,
                   author = excluded.author, enabled = true, changed_at = now(), counts_from = excluded.counts_from
                 WHERE (b.width, b.subject, b.period, b.unit, b.amount, b.thresholds, b.source, b.enabled)
                    IS DISTINCT FROM (excluded.width, excluded.subject, excluded.period, excluded.unit,
                                      excluded.amount, excluded.thresholds, excluded.source, true)",
            )
            .bind(&ids)
            .bind(&widths)
            .bind(&subjects)
            .bind(&kinds)
            .bind(&units)
            .bind(&amounts)
            .bind(&thresholds)
            .bind(source)
            .bind(&author)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?;
            if all {
                sqlx::query(
                    "UPDATE vw.budget_limit SET enabled = false, changed_at = now()
                      WHERE source = $1 AND enabled AND id <> ALL ($2)",
                )
                .bind(source)
                .bind(&ids)
                .execute(&mut *tx)
                .await
                .map_err(StoreError::statement(what))?;
            } else {
                act(&mut tx, &author, "budget set", serde_json::json!({ "budgets": ids, "amounts": amounts })).await?;
            }
            tx.commit().await.map_err(StoreError::statement(what))
        })
        .await
    }

    /// Disables a limit. False: there is none of that name.
    pub async fn remove_budget(&self, id: &str, author: &str) -> Result<bool, StoreError> {
        let what = "could not remove a budget";
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        let done = sqlx::query(
            "UPDATE vw.budget_limit SET enabled = false, changed_at = now() WHERE id = $1 AND enabled",
        )
        .bind(id)
        .execute(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        act(
            &mut tx,
            author,
            "budget remove",
            serde_json::json!({ "budget": id }),
        )
        .await?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        Ok(done.rows_affected() == 1)
    }

    /// Grants a temporary raise. When it lapses the leader tests the totals again.
    pub async fn raise_budget(&self, raise: &Raise) -> Result<i64, StoreError> {
        let what = "could not raise a budget";
        let now = self.now().await?;
        if raise.expires <= now || raise.expires.since_ms(now) > MAX_RAISE_DAYS * 86_400_000 {
            return Err(StoreError::Refusal(format!(
                "a raise must lapse in the future and within {MAX_RAISE_DAYS} days; set a new limit for longer"
            )));
        }
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        let row = sqlx::query(
            "INSERT INTO vw.budget_raise (budget_id, subject, extra, expires_at, author, reason)
             SELECT b.id, $2, $3::text::numeric, $4, $5, $6 FROM vw.budget_limit b WHERE b.id = $1 AND b.enabled RETURNING id",
        )
        .bind(&raise.budget)
        .bind(&raise.subject)
        .bind(raise.extra.to_string())
        .bind(stamp(raise.expires))
        .bind(clean(&raise.author))
        .bind(clean(&raise.reason))
        .fetch_optional(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?
        .ok_or_else(|| {
            StoreError::Refusal(format!(
                "there is no budget `{}`: `veilwatch budget list` shows them",
                raise.budget
            ))
        })?;
        act(
            &mut tx,
            &raise.author,
            "budget raise",
            serde_json::json!({ "budget": raise.budget, "subject": raise.subject, "extra": raise.extra.to_string(),
                                "expires": raise.expires.to_string(), "reason": raise.reason }),
        )
        .await?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        Ok(row.get(0))
    }

    /// The limits as `account` knows them, those set by hand too: which ledgers must be kept.
    pub async fn enabled_budgets(&self) -> Result<Vec<Budget>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, width, subject, period, unit, amount::text, thresholds FROM vw.budget_limit WHERE enabled ORDER BY id",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read budgets"))?;
        rows.iter()
            .map(|r| {
                let id = SmolStr::new(r.get::<&str, _>(0));
                let corrupt = |said: &str| StoreError::Corrupt {
                    what: "a budget",
                    said: format!("{id}: {said}"),
                };
                let (word, zone) = kind_in_words(r.get(3)).split_once('@').map_or_else(
                    || (kind_in_words(r.get(3)), None),
                    |(w, z)| (w.to_owned(), Some(z.to_owned())),
                );
                let zone = zone
                    .map(|z| Zone::named(&z).map_err(|e| corrupt(&e.to_string())))
                    .transpose()?;
                let subject: &str = r.get(2);
                Ok(Budget {
                    scope: u8::try_from(r.get::<i16, _>(1))
                        .ok()
                        .and_then(Scope::from_width)
                        .ok_or_else(|| corrupt("its width is not a scope"))?,
                    subject: (subject != "*").then(|| SmolStr::new(subject)),
                    grain: Grain {
                        kind: PeriodKind::parse(&word)
                            .ok_or_else(|| corrupt("its period is unknown"))?,
                        zone,
                    },
                    limit: Limit {
                        unit: match r.get::<&str, _>(4) {
                            "usd" => Unit::Usd,
                            _ => Unit::Tokens,
                        },
                        amount: r
                            .get::<&str, _>(5)
                            .parse()
                            .map_err(|_| corrupt("its amount is not an integer"))?,
                    },
                    thresholds: r
                        .get::<Vec<i32>, _>(6)
                        .into_iter()
                        .filter_map(|t| u32::try_from(t).ok())
                        .collect(),
                    id,
                })
            })
            .collect()
    }

    /// The limits.
    pub async fn limits(&self) -> Result<Vec<LimitRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.id, b.width, b.subject, b.period, b.unit,
                    trim_scale(CASE b.unit WHEN 'usd' THEN b.amount / 1e12 ELSE b.amount END)::text,
                    b.thresholds, b.source,
                    trim_scale(coalesce((SELECT sum(r.extra) / CASE b.unit WHEN 'usd' THEN 1e12 ELSE 1 END FROM vw.budget_raise r
                       WHERE r.budget_id = b.id AND r.starts_at <= now() AND r.expires_at > now()), 0))::text,
                    (SELECT max(r.expires_at) FROM vw.budget_raise r
                       WHERE r.budget_id = b.id AND r.starts_at <= now() AND r.expires_at > now()), b.counts_from
               FROM vw.budget_limit b WHERE b.enabled ORDER BY b.width, b.subject, b.period, b.id",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not list budgets"))?;
        Ok(rows
            .iter()
            .map(|r| LimitRow {
                budget: r.get(0),
                scope: scope_name(r.get(1)),
                subject: r.get(2),
                period: kind_in_words(r.get(3)),
                unit: r.get(4),
                limit: r.get(5),
                thresholds: r.get(6),
                source: r.get(7),
                raised_by: r.get(8),
                raised_until: r
                    .get::<Option<chrono::DateTime<chrono::Utc>>, _>(9)
                    .map(|t| time(t).to_string()),
                counts_from: r
                    .get::<Option<chrono::DateTime<chrono::Utc>>, _>(10)
                    .map(|t| time(t).to_string()),
            })
            .collect())
    }
}

/// A row of the action log: who did what by hand.
pub(super) async fn act(
    conn: &mut sqlx::PgConnection,
    author: &str,
    action: &str,
    detail: serde_json::Value,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO vw.action_log (author, action, detail) VALUES ($1, $2, $3)")
        .bind(clean(author))
        .bind(action)
        .bind(detail)
        .execute(conn)
        .await
        .map_err(StoreError::statement("could not write the action log"))?;
    Ok(())
}

/// A name for a budget set by hand without one: the same budget keeps its name.
pub fn budget_name(scope: Scope, subject: Option<&str>, kind: &str, unit: Unit) -> SmolStr {
    let subject = subject.unwrap_or("each");
    SmolStr::new(format!(
        "{}-{subject}-{kind}-{}",
        scope.as_str(),
        unit.as_str()
    ))
}
