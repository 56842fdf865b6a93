//! Spending of keys, tenants and models, and co-elevation: many users a little up at once. Home:
//! merged minute.

use std::collections::BTreeMap;

use super::{Alarm, Baseline, CoElevation, Crowd, RESOLVE_AFTER_MS, RULE, VERSION, grade};
use crate::detect::part::{MinutePart, Spender};
use crate::detect::wire::{Damaged, Reader, Writer};
use crate::detect::{DetectConfig, DetectorId, Finding, finding_id, room};
use crate::event::{Severity, SmolStr, Stage, Time};

/// Spenders above the user that have a baseline; beyond it the longest unused is forgotten.
const MAX_SPENDERS: usize = 4_096;
/// Tenants with co-elevation.
const MAX_TENANTS: usize = 1_024;
/// Bins between two findings of one crowd: an hour.
const AGAIN_AFTER: i64 = 6;

#[derive(Debug, Clone, Default, PartialEq)]
struct AboveOne {
    born: i64,
    last: i64,
    baseline: Baseline,
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
            if let Some(crowd) = t.minute(part.minute, now, AGAIN_AFTER)
                && crowd.alarm
                && fire
            {
                out.push(elevation_finding(config, tenant, part.minute, at, &crowd));
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
            t.encode(w);
        }
    }

    /// `old`: the format before this one, of which co-elevation is discarded: it was of another kind.
    pub(in crate::detect) fn decode(r: &mut Reader<'_>, old: bool) -> Result<Self, Damaged> {
        let mut a = Self::default();
        for _ in 0..r.len()? {
            let who = Spender::decode(r)?;
            let one = AboveOne {
                born: r.i64()?,
                last: r.i64()?,
                baseline: if old {
                    Baseline::decode_v1(r)?
                } else {
                    Baseline::decode(r)?
                },
            };
            a.spenders.insert(who, one);
        }
        for _ in 0..r.len()? {
            let tenant = r.str()?;
            if old {
                skip_v1(r)?;
            } else {
                a.tenants.insert(tenant, CoElevation::decode(r)?);
            }
        }
        Ok(a)
    }
}

fn skip_v1(r: &mut Reader<'_>) -> Result<(), Damaged> {
    let _minutes: u32 = r.small()?;
    let _usual = (r.f64()?, r.f64()?, r.option(Reader::i64)?);
    for _ in 0..r.len()? {
        let _minute = (r.u64()?, r.i64()?, r.u64()?);
    }
    Ok(())
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
    crowd: &Crowd,
) -> Finding {
    let rule = "spend-co-elevation";
    let share = 100.0 * crowd.raised as f64 / crowd.users.max(1) as f64;
    let subject = smol_str::format_smolstr!("tenant:{tenant}");
    Finding {
        id: finding_id(DetectorId::Spend, rule, 2, &subject, &minute.to_le_bytes()),
        detector: DetectorId::Spend,
        rule: SmolStr::new_static(rule),
        version: 2,
        severity: Severity::Medium,
        stage: config.stage(DetectorId::Spend, Stage::Ticket),
        tenant: tenant.clone(),
        subject,
        at,
        start: Time::from_minute(minute - 29),
        end: Time::from_minute(minute + 1),
        user: None,
        model: None,
        gateway: None,
        event: None,
        reason: format!(
            "many users spend a little more at once: {share:.0} % of {} steady users are raised in the last half hour, {:.1} deviations above the usual",
            crowd.users,
            crowd.deviations()
        ),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}
