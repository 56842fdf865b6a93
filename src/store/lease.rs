//! Leases: the leader and the notifier are one process each in the fleet, fenced like a partition.
//!
//! A lease is a row with a random `claim_id`. It is renewed by the work itself and may be taken over
//! when it was not renewed for [`TAKE_OVER_AFTER`] of database time; clocks of processes do not count.
//! Every transaction of a holder begins with a compare-and-set on the row.

use sqlx::{PgConnection, Row as _};

use super::{Store, StoreError, Uuid};

/// A lease that was not renewed for this long may be taken over (seconds of database time).
const TAKE_OVER_AFTER: f64 = 15.0;

/// Which lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseName {
    /// Merges minutes, tests budgets again, expires.
    Leader,
    /// Decides what is sent.
    Notifier,
}

impl LeaseName {
    /// The row's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Notifier => "notifier",
        }
    }
}

/// A lease held, with what the row said when it was taken.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) name: LeaseName,
    pub(super) claim_id: Uuid,
    pub(super) merged_through: Option<i64>,
    pub(super) fmt: i32,
    pub(super) state: Vec<u8>,
}

impl Store {
    /// Takes the lease if it is free, lapsed or still ours (`own`). `None`: somebody else holds it.
    pub(super) async fn take_lease(
        &self,
        name: LeaseName,
        own: Option<Uuid>,
    ) -> Result<Option<Lease>, StoreError> {
        let row = sqlx::query(
            "INSERT INTO vw.lease AS l (name, claim_id, owner) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET claim_id = excluded.claim_id, owner = excluded.owner, renewed_at = now()
              WHERE l.renewed_at < now() - make_interval(secs => $4) OR l.claim_id = $5
             RETURNING claim_id, merged_through, fmt, state",
        )
        .bind(name.as_str())
        .bind(Uuid::new_v4())
        .bind(&self.config().owner)
        .bind(TAKE_OVER_AFTER)
        .bind(own)
        .fetch_optional(self.pool())
        .await
        .map_err(StoreError::statement("could not take a lease"))?;
        Ok(row.map(|r| Lease {
            name,
            claim_id: r.get(0),
            merged_through: r.get(1),
            fmt: r.get(2),
            state: r.get(3),
        }))
    }

    /// Gives the lease up, so that another process need not wait (shutdown). The state stays.
    pub(super) async fn give_up(&self, lease: &Lease) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE vw.lease SET renewed_at = '-infinity' WHERE name = $1 AND claim_id = $2",
        )
        .bind(lease.name.as_str())
        .bind(lease.claim_id)
        .execute(self.pool())
        .await
        .map_err(StoreError::statement("could not give a lease up"))?;
        Ok(())
    }
}

/// The first statement of a holder's transaction: locks and renews the row, or says that it is lost.
pub(super) async fn renew(conn: &mut PgConnection, lease: &Lease) -> Result<(), StoreError> {
    let done = sqlx::query(
        "UPDATE vw.lease SET renewed_at = now() WHERE name = $1 AND claim_id = $2
            AND merged_through IS NOT DISTINCT FROM $3",
    )
    .bind(lease.name.as_str())
    .bind(lease.claim_id)
    .bind(lease.merged_through)
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not renew a lease"))?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost(lease.name.as_str()))
    }
}
