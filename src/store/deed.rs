//! What people do to incidents: acknowledge, resolve, assign, note, judge.

use sqlx::PgConnection;

use super::head::{Changed, HEAD, head, write_changes, write_heads};
use super::{Store, StoreError, budget, clean, time, uuid};
use crate::decide::{ChangeKind, Head, State};
use crate::event::Hash16;

/// What a person does to an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Somebody is on it.
    Acknowledge,
    /// It is over, as of database time.
    Resolve,
    /// It is this person's.
    Assign(String),
    /// A remark.
    Note(String),
    /// An analyst's judgement: `true`, `false`, `benign`.
    Verdict(String, String),
}

/// Longest note in characters.
const NOTE_CHARS: usize = 4_000;

impl Store {
    /// Notes that a process holds a seal key and what for: with it, whoever feeds it texts learns their
    /// pseudonyms.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn key_used(&self, kids: &[String], topics: &[String]) -> Result<(), StoreError> {
        let mut conn = self
            .pool()
            .acquire()
            .await
            .map_err(StoreError::statement("could not write the action log"))?;
        let detail = serde_json::json!({ "kids": kids, "topics": topics });
        budget::act(&mut conn, &self.config().owner, "seal key used", detail).await
    }

    /// Applies a deed to an incident; `number` none: the present one.
    ///
    /// # Errors
    /// There is no such incident, or the deed does not fit its state.
    pub async fn incident_deed(
        &self,
        key: Hash16,
        number: Option<i32>,
        deed: Deed,
        author: &str,
    ) -> Result<Head, StoreError> {
        let (store, author) = (self.clone(), clean(author));
        self.unabortable(async move { store.deed(key, number, deed, author).await })
            .await
    }

    async fn deed(
        &self,
        key: Hash16,
        number: Option<i32>,
        deed: Deed,
        author: String,
    ) -> Result<Head, StoreError> {
        let what = "could not change an incident";
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        let sql =
            format!("SELECT {HEAD} FROM vw.incident_head WHERE key = $1 AND number > 0 FOR UPDATE");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(uuid(key))
            .fetch_optional(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?
            .ok_or_else(|| StoreError::Refusal(format!("there is no incident {key}")))?;
        let mut head = head(&row)?;
        let number = number.unwrap_or(head.number);
        if number < 1 || number > head.number {
            return Err(StoreError::Refusal(format!(
                "incident {key} has numbers 1 to {}",
                head.number
            )));
        }
        let present = number == head.number;
        let (kind, body) = match &deed {
            Deed::Acknowledge | Deed::Resolve if !present || head.state == State::Resolved => {
                return Err(StoreError::Refusal(format!(
                    "incident {key} number {number} is resolved already"
                )));
            }
            Deed::Acknowledge => {
                if head.state == State::Acknowledged {
                    return Err(StoreError::Refusal(format!(
                        "incident {key} is acknowledged already"
                    )));
                }
                head.state = State::Acknowledged;
                ("acknowledge", String::new())
            }
            Deed::Resolve => {
                head.state = State::Resolved;
                ("resolve", String::new())
            }
            Deed::Assign(to) => ("assign", clean(to)),
            Deed::Note(body) => ("note", clean(body)),
            Deed::Verdict(verdict, why) => ("verdict", format!("{verdict}: {}", clean(why))),
        };
        let body: String = body.chars().take(NOTE_CHARS).collect();
        match &deed {
            Deed::Acknowledge | Deed::Resolve => {
                let now: chrono::DateTime<chrono::Utc> =
                    sqlx::query_scalar("SELECT clock_timestamp()")
                        .fetch_one(&mut *tx)
                        .await
                        .map_err(StoreError::statement(what))?;
                let now = time(now);
                head.version += 1;
                let kind = if deed == Deed::Resolve {
                    head.resolved_at = Some(now);
                    ChangeKind::Resolved
                } else {
                    ChangeKind::Acknowledged
                };
                write_heads(&mut tx, &[&head]).await?;
                let changed = Changed {
                    change: head.change(kind, now),
                    head: head.clone(),
                    author: author.clone(),
                };
                write_changes(&mut tx, &[changed]).await?;
                if deed == Deed::Acknowledge {
                    sqlx::query("UPDATE vw.incident_head SET acked_at = now(), acked_by = $2 WHERE key = $1")
                        .bind(uuid(key))
                        .bind(&author)
                        .execute(&mut *tx)
                        .await
                        .map_err(StoreError::statement(what))?;
                }
            }
            Deed::Assign(to) => {
                set_column(&mut tx, present, key, number, "assignee = $3", to, &author).await?;
            }
            Deed::Verdict(verdict, _) => {
                let column = "verdict = $3, verdict_by = $4";
                set_column(&mut tx, present, key, number, column, verdict, &author).await?;
            }
            Deed::Note(_) => {}
        }
        sqlx::query("INSERT INTO vw.incident_note (key, number, kind, author, body) VALUES ($1, $2, $3, $4, $5)")
            .bind(uuid(key))
            .bind(number)
            .bind(kind)
            .bind(&author)
            .bind(body)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::statement(what))?;
        budget::act(
            &mut tx,
            &author,
            &format!("incident {kind}"),
            serde_json::json!({ "incident": key.to_string(), "number": number }),
        )
        .await?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        Ok(head)
    }
}

/// Sets columns of a number that is present or past. `columns` is one of this file's constants.
async fn set_column(
    conn: &mut PgConnection,
    present: bool,
    key: Hash16,
    number: i32,
    columns: &'static str,
    value: &str,
    author: &str,
) -> Result<(), StoreError> {
    let table = if present {
        "incident_head"
    } else {
        "incident_past"
    };
    let sql = format!(
        "UPDATE vw.{table} SET {columns} WHERE key = $1 AND number = $2 AND $4::text IS NOT NULL"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(uuid(key))
        .bind(number)
        .bind(clean(value))
        .bind(clean(author))
        .execute(conn)
        .await
        .map_err(StoreError::statement("could not change an incident"))?;
    Ok(())
}
