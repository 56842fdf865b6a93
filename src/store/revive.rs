//! Applies a dead letter that can be decoded now: ledgers, findings and `replayed_at`, in one
//! transaction. Detector state is not touched: its offset has long passed.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::batch::PartitionBatch;
use super::{Store, StoreError, append, budget, clean, crowd, day, incident, ledger, uuid};
use crate::detect::Stages;
use crate::event::Hash16;

/// Times the transaction is tried after a transient error.
const TRIES: u32 = 5;
/// First pause between tries; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revival {
    /// Applied now.
    Applied,
    /// The same event was replayed before, from another dead letter: it counts once, and this one is
    /// done with.
    Duplicate,
    /// Somebody replayed this dead letter before: nothing was changed.
    Already,
}

impl Store {
    /// Applies what one dead letter's record says now. `batch` holds its ledgers, findings and flagged
    /// event; `batch.lo` is its offset, `batch.watermark` its append time. Compare-and-set on
    /// `replayed_at`: of two who try, one applies. `identity` is what makes the event the same in two
    /// records.
    ///
    /// # Errors
    /// The database does not answer, or refuses.
    pub async fn revive(
        &self,
        batch: PartitionBatch,
        identity: Hash16,
        author: &str,
    ) -> Result<Revival, StoreError> {
        let (store, author) = (self.clone(), clean(author));
        self.unabortable(async move {
            let mut failures = 0;
            loop {
                match store.try_revive(&batch, identity, &author).await {
                    Err(e) if e.is_transient() && failures + 1 < TRIES => {
                        tokio::time::sleep(FIRST_PAUSE * 2u32.pow(failures)).await;
                        failures += 1;
                    }
                    done => return done,
                }
            }
        })
        .await
    }

    async fn try_revive(
        &self,
        b: &PartitionBatch,
        identity: Hash16,
        author: &str,
    ) -> Result<Revival, StoreError> {
        let what = "could not replay a dead letter";
        let sql = StoreError::statement;
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        let row = sqlx::query(
            "UPDATE vw.dead_letter SET replayed_at = now()
              WHERE topic = $1 AND part = $2 AND off = $3 AND day = $4 AND replayed_at IS NULL
              RETURNING reason",
        )
        .bind(b.tp.topic.as_str())
        .bind(b.tp.partition)
        .bind(b.lo)
        .bind(day(b.watermark))
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(what))?;
        let Some(row) = row else {
            tx.rollback().await.map_err(sql(what))?;
            return Ok(Revival::Already);
        };
        // Two dead letters of one event wait for each other here, whoever replays them.
        let known =
            sqlx::query("INSERT INTO vw.revived (event) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(uuid(identity))
                .execute(&mut *tx)
                .await
                .map_err(sql(what))?
                .rows_affected()
                == 0;
        if !known {
            apply(&mut tx, b, self.stages()).await?;
        }
        let detail = serde_json::json!({
            "topic": b.tp.topic, "partition": b.tp.partition, "offset": b.lo,
            "reason": row.get::<String, _>(0), "kid": b.kid.as_str(), "event": identity.to_string(),
        });
        budget::act(&mut tx, author, "dead-letters replay", detail).await?;
        tx.commit().await.map_err(sql(what))?;
        Ok(if known {
            Revival::Duplicate
        } else {
            Revival::Applied
        })
    }
}

/// The event's effects, in the lock order of a batch.
async fn apply(
    conn: &mut PgConnection,
    b: &PartitionBatch,
    stages: &Stages,
) -> Result<(), StoreError> {
    append::events(conn, &[b]).await?;
    ledger::show(conn).await?;
    let usage = ledger::sum([&b.ledger].into_iter());
    let narrow = ledger::add(conn, &ledger::Columns::of(&usage, false), b.watermark).await?;
    let mut findings = b.effects.findings.clone();
    findings.extend(crowd::findings(conn, &narrow, stages).await?.0);
    incident::apply(conn, findings, false).await?;
    let wide = ledger::add(conn, &ledger::Columns::of(&usage, true), b.watermark).await?;
    let (crossed, _) = crowd::findings(conn, &wide, stages).await?;
    incident::apply(conn, crossed, true).await?;
    Ok(())
}
