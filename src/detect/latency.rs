//! Latency per model version and route, normalised by prompt length. Home: merged minute.
//!
//! Time to first token and time per output token, never the whole duration: a longer answer takes
//! longer and nothing is wrong. Each sample is divided by what a prompt of its length takes at a load
//! as of now ([`baseline`]); the ratios of the last minutes are compared with those of the last day. A
//! shift of the median (of one measure, or a smaller one of both), a drift of hours and a fatter tail
//! are tests of their own; all ask for more evidence where there are few samples, the noise is wide, or
//! medians wander on usual days too.

mod baseline;
mod level;
mod line;
mod tail;
mod usual;

use std::collections::BTreeMap;

use baseline::{Baseline, Verdict};

use super::part::{MinutePart, ModelKey};
use super::wire::{Damaged, Reader, Writer};
use super::{DetectConfig, DetectorId, Finding, finding_id, room};
use crate::event::{Event, Severity, SmolStr, Stage, Time};

/// Model versions and routes kept; beyond it the longest unused is forgotten.
const MAX_KEYS: usize = 1_024;
/// A shift that lasts is reported again after this many minutes.
const AGAIN_MINUTES: i64 = 10;
/// A shift is over when none has been seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 20 * 60_000;

/// Highest latency told apart, in units of 10 µs: ten minutes.
const MAX_UNITS: u64 = 60_000_000;
/// Values below this many units have a bucket each; above, 64 buckets an octave (1.6 %).
const LINEAR: u64 = 128;
/// Buckets of the value.
const VALUE_BITS: u32 = 11;
/// Buckets of the prompt length: half octaves up to 2^31 tokens.
const PROMPT_BITS: u32 = 6;
/// Answers shorter than this say nothing about the time per token.
const MIN_OUTPUT: u64 = 8;

/// What a sample measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
}

/// Adds the event's samples.
pub(super) fn samples(event: &Event, out: &mut Vec<u32>) {
    let Some(ttft) = event.ttft_ms else { return };
    let prompt = prompt_bucket(event.usage.input);
    out.push(code(Measure::Ttft, prompt, value_bucket(ttft)));
    let output = event.usage.output;
    if let Some(total) = event.total_ms
        && output >= MIN_OUTPUT
        && total >= ttft
    {
        let tpot = (total - ttft) / (output - 1) as f64;
        out.push(code(Measure::Tpot, prompt, value_bucket(tpot)));
    }
}

/// Packs measure, prompt bucket and value bucket; sorted codes are grouped by measure and prompt.
pub fn code(measure: Measure, prompt: u32, value: u32) -> u32 {
    (measure as u32) << (VALUE_BITS + PROMPT_BITS) | prompt << VALUE_BITS | value
}

/// Unpacks a code; `None` if it is none.
pub fn parts(code: u32) -> Option<(Measure, u32, u32)> {
    let measure = match code >> (VALUE_BITS + PROMPT_BITS) {
        0 => Measure::Ttft,
        1 => Measure::Tpot,
        _ => return None,
    };
    let prompt = code >> VALUE_BITS & ((1 << PROMPT_BITS) - 1);
    Some((measure, prompt, code & ((1 << VALUE_BITS) - 1)))
}

/// The bucket of a latency in milliseconds; negative and broken values are 0.
pub fn value_bucket(ms: f64) -> u32 {
    let units = (ms * 100.0).clamp(0.0, MAX_UNITS as f64);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped above; NaN becomes 0"
    )]
    let v = units as u64;
    if v < LINEAR {
        return small(v);
    }
    let shift = u64::BITS - v.leading_zeros() - 7;
    64 * shift + small(v >> shift)
}

fn small(v: u64) -> u32 {
    u32::try_from(v).unwrap_or(u32::MAX)
}

/// The middle of a bucket, in milliseconds.
pub fn bucket_ms(bucket: u32) -> f64 {
    if u64::from(bucket) < LINEAR {
        return f64::from(bucket) / 100.0;
    }
    let shift = (bucket - 64) / 64;
    let base = u64::from(bucket - 64 * shift);
    ((base << shift) as f64 + (1u64 << shift) as f64 / 2.0) / 100.0
}

/// The half octave of a prompt length.
pub fn prompt_bucket(tokens: u64) -> u32 {
    let t = tokens.min(1 << 30) + 1;
    let octave = t.ilog2();
    // Above √2 × 2^octave: the upper half. Squares stay below 2^62.
    let upper = t * t >= 1u64 << (2 * octave + 1);
    2 * octave + u32::from(upper)
}

/// The middle of a prompt bucket, in tokens.
pub fn bucket_tokens(bucket: u32) -> f64 {
    (f64::from(bucket) / 2.0 + 0.25).exp2() - 1.0
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Key {
    ttft: Baseline,
    tpot: Baseline,
    last: i64,
    /// Minute of the last finding.
    told: Option<i64>,
}

/// The detector's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latency(BTreeMap<ModelKey, Key>);

impl Latency {
    /// A closed minute. `fire`: the minute is complete enough to judge.
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
                self.0.insert(name.clone(), Key::default());
            }
        }
        for (name, key) in &mut self.0 {
            let samples = part.models.get(name).map(|m| &m.samples);
            let mut by = [Vec::new(), Vec::new()];
            for (code, n) in samples.into_iter().flatten() {
                if let Some((measure, prompt, value)) = parts(*code) {
                    by[measure as usize].push((prompt, value, *n));
                }
            }
            if samples.is_some() {
                key.last = part.minute;
            }
            key.ttft.push(part.minute, &by[0]);
            key.tpot.push(part.minute, &by[1]);
            let looks = [
                key.ttft.judge(&config.latency),
                key.tpot.judge(&config.latency),
            ];
            let verdict = match (&looks[0].verdict, &looks[1].verdict) {
                (None, None) => baseline::both(
                    &config.latency,
                    (&key.ttft, &looks[0]),
                    (&key.tpot, &looks[1]),
                )
                .map(|v| (Measure::Ttft, v)),
                (first, second) => [(Measure::Ttft, first), (Measure::Tpot, second)]
                    .into_iter()
                    .filter_map(|(m, v)| v.clone().map(|v| (m, v)))
                    .max_by(|a, b| a.1.weight().total_cmp(&b.1.weight())),
            };
            // What is abnormal is not learnt, so that a long fault does not become the norm at once.
            let both = looks.iter().all(|l| l.verdict.is_none()) && verdict.is_some();
            let [ttft, tpot] = &looks;
            key.ttft.learn(ttft, both || ttft.verdict.is_some());
            key.tpot.learn(tpot, both || tpot.verdict.is_some());
            let Some((measure, verdict)) = verdict else {
                continue;
            };
            if !fire || samples.is_none() {
                continue;
            }
            if key.told.is_some_and(|t| part.minute - t < AGAIN_MINUTES) {
                continue;
            }
            key.told = Some(part.minute);
            out.push(finding(config, name, part.minute, at, measure, &verdict));
        }
    }
}

impl Latency {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.len(self.0.len());
        for (name, key) in &self.0 {
            w.str(&name.model);
            w.str(&name.route);
            w.i64(key.last);
            w.option(key.told, Writer::i64);
            key.ttft.encode(w);
            key.tpot.encode(w);
        }
    }

    /// `old`: a format before the present one (see [`baseline`]).
    pub(super) fn decode(r: &mut Reader<'_>, old: bool) -> Result<Self, Damaged> {
        let mut l = Self::default();
        for _ in 0..r.len()? {
            let name = ModelKey {
                model: r.str()?,
                route: r.str()?,
            };
            let key = Key {
                last: r.i64()?,
                told: r.option(Reader::i64)?,
                ttft: Baseline::decode(r, old)?,
                tpot: Baseline::decode(r, old)?,
            };
            l.0.insert(name, key);
        }
        Ok(l)
    }

    /// How many baselines there are, and how many of them still learn.
    pub fn learning(&self, config: &DetectConfig) -> (usize, usize) {
        let learning = self
            .0
            .values()
            .filter(|k| !k.ttft.has_learnt(&config.latency))
            .count();
        (self.0.len(), learning)
    }
}

impl Verdict {
    /// Which of two is told: the larger one, and a shift before a tail.
    fn weight(&self) -> f64 {
        match self {
            Self::Shift { ratio, .. } => *ratio,
            Self::Drift { ratio } => ratio / 2.0,
            Self::Tail(_) => 0.0,
        }
    }

    /// Rule, severity, length of the window in minutes.
    fn facts(&self) -> (&'static str, Severity, usize) {
        let of = |ratio: f64| {
            if ratio < 1.8 {
                Severity::Medium
            } else {
                Severity::High
            }
        };
        match self {
            Self::Shift { ratio, minutes, .. } => ("latency-shift", of(*ratio), *minutes),
            Self::Drift { ratio } => ("latency-shift", of(*ratio), 180),
            Self::Tail(t) => ("latency-tail", Severity::High, t.minutes),
        }
    }

    fn reason(&self, what: &str) -> String {
        match self {
            Self::Shift {
                ratio,
                samples,
                minutes,
            } => format!(
                "median {what} is {ratio:.2} times the usual for prompts of the same length, over {samples} requests in {minutes} min"
            ),
            Self::Drift { ratio } => format!(
                "median {what} has risen over hours to {ratio:.2} times the usual for prompts of the same length"
            ),
            Self::Tail(t) => format!(
                "{} of {} requests in {} min had a {what} beyond {:.1} times the usual 99th percentile, where {:.1} are expected",
                t.beyond, t.samples, t.minutes, t.edge, t.expected
            ),
        }
    }
}

fn finding(
    config: &DetectConfig,
    name: &ModelKey,
    minute: i64,
    at: Time,
    measure: Measure,
    v: &Verdict,
) -> Finding {
    let (rule, severity, minutes) = v.facts();
    let subject = model_subject(name);
    let what = match measure {
        Measure::Ttft => "time to first token",
        Measure::Tpot => "time per output token",
    };
    let minutes = i64::try_from(minutes).unwrap_or(1);
    Finding {
        id: finding_id(
            DetectorId::Latency,
            rule,
            1,
            &subject,
            &minute.to_le_bytes(),
        ),
        detector: DetectorId::Latency,
        rule: SmolStr::new_static(rule),
        version: 1,
        severity,
        stage: config.stage(DetectorId::Latency, Stage::Page),
        tenant: SmolStr::default(),
        subject,
        at,
        start: Time::from_minute(minute + 1 - minutes),
        end: Time::from_minute(minute + 1),
        user: None,
        model: Some(name.model.clone()),
        gateway: None,
        event: None,
        reason: v.reason(what),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}

/// `model:NAME`, with the route where there is one.
pub(super) fn model_subject(name: &ModelKey) -> SmolStr {
    if name.route.is_empty() {
        smol_str::format_smolstr!("model:{}", name.model)
    } else {
        smol_str::format_smolstr!("model:{} route:{}", name.model, name.route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_monotone_and_within_two_percent() {
        let mut last = 0;
        for i in 0..40_000 {
            let ms = 0.3 * 1.0005f64.powi(i);
            if ms > 600_000.0 {
                break;
            }
            let b = value_bucket(ms);
            assert!(b >= last && b < 1 << VALUE_BITS);
            last = b;
            let error = (bucket_ms(b) - ms).abs() / ms;
            assert!(error < 0.02 || ms < 1.3, "{ms}: {error}");
        }
        assert_eq!(value_bucket(f64::NAN), 0);
        assert_eq!(value_bucket(-1.0), 0);
        assert!(value_bucket(1e300) < 1 << VALUE_BITS);
    }

    #[test]
    fn prompts_fit_their_bucket() {
        for tokens in [0u64, 1, 2, 3, 100, 1_000, 128_000, 2_000_000] {
            let b = prompt_bucket(tokens);
            assert!(b < 1 << PROMPT_BITS);
            let ratio = (bucket_tokens(b) + 1.0) / (tokens as f64 + 1.0);
            assert!((0.80..1.25).contains(&ratio), "{tokens}: {ratio}");
        }
        let c = code(Measure::Tpot, 9, 700);
        assert_eq!(parts(c), Some((Measure::Tpot, 9, 700)));
        assert_eq!(parts(u32::MAX), None);
    }
}
