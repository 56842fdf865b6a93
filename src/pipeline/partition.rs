//! One partition on its way: decode, detect, account, and what belongs to the offset.

mod dead_run;
mod held;
mod known;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::checkpoint::{Last, Schedule, Turn};
use super::claims::{Claimed as ClaimedState, Clock};
use super::live::Settings;
use super::report;
use crate::account::{self, Books};
use crate::decode::{Decoder, Origin, RawRecord, Spare, audit};
use crate::detect::{Checkpoint, Effects, PartitionState, UserRow};
use crate::event::{Event, Position, SmolStr, Time, TopicPartition};
use crate::ingest::{Batch, Claimed, Fingerprint, Gap, TopicMode};
use crate::store::{DeadLetterRow, GapRow, PartitionBatch};
use crate::telemetry::metrics;
use dead_run::DeadRun;
use held::Held;

/// A record's own time may be ahead of our clock by this much (`CreateTime` topics); what is beyond
/// is cut, or one forged time would stop the partition's clock for ever.
const MAX_AHEAD_MS: i64 = 5 * 60_000;
/// The reason of a record that made a detector panic.
pub(super) const PANICKED: &str = "detector_panic";

/// Commits with cut batches until whole ones are tried again.
const SMALL_FOR: u32 = 256;

/// Something to be done for a partition, in order.
#[derive(Debug)]
pub(super) enum Work {
    Batch(Batch),
    Gap {
        tp: TopicPartition,
        claim: Uuid,
        gap: Gap,
    },
    Halt {
        tp: TopicPartition,
        claim: Uuid,
        offset: i64,
        reason: &'static str,
    },
}

impl Work {
    pub(super) fn tp(&self) -> &TopicPartition {
        match self {
            Self::Batch(b) => &b.tp,
            Self::Gap { tp, .. } | Self::Halt { tp, .. } => tp,
        }
    }
    pub(super) fn halts(&self) -> bool {
        matches!(self, Self::Halt { .. })
    }
    pub(super) fn claim(&self) -> Uuid {
        match self {
            Self::Batch(b) => b.claim,
            Self::Gap { claim, .. } | Self::Halt { claim, .. } => *claim,
        }
    }
}

/// A batch after decode.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) tp: TopicPartition,
    lo: i64,
    hi: i64,
    replay: bool,
    events: Vec<(Position, Box<Event>)>,
    dead: Vec<DeadLetterRow>,
    /// Numbers of refused records: here, if not as events.
    refused: Vec<(Time, Origin)>,
    records: u32,
    bytes: u64,
    append: Time,
    chain: audit::Link,
    last: Option<Fingerprint>,
    gap: Option<Gap>,
    halt: Option<(i64, &'static str)>,
}

/// What a worker lends to the partition that it works on.
#[derive(Default)]
pub(super) struct Tools {
    /// Makes the leaves of the audit chain.
    lanes: audit::Lanes,
    /// Used events.
    spare: Spare,
}

/// State of one partition.
pub(super) struct Partition {
    tp: TopicPartition,
    pub(super) claim: Uuid,
    mode: TopicMode,
    decoder: Decoder,
    kid: SmolStr,
    state: PartitionState,
    /// Append time so far: the running maximum of the records' timestamps.
    append: Time,
    chain: audit::Link,
    last: Fingerprint,
    /// Append times of applied records are at most this.
    watermark: Time,
    clock: Clock,
    /// Whose timestamps these are was noted in Postgres.
    pub(super) noted: bool,
    /// First offset that is not committed.
    pub(super) applied: i64,
    /// First offset that was not handed to the commit task.
    handed: i64,
    /// Commit alone: a group with this partition was refused.
    pub(super) solo: bool,
    /// It halts: nothing more is taken from it under this claim.
    pub(super) halting: bool,
    /// How often the partition was claimed.
    epoch: i64,
    /// Its batches are cut small for so many more commits.
    pub(super) small_for: Option<u32>,
    dead_run: DeadRun,
    /// Users' rows that Postgres does not have yet.
    held: Held,
    written: Last,
}

impl Partition {
    pub(super) fn new(
        tp: TopicPartition,
        mode: TopicMode,
        settings: &Settings,
        claim: Claimed<ClaimedState>,
        schedule: &mut Schedule,
    ) -> Self {
        let solo = schedule.solo.remove(&tp);
        let small_for = schedule.limits.get(&tp).map(|_| SMALL_FOR);
        let (decoder, kid) = settings.decoder(mode);
        let mut state = claim.state.state;
        state.configure(Arc::clone(&settings.detect));
        Self {
            tp,
            claim: claim.id,
            mode,
            decoder,
            kid,
            append: claim.state.append,
            chain: claim.state.chain,
            last: claim.state.last,
            watermark: claim.state.watermark,
            clock: claim.state.clock,
            noted: false,
            state,
            applied: claim.next_offset,
            handed: claim.next_offset,
            solo,
            halting: false,
            epoch: claim.state.epoch,
            small_for,
            dead_run: DeadRun::default(),
            held: Held::default(),
            written: schedule.join(),
        }
    }

    /// Takes other settings, between two batches.
    pub(super) fn configure(&mut self, settings: &Settings) {
        (self.decoder, self.kid) = settings.decoder(self.mode);
        self.state.configure(Arc::clone(&settings.detect));
    }

    /// Decodes the records and links them into the audit chain.
    ///
    /// # Errors
    /// The offset of a record that made the decoder panic.
    pub(super) fn decode(
        &mut self,
        work: Work,
        poisoned: &BTreeSet<(TopicPartition, i64)>,
        tools: &mut Tools,
    ) -> Result<Decoded, i64> {
        let mut d = Decoded {
            tp: self.tp.clone(),
            lo: self.applied,
            hi: self.applied,
            replay: false,
            events: Vec::new(),
            dead: Vec::new(),
            refused: Vec::new(),
            records: 0,
            bytes: 0,
            append: self.append,
            chain: self.chain,
            last: None,
            gap: None,
            halt: None,
        };
        let batch = match work {
            Work::Batch(b) => b,
            Work::Gap { gap, .. } => {
                (d.lo, d.hi, d.gap) = (gap.lo, gap.hi, Some(gap));
                return Ok(d);
            }
            Work::Halt { offset, reason, .. } => {
                // Nothing is applied: the finding stands at the place where the partition stopped.
                let lo = self.handed;
                (d.lo, d.hi, d.halt) = (lo, lo, Some((offset, reason)));
                return Ok(d);
            }
        };
        (d.lo, d.hi, d.replay, d.last) = (batch.lo, batch.hi, batch.replay, batch.last());
        d.events.reserve(batch.len());
        let latest = self.latest(&batch);
        let mut leaves = vec![audit::GENESIS; if batch.replay { 0 } else { batch.len() }];
        let at = Cell::new(batch.lo);
        let Tools { lanes, spare } = tools;
        lanes.clear();
        self.decoder.swap_spare(spare);
        let done = catch_unwind(AssertUnwindSafe(|| {
            for (n, r) in batch.records().enumerate() {
                at.set(r.offset);
                d.append = d.append.max(r.ts.min(latest));
                d.records = d.records.saturating_add(1);
                d.bytes += (r.value.map_or(0, <[u8]>::len) + r.key.map_or(0, <[u8]>::len)) as u64;
                let raw = RawRecord {
                    topic: &batch.tp.topic,
                    partition: batch.tp.partition,
                    offset: r.offset,
                    append: d.append,
                    key: r.key,
                    value: r.value,
                    headers: &r.headers,
                };
                let known =
                    !poisoned.is_empty() && poisoned.contains(&(batch.tp.clone(), r.offset));
                let refused = if known {
                    d.dead.push(panicked(&raw));
                    None
                } else {
                    match self.decoder.decode(&raw) {
                        Ok(event) => {
                            let position = Position {
                                offset: r.offset,
                                append: d.append,
                            };
                            d.events.push((position, event));
                            None
                        }
                        Err(mut dead) => {
                            let origin = dead.origin.take();
                            d.dead.push(DeadLetterRow {
                                offset: r.offset,
                                append: d.append,
                                reason: SmolStr::new_static(dead.reason.as_str()),
                                path: dead.path.as_deref().unwrap_or_default().to_owned(),
                                byte: dead.byte,
                                bytes: dead.bytes,
                                gateway: origin.as_ref().map(|o| o.gateway.clone()),
                            });
                            d.refused.extend(origin.map(|o| (d.append, o)));
                            Some(dead.reason)
                        }
                    }
                };
                if let Some(leaf) = leaves.get_mut(n) {
                    if self.decoder.has_plain_leaf(refused) {
                        lanes.push(n, r.offset, r.key, r.value, &mut leaves);
                    } else {
                        *leaf = self.decoder.audit_leaf(&raw, refused);
                    }
                }
            }
            lanes.finish(&mut leaves);
            for leaf in &leaves {
                d.chain = audit::step(&d.chain, leaf);
            }
        }));
        self.decoder.swap_spare(spare);
        if done.is_err() {
            return Err(at.get());
        }
        Ok(d)
    }

    /// No append time is after this. A broker's clock may differ a little; a producer's must not drag the
    /// partition's time along, or all others' events are late. What is replayed was appended when it was
    /// applied, whatever the clock says now.
    fn latest(&self, batch: &Batch) -> Time {
        match (batch.create_time, batch.replay) {
            (false, _) => now().plus_ms(MAX_AHEAD_MS),
            (true, false) => self.clock.now(),
            (true, true) => self.clock.now().min(self.watermark),
        }
    }

    /// Takes the events through detect and account. `None` for a replay.
    ///
    /// # Errors
    /// The offset of a record that made a detector panic.
    pub(super) fn observe(
        &mut self,
        d: Decoded,
        books: &Books,
        checkpoints: &mut Turn,
        tools: &mut Tools,
    ) -> Result<Option<PartitionBatch>, i64> {
        if d.halt.is_some() {
            return Ok(Some(self.stop(d)));
        }
        let events = d.events.iter().map(|(position, _)| position.offset);
        let dead = d.dead.iter().map(|dead| dead.offset);
        let undecodable = self.dead_run.take(events, dead);
        let mut batch = account::Batch::default();
        let at = Cell::new(d.lo);
        let done = catch_unwind(AssertUnwindSafe(|| {
            for (position, event) in &d.events {
                at.set(position.offset);
                trap(event);
                batch.apply(&mut self.state, books, *position, event);
            }
            for (append, origin) in &d.refused {
                batch.refused(*append, origin);
            }
            batch.finish(&mut self.state)
        }));
        let Ok(applied) = done else {
            return Err(at.get());
        };
        tools.spare.take_back(d.events.into_iter().map(|(_, e)| e));
        self.append = d.append;
        let mut effects = applied.effects;
        if d.replay {
            metrics()
                .replayed
                .add(&[&self.tp.topic], u64::from(d.records));
            self.held.carry(&mut effects.user_rows);
            return Ok(None);
        }
        let prev = std::mem::replace(&mut self.chain, d.chain);
        self.last = d.last.unwrap_or(self.last);
        self.handed = d.hi;
        self.held.hand_over(&mut effects.user_rows);
        if let Some(gap) = &d.gap {
            metrics()
                .gaps
                .add(&[&self.tp.topic, gap.reason], report::width(gap));
            // Nobody has seen the record before the new place: there is nothing to compare.
            self.last = Fingerprint { ts_ms: 0, crc: 0 };
            if gap.reason == "truncated" {
                self.state.rewind(gap.hi);
            }
            effects.findings.push(report::gap(&self.tp, gap, now()));
        }
        let told = undecodable.into_iter();
        let told = told.map(|at| report::undecodable(&self.tp, at, self.append));
        effects.findings.extend(told);
        // Checkpoints of before a cut must not be met again.
        let cut = d.gap.is_some_and(|g| g.reason == "truncated");
        let checkpoint = (cut || d.records > 0 && checkpoints.take(&mut self.written))
            .then(|| self.checkpoint(d.hi, &mut effects.user_rows));
        report::count(&self.tp, &effects.counters, &d.dead, d.records, d.bytes);
        Ok(Some(PartitionBatch {
            tp: d.tp,
            claim_id: self.claim,
            lo: d.lo,
            hi: d.hi,
            records: d.records,
            watermark: self.append,
            last_ts_ms: self.last.ts_ms,
            last_crc: self.last.crc,
            chain_prev: prev,
            chain_head: self.chain,
            kid: self.kid.clone(),
            dead_letters: d.dead,
            halt: None,
            gaps: d.gap.iter().map(gap_row).collect(),
            effects,
            ledger: applied.ledger,
            checkpoint,
        }))
    }

    /// The partition stops: only the finding is written. The state may be half changed, by a record that
    /// made a detector panic; nothing of it may be kept, since a user's row from beyond the offset would
    /// hide the steps up to it.
    fn stop(&self, d: Decoded) -> PartitionBatch {
        let mut effects = Effects::default();
        let halt = d
            .halt
            .map(|(offset, why)| report::halt(&self.tp, (d.lo, offset), why, self.epoch, now()));
        effects.findings.extend(halt);
        effects.close();
        PartitionBatch {
            tp: d.tp,
            claim_id: self.claim,
            lo: d.lo,
            hi: d.hi,
            records: 0,
            watermark: self.append,
            last_ts_ms: self.last.ts_ms,
            last_crc: self.last.crc,
            chain_prev: self.chain,
            chain_head: self.chain,
            kid: self.kid.clone(),
            dead_letters: Vec::new(),
            halt: d.halt.map(|(_, why)| why),
            gaps: Vec::new(),
            effects,
            ledger: Default::default(),
            checkpoint: None,
        }
    }

    fn checkpoint(&mut self, as_of: i64, rows: &mut Vec<UserRow>) -> Checkpoint {
        let (c, mut dirty) = self.state.checkpoint(as_of);
        rows.retain(|r| dirty.iter().all(|d| d.user != r.user));
        rows.append(&mut dirty);
        metrics().checkpoints.inc(&[]);
        super::claims::wrap(c, self.append)
    }

    /// Keeps the rows of a group until it is committed: whoever comes back meanwhile is read from
    /// here.
    pub(super) fn hold_rows(&mut self, rows: &[UserRow], generation: u64) {
        metrics().user_rows.add(&["written"], rows.len() as u64);
        self.held.hold(rows, generation);
    }

    /// The group is committed: its rows can be read from Postgres.
    pub(super) fn release_rows(&mut self, generation: u64) {
        self.held.release(generation);
    }
}

/// The place up to which a user's row is applied. One beyond what was handed over is from before the
/// topic was cut or made anew, and means nothing here.
fn applied_to(as_of: i64, handed: i64) -> i64 {
    if as_of > handed { 0 } else { as_of }
}

fn gap_row(gap: &Gap) -> GapRow {
    GapRow {
        lo: gap.lo,
        hi: gap.hi,
        reason: SmolStr::new_static(gap.reason),
    }
}

fn panicked(r: &RawRecord<'_>) -> DeadLetterRow {
    DeadLetterRow {
        offset: r.offset,
        append: r.append,
        reason: SmolStr::new_static(PANICKED),
        path: String::new(),
        byte: None,
        bytes: r.value.map_or(0, <[u8]>::len) as u64,
        gateway: None,
    }
}

/// Wall-clock time, for what has no time of its own.
fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Time(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}

/// The fault tests' way to make a detector panic (F42).
#[cfg(any(test, feature = "chaos"))]
fn trap(event: &Event) {
    assert!(!event.id.starts_with("veilwatch-panic"), "as asked");
}
#[cfg(not(any(test, feature = "chaos")))]
fn trap(_: &Event) {}

#[cfg(test)]
mod tests;
