//! Spending of keys, tenants and models, and co-elevation: many users a little up at once. Home:
//! merged minute.

use std::collections::{BTreeMap, VecDeque};

use super::{Alarm, Baseline, RAISE_CLIP, RESOLVE_AFTER_MS, RULE, VERSION, grade};
use crate::detect::part::{self, MinutePart, Spender};
use crate::detect::wire::{Damaged, Reader, Writer};
use crate::detect::{DetectConfig, DetectorId, Finding, finding_id, room};
use crate::event::{Severity, SmolStr, Stage, Time};

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

/// How raised a crowd is, against its own usual.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CoElevation {
    /// Newest first.
    ring: VecDeque<part::Elevation>,
    minutes: u32,
    mean: f64,
    var: f64,
    told: Option<i64>,
    /// By hour of the day, for [`CoElevation::crowd`].
    hours: [f64; 24],
}

/// Spending of keys, tenants and models, and co-elevation of users: the leader's part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Above {
    spenders: BTreeMap<Spender, AboveOne>,
    tenants: BTreeMap<SmolStr, CoElevation>,
}

impl Above {
    pub(in crate::detect) fn minute(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        at: Time,
        fire: bool,
        out: &mut Vec<Finding>,
    ) {
        let end = Time::from_minute(part.minute + 1).minus_ms(1);
        let known = &self.spenders;
        let new = part.spend.keys().filter(|w| !known.contains_key(w)).count();
        room::make(
            &mut self.spenders,
            new,
            MAX_SPENDERS,
            |w| part.spend.contains_key(w),
            |s| s.last,
        );
        for (who, weight) in &part.spend {
            if self.spenders.len() >= MAX_SPENDERS && !self.spenders.contains_key(who) {
                continue;
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
    pub(in crate::detect) fn late(&mut self, part: &MinutePart) {
        let end = Time::from_minute(part.minute + 1).minus_ms(1);
        for (who, weight) in &part.spend {
            if let Some(s) = self.spenders.get_mut(who) {
                let weight = i64::try_from(*weight).unwrap_or(i64::MAX);
                s.baseline.late(end, weight);
            }
        }
    }

    pub(in crate::detect) fn encode(&self, w: &mut Writer) {
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
                w.i64(e.raise_milli);
                w.u64(e.raised);
            }
        }
    }

    pub(in crate::detect) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
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
                    raise_milli: r.i64()?,
                    raised: r.u64()?,
                });
            }
            a.tenants.insert(tenant, t);
        }
        Ok(a)
    }
}

/// Deviations of a crowd from which it alarms.
const CROWD_Z: f64 = 4.0;
/// Bins until a crowd's usual is known: two days.
const CROWD_LEARN: u32 = 288;
/// Bins between two alarms of a crowd.
const CROWD_AGAIN: i64 = 36;

impl CoElevation {
    /// Takes a bin with the raises of every key (`series --keyed`): the score, of which 1.0 is the
    /// threshold, and whether this bin raises an alarm.
    pub fn crowd(
        &mut self,
        hour: usize,
        bin: i64,
        raises: impl Iterator<Item = f32>,
    ) -> (f64, bool) {
        let (mut n, mut sum) = (0u64, 0.0f64);
        for z in raises {
            n += 1;
            sum += f64::from(z.clamp(-RAISE_CLIP, RAISE_CLIP));
        }
        if n < 10 {
            return (0.0, false);
        }
        let mean = sum / n as f64;
        let usual = self.mean + self.hours[hour % 24];
        let sd = self.var.sqrt().max(0.03);
        let z = (mean - usual) / sd;
        self.minutes = self.minutes.saturating_add(1);
        let rate = (1.0f64 / 1_008.0).max(1.0 / f64::from(self.minutes));
        let d = (mean - usual).clamp(-4.0 * sd, 4.0 * sd);
        self.mean += rate * d;
        self.hours[hour % 24] += 0.02 * d;
        self.var += rate * (d * d - self.var);
        let score = z / CROWD_Z;
        let alarm = self.minutes > CROWD_LEARN
            && score >= 1.0
            && self.told.is_none_or(|t| bin - t >= CROWD_AGAIN);
        if alarm {
            self.told = Some(bin);
        }
        (
            if self.minutes > CROWD_LEARN {
                score
            } else {
                0.0
            },
            alarm,
        )
    }

    /// Takes a minute; (score, bins, share of raised users) where it is far above the usual.
    fn step(&mut self, now: part::Elevation) -> Option<(f64, u64, f64)> {
        self.ring.push_front(now);
        self.ring.truncate(ELEVATION_MINUTES);
        let users: u64 = self.ring.iter().map(|e| e.users).sum();
        if users < ELEVATION_BINS {
            return None;
        }
        let sum: i64 = self.ring.iter().map(|e| e.raise_milli).sum();
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
