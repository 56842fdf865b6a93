//! The leader: merges closed minutes, judges values, tests budgets again, keeps house.
//!
//! One process in the fleet holds the lease. A minute closes when the watermark of every partition is
//! 10 s past its end. A partition that is behind holds it at most [`StoreConfig::hold`], then it is
//! left out whole: the merge is partial, and its parts are merged later, once, without firing.
//!
//! Each merge is one transaction: compare-and-set on the lease (claim and `merged_through`), parts
//! marked, findings and incidents written, the new state stored. If it fails, the state in memory is
//! thrown away and read again.

mod house;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, Row as _};
use tokio::task::JoinHandle;

use super::lease::{self, Lease, LeaseName};
use super::maintain::Trouble;
use super::retest::Retest;
use super::{Counters, Store, StoreConfig, StoreError, Uuid, incident, value};
use crate::detect::{CLOSE_AFTER_MS, DetectConfig, Finding, Leader, Part, ValueKey, ValueRow};
use crate::event::{SmolStr, Time, TopicPartition};

/// Most minutes with parts in one transaction: catching up must not outlast the lease.
const MINUTES_AT_ONCE: i64 = 30;

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
    /// Findings by what became of them.
    pub findings: incident::Fates,
    /// Incident changes written: the notifier has work.
    pub changes: u64,
    /// More minutes are closed already: call again at once.
    pub more: bool,
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
}

/// How far a partition is.
#[derive(Debug, Clone)]
struct Mark {
    tp: TopicPartition,
    watermark: Time,
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
        let mut held = match self.held.take() {
            Some(held) => held,
            None => match self.take_over().await? {
                Some(held) => {
                    self.claim = Some(held.lease.claim_id);
                    held
                }
                None => return Ok(LeaderTick::default()),
            },
        };
        let (troubles, tested) = match self.look_after_house(&held.lease).await {
            Ok(kept) => kept,
            Err(StoreError::LeaseLost(_)) => return Ok(LeaderTick::default()),
            Err(e) => return Err(e),
        };
        let store = self.store.clone();
        let done = self
            .store
            .unabortable(async move {
                let tick = store.merge(&mut held).await?;
                Ok((held, tick))
            })
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
        let leader = if lease.state.is_empty() {
            Leader::new(Arc::clone(&self.detect))
        } else {
            Leader::restore(Arc::clone(&self.detect), lease.fmt, &lease.state).map_err(|e| {
                StoreError::Corrupt {
                    what: "the leader's state",
                    said: e.to_string(),
                }
            })?
        };
        Ok(Some(Held {
            lease,
            leader,
            passed: VecDeque::new(),
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
}

impl Store {
    async fn merge(&self, held: &mut Held) -> Result<LeaderTick, StoreError> {
        let what = "could not merge minutes";
        let sql = StoreError::statement;
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        lease::renew(&mut tx, &held.lease).await?;
        let marks = marks(&mut tx, self.config()).await?;
        held.note_passed(&marks);
        let merged = held.lease.merged_through;
        let mut tick = LeaderTick {
            leads: true,
            merged_through: merged,
            ..LeaderTick::default()
        };
        let Some(closed) = closed(&marks, &held.passed, self.config().hold)
            .filter(|through| merged.is_none_or(|m| *through > m))
        else {
            tx.commit().await.map_err(sql(what))?;
            return Ok(tick);
        };
        // Minutes that have parts, and the last closed one: the pure half walks the empty ones.
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
                return Ok(tick);
            }
            minutes.push(closed);
        }
        let last = minutes.last().copied().unwrap_or(closed);
        let parts = take_parts(&mut tx, &marks, last).await?;
        let mut findings: Vec<Finding> = Vec::new();
        let discarded = held.leader.discarded();
        let sequences = held.leader.audit().forgotten;
        let mut rest = parts;
        for (i, &minute) in minutes.iter().enumerate() {
            let left_out: Vec<&Mark> = marks.iter().filter(|m| m.minute() < minute).collect();
            let partial = !left_out.is_empty();
            // Late and left-out parts of earlier minutes come with the first call.
            let (now, later): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|(m, _)| *m == minute || (i == 0 && *m < minute));
            rest = later;
            let now: Vec<Part> = now.into_iter().map(|(_, part)| part).collect();
            findings.extend(held.leader.merge_minute(minute, &now, partial));
            if partial {
                tick.partial += 1;
                note_partial(&mut tx, minute, &left_out).await?;
            } else {
                findings.extend(judge(&mut tx, &held.leader, minute).await?);
            }
        }
        tick.minutes = minutes.len() as u64;
        let (damaged, forgotten) = held.leader.discarded();
        tick.damaged_parts = damaged - discarded.0;
        tick.forgotten_campaigns = forgotten - discarded.1;
        let applied = incident::apply(&mut tx, findings, false).await?;
        let sequences = held.leader.audit().forgotten.saturating_sub(sequences);
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
        held.lease.merged_through = Some(last);
        tick.merged_through = Some(last);
        tick.findings = applied.fates;
        tick.changes = applied.changes;
        Ok(tick)
    }
}

/// How far every partition of the configured topics is.
async fn marks(conn: &mut PgConnection, config: &StoreConfig) -> Result<Vec<Mark>, StoreError> {
    let rows = sqlx::query(
        "SELECT topic, part, watermark FROM vw.stream_partition
          WHERE cardinality($1::text[]) = 0 OR topic = ANY ($1) ORDER BY topic, part",
    )
    .bind(
        config
            .topics
            .iter()
            .map(SmolStr::as_str)
            .collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read the watermarks"))?;
    Ok(rows
        .iter()
        .map(|r| Mark {
            tp: TopicPartition {
                topic: SmolStr::new(r.get::<&str, _>(0)),
                partition: r.get(1),
            },
            watermark: Time(r.get(2)),
        })
        .collect())
}

/// Marks and reads, in one statement, the parts through a minute; parts of a partition that has not
/// passed their minute stay for later.
async fn take_parts(
    conn: &mut PgConnection,
    marks: &[Mark],
    through: i64,
) -> Result<Vec<(i64, Part)>, StoreError> {
    let rows = sqlx::query(
        "UPDATE vw.minute_part p SET merged = true
          WHERE NOT p.merged AND p.minute <= $1
            AND NOT EXISTS (SELECT 1 FROM unnest($2::text[], $3::int[], $4::bigint[]) AS u (topic, part, through)
                             WHERE u.topic = p.topic AND u.part = p.part AND u.through < p.minute)
         RETURNING p.minute, p.topic, p.part, p.late, p.lo, p.blob",
    )
    .bind(through)
    .bind(marks.iter().map(|m| m.tp.topic.as_str()).collect::<Vec<_>>())
    .bind(marks.iter().map(|m| m.tp.partition).collect::<Vec<_>>())
    .bind(marks.iter().map(Mark::minute).collect::<Vec<_>>())
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read minute parts"))?;
    let mut parts: Vec<(i64, bool, i64, Part)> = rows
        .iter()
        .map(|r| {
            let from = TopicPartition {
                topic: SmolStr::new(r.get::<&str, _>(1)),
                partition: r.get(2),
            };
            let part = Part {
                from,
                bytes: r.get(5),
            };
            (r.get(0), r.get(3), r.get(4), part)
        })
        .collect();
    // The order of rows is the plan's; merging must not depend on it.
    parts.sort_by(|a, b| (a.0, a.1, &a.3.from, a.2).cmp(&(b.0, b.1, &b.3.from, b.2)));
    Ok(parts.into_iter().map(|(m, _, _, part)| (m, part)).collect())
}

async fn note_partial(
    conn: &mut PgConnection,
    minute: i64,
    left_out: &[&Mark],
) -> Result<(), StoreError> {
    let names: Vec<String> = left_out
        .iter()
        .map(|m| format!("{}/{}", m.tp.topic, m.tp.partition))
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

/// Judges the values with a candidate up to the minute. Not done for partial minutes: a sender may
/// stand in the partition that was left out.
async fn judge(
    conn: &mut PgConnection,
    leader: &Leader,
    minute: i64,
) -> Result<Vec<Finding>, StoreError> {
    let due = value::due(conn, minute).await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<(ValueKey, ValueRow)> = due.into_iter().collect();
    let findings = leader.judge_values(minute, &mut rows);
    value::write(conn, &rows.into_iter().collect()).await?;
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(partition: i32, ms: i64) -> Mark {
        Mark {
            tp: TopicPartition {
                topic: SmolStr::new("t"),
                partition,
            },
            watermark: Time(ms),
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
