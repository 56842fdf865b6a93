//! Joins the stages: what one batch goes through, from Kafka to Postgres.
//!
//! ```text
//!  ingest ──Inbox──► worker thread: decode → load users → detect + account ──► commit task ──► Postgres
//!    ▲                                                                              │
//!    └──────────────────────── Feedback: committed, reclaim, halt ◄─────────────────┘
//! ```
//!
//! A worker is one OS thread with its own partitions; everything on it is synchronous and cannot
//! fail, only reading users and committing can, and then the same batch is tried again. While one
//! group of batches commits, the next is worked out. A batch is a pure function of the partition's
//! state and its records, so whatever is lost in a crash is worked out again with the same result.
//!
//! [`claims`] takes partitions over, [`partition`] holds one partition's state, [`commit`] writes,
//! [`build`] turns the configuration into parts, [`live`] holds those that may change, [`mod@start`] runs and stops the whole.

mod background;
pub mod build;
mod checkpoint;
mod claims;
mod commit;
pub mod live;
mod outage;
mod partition;
mod report;
pub mod reseal;
pub mod revive;
pub mod start;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use build::Parts;
use checkpoint::Schedule;
use claims::Claimed as ClaimedState;
use commit::{Done, Group};
use live::Settings;
use partition::{Decoded, Partition, Tools, Work};
pub use start::{Running, StartError, start};
use uuid::Uuid;

use crate::event::TopicPartition;
use crate::ingest::{Delivery, Feedback, Inbox};
use crate::store::{PartitionBatch, Store};
use crate::telemetry::metrics;

/// How long a worker waits for work before it looks at its clock.
const TICK: Duration = Duration::from_millis(100);
/// Pause before the kind of a partition's timestamps is noted again, where that failed.
const NOTE_AGAIN: Duration = Duration::from_secs(30);
/// Groups worked out but not committed. One commits while the next is worked out; more would only
/// hold memory.
const AHEAD: usize = 1;
/// Panics within [`PANIC_WINDOW`] after which a partition halts: the fault is not one record's.
const MAX_PANICS: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// One worker: its partitions and what joins them to the stages.
pub(super) struct Worker {
    inbox: Inbox<ClaimedState>,
    parts: Arc<Parts>,
    /// What the partitions now work with.
    settings: Arc<Settings>,
    store: Store,
    runtime: tokio::runtime::Handle,
    partitions: BTreeMap<TopicPartition, Partition>,
    backlog: VecDeque<Work>,
    /// Answers owed to the poll thread once nothing of the partition is in flight.
    leaving: Vec<(TopicPartition, mpsc::Sender<()>)>,
    commits: tokio::sync::mpsc::Sender<Group>,
    done: mpsc::Receiver<Done>,
    in_flight: VecDeque<Vec<(TopicPartition, Uuid)>>,
    feedback: mpsc::SyncSender<Feedback>,
    schedule: Schedule,
    /// Records that made a detector panic: they become dead letters on the next way past them.
    poisoned: BTreeSet<(TopicPartition, i64)>,
    panics: Vec<Instant>,
    tools: Tools,
    generation: u64,
    /// It cannot go on: the process must end.
    broken: bool,
    /// How long to wait before taking back what another process claimed.
    foreign_wait: Duration,
}

impl Worker {
    /// Works until the inbox is closed and everything in it is committed.
    fn run(mut self) {
        while let Some(items) = self.inbox.take(if self.backlog.is_empty() {
            TICK
        } else {
            Duration::ZERO
        }) {
            for d in items {
                self.receive(d);
            }
            self.hear_commits(Duration::ZERO);
            self.turn();
            self.answer_leaving();
            if self.broken {
                // Whoever watches the threads ends the process.
                return;
            }
        }
        while !self.backlog.is_empty() && !self.broken {
            self.turn();
        }
        while !self.in_flight.is_empty() {
            self.hear_commits(TICK);
        }
        self.answer_leaving();
    }

    /// Takes at most one batch of each partition through the stages and hands the group to the
    /// commit task: one transaction.
    fn turn(&mut self) {
        self.take_settings();
        let work: Vec<Work> = self.next_group();
        if work.is_empty() {
            return;
        }
        let decoded: Vec<Decoded> = self.decode(work);
        self.load_users(&decoded);
        if self.broken {
            return;
        }
        let batches: Vec<PartitionBatch> = self.observe(decoded);
        self.commit(batches);
    }

    /// Between two batches, everything that has changed is taken over at once.
    fn take_settings(&mut self) {
        let now = self.parts.live.load();
        if !Arc::ptr_eq(&now, &self.settings) {
            for p in self.partitions.values_mut() {
                p.configure(&now);
            }
            self.settings = now;
        }
    }

    /// The first waiting piece of work of every partition.
    fn next_group(&mut self) -> Vec<Work> {
        let mut taken = BTreeSet::new();
        let mut group = Vec::new();
        let mut closed = false;
        let mut rest = VecDeque::new();
        for work in std::mem::take(&mut self.backlog) {
            let known = self.partitions.get(work.tp());
            if known.is_none_or(|p| p.claim != work.claim() || p.halting && !work.halts()) {
                continue;
            }
            let solo = known.is_some_and(|p| p.solo);
            let fits = !closed && !taken.contains(work.tp()) && (group.is_empty() || !solo);
            taken.insert(work.tp().clone());
            if fits {
                closed = solo;
                group.push(work);
            } else {
                rest.push_back(work);
            }
        }
        self.backlog = rest;
        group
    }

    fn decode(&mut self, group: Vec<Work>) -> Vec<Decoded> {
        let mut out = Vec::with_capacity(group.len());
        for work in group {
            let tp = work.tp().clone();
            let Some(p) = self.partitions.get_mut(&tp) else {
                continue;
            };
            match p.decode(work, &self.poisoned, &mut self.tools) {
                Ok(d) => out.push(d),
                Err(offset) => self.poison(&tp, offset),
            }
        }
        out
    }

    /// Brings in what is not in memory of the users: first rows that wait to be written, then by one
    /// query names from before key rotations and the rows under them.
    fn load_users(&mut self, decoded: &[Decoded]) {
        let mut wanted = Vec::new();
        for d in decoded {
            if let Some(p) = self.partitions.get_mut(&d.tp) {
                let unknown = p.unknown(d);
                if !unknown.is_empty() {
                    wanted.push((d.tp.clone(), unknown));
                }
            }
        }
        if wanted.is_empty() {
            return;
        }
        let found = self
            .runtime
            .block_on(commit::load_users(&self.store, &wanted));
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "users' rows cannot be read");
                self.broken = true;
                return;
            }
        };
        for ((tp, unknown), loaded) in wanted.iter().zip(found) {
            let batch = decoded.iter().find(|d| d.tp == *tp);
            if let (Some(p), Some(d)) = (self.partitions.get_mut(tp), batch) {
                p.load(d, unknown, &loaded);
            }
        }
    }

    fn observe(&mut self, decoded: Vec<Decoded>) -> Vec<PartitionBatch> {
        let mut out = Vec::with_capacity(decoded.len());
        let mut checkpoints = self.schedule.begin();
        for d in decoded {
            let tp = d.tp.clone();
            let Some(p) = self.partitions.get_mut(&tp) else {
                continue;
            };
            match p.observe(d, &self.settings.books, &mut checkpoints, &mut self.tools) {
                Ok(Some(batch)) => out.push(batch),
                // A replay: its effects were committed before.
                Ok(None) => {}
                Err(offset) => self.poison(&tp, offset),
            }
        }
        out
    }

    fn commit(&mut self, batches: Vec<PartitionBatch>) {
        if batches.is_empty() {
            return;
        }
        self.generation += 1;
        for b in &batches {
            if let Some(p) = self.partitions.get_mut(&b.tp) {
                p.hold_rows(&b.effects.user_rows, self.generation);
            }
            self.schedule.records += u64::from(b.records);
        }
        let names = batches.iter().map(|b| (b.tp.clone(), b.claim_id));
        self.in_flight.push_back(names.collect());
        let group = Group {
            generation: self.generation,
            batches,
        };
        if self.commits.blocking_send(group).is_err() {
            tracing::error!("the commit task is gone");
            self.broken = true;
            self.in_flight.pop_back();
            return;
        }
        while self.in_flight.len() > AHEAD {
            self.hear_commits(TICK);
        }
    }

    /// Reads what became of committed groups, waiting at most `wait` for the first.
    fn hear_commits(&mut self, wait: Duration) {
        let mut next = if wait.is_zero() {
            self.done.try_recv().ok()
        } else {
            self.done.recv_timeout(wait).ok()
        };
        while let Some(done) = next {
            self.in_flight.pop_front();
            for (tp, claim, hi) in done.committed {
                if let Some(p) = self.partitions.get_mut(&tp).filter(|p| p.claim == claim) {
                    p.applied = hi;
                    p.solo = false;
                    p.release_rows(done.generation);
                    if let Some(left) = &mut p.small_for {
                        *left -= 1;
                        if *left == 0 {
                            p.small_for = None;
                            self.schedule.limits.remove(&tp);
                        }
                    }
                }
                let _ = self.feedback.send(Feedback::Committed {
                    tp,
                    claim,
                    next: hi,
                });
            }
            for lost in done.lost {
                self.drop_partition(&lost.tp, lost.claim, lost.wait);
            }
            for (tp, claim) in done.unwritable {
                self.isolate(&tp, claim, done.too_much);
            }
            next = self.done.try_recv().ok();
        }
    }

    fn receive(&mut self, d: Delivery<ClaimedState>) {
        match d {
            Delivery::Assigned { tp, mode, claim } => {
                let poisoned = claim.state.poisoned.iter();
                self.poisoned.extend(poisoned.map(|o| (tp.clone(), *o)));
                let (id, next) = (claim.id, claim.next_offset);
                let halted = claim.halted.is_some();
                let p = Partition::new(tp.clone(), mode, &self.settings, claim, &mut self.schedule);
                self.partitions.insert(tp.clone(), p);
                // Somebody else may have got past it meanwhile, or it may be halted already.
                let halting = self.schedule.halting.remove(&tp);
                if let Some((_, why)) = halting.filter(|(at, _)| *at == next && !halted) {
                    self.halt(&tp, id, next, why);
                }
            }
            Delivery::Batch(b) => {
                self.note_timestamps(&b);
                match self.schedule.limits.get(&b.tp) {
                    Some(most) if !b.replay => {
                        let pieces = b.split(*most).into_iter();
                        self.backlog.extend(pieces.map(Work::Batch));
                    }
                    _ => self.backlog.push_back(Work::Batch(b)),
                }
            }
            Delivery::Gap { tp, claim, gap } => {
                self.backlog.push_back(Work::Gap { tp, claim, gap });
            }
            Delivery::Halted {
                tp,
                claim,
                offset,
                reason,
            } => {
                self.backlog.push_back(Work::Halt {
                    tp,
                    claim,
                    offset,
                    reason,
                });
            }
            Delivery::AtEnd {
                tp,
                claim,
                offset,
                asked,
            } => self.at_end(&tp, claim, offset, asked),
            Delivery::Revoked { tp, done } => {
                self.partitions.remove(&tp);
                self.schedule.halting.remove(&tp);
                self.backlog.retain(|w| *w.tp() != tp);
                self.leaving.push((tp, done));
            }
        }
    }

    /// Says once a claim whose clock the timestamps are.
    fn note_timestamps(&mut self, b: &crate::ingest::Batch) {
        let Some(p) = self.partitions.get_mut(&b.tp) else {
            return;
        };
        if std::mem::replace(&mut p.noted, true) {
            return;
        }
        if b.create_time {
            tracing::warn!(
                topic = %b.tp.topic,
                partition = b.tp.partition,
                "timestamps are the producers' clocks; set message.timestamp.type=LogAppendTime, or late and missing events are told less surely"
            );
        }
        let (store, tp, create_time) = (self.store.clone(), b.tp.clone(), b.create_time);
        self.runtime.spawn(async move {
            // A claim may last for weeks; the task ends with the runtime.
            while let Err(error) = store.note_timestamps(&tp, create_time).await {
                tracing::debug!(%error, "the kind of timestamps is not noted yet");
                tokio::time::sleep(NOTE_AGAIN).await;
            }
        });
    }

    /// The partition has nothing more: its watermark may follow the clock.
    fn at_end(&self, tp: &TopicPartition, claim: Uuid, offset: i64, asked: Instant) {
        let Some(p) = self.partitions.get(tp) else {
            return;
        };
        let busy = self.backlog.iter().any(|w| w.tp() == tp)
            || self.in_flight.iter().flatten().any(|(t, _)| t == tp);
        if p.claim == claim && p.applied == offset && !busy {
            let (store, tp) = (self.store.clone(), tp.clone());
            let (feedback, after) = (self.feedback.clone(), self.foreign_wait);
            self.runtime.spawn(async move {
                if !commit::idle_watermark(&store, &tp, claim, offset, asked).await {
                    // Not waiting for room on a thread of the runtime: it is asked again in a second.
                    let _ = feedback.try_send(Feedback::Reclaim { tp, claim, after });
                }
            });
        }
    }

    /// Gives the poll thread its answer as soon as nothing of a revoked partition is in flight.
    fn answer_leaving(&mut self) {
        let in_flight = &self.in_flight;
        self.leaving.retain(|(tp, done)| {
            let busy = in_flight.iter().flatten().any(|(t, _)| t == tp);
            if !busy {
                let _ = done.send(());
            }
            busy
        });
    }

    /// A record made a detector panic. Its partition's state may be half changed: it is thrown away,
    /// claimed again and replayed, and the record becomes a dead letter on the way.
    fn poison(&mut self, tp: &TopicPartition, offset: i64) {
        metrics().panics.inc(&[&tp.topic]);
        tracing::error!(topic = %tp.topic, partition = tp.partition, offset, "a detector panicked on a record");
        let Some(claim) = self.partitions.get(tp).map(|p| p.claim) else {
            return;
        };
        self.panics.retain(|at| at.elapsed() < PANIC_WINDOW);
        self.panics.push(Instant::now());
        let repeated = !self.poisoned.insert((tp.clone(), offset));
        if repeated || self.panics.len() > MAX_PANICS {
            self.halt(tp, claim, offset, "panics");
            return;
        }
        self.drop_partition(tp, claim, Duration::ZERO);
    }

    fn drop_partition(&mut self, tp: &TopicPartition, claim: Uuid, after: Duration) {
        if self.partitions.get(tp).is_some_and(|p| p.claim == claim) {
            self.partitions.remove(tp);
            self.backlog.retain(|w| w.tp() != tp);
        }
        let _ = self.feedback.send(Feedback::Reclaim {
            tp: tp.clone(),
            claim,
            after,
        });
    }

    /// Postgres refuses the content of a group. The partitions commit alone from now on; the one
    /// that is refused alone halts. `too_much`: it takes too long, so it is first cut smaller and smaller.
    fn isolate(&mut self, tp: &TopicPartition, claim: Uuid, too_much: bool) {
        let alone = self
            .partitions
            .get(tp)
            .is_some_and(|p| p.claim == claim && p.solo);
        let limit = self.schedule.limits.get(tp).copied();
        if alone
            && too_much
            && let Some(less) = checkpoint::smaller(limit)
        {
            tracing::warn!(topic = %tp.topic, partition = tp.partition, records = less, "a batch takes Postgres too long: cut smaller");
            self.schedule.limits.insert(tp.clone(), less);
            self.schedule.solo.insert(tp.clone());
            self.drop_partition(tp, claim, Duration::ZERO);
        } else if alone {
            // What Postgres refused was handed over already, and the next batch may be on its way: the
            // finding can only be written at the place where Postgres stands, which a new claim gives.
            let offset = self.partitions.get(tp).map_or(0, |p| p.applied);
            self.schedule
                .halting
                .insert(tp.clone(), (offset, "unwritable"));
            self.drop_partition(tp, claim, Duration::ZERO);
        } else {
            self.schedule.solo.insert(tp.clone());
            self.drop_partition(tp, claim, Duration::ZERO);
        }
    }

    fn halt(&mut self, tp: &TopicPartition, claim: Uuid, offset: i64, reason: &'static str) {
        let _ = self.feedback.send(Feedback::Halt {
            tp: tp.clone(),
            claim,
            offset,
            reason,
        });
        if let Some(p) = self.partitions.get_mut(tp) {
            p.halting = true;
        }
        self.backlog.retain(|w| w.tp() != tp);
        self.backlog.push_back(Work::Halt {
            tp: tp.clone(),
            claim,
            offset,
            reason,
        });
    }
}
