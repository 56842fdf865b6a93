//! What one process of the fleet does for all: merge closed minutes, decide notifications; and what
//! every process does: deliver.

use std::time::Duration;

use super::build::Parts;
use super::start::StartError;
use crate::config::Config;
use crate::store::Store;
use crate::store::leader::LeaderTask;
use crate::telemetry::{Health, metrics};

/// Pause between two ticks of the leader and the notifier. A page waits at most this long after its
/// finding is committed, beside the sink.
const TICK: Duration = Duration::from_millis(200);
/// Pause after Postgres failed.
const AWAY: Duration = Duration::from_secs(1);

type Stopped = tokio::sync::watch::Receiver<bool>;

impl Parts {
    pub(super) fn spawn_background(
        &self,
        _config: &Config,
        store: &Store,
        _health: &Health,
        stopped: &Stopped,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Result<(), StartError> {
        tasks.spawn(lead(
            LeaderTask::new(store.clone(), self.detect.clone()),
            stopped.clone(),
        ));
        Ok(())
    }
}

async fn lead(mut leader: LeaderTask, mut stopped: Stopped) {
    loop {
        let pause = match leader.tick().await {
            Ok(_) => TICK,
            Err(error) => {
                tracing::warn!(%error, "leader: will retry");
                AWAY
            }
        };
        metrics()
            .leader
            .set(&[], f64::from(u8::from(leader.leads())));
        tokio::select! {
            _ = stopped.wait_for(|s| *s) => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Err(error) = leader.give_up().await {
        tracing::debug!(%error, "the leader's lease lapses by itself");
    }
}
