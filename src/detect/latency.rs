//! Latency per model version and route, normalised by prompt length. Home: merged minute.
//!
//! Time to first token and time per output token: a longer answer takes longer and nothing is wrong. Of calls
//! that are not streamed only the whole duration is known; it is divided by what an answer of its length takes. Each sample is divided by what a prompt of its length takes at a load
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
use super::spread::{self, Now, Spread, model_subject};
use super::wire::{Damaged, Reader, Writer};
use super::{DetectConfig, DetectorId, Finding, config, finding_id, room};
use crate::event::{Event, Severity, SmolStr, Stage, Time};

/// Model versions and routes kept; beyond it the longest unused is forgotten.
const MAX_KEYS: usize = 1_024;
/// A shift is over when none has been seen for this long, minutes.
const RESOLVE_AFTER: i64 = 20;
/// The one rule: shift, drift and tail are one incident, since one becomes the other.
const RULE: &str = "latency-slow";

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
    /// The whole duration of a call that names no time to first token (it was not streamed), by the length
    /// of the answer in place of the prompt's.
    Whole,
}

impl Measure {
    const ALL: [Self; 3] = [Self::Ttft, Self::Tpot, Self::Whole];

    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Ttft => ("time to first token", "prompts"),
            Self::Tpot => ("time per output token", "prompts"),
            Self::Whole => ("duration of calls that are not streamed", "answers"),
        }
    }
}

/// Adds the event's samples.
pub(super) fn samples(event: &Event, out: &mut Vec<u32>) {
    let output = event.usage.output;
    let Some(ttft) = event.ttft_ms else {
        if let Some(total) = event.total_ms
            && output >= MIN_OUTPUT
        {
            let length = prompt_bucket(output);
            out.push(code(Measure::Whole, length, value_bucket(total)));
        }
        return;
    };
    let prompt = prompt_bucket(event.usage.input);
    out.push(code(Measure::Ttft, prompt, value_bucket(ttft)));
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
        2 => Measure::Whole,
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
    whole: Baseline,
    last: i64,
    /// The model that was asked for.
    family: SmolStr,
}

/// The detector's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latency {
    keys: BTreeMap<ModelKey, Key>,
    told: Spread,
}

/// What is wrong with one version on one route.
struct Place<'a> {
    name: &'a ModelKey,
    measure: Measure,
    verdict: Verdict,
}

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
            .filter(|n| !self.keys.contains_key(n))
            .count();
        room::make(
            &mut self.keys,
            new,
            MAX_KEYS,
            |n| part.models.contains_key(n),
            |k| k.last,
        );
        let families = spread::families(part);
        for name in part.models.keys() {
            if !self.keys.contains_key(name) && self.keys.len() < MAX_KEYS {
                self.keys.insert(name.clone(), Key::default());
            }
            if let Some(k) = self.keys.get_mut(name)
                && k.family.is_empty()
            {
                let of = families.get(&name.model).copied().unwrap_or(&name.model);
                k.family.clone_from(of);
            }
        }
        let mut wrong: BTreeMap<&SmolStr, Vec<Place<'_>>> = BTreeMap::new();
        for (name, key) in &mut self.keys {
            let samples = part.models.get(name).map(|m| &m.samples);
            let verdict = key.minute(&config.latency, part.minute, samples);
            if let Some((measure, verdict)) = verdict
                && samples.is_some()
            {
                wrong.entry(&key.family).or_default().push(Place {
                    name,
                    measure,
                    verdict,
                });
            }
        }
        self.told.forget(part.minute, RESOLVE_AFTER);
        for (family, places) in wrong {
            if fire && let Some(f) = tell(&mut self.told, config, family, &places, part.minute, at)
            {
                out.push(f);
            }
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.len(self.keys.len());
        for (name, key) in &self.keys {
            w.str(&name.model);
            w.str(&name.route);
            w.str(&key.family);
            w.i64(key.last);
            key.ttft.encode(w);
            key.tpot.encode(w);
            key.whole.encode(w);
        }
        self.told.encode(w);
    }

    /// `old`: a format before loads (see [`baseline`]); `alone`: one before calls that are not streamed,
    /// in which each version and route was told for itself.
    pub(super) fn decode(r: &mut Reader<'_>, old: bool, alone: bool) -> Result<Self, Damaged> {
        let mut l = Self::default();
        for _ in 0..r.len()? {
            let name = ModelKey {
                model: r.str()?,
                route: r.str()?,
            };
            let mut key = Key::default();
            if alone {
                key.last = r.i64()?;
                let _told = r.option(Reader::i64)?;
            } else {
                key.family = r.str()?;
                key.last = r.i64()?;
            }
            key.ttft = Baseline::decode(r, old)?;
            key.tpot = Baseline::decode(r, old)?;
            if !alone {
                key.whole = Baseline::decode(r, old)?;
            }
            l.keys.insert(name, key);
        }
        if !alone {
            l.told = Spread::decode(r)?;
        }
        Ok(l)
    }

    /// How many baselines there are, and how many of them still learn.
    pub fn learning(&self, config: &DetectConfig) -> (usize, usize) {
        let learnt = |b: &Baseline| b.has_learnt(&config.latency);
        let learning = self
            .keys
            .values()
            .filter(|k| !learnt(&k.ttft) && !learnt(&k.whole))
            .count();
        (self.keys.len(), learning)
    }
}

impl Key {
    /// Judges a minute, then learns it.
    fn minute(
        &mut self,
        config: &config::Latency,
        minute: i64,
        samples: Option<&BTreeMap<u32, u64>>,
    ) -> Option<(Measure, Verdict)> {
        let mut by = [Vec::new(), Vec::new(), Vec::new()];
        for (code, n) in samples.into_iter().flatten() {
            if let Some((measure, length, value)) = parts(*code) {
                by[measure as usize].push((length, value, *n));
            }
        }
        if samples.is_some() {
            self.last = minute;
        }
        self.ttft.push(minute, &by[0]);
        self.tpot.push(minute, &by[1]);
        self.whole.push(minute, &by[2]);
        let looks = [
            self.ttft.judge(config),
            self.tpot.judge(config),
            self.whole.judge(config),
        ];
        let strongest = Measure::ALL
            .into_iter()
            .zip(&looks)
            .filter_map(|(m, l)| l.verdict.clone().map(|v| (m, v)))
            .max_by(|a, b| a.1.weight().total_cmp(&b.1.weight()));
        let [ttft, tpot, whole] = &looks;
        let both = match strongest {
            Some(_) => None,
            None => baseline::both(config, (&self.ttft, ttft), (&self.tpot, tpot)),
        };
        // What is abnormal is not learnt, so that a long fault does not become the norm at once.
        self.ttft
            .learn(ttft, both.is_some() || ttft.verdict.is_some());
        self.tpot
            .learn(tpot, both.is_some() || tpot.verdict.is_some());
        self.whole.learn(whole, whole.verdict.is_some());
        strongest.or(both.map(|v| (Measure::Ttft, v)))
    }
}

/// Tells what is wrong in one family, unless it was told lately.
fn tell(
    told: &mut Spread,
    config: &DetectConfig,
    family: &SmolStr,
    places: &[Place<'_>],
    minute: i64,
    at: Time,
) -> Option<Finding> {
    let worst = places
        .iter()
        .max_by(|a, b| a.verdict.weight().total_cmp(&b.verdict.weight()))?;
    let many = places.len() > 1;
    let now = Now {
        minute,
        rank: u8::from(
            places
                .iter()
                .any(|p| p.verdict.severity() >= Severity::High),
        ),
        many,
        quiet: RESOLVE_AFTER,
    };
    let subject = told.tell(family, 0, now, || {
        if many {
            smol_str::format_smolstr!("model:{family}")
        } else {
            model_subject(worst.name)
        }
    })?;
    Some(finding(
        config,
        subject,
        worst,
        places.len() - 1,
        minute,
        at,
    ))
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

    fn severity(&self) -> Severity {
        match self {
            Self::Shift { ratio, .. } | Self::Drift { ratio } if *ratio < 1.8 => Severity::Medium,
            _ => Severity::High,
        }
    }

    /// Length of the window, minutes.
    fn minutes(&self) -> usize {
        match self {
            Self::Shift { minutes, .. } => *minutes,
            Self::Drift { .. } => 180,
            Self::Tail(t) => t.minutes,
        }
    }

    fn reason(&self, measure: Measure) -> String {
        let (what, length) = measure.name();
        match self {
            Self::Shift {
                ratio,
                samples,
                minutes,
            } => format!(
                "median {what} is {ratio:.2} times the usual for {length} of the same length, over {samples} requests in {minutes} min"
            ),
            Self::Drift { ratio } => format!(
                "median {what} has risen over hours to {ratio:.2} times the usual for {length} of the same length"
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
    subject: SmolStr,
    worst: &Place<'_>,
    more: usize,
    minute: i64,
    at: Time,
) -> Finding {
    let v = &worst.verdict;
    let minutes = i64::try_from(v.minutes()).unwrap_or(1);
    Finding {
        id: finding_id(
            DetectorId::Latency,
            RULE,
            1,
            &subject,
            &minute.to_le_bytes(),
        ),
        detector: DetectorId::Latency,
        rule: SmolStr::new_static(RULE),
        version: 1,
        severity: v.severity(),
        stage: config.stage(DetectorId::Latency, Stage::Page),
        tenant: SmolStr::default(),
        subject,
        at,
        start: Time::from_minute(minute + 1 - minutes),
        end: Time::from_minute(minute + 1),
        user: None,
        model: Some(worst.name.model.clone()),
        gateway: None,
        event: None,
        reason: v.reason(worst.measure) + &spread::and_more(more),
        resolve_after_ms: RESOLVE_AFTER * 60_000,
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
