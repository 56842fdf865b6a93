//! Error, timeout and throttling rates per model version and route against their baseline. Home:
//! merged minute.
//!
//! The failures of the last one, two, three and five minutes are compared with what the baseline would
//! make of as many requests (a Poisson tail, in powers of ten, called *surprise*). Where failures come
//! in clusters on usual days, the surprise is divided by how much more they vary than chance. While a
//! baseline learns, only an absolute ceiling fires.

use std::collections::BTreeMap;

use super::latency::model_subject;
use super::part::{MinutePart, ModelKey};
use super::wire::{Damaged, Reader, Writer};
use super::{DetectConfig, DetectorId, Finding, config, finding_id, room};
use crate::event::{Decision, Event, Severity, SmolStr, Stage, Time};

/// Model versions and routes kept; beyond it the longest unused is forgotten.
const MAX_KEYS: usize = 1_024;
/// Minutes of the longest window.
const RING: usize = 5;
/// Windows judged, minutes.
const WINDOWS: [usize; 4] = [1, 2, 3, 5];
/// Memory of the baseline: it forgets by 1/e in this many minutes.
const MEMORY_MINUTES: f64 = 1_440.0;
/// The baseline is never believed to fail less often than this.
const LEAST_SHARE: f64 = 0.001;
/// Failures that are believed to have been before any were.
const PRIOR: f64 = 2.0;
/// Failures needed, for a ticket and for a page.
const LEAST_FAILURES: u64 = 3;
const PAGE_FAILURES: u64 = 5;
/// Refusals for rate are a caller's habit more often than a fault: they must be this much as surprising.
const THROTTLED: f64 = 2.0;
/// Share of failures that pages whatever the baseline, and requests it needs.
const CEILING: (f64, u64) = (0.5, 20);
/// An excess that lasts is reported again after this many minutes.
const AGAIN_MINUTES: i64 = 10;
/// An excess is over when none has been seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 15 * 60_000;

/// How a call ended, as far as rates are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The provider or the way to it failed (timeouts included).
    pub error: bool,
    /// It took too long.
    pub timeout: bool,
    /// The provider refused for rate.
    pub throttled: bool,
    /// The caller's own mistake (other 4xx).
    pub client: bool,
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
        Self {
            error: timeout || (event.status >= 500 && !throttled) || network,
            timeout,
            throttled,
            client: (400..500).contains(&event.status) && !timeout && !throttled,
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
}

impl What {
    fn rule(self) -> &'static str {
        match self {
            Self::Errors => "errors-rate",
            Self::Throttled => "errors-throttled",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Minute {
    requests: u64,
    failures: [u64; 2],
    timeouts: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Key {
    born: i64,
    last: i64,
    /// Decayed requests and failures.
    requests: f64,
    failures: [f64; 2],
    /// Requests ever, saturating: for learning.
    seen: u64,
    /// Decayed squares of the failures of a minute less those expected.
    squares: [f64; 2],
    /// Newest first.
    ring: [Minute; RING],
    told: [Option<i64>; 2],
    /// Whether what was told last pages.
    paged: [bool; 2],
}

/// The detector's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors(BTreeMap<ModelKey, Key>);

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
        let new = part
            .models
            .keys()
            .filter(|n| !self.0.contains_key(n))
            .count();
        room::make(
            &mut self.0,
            new,
            MAX_KEYS,
            |n| part.models.contains_key(n),
            |k| k.last,
        );
        for name in part.models.keys() {
            if !self.0.contains_key(name) && self.0.len() < MAX_KEYS {
                let key = Key {
                    born: part.minute,
                    ..Key::default()
                };
                self.0.insert(name.clone(), key);
            }
        }
        for (name, key) in &mut self.0 {
            let now = part.models.get(name).map_or(Minute::default(), |m| Minute {
                requests: m.requests,
                failures: [m.errors, m.throttled],
                timeouts: m.timeouts,
            });
            if now.requests > 0 {
                key.last = part.minute;
            }
            key.ring.rotate_right(1);
            key.ring[0] = now;
            let mut abnormal = false;
            for what in [What::Errors, What::Throttled] {
                let Some(v) = key.judge(what, &config.errors, part.minute) else {
                    continue;
                };
                abnormal = true;
                let recent =
                    key.told[what as usize].is_some_and(|t| part.minute - t < AGAIN_MINUTES);
                // A ticket that becomes a page does not wait.
                let same = recent && (key.paged[what as usize] || !v.page);
                if !fire || now.failures[what as usize] == 0 || same {
                    continue;
                }
                key.told[what as usize] = Some(part.minute);
                key.paged[what as usize] = v.page;
                out.push(finding(config, name, part.minute, at, what, &v));
            }
            key.learn(now, abnormal);
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.len(self.0.len());
        for (name, k) in &self.0 {
            w.str(&name.model);
            w.str(&name.route);
            w.i64(k.born);
            w.i64(k.last);
            w.f64(k.requests);
            w.f64(k.failures[0]);
            w.f64(k.failures[1]);
            w.u64(k.seen);
            for m in &k.ring {
                for n in [m.requests, m.failures[0], m.failures[1], m.timeouts] {
                    w.u64(n);
                }
            }
            w.option(k.told[0], Writer::i64);
            w.option(k.told[1], Writer::i64);
            for i in 0..2 {
                w.f64(k.squares[i]);
                w.bool(k.paged[i]);
            }
        }
    }

    /// `old`: a format before the present one, which knew nothing of clusters.
    pub(super) fn decode(r: &mut Reader<'_>, old: bool) -> Result<Self, Damaged> {
        let mut e = Self::default();
        for _ in 0..r.len()? {
            let name = ModelKey {
                model: r.str()?,
                route: r.str()?,
            };
            let mut k = Key {
                born: r.i64()?,
                last: r.i64()?,
                requests: r.f64()?,
                failures: [r.f64()?, r.f64()?],
                seen: r.u64()?,
                ..Key::default()
            };
            for m in &mut k.ring {
                *m = Minute {
                    requests: r.u64()?,
                    failures: [r.u64()?, r.u64()?],
                    timeouts: r.u64()?,
                };
            }
            k.told = [r.option(Reader::i64)?, r.option(Reader::i64)?];
            if !old {
                for i in 0..2 {
                    k.squares[i] = r.f64()?;
                    k.paged[i] = r.bool()?;
                }
            }
            e.0.insert(name, k);
        }
        Ok(e)
    }
}

struct Excess {
    failures: u64,
    requests: u64,
    timeouts: u64,
    minutes: usize,
    usual: f64,
    page: bool,
}

impl Key {
    fn judge(&self, what: What, config: &config::Errors, minute: i64) -> Option<Excess> {
        let learning =
            self.seen < config.learn_requests || minute - self.born < config.learn_minutes;
        let usual = if self.requests > 0.0 {
            self.failures[what as usize] / self.requests
        } else {
            0.0
        };
        let i = what as usize;
        let believed = ((self.failures[i] + PRIOR) / (self.requests + 1.0)).max(LEAST_SHARE);
        // A surprise counts in clusters, not in failures.
        let cluster = ((self.squares[i] + PRIOR) / (self.failures[i] + PRIOR)).max(1.0);
        let least = match what {
            What::Errors => config.surprise,
            What::Throttled => THROTTLED * config.surprise,
        };
        let needed = least * cluster;
        WINDOWS.into_iter().find_map(|minutes| {
            let window = &self.ring[..minutes];
            let requests: u64 = window.iter().map(|m| m.requests).sum();
            let failures: u64 = window.iter().map(|m| m.failures[what as usize]).sum();
            let timeouts = window.iter().map(|m| m.timeouts).sum();
            let share = failures as f64 / requests.max(1) as f64;
            let over_ceiling = share >= CEILING.0 && requests >= CEILING.1;
            let expected = believed * requests as f64;
            let unusual = !learning
                && failures >= LEAST_FAILURES
                && share >= 2.0 * usual
                && surprise(failures, expected) >= needed;
            (over_ceiling && share >= 2.0 * usual || unusual).then_some(Excess {
                failures,
                requests,
                timeouts,
                minutes,
                usual,
                page: what == What::Errors
                    && share >= config.page_share
                    && failures >= PAGE_FAILURES,
            })
        })
    }

    /// Abnormal minutes are learnt a tenth as fast: a new normal becomes normal within days.
    fn learn(&mut self, now: Minute, abnormal: bool) {
        let keep = (-1.0 / MEMORY_MINUTES).exp();
        let rate = if abnormal { 0.1 } else { 1.0 };
        let before = self.requests.max(1.0);
        self.requests = self.requests * keep + rate * now.requests as f64;
        for i in 0..2 {
            let usual = self.failures[i] / before;
            let off = now.failures[i] as f64 - usual * now.requests as f64;
            self.squares[i] = self.squares[i] * keep + rate * off * off;
            self.failures[i] = self.failures[i] * keep + rate * now.failures[i] as f64;
        }
        self.seen = self.seen.saturating_add(now.requests);
    }
}

/// −log₁₀ of a bound on the chance of `count` or more where `expected` are usual (Chernoff, Poisson).
pub(super) fn surprise(count: u64, expected: f64) -> f64 {
    let k = count as f64;
    if k <= expected || expected <= 0.0 {
        return 0.0;
    }
    (k * (k / expected).ln() - (k - expected)) / std::f64::consts::LN_10
}

fn finding(
    config: &DetectConfig,
    name: &ModelKey,
    minute: i64,
    at: Time,
    what: What,
    v: &Excess,
) -> Finding {
    let rule = what.rule();
    let subject = model_subject(name);
    let share = 100.0 * v.failures as f64 / v.requests.max(1) as f64;
    let reason = match what {
        What::Errors => format!(
            "{} of {} requests failed in {} min ({share:.1} %, {} of them timeouts), usually {:.2} %",
            v.failures,
            v.requests,
            v.minutes,
            v.timeouts,
            100.0 * v.usual
        ),
        What::Throttled => format!(
            "{} of {} requests were refused for rate in {} min ({share:.1} %), usually {:.2} %",
            v.failures,
            v.requests,
            v.minutes,
            100.0 * v.usual
        ),
    };
    let minutes = i64::try_from(v.minutes).unwrap_or(1);
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
        model: Some(name.model.clone()),
        gateway: None,
        event: None,
        reason,
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_grows_with_the_excess() {
        assert!(surprise(1, 1.0) < 1e-9);
        assert!(surprise(10, 1.0) > 5.0);
        assert!(surprise(100, 90.0) < 1.0);
        assert!(surprise(0, 0.0) < 1e-9);
    }

    fn run(rate: impl Fn(i64) -> u64, minutes: i64) -> Vec<Finding> {
        let config = DetectConfig::default();
        let mut e = Errors::default();
        let mut out = Vec::new();
        for minute in 0..minutes {
            let mut part = MinutePart {
                minute,
                ..MinutePart::default()
            };
            let name = ModelKey {
                model: SmolStr::new("m"),
                route: SmolStr::default(),
            };
            part.models.insert(
                name,
                super::super::part::ModelSeen {
                    requests: 60,
                    errors: rate(minute),
                    ..Default::default()
                },
            );
            e.minute(&config, &part, Time::from_minute(minute), true, &mut out);
            let mut w = Writer::default();
            e.encode(&mut w);
            e = Errors::decode(&mut Reader::new(&w.0), false).expect("decode");
        }
        out
    }

    #[test]
    fn an_outage_pages_and_noise_does_not() {
        assert!(run(|m| u64::from(m % 7 == 0), 600).is_empty());
        let f = run(|m| if m >= 120 { 20 } else { 0 }, 125);
        assert_eq!(f.len(), 1, "{f:?}");
        assert_eq!(f[0].stage, Stage::Page);
        assert_eq!(f[0].end, Time::from_minute(121));
        // Few failures are a ticket, and more of them page at once.
        let f = run(
            |m| [0, 4, 9][usize::from(m >= 120) + usize::from(m > 120)],
            124,
        );
        let stages: Vec<_> = f.iter().map(|f| f.stage).collect();
        assert_eq!(stages, [Stage::Ticket, Stage::Page], "{f:?}");
        // Where failures come eight at a time, eight are nothing new.
        let clusters = |m: i64| if m % 97 == 0 { 8 } else { 0 };
        let f = run(clusters, 5_000);
        assert!(f.len() <= 4, "{}", f.len());
        // While learning only the ceiling fires.
        assert!(run(|m| if m >= 5 { 20 } else { 0 }, 20).is_empty());
        assert_eq!(run(|m| if m >= 5 { 50 } else { 0 }, 8).len(), 1);
    }
}
