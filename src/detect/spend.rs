//! Spending far above one's own baseline: per user in the partition, per key, tenant and model in
//! the leader. Home: partition (users), merged minute (the others, and co-elevation).
//!
//! The series is spending per 10 min. Two tests are fused, each scaled so that 1.0 is its
//! threshold: the last hour over the highest hour before (bursts), and the last six hours against
//! level and hour of the day on an arcsinh scale (sustained abuse), which must also exceed the
//! spender's own highest score: who is often wild must be wilder than that. Volume alone makes
//! tickets, never pages (measured: at one false alarm per user-month a page would be right one time
//! in twenty).

mod above;

pub use above::{Above, CoElevation};

use super::partition::Subject;
use super::wire::{Damaged, Reader, Writer};
use super::{DetectConfig, DetectorId, Finding, config, finding_id};
use crate::event::{Event, Pico, Severity, SmolStr, Stage, Time, UsageState};

/// Length of a bin, milliseconds.
pub const BIN_MS: i64 = 10 * 60_000;
/// Bins of the long window: six hours.
const RING: usize = 36;
/// Bins of the short window: one hour.
const HOUR: usize = 6;
/// A user whose hour is above the usual by this factor (a logarithm) counts as raised.
pub const RAISED: f32 = 0.4;
/// Bound of a user's part in co-elevation (a logarithm): one user is not a crowd.
pub const RAISE_CLIP: f32 = 2.0;
/// Pico-dollars that a token of a model without a price weighs: a dollar per million tokens, so
/// that unpriced use is still seen.
const UNPRICED_PICO: i64 = 1_000_000;

/// What an event weighs in spending: its cost, or its tokens at a nominal price (output thrice).
pub fn weight(event: &Event, cost: Option<Pico>) -> i64 {
    if event.usage.state == UsageState::Missing {
        return 0;
    }
    if let Some(pico) = cost.filter(|p| *p > 0) {
        return pico;
    }
    let tokens = event
        .usage
        .input
        .saturating_add(event.usage.output.saturating_mul(3));
    i64::try_from(tokens)
        .unwrap_or(i64::MAX)
        .saturating_mul(UNPRICED_PICO)
}

/// A clipped raise in thousandths, for sums that must not depend on their order.
#[expect(clippy::cast_possible_truncation, reason = "clipped to ±2,000")]
pub fn raise_milli(raise: f32) -> i64 {
    (raise.clamp(-RAISE_CLIP, RAISE_CLIP) * 1_000.0) as i64
}

/// What one step says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// [`Baseline::raise`] of the hour up to the bin that this event closed, where it closed one.
    pub raise: Option<f32>,
    /// The fused score as the windows stand; 1.0 is the threshold.
    pub score: f32,
    /// The threshold was crossed, and not within the refractory time before.
    pub alarm: Option<Alarm>,
}

/// A crossed threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// Start of the window it speaks of.
    pub since: Time,
    /// The fused score; 1.0 is the threshold.
    pub score: f32,
    /// Spending of the last hour, weight.
    pub hour: f32,
    /// What an hour usually is, weight.
    pub usual: f32,
}

/// Rule of the findings.
pub const RULE: &str = "spend-baseline";
/// Version of the rule.
const VERSION: u32 = 1;
/// Bins between two findings of one ongoing excess: an hour.
const AGAIN_AFTER: i64 = 6;
/// An excess is over when none has been seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 2 * 3_600_000;
/// Bins after a pause that are fed as zeros one by one; a longer pause forgets the windows.
const MAX_GAP: i64 = 1_008;
/// Closed bins until the seasonal test believes its baseline: a day.
const LEARN_BINS: u32 = 144;
/// Memory of means and deviations: a week of bins.
const WEEK: f32 = 1.0 / 1_008.0;
/// Per bin, the record loses half in 28 days.
const RECORD_DECAY: f32 = 0.999_828_1;
/// Per bin, the highest seasonal score loses half in 10 days.
const HIGHEST_DECAY: f32 = 0.999_5;
/// Threshold of the record test: the last hour over the highest hour before. Chosen with the other
/// two on half of the real users of a public trace at one false alarm per user-month.
const RECORD: f32 = 1.35;
/// Threshold of the seasonal test.
const SEASON: f32 = 3.0;
/// A seasonal score must also exceed the user's own highest by this factor: who is often wild must
/// be wilder than that.
const OWN: f32 = 1.1;
/// Deviations are never believed to be smaller than this (arcsinh scale).
const LEAST_DEVIATION: f32 = 0.1;

/// How long bins are, when it fires, and how often again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Length of a bin, milliseconds.
    pub bin_ms: i64,
    /// Spending in the short window below this never fires.
    pub floor: f32,
    /// Fused score from which it fires.
    pub threshold: f32,
    /// Bins between two alarms of one spender.
    pub again: i64,
}

impl Pace {
    fn product(config: &config::Spend) -> Self {
        Self {
            bin_ms: BIN_MS,
            #[expect(clippy::cast_precision_loss, reason = "a floor")]
            floor: config.floor as f32,
            threshold: config.threshold,
            again: AGAIN_AFTER,
        }
    }
}

/// The baseline of one spender.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// Index of the open bin; `None` before the first event.
    bin: Option<i64>,
    /// Spending in the open bin.
    open: f32,
    /// Closed bins, the latest at `at`.
    ring: [f32; RING],
    at: usize,
    /// Closed bins so far, saturating.
    closed: u32,
    /// Mean of the hourly sum, for people.
    mean: f32,
    /// Scale of the six-hour sum.
    scale: f32,
    /// Level of the transformed six-hour sum.
    level: f32,
    /// Its difference by hour of the day, and how often each was seen.
    hours: [f32; 24],
    seen: [u8; 24],
    /// Mean absolute deviation from level and hour.
    dev: f32,
    /// Highest hourly sum, decayed.
    record: f32,
    /// Highest seasonal score, decayed.
    highest: f32,
    /// Bin of the last alarm.
    told: Option<i64>,
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            bin: None,
            open: 0.0,
            ring: [0.0; RING],
            at: 0,
            closed: 0,
            mean: 0.0,
            scale: 0.0,
            level: 0.0,
            hours: [0.0; 24],
            seen: [0; 24],
            dev: 0.0,
            record: 0.0,
            highest: 0.0,
            told: None,
        }
    }
}

impl Baseline {
    /// Adds spending at a time and judges the windows as they stand.
    pub fn add(&mut self, end: Time, weight: i64, config: &config::Spend) -> Step {
        #[expect(clippy::cast_precision_loss, reason = "a baseline needs seven digits")]
        let w = weight as f32;
        self.add_at(end, w, &Pace::product(config))
    }

    /// [`Baseline::add`] at any pace.
    pub fn add_at(&mut self, end: Time, weight: f32, pace: &Pace) -> Step {
        let mut step = Step::default();
        let bin = end.0.div_euclid(pace.bin_ms);
        if self.bin.is_none() && weight <= 0.0 {
            // A baseline begins with the first spending.
            return step;
        }
        let open = *self.bin.get_or_insert(bin);
        if bin > open {
            step.raise = Some(self.raise());
            self.advance(bin, pace);
        }
        if bin < open {
            self.late_at(bin, weight);
            return step;
        }
        self.open += weight;
        if weight > 0.0 {
            let s = self.scores(bin, self.open, pace);
            step.score = s.fused;
            step.alarm = self.judge(bin, &s, pace);
        }
        step
    }

    /// Adds spending to a bin that has closed: the windows know it, what was learnt stays.
    pub(super) fn late(&mut self, end: Time, weight: i64) {
        #[expect(clippy::cast_precision_loss, reason = "a baseline needs seven digits")]
        self.late_at(end.0.div_euclid(BIN_MS), weight as f32);
    }

    fn late_at(&mut self, bin: i64, weight: f32) {
        let Some(open) = self.bin else { return };
        if bin >= open {
            self.open += weight;
            return;
        }
        let back = usize::try_from(open - bin).unwrap_or(usize::MAX);
        if back <= RING && back <= self.closed as usize {
            self.ring[(self.at + RING + 1 - back) % RING] += weight;
        }
    }

    /// Closes bins up to `bin`, feeding pauses as zeros.
    pub fn advance(&mut self, bin: i64, pace: &Pace) {
        let Some(open) = self.bin else { return };
        if bin - open > MAX_GAP {
            self.ring = [0.0; RING];
            self.open = 0.0;
            self.bin = Some(bin);
            return;
        }
        for b in open..bin {
            let x = std::mem::take(&mut self.open);
            self.close(b, x, pace);
        }
        self.bin = Some(bin);
    }

    /// Whether a day has been learnt.
    pub fn has_learnt(&self) -> bool {
        self.closed >= LEARN_BINS
    }

    /// How much more the last hour was than an hour usually is: a logarithm, for co-elevation. The
    /// seasonal score waits for six hours; a crowd shows within one.
    pub fn raise(&self) -> f32 {
        let hour_sum = self.last(HOUR - 1) + self.open;
        let least = 0.1 * self.mean.max(f32::MIN_POSITIVE);
        ((hour_sum + least) / (self.mean + least)).ln()
    }

    fn last(&self, n: usize) -> f32 {
        (0..n).map(|i| self.ring[(self.at + RING - i) % RING]).sum()
    }

    fn scores(&self, bin: i64, open: f32, pace: &Pace) -> Scores {
        let hour_sum = self.last(HOUR - 1) + open;
        let long_sum = self.last(RING - 1) + open;
        let usual = self.level + self.hours[hour_of(bin, pace)];
        let season = (transform(long_sum, self.scale) - usual) / self.dev.max(LEAST_DEVIATION);
        let record = if self.record > 0.0 {
            hour_sum / self.record
        } else {
            0.0
        };
        Scores {
            hour_sum,
            season,
            fused: (record / RECORD).max(season / SEASON.max(OWN * self.highest)),
        }
    }

    fn judge(&mut self, bin: i64, s: &Scores, pace: &Pace) -> Option<Alarm> {
        if !self.has_learnt() || s.fused < pace.threshold || s.hour_sum < pace.floor {
            return None;
        }
        if self.told.is_some_and(|t| bin - t < pace.again) {
            return None;
        }
        self.told = Some(bin);
        Some(Alarm {
            since: Time((bin - 5) * pace.bin_ms),
            score: s.fused,
            hour: s.hour_sum,
            usual: self.mean,
        })
    }

    /// Learns a closed bin.
    fn close(&mut self, bin: i64, x: f32, pace: &Pace) {
        let s = self.scores(bin, x, pace);
        let early = !self.has_learnt();
        self.at = (self.at + 1) % RING;
        self.ring[self.at] = x;
        self.closed = self.closed.saturating_add(1);
        let long_sum = self.last(RING);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let n = self.closed as f32;
        // Early on the mean of what was seen, later a week's memory.
        let rate = WEEK.max(1.0 / n);
        self.mean += rate * (s.hour_sum - self.mean);
        let least = 0.02 * self.record;
        let scale = if early {
            long_sum
        } else {
            long_sum.min(6.0 * self.scale.max(least))
        };
        self.scale += (0.5 * WEEK).max(1.0 / n) * (scale - self.scale);
        self.scale = self.scale.max(0.25 * least);
        let hour = hour_of(bin, pace);
        let difference = transform(long_sum, self.scale) - (self.level + self.hours[hour]);
        let limit = 4.0 * self.dev.max(0.05);
        let r = if early {
            difference
        } else {
            difference.clamp(-limit, limit)
        };
        self.level += 0.003f32.max(1.0 / n) * r;
        self.seen[hour] = self.seen[hour].saturating_add(1);
        let seldom = 0.5 / f32::from(self.seen[hour]);
        self.hours[hour] += 0.5 * r * (1.0f32 / 84.0).max(seldom);
        self.dev += rate * (r.abs() - self.dev);
        self.record = (self.record * RECORD_DECAY).max(s.hour_sum);
        if !early {
            self.highest = (self.highest * HIGHEST_DECAY).max(s.season);
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.option(self.bin, Writer::i64);
        if self.bin.is_none() {
            return;
        }
        w.f32(self.open);
        // In order of age, so that the place in the ring need not be kept; pauses take a bit.
        let values = (0..RING).map(|i| self.ring[(self.at + RING - i) % RING]);
        let mut mask = 0u64;
        for (i, x) in values.clone().enumerate() {
            mask |= u64::from(x != 0.0) << i;
        }
        w.u64(mask);
        for x in values.filter(|x| *x != 0.0) {
            w.f32(x);
        }
        w.u64(u64::from(self.closed));
        for x in [
            self.mean,
            self.scale,
            self.level,
            self.dev,
            self.record,
            self.highest,
        ] {
            w.f32(x);
        }
        for (x, n) in self.hours.iter().zip(self.seen) {
            w.u8(n);
            if n > 0 {
                w.f32(*x);
            }
        }
        w.option(self.told, Writer::i64);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut b = Self {
            bin: r.option(Reader::i64)?,
            ..Self::default()
        };
        if b.bin.is_none() {
            return Ok(b);
        }
        b.open = r.f32()?;
        b.at = RING - 1;
        let mask = r.u64()?;
        for i in 0..RING {
            if mask >> i & 1 == 1 {
                b.ring[RING - 1 - i] = r.f32()?;
            }
        }
        b.closed = r.small()?;
        b.mean = r.f32()?;
        b.scale = r.f32()?;
        b.level = r.f32()?;
        b.dev = r.f32()?;
        b.record = r.f32()?;
        b.highest = r.f32()?;
        for h in 0..24 {
            b.seen[h] = r.u8()?;
            if b.seen[h] > 0 {
                b.hours[h] = r.f32()?;
            }
        }
        b.told = r.option(Reader::i64)?;
        Ok(b)
    }
}

struct Scores {
    hour_sum: f32,
    season: f32,
    /// The better of the tests, over its threshold.
    fused: f32,
}

fn transform(sum: f32, scale: f32) -> f32 {
    if scale > 0.0 {
        (sum / (0.1 * scale)).asinh()
    } else {
        0.0
    }
}

fn hour_of(bin: i64, pace: &Pace) -> usize {
    let hour = bin.saturating_mul(pace.bin_ms).div_euclid(3_600_000);
    usize::try_from(hour.rem_euclid(24)).unwrap_or(0)
}

/// A weight as dollars: cents, or three digits below a dollar.
fn dollars(weight: f32) -> String {
    let d = f64::from(weight) / 1e12;
    if d >= 1.0 {
        format!("${d:.2}")
    } else {
        format!("${d:.4}")
    }
}

/// The finding of a user's alarm.
pub(super) fn finding(
    config: &DetectConfig,
    event: &Event,
    end: Time,
    subject: &Subject<'_>,
    alarm: &Alarm,
) -> Finding {
    let name = subject.name();
    let (severity, stage) = grade(alarm);
    Finding {
        id: finding_id(
            DetectorId::Spend,
            RULE,
            VERSION,
            &name,
            &alarm.since.0.to_le_bytes(),
        ),
        detector: DetectorId::Spend,
        rule: SmolStr::new_static(RULE),
        version: VERSION,
        severity,
        stage: config.stage(DetectorId::Spend, stage),
        tenant: event.tenant_or_empty(),
        subject: name,
        at: end,
        start: alarm.since,
        end,
        user: subject.user(),
        model: Some(event.model().clone()),
        gateway: Some(event.gateway.clone()),
        event: Some(event.id.clone()),
        reason: alarm.reason(),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}

/// Volume alone is a ticket; three times the threshold is a worse one.
fn grade(alarm: &Alarm) -> (Severity, Stage) {
    if alarm.score >= 3.0 {
        (Severity::High, Stage::Ticket)
    } else {
        (Severity::Medium, Stage::Ticket)
    }
}

impl Alarm {
    /// One sentence.
    pub fn reason(&self) -> String {
        format!(
            "spent {} within an hour, usually {}; score {:.1} times the threshold",
            dollars(self.hour),
            dollars(self.usual),
            self.score
        )
    }
}
