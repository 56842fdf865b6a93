//! The asynchronous half of a worker: reads users' rows, commits groups, moves idle watermarks.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tracing::Instrument as _;
use uuid::Uuid;

use super::claims::Lost;
use super::report;
use crate::account::Scope;
use crate::detect::Wanted;
use crate::event::{Pseudonym, TopicPartition};
use crate::store::batch::Fence;
use crate::store::users::Loaded;
use crate::store::{Commit, PartitionBatch, Store, StoreError};
use crate::telemetry::{Health, metrics};

/// First pause after Postgres failed; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Commits in a row, each of several tries, that the server ended because they took too long, before the
/// work is cut smaller. Two rule out a moment's load.
const MAX_SLOW: u32 = 2;
/// Answers in a row that asking again does not change, before the worker gives up.
const MAX_REFUSED: u32 = 5;
/// An answer about a partition's end counts so long: an older one would move the watermark little.
const FRESH: Duration = Duration::from_millis(500);

/// Batches that are committed together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) generation: u64,
    pub(super) batches: Vec<PartitionBatch>,
}

/// What became of a group.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) generation: u64,
    pub(super) committed: Vec<(TopicPartition, Uuid, i64)>,
    pub(super) lost: Vec<Lost>,
    /// Postgres refuses the content, and would again.
    pub(super) unwritable: Vec<(TopicPartition, Uuid)>,
    /// … because it is too much at once.
    pub(super) too_much: bool,
}

/// Commits groups in order until the worker is gone.
pub(super) async fn run(
    store: Store,
    mut groups: tokio::sync::mpsc::Receiver<Group>,
    done: mpsc::SyncSender<Done>,
    health: Health,
    foreign_wait: Duration,
) {
    while let Some(group) = groups.recv().await {
        let generation = group.generation;
        let names: Vec<(TopicPartition, Uuid, i64)> = group
            .batches
            .iter()
            .map(|b| (b.tp.clone(), b.claim_id, b.hi))
            .collect();
        let halted = halts(&group.batches);
        let newest = group.batches.iter().map(|b| b.last_ts_ms).max();
        let started = Instant::now();
        let span = tracing::info_span!("commit", batches = group.batches.len(), generation);
        let tried = until_answered(&store, group.batches.into(), &health);
        let answer = match tried.instrument(span).await {
            Ok(commit) => {
                observe(&commit, started, newest);
                let stopped = halted.into_iter();
                let stopped = stopped.filter(|(tp, ..)| commit.fenced.iter().all(|(f, _)| f != tp));
                mark_halted(&store, stopped.collect()).await;
                settle(generation, names, commit, foreign_wait)
            }
            Err(error) => {
                metrics().batches.inc(&["failed"]);
                tracing::error!(%error, "postgres refuses a batch");
                Done {
                    generation,
                    committed: Vec::new(),
                    lost: Vec::new(),
                    unwritable: names
                        .into_iter()
                        .map(|(tp, claim, _)| (tp, claim))
                        .collect(),
                    too_much: error.is_too_slow(),
                }
            }
        };
        if done.send(answer).is_err() {
            return;
        }
    }
}

/// Tries until Postgres takes or refuses the batches; trouble on the way only delays.
async fn until_answered(
    store: &Store,
    batches: Arc<[PartitionBatch]>,
    health: &Health,
) -> Result<Commit, StoreError> {
    let mut pause = FIRST_PAUSE;
    let mut slow = 0;
    loop {
        match store.commit(batches.clone()).await {
            Ok(c) => {
                health.set_at_work("commits", true, "committing");
                return Ok(c);
            }
            Err(e) if e.is_transient() || e.is_waiting() => {
                slow = if e.is_too_slow() { slow + 1 } else { 0 };
                if slow >= MAX_SLOW {
                    return Err(e);
                }
                metrics().batches.inc(&["retried"]);
                // Not "postgres", nor its gauge: it may answer well and yet take nothing, as a standby does.
                health.set_at_work("commits", false, e.to_string());
                tracing::warn!(error = %e, "commit failed, will retry");
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(e) => return Err(e),
        }
    }
}

fn settle(
    generation: u64,
    names: Vec<(TopicPartition, Uuid, i64)>,
    commit: Commit,
    foreign_wait: Duration,
) -> Done {
    let mut done = Done {
        generation,
        committed: Vec::new(),
        lost: Vec::new(),
        unwritable: Vec::new(),
        too_much: false,
    };
    for (tp, claim, hi) in names {
        match commit.fenced.iter().find(|(t, _)| *t == tp) {
            None => done.committed.push((tp, claim, hi)),
            Some((_, fence)) => {
                metrics().batches.inc(&["fenced"]);
                tracing::warn!(topic = %tp.topic, partition = tp.partition, ?fence, "batch refused by its fence");
                let wait = match fence {
                    Fence::Claimed => foreign_wait,
                    Fence::Moved { .. } | Fence::Gone => Duration::ZERO,
                };
                done.lost.push(Lost { tp, claim, wait });
            }
        }
    }
    done
}

fn observe(commit: &Commit, started: Instant, newest_ms: Option<i64>) {
    let m = metrics();
    m.batches.inc(&["committed"]);
    m.commit_seconds.observe(&[], started.elapsed());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    if let (Some(ms), Ok(now)) = (newest_ms.and_then(|n| u64::try_from(n).ok()), now) {
        let age = now.saturating_sub(Duration::from_millis(ms));
        m.batch_age_seconds.observe(&[], age);
    }
    crossed(&commit.crossings);
    found(&commit.findings, commit.changes);
}

/// Counts crossings by scope.
pub(super) fn crossed(crossings: &BTreeMap<Scope, u64>) {
    for (scope, n) in crossings {
        metrics().crossings.add(&[scope.as_str()], *n);
    }
}

/// Counts findings by fate, and changes of incidents.
pub(super) fn found(fates: &crate::decide::FindingFates, changes: u64) {
    let m = metrics();
    for (fate, n) in [
        ("new", fates.new),
        ("folded", fates.folded),
        ("shadow", fates.shadow),
        ("excepted", fates.excepted),
    ] {
        m.findings.add(&[fate], n);
    }
    m.incidents.add(&[], changes);
}

/// Partitions of the group that stop here, and why.
fn halts(batches: &[PartitionBatch]) -> Vec<(TopicPartition, Uuid, &'static str)> {
    let stops = batches.iter();
    stops
        .filter_map(|b| Some((b.tp.clone(), b.claim_id, b.halt?)))
        .collect()
}

async fn mark_halted(store: &Store, halted: Vec<(TopicPartition, Uuid, &'static str)>) {
    for (tp, claim, why) in halted {
        report::show_halted(&tp, Some(why));
        tracing::error!(topic = %tp.topic, partition = tp.partition, why, "partition halted: it needs an operator");
        if let Err(error) = store.set_halted(&tp, claim, Some(why)).await {
            tracing::warn!(%error, "cannot mark the partition as halted");
        }
    }
}

/// Reads users' rows of several partitions at once; trouble on the way only delays.
///
/// # Errors
/// One that does not heal: the process must end.
pub(super) async fn load_users(
    store: &Store,
    wanted: &[(TopicPartition, Vec<(Pseudonym, Wanted)>)],
) -> Result<Vec<Loaded>, StoreError> {
    let mut pause = FIRST_PAUSE;
    let mut refused = 0;
    loop {
        match store.load_users(wanted).await {
            Ok(rows) => return Ok(rows),
            Err(error) => {
                refused += u32::from(!error.is_transient() && !error.is_waiting());
                if refused > MAX_REFUSED {
                    return Err(error);
                }
                tracing::warn!(%error, "cannot read users' rows, will retry");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Says in Postgres that a partition has nothing more, as of when Kafka was asked. False:
/// the row has another claim or offset (another owner, or a database that went back in time).
pub(super) async fn idle_watermark(
    store: &Store,
    tp: &TopicPartition,
    claim: Uuid,
    next: i64,
    asked: Instant,
) -> bool {
    if asked.elapsed() > FRESH {
        return true;
    }
    match store.idle_watermark(tp, claim, next, asked).await {
        Ok(ours) => ours,
        Err(error) => {
            tracing::debug!(%error, "idle watermark not moved");
            true
        }
    }
}
