//! Spending of keys, tenants and models, and co-elevation: many users a little up at once. Home:
//! merged minute.

use std::collections::BTreeMap;

use super::{Alarm, Baseline, CoElevation, Crowd, RESOLVE_AFTER_MS, RULE, VERSION, grade};
use crate::detect::part::{MinutePart, Spender};
use crate::detect::wire::{Damaged, Reader, Writer};
use crate::detect::{DetectConfig, DetectorId, Finding, finding_id, room};
use crate::event::{Severity, SmolStr, Stage, Time};

/// Spenders above the user that have a baseline: keys, tenants, models, each with room of their own, so
/// that many keys blind nobody to their tenant. Beyond it the longest unused is forgotten and counted.
const MAX_SPENDERS: [usize; 3] = [4_096, 1_024, 1_024];
/// The leader's checkpoints up to this format hold baselines and co-elevation of the first kind, up to
/// this one baselines of the second, and up to this one nothing of what was left out.
const FIRST_FORMATS: i32 = 2;
const SECOND_FORMATS: i32 = 7;
const UNCOUNTED_FORMATS: i32 = 5;
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
    /// By kind: keys, tenants, models.
    spenders: [BTreeMap<Spender, AboveOne>; 3],
    /// Spenders forgotten, or left out of a minute, for want of room, ever.
    left_out: u64,
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
        for (kind, (table, max)) in self.spenders.iter_mut().zip(MAX_SPENDERS).enumerate() {
            let known = &*table;
            let is_new = |w: &&Spender| w.kind() == kind && !known.contains_key(*w);
            let new = part.spend.keys().filter(is_new).count();
            self.left_out +=
                room::make(table, new, max, |w| part.spend.contains_key(w), |s| s.last);
        }
        for (who, weight) in &part.spend {
            let (table, max) = (&mut self.spenders[who.kind()], MAX_SPENDERS[who.kind()]);
            if table.len() >= max && !table.contains_key(who) {
                self.left_out += 1;
                continue;
            }
            let s = table.entry(who.clone()).or_insert_with(|| AboveOne {
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

    /// Spenders forgotten, or left out of a minute, for want of room, ever.
    pub(in crate::detect) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Late spending reaches the baselines.
    pub(in crate::detect) fn late(&mut self, part: &MinutePart) {
        let end = Time::from_minute(part.minute + 1).minus_ms(1);
        for (who, weight) in &part.spend {
            if let Some(s) = self.spenders[who.kind()].get_mut(who) {
                let weight = i64::try_from(*weight).unwrap_or(i64::MAX);
                s.baseline.late(end, weight);
            }
        }
    }

    pub(in crate::detect) fn encode(&self, w: &mut Writer) {
        w.u64(self.left_out);
        w.len(self.spenders.iter().map(BTreeMap::len).sum());
        for (who, s) in self.spenders.iter().flatten() {
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

    /// `fmt`: that of the leader's checkpoint. Co-elevation of the oldest is discarded: it was of another
    /// kind.
    pub(in crate::detect) fn decode(r: &mut Reader<'_>, fmt: i32) -> Result<Self, Damaged> {
        let old = fmt <= FIRST_FORMATS;
        let mut a = Self::default();
        if fmt > UNCOUNTED_FORMATS {
            a.left_out = r.u64()?;
        }
        for _ in 0..r.len()? {
            let who = Spender::decode(r)?;
            let one = AboveOne {
                born: r.i64()?,
                last: r.i64()?,
                baseline: if old {
                    Baseline::decode_v1(r)?
                } else if fmt <= SECOND_FORMATS {
                    Baseline::decode_v2(r)?
                } else {
                    Baseline::decode(r)?
                },
            };
            a.spenders[who.kind()].insert(who, one);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pseudonym;

    #[test]
    fn many_keys_blind_nobody_to_their_tenant_or_model() {
        let config = DetectConfig::default();
        let (mut above, mut out) = (Above::default(), Vec::new());
        let keys: Vec<Spender> = (0..4_200u32)
            .map(|n| {
                let text = format!("k7:{:0>22}", format!("{n}A"));
                let key: Pseudonym = text.parse().expect("a pseudonym");
                Spender::Key(SmolStr::new("acme"), key)
            })
            .collect();
        let named = [
            Spender::Tenant(SmolStr::new("acme")),
            Spender::Model(SmolStr::new("gpt-4o")),
        ];
        // Every other bin is enough to learn from.
        let bins: Vec<i64> = (0..150).step_by(2).chain(150..156).collect();
        for bin in bins.iter().copied() {
            let mut part = MinutePart {
                minute: bin * 10,
                ..MinutePart::default()
            };
            for key in &keys {
                part.spend.insert(key.clone(), 1_000_000_000);
            }
            let burst = if bin >= 150 { 60 } else { 1 };
            for who in &named {
                let noise = i128::from(bin * 7 % 5) * 1_000_000_000;
                part.spend
                    .insert(who.clone(), burst * (40_000_000_000 + noise));
            }
            let at = Time::from_minute(part.minute);
            above.minute(&config, &part, at, true, &mut out);
        }
        let mut subjects: Vec<_> = out.iter().map(|f| f.subject.as_str()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        assert_eq!(subjects, ["model:gpt-4o", "tenant:acme"]);
        assert_eq!(above.left_out(), bins.len() as u64 * (4_200 - 4_096));
        let mut w = Writer::default();
        above.encode(&mut w);
        let format = crate::detect::leader::FORMAT;
        let back = Above::decode(&mut Reader::new(&w.0), format).expect("decode");
        let mut again = Writer::default();
        back.encode(&mut again);
        assert!(again.0 == w.0, "it reads what it writes");
    }
}
