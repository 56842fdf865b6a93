//! What one process of the fleet does for all: merge closed minutes, decide notifications; and what
//! every process does: deliver, and say how it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::build::Parts;
use super::live::Live;
use crate::deliver::{Backoff, Claimed, Fleet, Mark, Message, Outbox};
use crate::event::{Severity, SmolStr};
use crate::store::leader::{LeaderTask, LeaderTick};
use crate::store::notifier::{NotifierTask, NotifierTick};
use crate::store::{Store, StoreError, outbox};
use crate::telemetry::{Health, metrics};

/// Pause between two ticks of the leader: a minute closes 10 s after its end, so that a fraction of
/// a second more does not matter.
const LEADER_TICK: Duration = Duration::from_millis(500);
/// Longest pause between two ticks of the notifier; a commit with changes wakes it at once.
const NOTIFIER_TICK: Duration = Duration::from_millis(500);
/// Least time from one tick of the notifier to the next: under load every transaction wakes it, and one
/// tick serves them all.
const NOTIFIER_GAP: Duration = Duration::from_millis(100);
/// How long leader or notifier may fail before the process is not ready: a failover takes less.
const FAILS: Duration = Duration::from_secs(30);
/// Pause after Postgres failed.
const AWAY: Duration = Duration::from_secs(1);
/// Pause between two looks at the outbox for the metrics.
const REPORT: Duration = Duration::from_secs(5);

type Stopped = tokio::sync::watch::Receiver<bool>;

impl Parts {
    /// Starts the tasks; they end when `stopped` says so.
    pub(super) fn spawn_background(
        &self,
        store: &Store,
        health: &Health,
        stopped: &Stopped,
        tasks: &mut tokio::task::JoinSet<()>,
    ) {
        let leader = LeaderTask::new(store.clone(), self.live.load().detect.clone());
        tasks.spawn(lead(
            leader,
            store.clone(),
            self.live.clone(),
            health.clone(),
            stopped.clone(),
        ));
        let outbox = Arc::new(StoreOutbox(store.clone()));
        let fleet = Fleet::start(&outbox, &self.sinks, Backoff::default());
        let notifier = NotifierTask::new(store.clone(), self.routes.clone());
        tasks.spawn(notify(
            notifier,
            store.clone(),
            self.live.clone(),
            fleet.wake.clone(),
            health.clone(),
            stopped.clone(),
        ));
        tasks.spawn(wake_sinks(
            store.clone(),
            fleet.wake.clone(),
            stopped.clone(),
        ));
        tasks.spawn(super::outage::watch(
            health.clone(),
            fleet.health.clone(),
            stopped.clone(),
        ));
        tasks.spawn(report(store.clone(), health.clone(), stopped.clone()));
        let mut stopped = stopped.clone();
        tasks.spawn(async move {
            let _ = stopped.wait_for(|s| *s).await;
            fleet.stop().await;
        });
    }
}

/// Waits for `pause` or the end. True at the end.
async fn stops(stopped: &mut Stopped, pause: impl Future<Output = ()>) -> bool {
    tokio::select! {
        _ = stopped.wait_for(|s| *s) => true,
        () = pause => false,
    }
}

async fn lead(
    mut leader: LeaderTask,
    store: Store,
    live: Arc<Live>,
    health: Health,
    mut stopped: Stopped,
) {
    let mut shown = Shown::default();
    let mut failing: Option<Instant> = None;
    loop {
        leader.configure(live.load().detect.clone());
        let pause = match leader.tick().await {
            Ok(tick) => {
                failing = None;
                health.set("leader", true, led(&tick));
                if !tick.leads {
                    shown.clear();
                }
                let m = metrics();
                super::commit::found(&tick.findings, tick.changes);
                m.partial_merges.add(&[], tick.partial);
                m.leader_resets.add(&[], tick.resets);
                m.log_drops.add(&["minute part"], tick.damaged_parts);
                m.log_drops.add(&["campaign"], tick.forgotten_campaigns);
                m.log_drops.add(&["spender"], tick.forgotten_spenders);
                for t in &tick.troubles {
                    m.house_failures.inc(&[t.task]);
                    tracing::warn!(task = t.task, error = %t.said, "housekeeping: will retry in a minute");
                }
                super::commit::crossed(&tick.crossings);
                shown.update(&tick, store.counters().default_rows());
                LEADER_TICK
            }
            Err(error) => {
                // What it showed last stands still, so that an alert on its age fires.
                metrics().leader_failures.inc(&[]);
                fails("leader", &error, &mut failing, &health);
                tracing::warn!(%error, "leader: will retry");
                AWAY
            }
        };
        metrics()
            .leader
            .set(&[], f64::from(u8::from(leader.leads())));
        if stops(&mut stopped, tokio::time::sleep(pause)).await {
            break;
        }
    }
    if let Err(error) = leader.give_up().await {
        tracing::debug!(%error, "the leader's lease lapses by itself");
    }
    shown.clear();
    metrics().leader.set(&[], 0.0);
}

/// What only the leader's process shows: from any other the last value would be a claim about the present.
#[derive(Debug, Default)]
struct Shown {
    gateways: BTreeSet<SmolStr>,
}

impl Shown {
    fn update(&mut self, tick: &LeaderTick, default_rows: Option<u64>) {
        let m = metrics();
        if let Some(minute) = tick.merged_through {
            m.merged_through.set(&[], minute as f64 * 60.0);
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges of rows and events")]
        if let Some(rows) = default_rows {
            m.default_rows.set(&[], rows as f64);
        }
        let Some(missing) = &tick.missing else { return };
        for (gateway, missing) in missing {
            for (kind, n) in missing.kinds() {
                #[expect(clippy::cast_precision_loss, reason = "gauges of rows and events")]
                m.missing_events.set(&[gateway, kind], n as f64);
            }
            self.gateways.insert(gateway.clone());
        }
        self.gateways.retain(|gateway| {
            let stays = missing.contains_key(gateway);
            if !stays {
                forget(gateway);
            }
            stays
        });
    }

    fn clear(&mut self) {
        let m = metrics();
        m.merged_through.remove(&[]);
        m.default_rows.remove(&[]);
        std::mem::take(&mut self.gateways).iter().for_each(forget);
    }
}

fn forget(gateway: &SmolStr) {
    for (kind, _) in crate::detect::audit::Missing::default().kinds() {
        metrics().missing_events.remove(&[gateway, kind]);
    }
}

async fn notify(
    mut notifier: NotifierTask,
    store: Store,
    live: Arc<Live>,
    wake: Arc<tokio::sync::Notify>,
    health: Health,
    mut stopped: Stopped,
) {
    let mut changes = None;
    let mut failing: Option<Instant> = None;
    loop {
        notifier.configure(live.load().titles.clone());
        let next = tokio::time::Instant::now() + NOTIFIER_GAP;
        let pause = match notifier.tick().await {
            Ok(tick) => {
                failing = None;
                health.set("notifier", true, said(&tick));
                let m = metrics();
                for (what, n) in &tick.unreadable {
                    m.unreadable.add(&[what], *n);
                    tracing::warn!(
                        what,
                        rows = n,
                        "the notifier cannot read rows and leaves them alone; \
                        a newer version may have written them"
                    );
                }
                for (sink, n) in &tick.expired {
                    m.sends.add(&[sink, "expired"], *n);
                    tracing::warn!(%sink, messages = n, "nobody took messages for days, given up");
                }
                m.notifier.set(&[], f64::from(u8::from(tick.leads)));
                for ((sink, fate), n) in &tick.fates {
                    m.fates.add(&[sink, fate.as_str()], *n);
                }
                m.incidents.add(&[], tick.resolved + tick.own);
                if tick.queued > 0 {
                    wake.notify_waiters();
                }
                if tick.more {
                    Duration::ZERO
                } else {
                    NOTIFIER_TICK
                }
            }
            Err(error) => {
                fails("notifier", &error, &mut failing, &health);
                metrics().notifier.set(&[], 0.0);
                metrics().notifier_failures.inc(&[]);
                tracing::warn!(%error, "notifier: will retry");
                changes = None;
                AWAY
            }
        };
        if changes.is_none() {
            changes = store.watch_changes().await.ok();
        }
        let wait = async {
            match &mut changes {
                Some(c) if !pause.is_zero() => {
                    c.wait(pause).await;
                    tokio::time::sleep_until(next).await;
                }
                _ => tokio::time::sleep(pause).await,
            }
        };
        if stops(&mut stopped, wait).await {
            break;
        }
    }
    metrics().notifier.set(&[], 0.0);
    if let Err(error) = notifier.give_up().await {
        tracing::debug!(%error, "the notifier's lease lapses by itself");
    }
}

/// A part that has failed for [`FAILS`] is not ready.
fn fails(part: &str, error: &StoreError, failing: &mut Option<Instant>, health: &Health) {
    let since = *failing.get_or_insert_with(Instant::now);
    if since.elapsed() >= FAILS {
        health.set(part, false, error.to_string());
    } else {
        health.beat(part);
    }
}

/// What `/readyz` says of the leader.
fn led(tick: &LeaderTick) -> &'static str {
    if tick.leads {
        "merging minutes"
    } else {
        "another process merges"
    }
}

/// What `/readyz` says of the notifier.
fn said(tick: &NotifierTick) -> String {
    match (tick.leads, tick.skipped) {
        (false, _) => "another process decides".to_owned(),
        (true, 0) => "deciding".to_owned(),
        (true, n) => format!("deciding; leaves alone {n} rows that it cannot read"),
    }
}

/// Other processes may hold the notifier: their rows wake our sinks too.
async fn wake_sinks(store: Store, wake: Arc<tokio::sync::Notify>, mut stopped: Stopped) {
    loop {
        let Ok(mut rows) = store.watch_outbox().await else {
            if stops(&mut stopped, tokio::time::sleep(AWAY)).await {
                return;
            }
            continue;
        };
        for _ in 0..600 {
            if stops(&mut stopped, rows.wait(REPORT)).await {
                return;
            }
            wake.notify_waiters();
        }
    }
}

async fn report(store: Store, health: Health, mut stopped: Stopped) {
    let (mut told, mut known) = (BTreeMap::new(), BTreeSet::new());
    while !stops(&mut stopped, tokio::time::sleep(REPORT)).await {
        publish(&store, &mut told);
        // Whether Postgres answers is asked with the smallest question: a slow count is no outage.
        match store.ping().await {
            Ok(()) => {
                metrics().postgres_up.set(&[], 1.0);
                health.set("postgres", true, "answering");
            }
            Err(error) => {
                metrics().postgres_up.set(&[], 0.0);
                health.set("postgres", false, error.to_string());
                continue;
            }
        }
        match store.outbox_backlog().await {
            Ok(sinks) => show(&sinks, &mut known),
            Err(error) => tracing::warn!(%error, "the outbox cannot be counted, will retry"),
        }
    }
}

/// Sets the gauges of the outbox; `known` are the sinks that ever had rows, which may have none now.
fn show(sinks: &[outbox::SinkBacklog], known: &mut BTreeSet<SmolStr>) {
    let m = metrics();
    let nothing = |sink: &SmolStr| outbox::SinkBacklog {
        sink: sink.clone(),
        ..outbox::SinkBacklog::default()
    };
    let gone = known.iter().filter(|k| sinks.iter().all(|s| s.sink != **k));
    let gone: Vec<outbox::SinkBacklog> = gone.map(nothing).collect();
    known.extend(sinks.iter().map(|s| s.sink.clone()));
    for s in sinks.iter().chain(&gone) {
        for (state, n) in [
            ("pending", s.pending),
            ("claimed", s.claimed),
            ("parked", s.parked),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "a gauge of rows")]
            m.outbox.set(&[&s.sink, state], n as f64);
        }
        m.outbox_age.set(&[&s.sink], s.oldest_seconds);
    }
}

/// Moves the metrics by what the store counted since the last time.
fn publish(store: &Store, told: &mut BTreeMap<&'static str, u64>) {
    let (m, counters) = (metrics(), store.counters());
    let mut since = |what: &'static str, now: u64| {
        let before = told.insert(what, now).unwrap_or(0);
        now.saturating_sub(before)
    };
    for (what, now) in counters.discards() {
        m.log_drops.add(&[what], since(what, now));
    }
    for (what, now) in counters.events() {
        m.store.add(&[what], since(what, now));
    }
}

/// The sinks' workers on Postgres' outbox.
struct StoreOutbox(Store);

impl Outbox for StoreOutbox {
    type Error = StoreError;
    type Ticket = outbox::Claimed;

    async fn claim(
        &self,
        sink: &str,
        limit: usize,
        floor: Severity,
    ) -> Result<Vec<Claimed<outbox::Claimed>>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut out = Vec::new();
        for ticket in self.0.outbox_claim(sink, limit, floor).await? {
            let Ok(notification) = serde_json::from_value(ticket.payload.clone()) else {
                self.0
                    .outbox_park(&ticket, "written by a version that this one cannot read")
                    .await?;
                continue;
            };
            let id = format!("{}-{}", ticket.dedup_key, ticket.seq);
            out.push(Claimed {
                attempts: ticket.attempts,
                message: Message { id, notification },
                ticket,
            });
        }
        Ok(out)
    }

    async fn holds(&self, c: &Claimed<outbox::Claimed>) -> Result<bool, StoreError> {
        self.0.outbox_holds(&c.ticket).await
    }

    async fn mark(&self, c: &Claimed<outbox::Claimed>, mark: &Mark) -> Result<bool, StoreError> {
        let sink: &SmolStr = &c.ticket.sink;
        match mark {
            Mark::Sent => {
                let marked = self.0.outbox_sent(&c.ticket).await?;
                let stale = marked == outbox::Marked::Stale;
                let outcome = if stale { "repeated" } else { "sent" };
                metrics().sends.inc(&[sink, outcome]);
                Ok(!stale)
            }
            Mark::Failed { pause, why } => {
                metrics().sends.inc(&[sink, "retried"]);
                self.0.outbox_failed(&c.ticket, *pause, why).await
            }
            Mark::Parked { why } => {
                metrics().sends.inc(&[sink, "parked"]);
                self.0.outbox_park(&c.ticket, why).await
            }
        }
    }

    async fn healed(&self, sink: &str) -> Result<u64, StoreError> {
        self.0.outbox_heal(sink).await
    }

    async fn probe(&self, sink: &str) -> Result<bool, StoreError> {
        self.0.outbox_probe(sink).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::audit::Missing;

    #[test]
    fn only_the_leader_shows_what_only_the_leader_knows() {
        let shows = |name: &str| metrics().exposition().contains(&format!("\n{name}"));
        let missing = |gateway: &str| {
            let missing = Missing {
                declared: 9,
                ..Missing::default()
            };
            Some([(SmolStr::new(gateway), missing)].into())
        };
        let mut shown = Shown::default();
        let mut tick = LeaderTick {
            merged_through: Some(1),
            missing: missing("gw-1"),
            ..LeaderTick::default()
        };
        shown.update(&tick, None);
        assert!(shows("veilwatch_merged_through_timestamp_seconds 60"));
        assert!(shows(
            "veilwatch_missing_events{gateway=\"gw-1\",kind=\"declared\"} 9"
        ));
        assert!(!shows("veilwatch_default_partition_rows "), "nobody looked");
        tick.missing = missing("gw-2");
        shown.update(&tick, Some(0));
        assert!(!shows("veilwatch_missing_events{gateway=\"gw-1\""));
        assert!(shows("veilwatch_default_partition_rows 0"));
        shown.clear();
        for name in [
            "merged_through_timestamp_seconds ",
            "default_partition_rows ",
            "missing_events{",
        ] {
            assert!(!shows(&format!("veilwatch_{name}")), "{name}");
        }
        super::super::commit::crossed(&[(crate::account::Scope::User, 2)].into());
        assert!(shows("veilwatch_budget_crossings_total{scope=\"user\"} 2"));
    }
}
