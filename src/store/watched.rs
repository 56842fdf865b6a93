//! Registered texts, and the look back over stored sketches for one text.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::Row as _;

use super::{Store, StoreError, budget, clean};

/// Rows of stored events read at a time: a few megabytes.
const PAGE: i64 = 2_000;

/// A registered text under one key: no text, only fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WatchedRow {
    /// The name its owner gave it.
    pub name: String,
    /// `canary`, `system-prompt` or `document`.
    pub kind: String,
    /// The key of its prints.
    pub kid: String,
    /// Its prints.
    #[serde(skip)]
    pub prints: Vec<u64>,
    /// Words it had when it was registered.
    pub words: i32,
    /// Who registered it.
    pub author: String,
}

/// Where a page of stored events begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HuntFrom {
    day: NaiveDate,
    topic: String,
    part: i32,
    off: i64,
}

impl HuntFrom {
    /// The beginning of a day.
    pub fn day(day: NaiveDate) -> Self {
        Self {
            day,
            topic: String::new(),
            part: -1,
            off: -1,
        }
    }
}

/// A stored event, sealed.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// When it ended.
    pub end_at: DateTime<Utc>,
    /// Canonical JSON of version 1.
    pub sealed: String,
}

impl Store {
    /// Registers a text under one key, in place of one of the same name and key.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn watch_text(&self, row: &WatchedRow) -> Result<(), StoreError> {
        let what = "could not register a text";
        let prints: Vec<i64> = row.prints.iter().map(|p| p.cast_signed()).collect();
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        sqlx::query(
            "INSERT INTO vw.watched (name, kid, kind, prints, words, author) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (name, kid) DO UPDATE SET kind = excluded.kind, prints = excluded.prints,
               words = excluded.words, at = now(), author = excluded.author",
        )
        .bind(clean(&row.name))
        .bind(&row.kid)
        .bind(&row.kind)
        .bind(prints)
        .bind(row.words)
        .bind(clean(&row.author))
        .execute(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        let detail = serde_json::json!({"name": row.name, "kid": row.kid, "kind": row.kind});
        budget::act(&mut tx, &row.author, "watch add", detail).await?;
        tx.commit().await.map_err(StoreError::statement(what))
    }

    /// Forgets a text under every key. Returns how many rows went.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn unwatch_text(&self, name: &str, author: &str) -> Result<u64, StoreError> {
        let what = "could not forget a text";
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        let gone = sqlx::query("DELETE FROM vw.watched WHERE name = $1")
            .bind(clean(name))
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?
            .rows_affected();
        if gone > 0 {
            let detail = serde_json::json!({"name": name});
            budget::act(&mut tx, author, "watch remove", detail).await?;
        }
        tx.commit().await.map_err(StoreError::statement(what))?;
        Ok(gone)
    }

    /// What changes whenever a text is registered, replaced or forgotten: cheap to ask for often.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn watched_stamp(&self) -> Result<String, StoreError> {
        sqlx::query_scalar(
            "SELECT count(*) || '/' || coalesce(sum(extract(epoch FROM at)), 0) FROM vw.watched",
        )
        .fetch_one(self.pool())
        .await
        .map_err(StoreError::statement("could not look for registered texts"))
    }

    /// All registered texts, by name and key.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn watched(&self) -> Result<Vec<WatchedRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, kind, kid, prints, words, author FROM vw.watched ORDER BY name, kid",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the registered texts"))?;
        Ok(rows
            .iter()
            .map(|r| WatchedRow {
                name: r.get(0),
                kind: r.get(1),
                kid: r.get(2),
                prints: r
                    .get::<Vec<i64>, _>(3)
                    .into_iter()
                    .map(i64::cast_unsigned)
                    .collect(),
                words: r.get(4),
                author: r.get(5),
            })
            .collect())
    }

    /// Says in the action log that somebody looked for a text. Neither the text nor a hash of it.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn hunted(
        &self,
        author: &str,
        kids: &[String],
        prints: usize,
    ) -> Result<(), StoreError> {
        let mut conn = self
            .pool()
            .acquire()
            .await
            .map_err(StoreError::statement("could not write the action log"))?;
        let detail = serde_json::json!({"kids": kids, "prints": prints});
        budget::act(&mut conn, author, "hunt", detail).await
    }

    /// The next page of stored events, and where the one after it begins; `None` at the end.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn hunt_page(
        &self,
        from: &HuntFrom,
    ) -> Result<(Vec<StoredEvent>, Option<HuntFrom>), StoreError> {
        let rows = sqlx::query(
            "SELECT day, topic, part, off, end_at, sealed::text FROM vw.event
              WHERE (day, topic, part, off) > ($1, $2, $3, $4)
              ORDER BY day, topic, part, off LIMIT $5",
        )
        .bind(from.day)
        .bind(&from.topic)
        .bind(from.part)
        .bind(from.off)
        .bind(PAGE)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read stored events"))?;
        let next = rows.last().map(|r| HuntFrom {
            day: r.get(0),
            topic: r.get(1),
            part: r.get(2),
            off: r.get(3),
        });
        let events = rows
            .iter()
            .map(|r| StoredEvent {
                end_at: r.get(4),
                sealed: r.get(5),
            })
            .collect();
        Ok((events, next))
    }

    /// Events applied since a day: what a look back could have seen had all been stored.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn events_since(&self, day: NaiveDate) -> Result<i64, StoreError> {
        sqlx::query_scalar(
            "SELECT coalesce(sum(events), 0)::bigint FROM vw.stream_hour WHERE hour >= $1",
        )
        .bind(day.and_time(chrono::NaiveTime::MIN).and_utc())
        .fetch_one(self.pool())
        .await
        .map_err(StoreError::statement("could not count events"))
    }
}
