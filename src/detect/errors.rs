//! Error, timeout, throttling, rejection and block rates against their baseline: per model that was asked
//! for, per version that answered, both by route, and rejections per tenant. Home: merged minute.
//!
//! The failures of the last one, two, three and five minutes are compared with what the baseline would
//! make of as many requests (a Poisson tail, in powers of ten, called *surprise*). Where failures come
//! in clusters on usual days, the surprise is divided by how much more they vary than chance. While a
//! baseline learns, only an absolute ceiling fires; what is over it is not learnt.
//!
//! A failed request seldom names the version that would have answered, so the model asked for has a
//! baseline over all of its versions. What goes wrong together is one incident ([`super::spread`]).

mod rate;

use std::collections::BTreeMap;

pub(super) use rate::surprise;
use rate::{Excess, KINDS, Minute, Rate};

use super::part::{MinutePart, ModelKey, ModelSeen};
use super::spread::{self, Now, Spread, model_subject};
use super::wire::{Damaged, Reader, Writer};
use super::{DetectConfig, DetectorId, Finding, finding_id, room};
use crate::event::{Decision, Event, Severity, SmolStr, Stage, Time};

/// Models, versions and routes kept; beyond it the longest unused is forgotten.
const MAX_KEYS: usize = 2_048;
/// Tenants kept; beyond it the longest unused is forgotten.
const MAX_TENANTS: usize = 1_024;
/// Requests of the other tenants from which they tell whether a rejection is one tenant's own.
const OTHERS: u64 = 20;
/// An excess is over when none has been seen for this long, minutes.
const RESOLVE_AFTER: i64 = 15;

/// How a call ended, as far as rates are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of one answer, not states"
)]
pub struct Outcome {
    /// The provider or the way to it failed (timeouts included).
    pub error: bool,
    /// It took too long.
    pub timeout: bool,
    /// The provider refused for rate.
    pub throttled: bool,
    /// The provider would not have it (other 4xx): a caller's mistake, a revoked key, a model retired.
    pub client: bool,
    /// The part of these that are 401, 403 and 404.
    pub denied: bool,
    /// The gateway's policy blocked it.
    pub blocked: bool,
}

impl Outcome {
    /// Reads status, error class and policy.
    pub fn of(event: &Event) -> Self {
        let class = event.error.as_deref().unwrap_or_default();
        let timeout = matches!(event.status, 408 | 504) || class.contains("timeout");
        let throttled = event.status == 429 || class.contains("rate_limit");
        let network =
            class.contains("connection") || class.contains("network") || class.contains("reset");
        let client = (400..500).contains(&event.status) && !timeout && !throttled;
        Self {
            error: timeout || (event.status >= 500 && !throttled) || network,
            timeout,
            throttled,
            client,
            denied: client && matches!(event.status, 401 | 403 | 404),
            blocked: event
                .policy
                .as_ref()
                .is_some_and(|p| p.decision == Decision::Block),
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Errors,
    Throttled,
    Rejected,
    Blocked,
}

impl What {
    const ALL: [Self; KINDS] = [Self::Errors, Self::Throttled, Self::Rejected, Self::Blocked];
    /// What one tenant may see alone. The rest is the provider's.
    const OF_A_TENANT: [Self; 2] = [Self::Rejected, Self::Blocked];

    fn rule(self) -> &'static str {
        match self {
            Self::Errors => "errors-rate",
            Self::Throttled => "errors-throttled",
            Self::Rejected => "errors-rejected",
            Self::Blocked => "errors-blocked",
        }
    }
}

/// One model or version on one route.
#[derive(Debug, Clone, Default, PartialEq)]
struct Key {
    rate: Rate,
    /// The model that was asked for.
    family: SmolStr,
    /// Whether it is that model, over all of its versions.
    asked: bool,
}

/// The detector's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors {
    models: BTreeMap<ModelKey, Key>,
    tenants: BTreeMap<SmolStr, Rate>,
    told: Spread,
}

/// What is wrong in one place.
struct Place<'a> {
    name: &'a ModelKey,
    family: &'a SmolStr,
    asked: bool,
    excess: Excess,
}

impl From<&ModelSeen> for Minute {
    fn from(m: &ModelSeen) -> Self {
        Self {
            requests: m.requests,
            failures: [m.errors, m.throttled, m.rejected, m.blocked],
            timeouts: m.timeouts,
            denied: m.denied,
        }
    }
}

impl Errors {
    /// A closed minute. `fire`: it is complete enough to judge.
    pub(super) fn minute(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        at: Time,
        fire: bool,
        out: &mut Vec<Finding>,
    ) {
        self.told.forget(part.minute, RESOLVE_AFTER);
        let model_wide = self.models(config, part, at, fire, out);
        self.tenants(config, part, at, fire, model_wide, out);
    }

    /// Judges models and versions; which kinds of failures are told of any.
    fn models(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        at: Time,
        fire: bool,
        out: &mut Vec<Finding>,
    ) -> [bool; KINDS] {
        // The model asked for over all of its versions, and the versions under names of their own.
        let mut now: BTreeMap<&ModelKey, (Minute, bool)> = BTreeMap::new();
        for (name, seen) in &part.models {
            now.insert(name, (seen.into(), false));
        }
        for (name, seen) in &part.asked {
            now.insert(name, (seen.into(), true));
        }
        let new = now.keys().filter(|n| !self.models.contains_key(n)).count();
        room::make(
            &mut self.models,
            new,
            MAX_KEYS,
            |n| now.contains_key(n),
            |k| k.rate.last,
        );
        let families = spread::families(part);
        for (name, (_, asked)) in &now {
            if !self.models.contains_key(name) && self.models.len() < MAX_KEYS {
                let key = Key {
                    rate: Rate::new(part.minute),
                    ..Key::default()
                };
                self.models.insert((*name).clone(), key);
            }
            if let Some(k) = self.models.get_mut(name) {
                k.asked |= *asked;
                if k.asked {
                    k.family.clone_from(&name.model);
                } else if k.family.is_empty() {
                    let of = families.get(&name.model).copied().unwrap_or(&name.model);
                    k.family.clone_from(of);
                }
            }
        }
        let mut wrong: [Vec<Place<'_>>; KINDS] = Default::default();
        for (name, key) in &mut self.models {
            let minute = now.get(name).map_or(Minute::default(), |n| n.0);
            key.rate.push(part.minute, minute);
            let verdicts = What::ALL.map(|w| key.rate.judge(w, &config.errors, part.minute));
            key.rate.learn(&verdicts);
            for (what, excess) in What::ALL.into_iter().zip(verdicts) {
                // What has failed before and does not now is not told again.
                if let Some(excess) = excess
                    && minute.failures[what as usize] > 0
                {
                    wrong[what as usize].push(Place {
                        name,
                        family: &key.family,
                        asked: key.asked,
                        excess,
                    });
                }
            }
        }
        let mut told = [false; KINDS];
        for (what, wrong) in What::ALL.into_iter().zip(&wrong) {
            told[what as usize] = !wrong.is_empty();
            let mut by: BTreeMap<&SmolStr, Vec<&Place<'_>>> = BTreeMap::new();
            for place in wrong {
                by.entry(place.family).or_default().push(place);
            }
            for (family, places) in by {
                if fire
                    && let Some(f) = tell(
                        &mut self.told,
                        config,
                        what,
                        family,
                        &places,
                        (part.minute, at),
                    )
                {
                    out.push(f);
                }
            }
        }
        told
    }

    /// Judges what one tenant sees alone: a revoked key, a policy of its own.
    fn tenants(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        at: Time,
        fire: bool,
        model_wide: [bool; KINDS],
        out: &mut Vec<Finding>,
    ) {
        let known = &self.tenants;
        let new = part
            .tenants
            .keys()
            .filter(|t| !known.contains_key(*t))
            .count();
        room::make(
            &mut self.tenants,
            new,
            MAX_TENANTS,
            |t| part.tenants.contains_key(t),
            |r| r.last,
        );
        for tenant in part.tenants.keys() {
            // Calls without a tenant are everybody's: their models tell.
            let full = self.tenants.len() >= MAX_TENANTS && !self.tenants.contains_key(tenant);
            if !tenant.is_empty() && !full {
                self.tenants
                    .entry(tenant.clone())
                    .or_insert_with(|| Rate::new(part.minute));
            }
        }
        let all = part.tenants.values().fold((0, [0; KINDS]), |mut sum, t| {
            let m = Minute::from(t);
            sum.0 += m.requests;
            for (a, b) in sum.1.iter_mut().zip(m.failures) {
                *a += b;
            }
            sum
        });
        for (tenant, rate) in &mut self.tenants {
            let minute = part
                .tenants
                .get(tenant)
                .map_or(Minute::default(), Minute::from);
            rate.push(part.minute, minute);
            let verdicts = What::ALL.map(|w| rate.judge(w, &config.errors, part.minute));
            rate.learn(&verdicts);
            for what in What::OF_A_TENANT {
                let i = what as usize;
                let Some(excess) = verdicts[i].filter(|_| fire && minute.failures[i] > 0) else {
                    continue;
                };
                let (requests, failures) = (all.0 - minute.requests, all.1[i] - minute.failures[i]);
                let others = failures as f64 / requests.max(1) as f64;
                let own = if requests >= OTHERS {
                    2.0 * others < excess.share()
                } else {
                    !model_wide[i]
                };
                let now = Now {
                    minute: part.minute,
                    rank: u8::from(excess.page),
                    many: false,
                    quiet: RESOLVE_AFTER,
                };
                let subject = smol_str::format_smolstr!("tenant:{tenant}");
                if own
                    && self
                        .told
                        .tell(&subject, kind(what), now, || subject.clone())
                        .is_some()
                {
                    let mut f = finding(config, what, subject, (part.minute, at), &excess, 0);
                    f.tenant = tenant.clone();
                    out.push(f);
                }
            }
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.len(self.models.len());
        for (name, k) in &self.models {
            w.str(&name.model);
            w.str(&name.route);
            w.str(&k.family);
            w.bool(k.asked);
            k.rate.encode(w);
        }
        w.len(self.tenants.len());
        for (tenant, rate) in &self.tenants {
            w.str(tenant);
            rate.encode(w);
        }
        self.told.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut e = Self::default();
        for _ in 0..r.len()? {
            let name = ModelKey {
                model: r.str()?,
                route: r.str()?,
            };
            let key = Key {
                family: r.str()?,
                asked: r.bool()?,
                rate: Rate::decode(r)?,
            };
            e.models.insert(name, key);
        }
        for _ in 0..r.len()? {
            let tenant = r.str()?;
            e.tenants.insert(tenant, Rate::decode(r)?);
        }
        e.told = Spread::decode(r)?;
        Ok(e)
    }

    /// Reads a format before this one: rates of errors and throttling, each place for itself.
    pub(super) fn decode_old(r: &mut Reader<'_>, clusters: bool) -> Result<Self, Damaged> {
        let mut e = Self::default();
        for _ in 0..r.len()? {
            let name = ModelKey {
                model: r.str()?,
                route: r.str()?,
            };
            let key = Key {
                rate: Rate::decode_old(r, clusters)?,
                ..Key::default()
            };
            e.models.insert(name, key);
        }
        Ok(e)
    }
}

fn kind(what: What) -> u8 {
    match what {
        What::Errors => 0,
        What::Throttled => 1,
        What::Rejected => 2,
        What::Blocked => 3,
    }
}

/// Tells what is wrong in one family, unless it was told lately.
fn tell(
    told: &mut Spread,
    config: &DetectConfig,
    what: What,
    family: &SmolStr,
    places: &[&Place<'_>],
    (minute, at): (i64, Time),
) -> Option<Finding> {
    // A model and the one version that fails on one route are one place, named by the version.
    let versions: Vec<_> = places.iter().filter(|p| !p.asked).collect();
    let first = places.first()?;
    let one_route = places.iter().all(|p| p.name.route == first.name.route);
    let many = versions.len() > 1 || !one_route;
    let worst = places
        .iter()
        .filter(|p| many || !p.asked || versions.is_empty())
        .max_by_key(|p| (p.excess.page, p.excess.failures))?;
    let now = Now {
        minute,
        rank: u8::from(places.iter().any(|p| p.excess.page)),
        many,
        quiet: RESOLVE_AFTER,
    };
    let subject = told.tell(family, kind(what), now, || {
        if many {
            smol_str::format_smolstr!("model:{family}")
        } else {
            model_subject(worst.name)
        }
    })?;
    let more = if many { places.len() - 1 } else { 0 };
    let mut f = finding(config, what, subject, (minute, at), &worst.excess, more);
    f.model = Some(worst.name.model.clone());
    Some(f)
}

fn finding(
    config: &DetectConfig,
    what: What,
    subject: SmolStr,
    (minute, at): (i64, Time),
    v: &Excess,
    more: usize,
) -> Finding {
    let rule = what.rule();
    let (n, of, minutes) = (v.failures, v.window.requests, v.minutes);
    let (share, usual) = (100.0 * v.share(), 100.0 * v.usual);
    let mut reason = match what {
        What::Errors => format!(
            "{n} of {of} requests failed in {minutes} min ({share:.1} %, {} of them timeouts), usually {usual:.2} %",
            v.window.timeouts
        ),
        What::Throttled => format!(
            "{n} of {of} requests were refused for rate in {minutes} min ({share:.1} %), usually {usual:.2} %"
        ),
        What::Rejected => format!(
            "{n} of {of} requests were rejected in {minutes} min ({share:.1} %, {} of them by 401, 403 or 404: a key revoked, a model retired), usually {usual:.2} %",
            v.window.denied
        ),
        What::Blocked => format!(
            "{n} of {of} requests were blocked by the gateway's policy in {minutes} min ({share:.1} %), usually {usual:.2} %"
        ),
    };
    reason += &spread::and_more(more);
    let minutes = i64::try_from(minutes).unwrap_or(1);
    let (severity, stage) = if v.page {
        (Severity::High, Stage::Page)
    } else {
        (Severity::Medium, Stage::Ticket)
    };
    Finding {
        id: finding_id(DetectorId::Errors, rule, 1, &subject, &minute.to_le_bytes()),
        detector: DetectorId::Errors,
        rule: SmolStr::new_static(rule),
        version: 1,
        severity,
        stage: config.stage(DetectorId::Errors, stage),
        tenant: SmolStr::default(),
        subject,
        at,
        start: Time::from_minute(minute + 1 - minutes),
        end: Time::from_minute(minute + 1),
        user: None,
        model: None,
        gateway: None,
        event: None,
        reason,
        resolve_after_ms: RESOLVE_AFTER * 60_000,
    }
}

#[cfg(test)]
mod tests;
