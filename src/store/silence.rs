//! Silences: who muted what, until when and why.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row as _};

use super::{Store, StoreError, budget, clean, stamp, time};
use crate::decide::{Matcher, Silence};
use crate::event::{SmolStr, Time};

/// Longest silence: one that outlives a quarter is a rule that should be tuned.
const MAX_SILENCE_DAYS: i64 = 92;

impl Store {
    /// Mutes incidents for a time. Returns the silence's id.
    pub async fn add_silence(
        &self,
        matchers: &[Matcher],
        starts: Time,
        ends: Time,
        author: &str,
        comment: &str,
    ) -> Result<i64, StoreError> {
        let what = "could not add a silence";
        if matchers.is_empty() {
            return Err(StoreError::Refusal(
                "a silence needs a matcher: without one it would mute everything".to_owned(),
            ));
        }
        if ends <= starts || ends.since_ms(starts) > MAX_SILENCE_DAYS * 86_400_000 {
            return Err(StoreError::Refusal(format!(
                "a silence must end after it starts and within {MAX_SILENCE_DAYS} days"
            )));
        }
        let texts: Vec<&str> = matchers.iter().map(Matcher::as_str).collect();
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO vw.silence (matchers, author, comment, starts_at, ends_at) VALUES ($1, $2, $3, $4, $5) RETURNING id",
        )
        .bind(serde_json::json!(texts))
        .bind(clean(author))
        .bind(clean(comment))
        .bind(stamp(starts))
        .bind(stamp(ends))
        .fetch_one(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        let detail = serde_json::json!({ "silence": id, "matchers": texts, "ends": ends.to_string(), "comment": comment });
        budget::act(&mut tx, author, "silence add", detail).await?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        Ok(id)
    }

    /// Ends a silence now. False: there is none, or it is over.
    pub async fn expire_silence(&self, id: i64, author: &str) -> Result<bool, StoreError> {
        let what = "could not end a silence";
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        let done = sqlx::query(
            "UPDATE vw.silence SET starts_at = least(starts_at, now() - interval '1 second'), ends_at = now()
              WHERE id = $1 AND ends_at > now()",
        )
        .bind(id)
        .execute(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        budget::act(
            &mut tx,
            author,
            "silence expire",
            serde_json::json!({ "silence": id }),
        )
        .await?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        Ok(done.rows_affected() == 1)
    }

    /// Silences that hold or will hold.
    pub async fn silences(&self) -> Result<Vec<SilenceRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, matchers, author, comment, starts_at, ends_at FROM vw.silence WHERE ends_at > now() ORDER BY ends_at, id",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not list silences"))?;
        Ok(rows
            .iter()
            .map(|r| SilenceRow {
                id: r.get(0),
                matchers: serde_json::from_value(r.get(1)).unwrap_or_default(),
                author: r.get(2),
                comment: r.get(3),
                starts: time(r.get(4)).to_string(),
                ends: time(r.get(5)).to_string(),
            })
            .collect())
    }
}

/// A silence as it stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SilenceRow {
    /// Its id.
    pub id: i64,
    /// All must match.
    pub matchers: Vec<String>,
    /// Who.
    pub author: String,
    /// Why.
    pub comment: String,
    /// From, RFC 3339.
    pub starts: String,
    /// Until, RFC 3339.
    pub ends: String,
}

/// Silences that hold. Those that cannot be read mute nobody and join `skip`.
pub(super) async fn active_silences(
    conn: &mut PgConnection,
    skip: &mut BTreeSet<i64>,
) -> Result<Vec<Silence>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, matchers, starts_at, ends_at FROM vw.silence WHERE ends_at > now() - interval '1 minute' ORDER BY id",
    )
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read silences"))?;
    let mut silences = Vec::with_capacity(rows.len());
    for r in &rows {
        let id: i64 = r.get(0);
        let texts: Result<Vec<String>, _> = serde_json::from_value(r.get(1));
        let matchers = texts.ok().and_then(|texts| {
            let all = texts.iter().map(|t| Matcher::parse(t));
            all.collect::<Result<Vec<_>, _>>().ok()
        });
        match matchers {
            Some(matchers) => silences.push(Silence {
                id: SmolStr::new(id.to_string()),
                matchers,
                starts: time(r.get(2)),
                ends: time(r.get(3)),
            }),
            None => {
                skip.insert(id);
            }
        }
    }
    Ok(silences)
}
