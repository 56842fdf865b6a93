//! The leader's pure half: merges the parts of closed minutes and judges what no partition can see
//! alone.
//!
//! Called once per minute, in order, by the one lease holder in the fleet (and by `replay`). A
//! minute without any part must be merged too: silence is a fact. Late parts, and parts that were
//! left out of a partial merge, come with a later call; they reach the ledgers of sequences and the
//! baselines and never fire.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::part::MinutePart;
use super::value::{ValueKey, ValueRow};
use super::wire::{Reader, Writer};
use super::{
    CLOSE_AFTER_MS, Checkpoint, DetectConfig, Finding, RestoreError, Stages,
    audit::{Audit, Missing},
    campaign::Campaigns,
    drift::Drift,
    errors::Errors,
    latency::Latency,
    spend::Above,
};
use crate::event::{SmolStr, Time, TopicPartition};

/// Format of the leader's checkpoint. Older ones are still read: format 1 is before campaigns, up to
/// format 2 spending was judged otherwise, up to format 3 latency and errors were, up to format 4 a
/// gateway's quiet, up to format 5 rejections and calls that are not streamed were not judged, and up to
/// format 7 spending that holds was not.
pub const FORMAT: i32 = 8;
const FORMAT_BEFORE_REFUSALS: i32 = 6;
const FORMAT_BEFORE_REJECTIONS: i32 = 5;
const FORMAT_OLD_QUIET: i32 = 4;
const FORMAT_OLD_LATENCY: i32 = 3;
const FORMAT_BEFORE_CAMPAIGNS: i32 = 1;
/// Minutes without a call that are caught up one by one; after a longer pause the leader goes on
/// from where it is.
const MAX_CATCH_UP: i64 = 48 * 60;

/// An encoded part and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which partition wrote it.
    pub from: TopicPartition,
    /// The bytes of [`super::Effects::minute_parts`].
    pub bytes: Vec<u8>,
}

/// The parts of a closed minute, united as they are read: a minute of a busy fleet has tens of thousands,
/// and together they are a hundred times what is known of it in the end.
#[derive(Debug, Clone)]
pub struct Gathered {
    minute: i64,
    now: MinutePart,
    /// Late and left-out parts, by minute and which of the two.
    late: BTreeMap<(i64, bool), MinutePart>,
    damaged: u64,
}

impl Gathered {
    /// Of a minute, nothing yet.
    pub fn new(minute: i64) -> Self {
        Self {
            minute,
            now: MinutePart {
                minute,
                ..MinutePart::default()
            },
            late: BTreeMap::new(),
            damaged: 0,
        }
    }

    /// Adds a part: the bytes of [`super::Effects::minute_parts`].
    pub fn add(&mut self, bytes: &[u8]) {
        match MinutePart::decode(bytes) {
            Ok(p) if p.minute == self.minute && !p.late => self.now.merge(&p),
            Ok(p) => self
                .late
                .entry((p.minute, p.late))
                .or_insert_with(|| MinutePart {
                    minute: p.minute,
                    late: p.late,
                    ..MinutePart::default()
                })
                .merge(&p),
            Err(_) => self.damaged += 1,
        }
    }
}

/// The merged-minute detectors.
#[derive(Debug, Clone)]
pub struct Leader {
    config: Arc<DetectConfig>,
    /// The last minute merged.
    merged: Option<i64>,
    audit: Audit,
    drift: Drift,
    latency: Latency,
    errors: Errors,
    spend: Above,
    campaigns: Campaigns,
    /// Parts that could not be read.
    pub damaged_parts: u64,
}

impl Leader {
    /// A leader that has merged nothing.
    pub fn new(config: Arc<DetectConfig>) -> Self {
        Self {
            config,
            merged: None,
            audit: Audit::default(),
            drift: Drift::default(),
            latency: Latency::default(),
            errors: Errors::default(),
            spend: Above::default(),
            campaigns: Campaigns::default(),
            damaged_parts: 0,
        }
    }

    /// Takes other settings, between two minutes.
    pub fn configure(&mut self, config: Arc<DetectConfig>) {
        self.config = config;
    }

    /// From a checkpoint.
    pub fn restore(
        config: Arc<DetectConfig>,
        fmt: i32,
        bytes: &[u8],
    ) -> Result<Self, RestoreError> {
        if !(FORMAT_BEFORE_CAMPAIGNS..=FORMAT).contains(&fmt) {
            return Err(RestoreError::Format {
                found: fmt,
                expected: FORMAT,
            });
        }
        let mut leader = Self::new(config);
        let mut r = Reader::new(bytes);
        leader
            .read(fmt, &mut r)
            .map_err(|d| RestoreError::Damaged {
                at: d.0,
                len: bytes.len(),
            })?;
        Ok(leader)
    }

    fn read(&mut self, fmt: i32, r: &mut Reader<'_>) -> Result<(), super::wire::Damaged> {
        self.merged = r.option(Reader::i64)?;
        self.damaged_parts = r.u64()?;
        self.audit = Audit::decode(r, fmt <= FORMAT_OLD_QUIET, fmt > FORMAT_BEFORE_REFUSALS)?;
        self.drift = Drift::decode(r)?;
        let old = fmt <= FORMAT_BEFORE_REJECTIONS;
        self.latency = Latency::decode(r, fmt <= FORMAT_OLD_LATENCY, old)?;
        self.errors = if old {
            Errors::decode_old(r, fmt > FORMAT_OLD_LATENCY)?
        } else {
            Errors::decode(r)?
        };
        self.spend = Above::decode(r, fmt)?;
        if fmt != FORMAT_BEFORE_CAMPAIGNS {
            self.campaigns = Campaigns::decode(r)?;
        }
        if r.is_at_end() {
            Ok(())
        } else {
            Err(r.damaged())
        }
    }

    /// The state as a checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut w = Writer::default();
        w.option(self.merged, Writer::i64);
        w.u64(self.damaged_parts);
        self.audit.encode(&mut w);
        self.drift.encode(&mut w);
        self.latency.encode(&mut w);
        self.errors.encode(&mut w);
        self.spend.encode(&mut w);
        self.campaigns.encode(&mut w);
        Checkpoint {
            as_of: 0,
            fmt: FORMAT,
            bytes: w.0,
        }
    }

    /// How many latency baselines there are, and how many of them still learn.
    pub fn learning(&self) -> (usize, usize) {
        self.latency.learning(&self.config)
    }

    /// The last minute merged.
    pub fn merged_through(&self) -> Option<i64> {
        self.merged
    }

    /// Parts that could not be read; campaigns forgotten, and keys, tenants and models whose spending is
    /// not judged, for want of room; ever.
    pub fn discarded(&self) -> (u64, u64, u64) {
        (
            self.damaged_parts,
            self.campaigns.forgotten(),
            self.spend.left_out(),
        )
    }

    /// The sequence ledger's totals.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// What became of missing events since this was last asked, by gateway.
    pub fn take_missing(&mut self) -> BTreeMap<SmolStr, Missing> {
        self.audit.take_noted()
    }

    /// Merges a closed minute. `parts` are all parts of it, in any order, and late or left-out parts
    /// of earlier minutes that were not merged yet. `partial`: a partition was left out, so nothing
    /// that needs completeness fires.
    pub fn merge_minute(&mut self, minute: i64, parts: &[Part], partial: bool) -> Vec<Finding> {
        let mut gathered = Gathered::new(minute);
        for part in parts {
            gathered.add(&part.bytes);
        }
        self.merge_gathered(gathered, partial)
    }

    /// [`Leader::merge_minute`] of parts that are united already.
    pub fn merge_gathered(&mut self, gathered: Gathered, partial: bool) -> Vec<Finding> {
        let Gathered {
            minute,
            now,
            late,
            damaged,
        } = gathered;
        self.damaged_parts += damaged;
        let mut out = Vec::new();
        if let Some(merged) = self.merged {
            let from = (merged + 1).max(minute - MAX_CATCH_UP);
            for m in from..minute {
                let empty = MinutePart {
                    minute: m,
                    ..MinutePart::default()
                };
                self.step(&empty, partial, &mut out);
            }
        }
        let at = Time::from_minute(minute + 1).plus_ms(CLOSE_AFTER_MS);
        for part in late.values() {
            self.audit.late(&self.config, part, minute, at, &mut out);
            self.spend.late(part);
            self.campaigns.late(part.minute, &part.attacks);
        }
        self.step(&now, partial, &mut out);
        self.merged = Some(minute);
        out
    }

    /// Judges what still waits for its grace time, as if complete minutes without events followed:
    /// the end of a replay. Also the moment at which that would have been.
    pub fn finish(&mut self) -> (Vec<Finding>, Time) {
        let minute = self.merged.unwrap_or(0) + self.config.audit.grace_minutes;
        let at = Time::from_minute(minute + 1).plus_ms(CLOSE_AFTER_MS);
        let mut out = Vec::new();
        self.audit.finish(&self.config, minute, at, &mut out);
        (out, at)
    }

    fn step(&mut self, part: &MinutePart, partial: bool, out: &mut Vec<Finding>) {
        let at = Time::from_minute(part.minute + 1).plus_ms(CLOSE_AFTER_MS);
        self.audit.minute(&self.config, part, at, !partial, out);
        self.drift.minute(&self.config, part, at, true, out);
        // A left-out partition makes rates and medians lean to the others': learnt, not judged.
        self.latency.minute(&self.config, part, at, !partial, out);
        self.errors.minute(&self.config, part, at, !partial, out);
        self.spend.minute(&self.config, part, at, !partial, out);
        // Senders that are missing only make it smaller.
        self.campaigns
            .minute(&self.config, part.minute, &part.attacks, at, out);
    }

    /// How far the detectors may go.
    pub fn stages(&self) -> &Stages {
        &self.config.stages
    }

    /// Judges the candidates whose minute is closed; each row is changed and must be written back.
    pub fn judge_values(&self, minute: i64, rows: &mut [(ValueKey, ValueRow)]) -> Vec<Finding> {
        let until = Time::from_minute(minute + 1);
        let at = until.plus_ms(CLOSE_AFTER_MS);
        rows.iter_mut()
            .flat_map(|(key, row)| row.judge(&self.config.stages, key, until, at))
            .collect()
    }
}
