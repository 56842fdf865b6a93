//! Names after key rotations, as an operator sees and undoes them.
//!
//! A name is undone by a row of its own: both names are the same. So the wrong `prev` is not believed again,
//! and processes that still remember it learn of it with the other settings that change while they run.

use sqlx::Row as _;

use super::{Store, StoreError, budget, time};
use crate::event::Pseudonym;

/// Undone names that processes take; beyond it, the oldest are believed again where `prev` says so.
const MAX_OWN: i64 = 10_000;

/// A name that counts as another.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AliasRow {
    /// The newer pseudonym.
    pub name: String,
    /// The one that its usage and incidents go by; the same where it was undone.
    pub counts_as: String,
    /// Last use, a day behind at most; when it was undone. RFC 3339.
    pub at: String,
}

impl Store {
    /// Names that count as others, those used last first. `of`: only those that a pseudonym has a part in.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn renamed(&self, of: Option<&str>, limit: u32) -> Result<Vec<AliasRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT new_id, old_id, at FROM vw.alias WHERE $1::text IS NULL OR new_id = $1 OR old_id = $1
              ORDER BY at DESC, new_id LIMIT $2",
        )
        .bind(of)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read names"))?;
        Ok(rows
            .iter()
            .map(|r| AliasRow {
                name: r.get(0),
                counts_as: r.get(1),
                at: time(r.get(2)).to_string(),
            })
            .collect())
    }

    /// Lets a name count as itself from now on, whatever `prev` says. What was booked stays where it is.
    /// False: it counts as no other.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn unname(&self, name: &str, author: &str, reason: &str) -> Result<bool, StoreError> {
        let what = "could not undo a name";
        let sql = StoreError::statement;
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        let was: Option<String> = sqlx::query_scalar(
            "SELECT old_id FROM vw.alias WHERE new_id = $1 AND old_id <> new_id FOR UPDATE",
        )
        .bind(name)
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(what))?;
        let Some(was) = was else {
            return Ok(false);
        };
        sqlx::query("UPDATE vw.alias SET old_id = new_id, at = now() WHERE new_id = $1")
            .bind(name)
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
        let detail = serde_json::json!({"name": name, "counted_as": was, "reason": reason});
        budget::act(&mut tx, author, "alias remove", detail).await?;
        tx.commit().await.map_err(sql(what))?;
        Ok(true)
    }

    /// Names that were undone, in order.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn own_names(&self) -> Result<Vec<Pseudonym>, StoreError> {
        let rows: Vec<String> = sqlx::query_scalar(
            "SELECT new_id FROM (SELECT new_id, at FROM vw.alias WHERE old_id = new_id ORDER BY at DESC LIMIT $1) a
              ORDER BY new_id",
        )
        .bind(MAX_OWN)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not look for undone names"))?;
        Ok(rows.iter().filter_map(|name| name.parse().ok()).collect())
    }
}
