//! The leader: merges closed minutes, judges values, tests budgets again, keeps house.
//!
//! One process in the fleet holds the lease. A minute closes when the watermark of every partition is
//! 10 s past its end. A partition that is behind holds it at most [`super::StoreConfig::hold`], then it is
//! left out whole: the merge is partial, and its parts are merged later, once, without firing. One that
//! stays left out is a finding of its own: the merged-minute detectors are blind without it.
//!
//! A merge asks what is closed in one short transaction, reads and works without one, and writes in another: it
//! begins with the compare-and-set on the lease (claim and `merged_through`), marks the parts, writes
//! findings, incidents and the new state. If it fails, the state in memory is thrown away and read again.

mod house;
mod merge;
mod missing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::task::JoinHandle;

use merge::{MERGE_FOR, Merged, mark_merged};

use super::lease::{self, Lease, LeaseName};
use super::maintain::{self, Trouble};
use super::present::Mark;
use super::retest::Retest;
use super::{Counters, Store, StoreError, Uuid, incident, value};
use crate::account::Scope;
use crate::detect::audit::Missing;
use crate::detect::blind;
use crate::detect::{CLOSE_AFTER_MS, DetectConfig, Finding, Leader, ValueKey, ValueRow};
use crate::event::{SmolStr, Time, TopicPartition};

/// Most minutes with parts in one transaction: catching up must not outlast the lease.
const MINUTES_AT_ONCE: i64 = 30;
/// Pages of values judged for each minute that is merged. What is left after hours of partial minutes is
/// judged with the next ones: the transaction must end within the server's limits.
const JUDGE_ROUNDS: usize = 8;
/// Pause between two findings about one partition that stays left out: well below the time after which
/// their incident resolves.
const REMIND: Duration = Duration::from_hours(6);

/// What a tick did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderTick {
    /// Whether this process is the leader.
    pub leads: bool,
    /// Through which minute everything is merged.
    pub merged_through: Option<i64>,
    /// Minutes merged now.
    pub minutes: u64,
    /// … of them without a partition.
    pub partial: u64,
    /// Parts that could not be read.
    pub damaged_parts: u64,
    /// Campaigns forgotten for want of room.
    pub forgotten_campaigns: u64,
    /// Keys, tenants and models whose spending is not judged for want of room.
    pub forgotten_spenders: u64,
    /// Findings by what became of them.
    pub findings: incident::Fates,
    /// Incident changes written: the notifier has work.
    pub changes: u64,
    /// The stored state could not be read: baselines learn anew.
    pub resets: u64,
    /// More minutes are closed already: call again at once.
    pub more: bool,
    /// Totals of missing events by gateway, a bounded number of them; `None` where no minute was merged.
    pub missing: Option<BTreeMap<SmolStr, Missing>>,
    /// Thresholds of budgets crossed by a limit that changed or a raise that lapsed, by scope.
    pub crossings: BTreeMap<Scope, u64>,
    /// What failed of the housekeeping; it is tried again in a minute.
    pub troubles: Vec<Trouble>,
}

/// The leader of this process; call [`LeaderTask::tick`] about once a second.
#[derive(Debug)]
pub struct LeaderTask {
    store: Store,
    detect: Arc<DetectConfig>,
    held: Option<Held>,
    /// The claim held last: after a failed transaction the lease is still ours to take again.
    claim: Option<Uuid>,
    house_at: Option<Instant>,
    /// The round of housekeeping under way. It is not fenced: two at a time do no harm.
    house: Option<JoinHandle<Vec<Trouble>>>,
    /// Budgets that are tested again.
    retest: Option<Retest>,
}

/// The lease with the state that belongs to it.
#[derive(Debug)]
struct Held {
    lease: Lease,
    leader: Leader,
    /// When the most advanced partition was first seen past these minutes: (minute, when).
    passed: VecDeque<(i64, Instant)>,
    /// Partitions that the last minutes were merged without.
    left_out: BTreeMap<TopicPartition, LeftOut>,
    /// Its state could not be read.
    reset: bool,
}

/// A stretch of minutes without a partition.
#[derive(Debug)]
struct LeftOut {
    first: i64,
    since: Instant,
    /// How often it was told, and when last.
    told: u32,
    told_at: Instant,
}

impl Mark {
    /// The last minute whose close this watermark has passed.
    fn minute(&self) -> i64 {
        closed_by(self.watermark)
    }
}

/// The last minute that a watermark closes: it is more than 10 s past its end. Not equal to it: the
/// next record may have the same append time and would not be late.
fn closed_by(watermark: Time) -> i64 {
    watermark.minus_ms(CLOSE_AFTER_MS + 1).minute() - 1
}

/// Through which minute everything is closed, by all watermarks or because the hold ran out.
fn closed(
    marks: &[Mark],
    passed: &VecDeque<(i64, Instant)>,
    hold: Option<Duration>,
) -> Option<i64> {
    let all = marks.iter().map(Mark::minute).min()?;
    let forced = hold.and_then(|hold| {
        let due = passed.iter().rev().find(|(_, at)| at.elapsed() >= hold);
        due.map(|(minute, _)| *minute)
    });
    Some(forced.map_or(all, |f| f.max(all)))
}

impl LeaderTask {
    /// Not a leader yet.
    pub fn new(store: Store, detect: Arc<DetectConfig>) -> Self {
        Self {
            store,
            detect,
            held: None,
            claim: None,
            house_at: None,
            house: None,
            retest: None,
        }
    }

    /// Takes other settings, between two ticks.
    pub fn configure(&mut self, detect: Arc<DetectConfig>) {
        if let Some(held) = &mut self.held {
            held.leader.configure(Arc::clone(&detect));
        }
        self.detect = detect;
    }

    /// Whether this process holds the lease, as far as it knows.
    pub fn leads(&self) -> bool {
        self.held.is_some()
    }

    /// Takes or renews the lease, merges what is closed, keeps house each minute.
    ///
    /// Neither waits for the other: a merge that fails keeps no partition from being made, and what
    /// fails of the house is said in the tick and keeps no minute from being merged.
    ///
    /// # Errors
    /// Transient ones: call again. The state is read afresh.
    pub async fn tick(&mut self) -> Result<LeaderTick, StoreError> {
        let held = match self.held.take() {
            Some(held) => held,
            None => match self.take_over().await? {
                Some(held) => {
                    self.claim = Some(held.lease.claim_id);
                    held
                }
                None => return Ok(LeaderTick::default()),
            },
        };
        let (troubles, tested, crossings) = match self.look_after_house(&held.lease).await {
            Ok(kept) => kept,
            Err(StoreError::LeaseLost(_)) => return Ok(LeaderTick::default()),
            Err(e) => return Err(e),
        };
        let store = self.store.clone();
        let done = self
            .store
            .unabortable(async move { store.merge(held).await })
            .await;
        let (held, mut tick) = match done {
            Ok(done) => done,
            Err(StoreError::LeaseLost(_)) => return Ok(LeaderTick::default()),
            Err(e) => return Err(e),
        };
        self.held = Some(held);
        incident::add_fates(&mut tick.findings, &tested.fates);
        tick.changes += tested.changes;
        tick.troubles = troubles;
        tick.crossings = crossings;
        Ok(tick)
    }

    /// Gives the lease up, so that another process need not wait for it to lapse.
    pub async fn give_up(&mut self) -> Result<(), StoreError> {
        if let Some(held) = self.held.take() {
            self.store.give_up(&held.lease).await?;
        }
        Ok(())
    }

    async fn take_over(&self) -> Result<Option<Held>, StoreError> {
        let Some(lease) = self.store.take_lease(LeaseName::Leader, self.claim).await? else {
            return Ok(None);
        };
        let mut reset = false;
        let leader = if lease.state.is_empty() {
            Leader::new(Arc::clone(&self.detect))
        } else {
            let restored = Leader::restore(Arc::clone(&self.detect), lease.fmt, &lease.state);
            restored.unwrap_or_else(|error| {
                // The same bytes would be refused for ever. Sequences and baselines begin anew, as
                // learning; what is decided in partitions and rows goes on.
                reset = true;
                Counters::add(&self.store.counters().leader_resets, 1);
                tracing::error!(%error, format = lease.fmt, "the leader's state cannot be read: its baselines learn anew");
                Leader::new(Arc::clone(&self.detect))
            })
        };
        Ok(Some(Held {
            lease,
            leader,
            passed: VecDeque::new(),
            left_out: BTreeMap::new(),
            reset,
        }))
    }
}

impl Held {
    /// Notes which minutes the most advanced partition has passed, so that their hold runs.
    fn note_passed(&mut self, marks: &[Mark]) {
        let Some(first) = marks.iter().map(Mark::minute).max() else {
            return;
        };
        let merged = self.lease.merged_through.unwrap_or(i64::MIN);
        while self.passed.front().is_some_and(|(m, _)| *m <= merged) {
            self.passed.pop_front();
        }
        if self.passed.back().is_none_or(|(m, _)| *m < first) && first > merged {
            self.passed.push_back((first, Instant::now()));
        }
    }

    /// Notes whom a minute is merged without; those left out for longer than `after` are findings,
    /// again each [`REMIND`] so that the incident does not resolve by itself.
    fn note_left_out(&mut self, minute: i64, marks: &[&Mark], after: Duration) -> Vec<Finding> {
        self.left_out
            .retain(|tp, _| marks.iter().any(|m| m.tp == *tp));
        let mut out = Vec::new();
        for mark in marks {
            let now = Instant::now();
            let l = self.left_out.entry(mark.tp.clone()).or_insert(LeftOut {
                first: minute,
                since: now,
                told: 0,
                told_at: now,
            });
            let due = l.told == 0 || l.told_at.elapsed() >= REMIND;
            if due && l.since.elapsed() >= after {
                out.push(blind::finding(
                    self.leader.stages(),
                    &mark.tp,
                    l.first,
                    minute,
                    l.told,
                ));
                (l.told, l.told_at) = (l.told + 1, now);
            }
        }
        out
    }
}

impl Store {
    async fn merge(&self, mut held: Held) -> Result<(Held, LeaderTick), StoreError> {
        let what = "could not merge minutes";
        let sql = StoreError::statement;
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        lease::renew(&mut tx, &held.lease).await?;
        let marks = self.watermarks(&mut tx).await?;
        held.note_passed(&marks);
        let merged = held.lease.merged_through;
        let mut tick = LeaderTick {
            leads: true,
            merged_through: merged,
            resets: u64::from(std::mem::take(&mut held.reset)),
            ..LeaderTick::default()
        };
        let Some(closed) = closed(&marks, &held.passed, self.config().hold)
            .filter(|through| merged.is_none_or(|m| *through > m))
        else {
            tx.commit().await.map_err(sql(what))?;
            return Ok((held, tick));
        };
        // Minutes that have parts, and the last closed one: the pure half walks the empty ones.
        maintain::steady(&mut tx).await?;
        let mut minutes: Vec<i64> = sqlx::query_scalar(
            "SELECT DISTINCT minute FROM vw.minute_part
              WHERE NOT merged AND minute > $1 AND minute <= $2 ORDER BY minute LIMIT $3",
        )
        .bind(merged.unwrap_or(i64::MIN))
        .bind(closed)
        .bind(MINUTES_AT_ONCE)
        .fetch_all(&mut *tx)
        .await
        .map_err(sql(what))?;
        tick.more = i64::try_from(minutes.len()).unwrap_or(0) == MINUTES_AT_ONCE;
        if !tick.more && minutes.last() != Some(&closed) {
            if merged.is_none() && minutes.is_empty() {
                // Nothing was ever written: there is no minute to begin with.
                tx.commit().await.map_err(sql(what))?;
                return Ok((held, tick));
            }
            minutes.push(closed);
        }
        tx.commit().await.map_err(sql(what))?;

        let begun = Instant::now();
        let before = held.leader.discarded();
        let forgotten = held.leader.audit().forgotten;
        let mut merged = Merged::default();
        for minute in minutes {
            if !merged.minutes.is_empty() && begun.elapsed() >= MERGE_FOR {
                tick.more = true;
                break;
            }
            let lease = held.lease.name_only();
            // On the heap: it would be most of what the caller holds.
            let work = self.merge_one(held, minute, &marks, &mut merged);
            held = Box::pin(self.renewing(&lease, work)).await?;
        }
        let discarded = held.leader.discarded();
        tick.damaged_parts = discarded.0 - before.0;
        tick.forgotten_campaigns = discarded.1 - before.1;
        tick.forgotten_spenders = discarded.2 - before.2;
        let sequences = held.leader.audit().forgotten.saturating_sub(forgotten);

        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        lease::renew(&mut tx, &held.lease).await?;
        mark_merged(&mut tx, &merged.parts).await?;
        let whole = merged.minutes.iter().filter(|m| m.left_out.is_empty());
        let whole: Vec<i64> = whole.map(|m| m.minute).collect();
        let mut judged = judge(&mut tx, &held.leader, &whole).await?;
        let mut findings: Vec<Finding> = Vec::new();
        let mut last = closed;
        for m in merged.minutes {
            findings.extend(m.findings);
            if m.left_out.is_empty() {
                findings.extend(judged.findings.remove(&m.minute).unwrap_or_default());
            } else {
                tick.partial += 1;
                note_partial(&mut tx, m.minute, &m.left_out).await?;
            }
            tick.minutes += 1;
            last = m.minute;
        }
        missing::write(&mut tx, merged.missing).await?;
        let applied = incident::apply(&mut tx, findings, false).await?;
        let checkpoint = held.leader.checkpoint();
        sqlx::query(
            "UPDATE vw.lease SET merged_through = $2, fmt = $3, state = $4 WHERE name = $1",
        )
        .bind(held.lease.name.as_str())
        .bind(last)
        .bind(checkpoint.fmt)
        .bind(&checkpoint.bytes)
        .execute(&mut *tx)
        .await
        .map_err(sql(what))?;
        tx.commit().await.map_err(sql(what))?;
        Counters::add(&self.counters().repeated_findings, applied.repeated);
        Counters::add(&self.counters().forgotten_sequences, sequences);
        Counters::add(&self.counters().unreadable_values, judged.unreadable);
        held.lease.merged_through = Some(last);
        tick.merged_through = Some(last);
        tick.findings = applied.fates;
        tick.changes = applied.changes;
        tick.missing = Some(missing::shown(held.leader.audit().missing()));
        Ok((held, tick))
    }
}

async fn note_partial(
    conn: &mut PgConnection,
    minute: i64,
    left_out: &[TopicPartition],
) -> Result<(), StoreError> {
    let names: Vec<String> = left_out
        .iter()
        .map(|tp| format!("{}/{}", tp.topic, tp.partition))
        .collect();
    sqlx::query(
        "INSERT INTO vw.partial_minute (minute, left_out) VALUES ($1, $2)
         ON CONFLICT (minute) DO UPDATE SET left_out = excluded.left_out",
    )
    .bind(minute)
    .bind(names)
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not note a partial minute"))?;
    Ok(())
}

/// What judging values gave.
#[derive(Default)]
struct Judged {
    /// By the minute that they were judged with.
    findings: BTreeMap<i64, Vec<Finding>>,
    unreadable: u64,
}

/// Judges the values with a candidate up to the last of these minutes, each with the first that is not
/// before it. Not done for partial minutes: a sender may stand in the partition that was left out. All minutes
/// at once, page by page in the order of the keys: a key once passed is not locked any more, or batches,
/// which lock in that order, would wait in a circle.
async fn judge(
    conn: &mut PgConnection,
    leader: &Leader,
    whole: &[i64],
) -> Result<Judged, StoreError> {
    let mut judged = Judged::default();
    let Some(through) = whole.last() else {
        return Ok(judged);
    };
    let mut after = None;
    for _ in 0..JUDGE_ROUNDS * whole.len() {
        let value::Due {
            mut rows,
            minutes,
            unreadable,
            last,
        } = value::due(conn, *through, after.as_ref()).await?;
        if last.is_none() {
            break;
        }
        after = last;
        judged.unreadable += unreadable;
        let mut by_minute: BTreeMap<i64, BTreeSet<ValueKey>> = BTreeMap::new();
        for (minute, key) in minutes {
            let with = whole.partition_point(|w| *w < minute);
            let with = whole.get(with).copied().unwrap_or(*through);
            by_minute.entry(with).or_default().insert(key);
        }
        for (minute, keys) in by_minute {
            let found = keys.iter().filter_map(|k| rows.remove_entry(k));
            let mut due: Vec<(ValueKey, ValueRow)> = found.collect();
            let findings = leader.judge_values(minute, &mut due);
            judged.findings.entry(minute).or_default().extend(findings);
            rows.extend(due);
        }
        value::write(conn, &rows).await?;
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(partition: i32, ms: i64) -> Mark {
        Mark {
            tp: TopicPartition {
                topic: crate::event::SmolStr::new("t"),
                partition,
            },
            watermark: Time(ms),
            halted: false,
        }
    }

    #[test]
    fn a_minute_closes_ten_seconds_past_its_end() {
        assert_eq!(closed_by(Time(70_001)), 0);
        assert_eq!(closed_by(Time(70_000)), -1);
        let marks = [mark(0, 200_001), mark(1, 70_001)];
        let through = |passed: &VecDeque<_>, hold| closed(&marks, passed, hold);
        assert_eq!(through(&VecDeque::new(), None), Some(0));
        let passed = VecDeque::from([(2, Instant::now())]);
        assert_eq!(through(&passed, Some(Duration::from_mins(1))), Some(0));
        assert_eq!(through(&passed, Some(Duration::ZERO)), Some(2));
        assert_eq!(closed(&[], &passed, Some(Duration::ZERO)), None);
    }
}
