//! Leases: the leader and the notifier are one process each in the fleet, fenced like a partition.
//!
//! A lease is a row with a random `claim_id`. It is renewed by the work itself and may be taken over
//! when it was not renewed for [`TAKE_OVER_AFTER`] of database time; clocks of processes do not count.
//! Every transaction of a holder begins with a compare-and-set on the row.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::{Store, StoreError, Uuid};

/// A lease that was not renewed for this long may be taken over (seconds of database time).
const TAKE_OVER_AFTER: f64 = 15.0;

/// Pause between two renewals beside work that takes long.
const RENEW_EVERY: Duration = Duration::from_secs(5);

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

impl Lease {
    /// Which one it is, without the state.
    pub(super) fn name_only(&self) -> Self {
        Self {
            state: Vec::new(),
            ..*self
        }
    }
}

impl Store {
    /// Does work that needs the lease and no transaction, and renews it meanwhile: however long a minute
    /// takes to merge, nobody else begins it too.
    ///
    /// # Errors
    /// Those of the work; that the lease was lost while it went on.
    pub(super) async fn renewing<T>(
        &self,
        lease: &Lease,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.renewing_each(RENEW_EVERY, lease, work).await
    }

    async fn renewing_each<T>(
        &self,
        every: Duration,
        lease: &Lease,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut work = std::pin::pin!(work);
        let mut lost = None;
        loop {
            let pause = tokio::time::sleep(every);
            // The work is never dropped half done: it may be inside a statement.
            let done = tokio::select! {
                done = &mut work => Some(done),
                () = pause => None,
            };
            match (done, lost) {
                (Some(_), Some(lost)) => return Err(lost),
                (Some(done), None) => return done,
                (None, known) => lost = known,
            }
            if lost.is_some() {
                continue;
            }
            let Ok(mut conn) = self.pool().acquire().await else {
                continue;
            };
            // Trouble on the way is for the transaction that follows.
            if let Err(e @ StoreError::LeaseLost(_)) = renew(&mut conn, lease).await {
                lost = Some(e);
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::private::{Options, PrivatePostgres};
    use crate::store::{StoreConfig, schema};

    #[tokio::test(flavor = "multi_thread")]
    async fn long_work_keeps_its_lease_and_learns_that_it_lost_it() {
        let server = PrivatePostgres::start(Options::default()).expect("postgres");
        let config = StoreConfig::new(server.url("postgres"));
        schema::migrate(&config).await.expect("migrate");
        let store = Store::connect(config).await.expect("connect");
        let every = Duration::from_millis(20);
        let run = |sql: &'static str| sqlx::query(sql).execute(store.pool());
        let old = "UPDATE vw.lease SET renewed_at = now() - interval '14 seconds'";
        let fresh = "SELECT renewed_at > now() - interval '10 seconds' FROM vw.lease";
        let lease = store.take_lease(LeaseName::Leader, None).await;
        let lease = lease.expect("asked").expect("free");
        run(old).await.expect("older");
        let work = async {
            while !sqlx::query_scalar::<_, bool>(fresh)
                .fetch_one(store.pool())
                .await
                .expect("asked")
            {
                tokio::time::sleep(every).await;
            }
            Ok("merged")
        };
        let name = lease.name_only();
        let done = store.renewing_each(every, &name, work);
        let done = tokio::time::timeout(Duration::from_secs(60), done).await;
        assert_eq!(done.expect("renewed").expect("done"), "merged");

        run("UPDATE vw.lease SET claim_id = gen_random_uuid()")
            .await
            .expect("taken over");
        let mut rounds = 0;
        let work = async {
            for _ in 0..20 {
                tokio::time::sleep(every).await;
                rounds += 1;
            }
            Ok(())
        };
        let done = store.renewing_each(every, &lease, work).await;
        assert!(matches!(done, Err(StoreError::LeaseLost("leader"))));
        assert_eq!(rounds, 20, "the work was done to its end");
    }
}
