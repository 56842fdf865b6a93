//! Spending far above one's own baseline: per user in the partition, per key, tenant and model in
//! the leader. Home: partition (users), merged minute (the others, and co-elevation).
//!
//! The series is spending per 10 min. Three tests are fused, each scaled so that 1.0 is its
//! threshold: a linear z of the last hour (bursts), a seasonal z of the last six hours on an
//! arcsinh scale (sustained abuse), and the ratio to the user's own decayed record. Volume alone
//! makes tickets, never pages (measured: at one false alarm per user-month a page would be right
//! one time in twenty).

use std::collections::BTreeMap;

use super::part::{self, MinutePart, Spender};
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
/// z of a user that counts as raised in co-elevation.
pub const RAISED_Z: f32 = 1.5;
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

/// A z score in thousandths, clipped to ±3, for sums that must not depend on their order.
#[expect(clippy::cast_possible_truncation, reason = "clipped to ±3,000")]
pub fn z_milli(z: f32) -> i64 {
    (z.clamp(-3.0, 3.0) * 1_000.0) as i64
}

/// What one step says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// z of the bin that this event closed, where it closed one.
    pub closed_z: Option<f32>,
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
    /// Linear mean and variance of the hourly sum.
    mean: f32,
    var: f32,
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
    /// Bin of the last finding.
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
            var: 0.0,
            scale: 0.0,
            level: 0.0,
            hours: [0.0; 24],
            seen: [0; 24],
            dev: 0.0,
            record: 0.0,
            told: None,
        }
    }
}

impl Baseline {
    /// Adds spending at a time and judges the windows as they stand.
    pub fn add(&mut self, end: Time, weight: i64, config: &config::Spend) -> Step {
        let mut step = Step::default();
        let bin = end.0.div_euclid(BIN_MS);
        let open = *self.bin.get_or_insert(bin);
        if bin > open {
            step.closed_z = Some(self.advance(bin));
        }
        #[expect(clippy::cast_precision_loss, reason = "a baseline needs seven digits")]
        let w = weight as f32;
        if bin < open {
            self.late(end, weight);
            return step;
        }
        self.open += w;
        if weight > 0 {
            step.alarm = self.judge(bin, config);
        }
        step
    }

    /// Adds spending to a bin that has closed: the windows know it, what was learnt stays.
    pub(super) fn late(&mut self, end: Time, weight: i64) {
        let bin = end.0.div_euclid(BIN_MS);
        let Some(open) = self.bin else { return };
        #[expect(clippy::cast_precision_loss, reason = "a baseline needs seven digits")]
        let w = weight as f32;
        if bin >= open {
            self.open += w;
            return;
        }
        let back = usize::try_from(open - bin).unwrap_or(usize::MAX);
        if back <= RING && back <= self.closed as usize {
            self.ring[(self.at + RING + 1 - back) % RING] += w;
        }
    }

    /// Closes bins up to `bin`, feeding pauses as zeros; the z of the first bin closed.
    pub fn advance(&mut self, bin: i64) -> f32 {
        let Some(open) = self.bin else {
            self.bin = Some(bin);
            return 0.0;
        };
        if bin - open > MAX_GAP {
            self.ring = [0.0; RING];
            self.open = 0.0;
            self.bin = Some(bin);
            return 0.0;
        }
        let mut first = None;
        for b in open..bin {
            let x = std::mem::take(&mut self.open);
            let z = self.close(b, x);
            first.get_or_insert(z);
        }
        self.bin = Some(bin);
        first.unwrap_or(0.0)
    }

    fn sums(&self, open: f32) -> (f32, f32) {
        let last =
            |n: usize| -> f32 { (0..n).map(|i| self.ring[(self.at + RING - i) % RING]).sum() };
        (last(HOUR - 1) + open, last(RING - 1) + open)
    }

    fn scores(&self, bin: i64, open: f32) -> Scores {
        let (s1, s6) = self.sums(open);
        let sd = self
            .var
            .max(0.0)
            .sqrt()
            .max(0.1 * self.mean)
            .max(f32::MIN_POSITIVE);
        let hour = hour_of(bin);
        let y = transform(s6, self.scale);
        let base = self.level + self.hours[hour];
        let dev = self.dev.max(0.05);
        Scores {
            s1,
            z1: (s1 - self.mean) / sd,
            z6: (y - base) / dev,
            record: if self.record > 0.0 {
                s1 / self.record
            } else {
                0.0
            },
        }
    }

    fn judge(&mut self, bin: i64, config: &config::Spend) -> Option<Alarm> {
        if self.closed < u32::try_from(RING).unwrap_or(u32::MAX) {
            return None;
        }
        let s = self.scores(bin, self.open);
        let score = s.fused();
        #[expect(clippy::cast_precision_loss, reason = "a floor")]
        let floor = config.floor as f32;
        if score < config.threshold || s.s1 < floor {
            return None;
        }
        if self.told.is_some_and(|t| bin - t < AGAIN_AFTER) {
            return None;
        }
        self.told = Some(bin);
        Some(Alarm {
            since: Time((bin - 5) * BIN_MS),
            score,
            hour: s.s1,
            usual: self.mean,
        })
    }

    /// Learns a closed bin; its z for co-elevation.
    fn close(&mut self, bin: i64, x: f32) -> f32 {
        let s = self.scores(bin, x);
        self.at = (self.at + 1) % RING;
        self.ring[self.at] = x;
        self.closed = self.closed.saturating_add(1);
        let (_, s6) = self.sums_closed();
        let n = self.closed as f32;
        // Early on the mean of what was seen, later a week's memory.
        let a = (1.0 / 1_008.0f32).max(1.0 / n);
        let clipped =
            s.s1.min(self.mean + 6.0 * self.var.max(0.0).sqrt() + self.mean);
        let learn = if self.closed < 144 { s.s1 } else { clipped };
        let d = learn - self.mean;
        self.mean += a * d;
        self.var = (1.0 - a) * (self.var + a * d * d);
        let scale = s6.min(6.0 * self.scale.max(f32::MIN_POSITIVE));
        let scale = if self.closed < 144 { s6 } else { scale };
        self.scale += (1.0 / 2_016.0f32).max(1.0 / n) * (scale - self.scale);
        let hour = hour_of(bin);
        let y = transform(s6, self.scale);
        let base = self.level + self.hours[hour];
        let limit = 4.0 * self.dev.max(0.05);
        let r = if self.closed < 144 {
            y - base
        } else {
            (y - base).clamp(-limit, limit)
        };
        self.level += 0.003f32.max(1.0 / n) * r;
        self.seen[hour] = self.seen[hour].saturating_add(1);
        self.hours[hour] += (1.0 / 84.0f32).max(0.5 / f32::from(self.seen[hour])) * r * 0.5;
        self.dev += a * (r.abs() - self.dev);
        self.record = (self.record * RECORD_DECAY).max(s.s1);
        s.z6
    }

    fn sums_closed(&self) -> (f32, f32) {
        let last =
            |n: usize| -> f32 { (0..n).map(|i| self.ring[(self.at + RING - i) % RING]).sum() };
        (last(HOUR), last(RING))
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.option(self.bin, Writer::i64);
        if self.bin.is_none() {
            return;
        }
        w.f32(self.open);
        // In order of age, so that the place in the ring need not be kept.
        for i in 0..RING {
            let x = self.ring[(self.at + RING - i) % RING];
            w.bool(x != 0.0);
            if x != 0.0 {
                w.f32(x);
            }
        }
        w.u64(u64::from(self.closed));
        for x in [
            self.mean,
            self.var,
            self.scale,
            self.level,
            self.dev,
            self.record,
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
        for i in 0..RING {
            if r.bool()? {
                b.ring[RING - 1 - i] = r.f32()?;
            }
        }
        b.closed = r.small()?;
        b.mean = r.f32()?;
        b.var = r.f32()?;
        b.scale = r.f32()?;
        b.level = r.f32()?;
        b.dev = r.f32()?;
        b.record = r.f32()?;
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

/// Half-life of the record: 28 days of bins.
const RECORD_DECAY: f32 = 0.999_828_1;

struct Scores {
    s1: f32,
    z1: f32,
    z6: f32,
    record: f32,
}

impl Scores {
    /// Each test over its threshold, the best of them.
    fn fused(&self) -> f32 {
        (self.z1 / Z1).max(self.z6 / Z6).max(self.record / RECORD)
    }
}

/// Threshold of the hourly z.
const Z1: f32 = 9.0;
/// Threshold of the seasonal z.
const Z6: f32 = 6.0;
/// Threshold of the record ratio.
const RECORD: f32 = 8.0;

fn transform(s6: f32, scale: f32) -> f32 {
    if scale > 0.0 {
        (s6 / (0.1 * scale)).asinh()
    } else {
        0.0
    }
}

fn hour_of(bin: i64) -> usize {
    usize::try_from(bin.div_euclid(6).rem_euclid(24)).unwrap_or(0)
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
            "spent ${:.2} within an hour, usually ${:.2}; score {:.1} times the threshold",
            f64::from(self.hour) / 1e12,
            f64::from(self.usual) / 1e12,
            self.score
        )
    }
}

/// Spenders above the user that have a baseline; beyond it the longest unused is forgotten.
const MAX_SPENDERS: usize = 4_096;
/// Tenants with co-elevation.
const MAX_TENANTS: usize = 1_024;
/// Minutes over which co-elevation is taken.
const ELEVATION_MINUTES: usize = 60;
/// Closed bins needed in that time.
const ELEVATION_BINS: u64 = 60;
/// Score of co-elevation from which it fires.
const ELEVATION_Z: f64 = 6.0;
/// Minutes until co-elevation has learnt: two days.
const ELEVATION_LEARN: u32 = 2 * 1_440;

#[derive(Debug, Clone, Default, PartialEq)]
struct AboveOne {
    born: i64,
    last: i64,
    baseline: Baseline,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct CoElevation {
    /// Newest first.
    ring: std::collections::VecDeque<part::Elevation>,
    minutes: u32,
    mean: f64,
    var: f64,
    told: Option<i64>,
}

/// Spending of keys, tenants and models, and co-elevation of users: the leader's part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Above {
    spenders: BTreeMap<Spender, AboveOne>,
    tenants: BTreeMap<SmolStr, CoElevation>,
}

impl Above {
    pub(super) fn minute(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        at: Time,
        fire: bool,
        out: &mut Vec<Finding>,
    ) {
        let end = Time::from_minute(part.minute + 1).minus_ms(1);
        for (who, weight) in &part.spend {
            if !self.spenders.contains_key(who) && self.spenders.len() >= MAX_SPENDERS {
                let oldest = self
                    .spenders
                    .iter()
                    .min_by_key(|(n, s)| (s.last, (*n).clone()))
                    .map(|(n, _)| n.clone());
                if let Some(n) = oldest {
                    self.spenders.remove(&n);
                }
            }
            let s = self
                .spenders
                .entry(who.clone())
                .or_insert_with(|| AboveOne {
                    born: part.minute,
                    ..AboveOne::default()
                });
            s.last = part.minute;
            let weight = i64::try_from(*weight).unwrap_or(i64::MAX);
            let step = s.baseline.add(end, weight, &config.spend);
            let learning = (part.minute - s.born) * 60_000 < config.spend.learn_ms;
            if let Some(alarm) = step.alarm
                && !learning
                && fire
            {
                out.push(above_finding(config, who, part.minute, at, &alarm));
            }
        }
        for tenant in part.elevation.keys() {
            if self.tenants.len() < MAX_TENANTS || self.tenants.contains_key(tenant) {
                self.tenants.entry(tenant.clone()).or_default();
            }
        }
        for (tenant, t) in &mut self.tenants {
            let now = part.elevation.get(tenant).copied().unwrap_or_default();
            if let Some((z, users, raised)) = t.step(now)
                && fire
                && t.told.is_none_or(|m| part.minute - m >= 60)
            {
                t.told = Some(part.minute);
                out.push(elevation_finding(
                    config,
                    tenant,
                    part.minute,
                    at,
                    (z, users, raised),
                ));
            }
        }
    }

    /// Late spending reaches the baselines.
    pub(super) fn late(&mut self, part: &MinutePart) {
        let end = Time::from_minute(part.minute + 1).minus_ms(1);
        for (who, weight) in &part.spend {
            if let Some(s) = self.spenders.get_mut(who) {
                let weight = i64::try_from(*weight).unwrap_or(i64::MAX);
                s.baseline.late(end, weight);
            }
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.len(self.spenders.len());
        for (who, s) in &self.spenders {
            who.encode(w);
            w.i64(s.born);
            w.i64(s.last);
            s.baseline.encode(w);
        }
        w.len(self.tenants.len());
        for (tenant, t) in &self.tenants {
            w.str(tenant);
            w.u64(u64::from(t.minutes));
            w.f64(t.mean);
            w.f64(t.var);
            w.option(t.told, Writer::i64);
            w.len(t.ring.len());
            for e in &t.ring {
                w.u64(e.users);
                w.i64(e.z_milli);
                w.u64(e.raised);
            }
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut a = Self::default();
        for _ in 0..r.len()? {
            let who = Spender::decode(r)?;
            let one = AboveOne {
                born: r.i64()?,
                last: r.i64()?,
                baseline: Baseline::decode(r)?,
            };
            a.spenders.insert(who, one);
        }
        for _ in 0..r.len()? {
            let tenant = r.str()?;
            let mut t = CoElevation {
                minutes: r.small()?,
                mean: r.f64()?,
                var: r.f64()?,
                told: r.option(Reader::i64)?,
                ..CoElevation::default()
            };
            for _ in 0..r.len()? {
                t.ring.push_back(part::Elevation {
                    users: r.u64()?,
                    z_milli: r.i64()?,
                    raised: r.u64()?,
                });
            }
            a.tenants.insert(tenant, t);
        }
        Ok(a)
    }
}

impl CoElevation {
    /// Takes a minute; (score, bins, share of raised users) where it is far above the usual.
    fn step(&mut self, now: part::Elevation) -> Option<(f64, u64, f64)> {
        self.ring.push_front(now);
        self.ring.truncate(ELEVATION_MINUTES);
        let users: u64 = self.ring.iter().map(|e| e.users).sum();
        if users < ELEVATION_BINS {
            return None;
        }
        let sum: i64 = self.ring.iter().map(|e| e.z_milli).sum();
        let raised: u64 = self.ring.iter().map(|e| e.raised).sum();
        let mean = sum as f64 / 1_000.0 / users as f64;
        // Chance makes small crowds vary more.
        let sd = self.var.sqrt().max(0.05) + 1.0 / (users as f64).sqrt();
        let z = (mean - self.mean) / sd;
        let n = f64::from(self.minutes) + 1.0;
        let a = (1.0f64 / 10_080.0).max(1.0 / n);
        let d = (mean - self.mean).clamp(-4.0 * sd, 4.0 * sd);
        self.mean += a * d;
        self.var = (1.0 - a) * (self.var + a * d * d);
        self.minutes = self.minutes.saturating_add(1);
        (self.minutes > ELEVATION_LEARN && z >= ELEVATION_Z)
            .then(|| (z, users, raised as f64 / users as f64))
    }
}

fn above_finding(
    config: &DetectConfig,
    who: &Spender,
    minute: i64,
    at: Time,
    alarm: &Alarm,
) -> Finding {
    let (tenant, subject, model) = match who {
        Spender::Key(tenant, key) => (tenant.clone(), smol_str::format_smolstr!("key:{key}"), None),
        Spender::Tenant(tenant) => (
            tenant.clone(),
            smol_str::format_smolstr!("tenant:{tenant}"),
            None,
        ),
        Spender::Model(model) => (
            SmolStr::default(),
            smol_str::format_smolstr!("model:{model}"),
            Some(model.clone()),
        ),
    };
    let (severity, stage) = grade(alarm);
    Finding {
        id: finding_id(
            DetectorId::Spend,
            RULE,
            VERSION,
            &subject,
            &minute.to_le_bytes(),
        ),
        detector: DetectorId::Spend,
        rule: SmolStr::new_static(RULE),
        version: VERSION,
        severity,
        stage: config.stage(DetectorId::Spend, stage),
        tenant,
        subject,
        at,
        start: alarm.since,
        end: Time::from_minute(minute + 1),
        user: None,
        model,
        gateway: None,
        event: None,
        reason: alarm.reason(),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}

fn elevation_finding(
    config: &DetectConfig,
    tenant: &SmolStr,
    minute: i64,
    at: Time,
    (z, users, raised): (f64, u64, f64),
) -> Finding {
    let rule = "spend-co-elevation";
    let subject = smol_str::format_smolstr!("tenant:{tenant}");
    Finding {
        id: finding_id(DetectorId::Spend, rule, 1, &subject, &minute.to_le_bytes()),
        detector: DetectorId::Spend,
        rule: SmolStr::new_static(rule),
        version: 1,
        severity: Severity::Medium,
        stage: config.stage(DetectorId::Spend, Stage::Ticket),
        tenant: tenant.clone(),
        subject,
        at,
        start: Time::from_minute(minute - 59),
        end: Time::from_minute(minute + 1),
        user: None,
        model: None,
        gateway: None,
        event: None,
        reason: format!(
            "many users spend a little more at once: {:.0} % of {users} user intervals of the last hour are raised, {z:.1} deviations above the usual",
            100.0 * raised
        ),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}
