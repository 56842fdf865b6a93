//! What the leader does once a minute beside its merges: housekeeping and budgets tested again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{LeaderTask, Lease, StoreError, Trouble, incident};
use crate::account::Scope;

/// How often budgets are tested again and partitions looked after.
const HOUSE_EVERY: Duration = Duration::from_mins(1);
/// How long a tick goes on testing budgets: minutes wait for the tick, and the lease lapses after 15 s.
const RETEST_FOR: Duration = Duration::from_secs(2);

impl LeaderTask {
    /// Once a minute: a round of housekeeping beside the ticks, and budgets that must be tested again, a
    /// part of them each tick.
    pub(super) async fn look_after_house(
        &mut self,
        lease: &Lease,
    ) -> Result<(Vec<Trouble>, incident::Applied, BTreeMap<Scope, u64>), StoreError> {
        let mut troubles = Vec::new();
        if self.house.as_ref().is_some_and(JoinHandle::is_finished) {
            troubles = self.house_kept().await;
        }
        let due = self.house_at.is_none_or(|at| at.elapsed() >= HOUSE_EVERY);
        if due {
            self.house_at = Some(Instant::now());
        }
        if due && self.house.is_none() {
            let store = self.store.clone();
            self.house = Some(tokio::spawn(async move { store.keep_house().await }));
        }
        let (mut tested, mut crossings) = (incident::Applied::default(), BTreeMap::new());
        match self.retest(lease, due, &mut tested, &mut crossings).await {
            Err(StoreError::LeaseLost(name)) => return Err(StoreError::LeaseLost(name)),
            Err(e) => troubles.push(Trouble {
                task: "budgets",
                said: e.to_string(),
            }),
            Ok(()) => {}
        }
        Ok((troubles, tested, crossings))
    }

    async fn retest(
        &mut self,
        lease: &Lease,
        due: bool,
        tested: &mut incident::Applied,
        crossings: &mut BTreeMap<Scope, u64>,
    ) -> Result<(), StoreError> {
        if due && self.retest.is_none() {
            self.retest = self.store.begin_retest().await?;
        }
        let began = Instant::now();
        // What fails is gone from here: the budgets are still marked, and it begins anew in a minute.
        while let Some(retest) = self.retest.take() {
            let (store, lease) = (self.store.clone(), lease.clone());
            let part = async move { store.go_on_with_retest(retest, &lease).await };
            let (left, applied, crossed) = self.store.unabortable(part).await?;
            self.retest = left;
            tested.add(&applied);
            for (scope, n) in crossed {
                *crossings.entry(scope).or_default() += n;
            }
            if began.elapsed() >= RETEST_FOR {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the round of housekeeping that is under way, if one is. Gives what failed of it.
    pub async fn house_kept(&mut self) -> Vec<Trouble> {
        match self.house.take() {
            None => Vec::new(),
            Some(house) => house.await.unwrap_or_else(|e| {
                vec![Trouble {
                    task: "housekeeping",
                    said: e.to_string(),
                }]
            }),
        }
    }

    /// Tests budgets and keeps house at the next tick, without waiting for the minute.
    pub fn keep_house_now(&mut self) {
        self.house_at = None;
    }
}
