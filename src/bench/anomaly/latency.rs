//! Latency: steps, tails, drifts, outages and one bad version; longer answers and prompts must not fire.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Row, between, field, index, normal, records};
use crate::detect::latency::{Measure, code, prompt_bucket, value_bucket};
use crate::detect::part::{MinutePart, ModelKey};
use crate::detect::{DetectConfig, DetectorId, Leader, Part};
use crate::event::{SmolStr, TopicPartition};

/// Minutes of a week.
const WEEK: usize = 7 * 1_440;
/// Learning, minutes.
const WARM: usize = 1_440;
/// Requests a second, on average.
const RATE: f64 = 0.5;
/// Episodes of each kind on each model.
const TIMES: usize = 2;
/// Two alarms within an hour are one.
const DEDUPE: usize = 60;
/// What a token of the prompt adds to the time to the first token, milliseconds.
const PROMPT_MS: f64 = 0.12;
/// Fewest samples of a provider that make a noise.
const LEAST: usize = 100;

#[derive(Clone, Copy)]
struct Request {
    second: bool,
    prompt: f64,
    output: f64,
    /// Milliseconds to the first token of an empty prompt, and a token's, without what chance and a
    /// fault make of them.
    ttft: f64,
    tpot: f64,
    noise: (f64, f64),
    /// What a fault multiplies both by, or the first token's time it sets.
    factor: f64,
    fixed: Option<f64>,
    failed: bool,
    /// A number of its own, from 0 to 1: which requests a fault meets.
    lot: f64,
}

/// What is put in: its name, minutes, what is expected (a negative number: nothing may fire), and how it
/// changes a request that comes so far into it (0 to 1).
type Fault = (&'static str, usize, Option<f64>, fn(&mut Request, f64));

const FAULTS: [Fault; 9] = [
    ("step x2, 1 h", 60, Some(0.95), |r, _| scale(r, 2.0)),
    ("step x1.3, 1 h", 60, None, |r, _| scale(r, 1.3)),
    ("tail, 3 % x5, 1 h", 60, Some(0.95), |r, _| {
        if r.lot < 0.03 {
            scale(r, 5.0);
        }
    }),
    ("drift to x2, 24 h", 1_440, None, |r, t| scale(r, 1.0 + t)),
    ("one version x2, 1 h", 60, Some(0.9), |r, _| {
        if r.second {
            scale(r, 2.0);
        }
    }),
    ("outage, 10 % take 30 s, 20 min", 20, None, |r, _| {
        if r.lot < 0.1 {
            r.fixed = Some(30_000.0);
        }
    }),
    (
        "outage, 10 % end as time-outs, 20 min",
        20,
        Some(0.95),
        |r, _| {
            if r.lot < 0.1 {
                r.fixed = Some(30_000.0);
                r.failed = true;
            }
        },
    ),
    (
        "answers x3 longer, 2 h (may not fire)",
        120,
        Some(-1.0),
        |r, _| r.output *= 3.0,
    ),
    (
        "prompts x4 longer, 2 h (may not fire)",
        120,
        Some(-1.0),
        |r, _| r.prompt *= 4.0,
    ),
];

fn scale(r: &mut Request, by: f64) {
    r.factor *= by;
}

/// One model: a week of requests by minute.
type Week = Vec<Vec<Request>>;

pub(super) fn run(dir: &Path, seed: u64) -> Result<Vec<Row>, String> {
    let models = models(dir, seed)?;
    let mut alarms = 0;
    let mut delays: Vec<Vec<f64>> = vec![Vec::new(); FAULTS.len()];
    for (n, week) in models.iter().enumerate() {
        // Where each episode begins, and which it is.
        let mut starts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (kind, _) in FAULTS.iter().enumerate() {
            let mut rng = fastrand::Rng::with_seed(seed + 100 * kind as u64 + n as u64);
            for _ in 0..TIMES {
                starts
                    .entry(2 * 1_440 + rng.usize(0..4 * 1_440))
                    .or_default()
                    .push(kind);
            }
        }
        let mut leader = Leader::new(Arc::new(DetectConfig::default()));
        let mut last: Option<usize> = None;
        for minute in 0..WEEK {
            for kind in starts.get(&minute).into_iter().flatten() {
                delays[*kind].extend(episode(leader.clone(), week, minute, *kind));
            }
            let fired = step(&mut leader, minute, &week[minute]);
            if fired && minute >= WARM && last.is_none_or(|l| minute - l >= DEDUPE) {
                alarms += 1;
                last = Some(minute);
            }
        }
    }
    let weeks = models.len() as f64 * (WEEK - WARM) as f64 / WEEK as f64;
    let mut rows = vec![Row::clean("latency", weeks, alarms, 1.0)];
    for ((name, _, expected, _), delays) in FAULTS.into_iter().zip(delays) {
        let n = models.len() * TIMES;
        rows.push(if expected.is_some_and(|e| e < 0.0) {
            Row::never("latency", name, n, delays)
        } else {
            Row::found("latency", name, n, delays, expected)
        });
    }
    Ok(rows)
}

/// Plays a fault from `start` on; minutes until it was found, if it was.
fn episode(mut leader: Leader, week: &Week, start: usize, kind: usize) -> Option<f64> {
    let (_, minutes, _, change) = FAULTS[kind];
    for i in 0..minutes {
        let mut requests = week.get(start + i)?.clone();
        for r in &mut requests {
            change(r, i as f64 / minutes as f64);
        }
        if step(&mut leader, start + i, &requests) {
            return Some((i + 1) as f64);
        }
    }
    None
}

/// Merges a minute; whether latency or errors are found.
fn step(leader: &mut Leader, minute: usize, requests: &[Request]) -> bool {
    let minute = i64::try_from(minute).unwrap_or(0);
    let mut part = MinutePart {
        minute,
        ..MinutePart::default()
    };
    for r in requests {
        let name = ModelKey {
            model: SmolStr::new_static(if r.second { "m-2" } else { "m-1" }),
            route: SmolStr::default(),
        };
        let seen = part.models.entry(name).or_default();
        seen.requests += 1;
        seen.errors += u64::from(r.failed);
        seen.timeouts += u64::from(r.failed);
        if r.failed {
            continue;
        }
        let prompt = prompt_bucket(index(r.prompt) as u64);
        let ttft = (r.ttft + PROMPT_MS * r.prompt) * r.noise.0 * r.factor;
        let ttft = r.fixed.unwrap_or(ttft);
        *seen
            .samples
            .entry(code(Measure::Ttft, prompt, value_bucket(ttft)))
            .or_default() += 1;
        if r.output >= 8.0 {
            *seen
                .samples
                .entry(code(
                    Measure::Tpot,
                    prompt,
                    value_bucket(r.tpot * r.noise.1 * r.factor),
                ))
                .or_default() += 1;
        }
    }
    let part = Part {
        from: TopicPartition {
            topic: SmolStr::new_static("bench"),
            partition: 0,
        },
        bytes: part.encode(),
    };
    let found = leader.merge_minute(minute, &[part], false);
    found
        .iter()
        .any(|f| matches!(f.detector, DetectorId::Latency | DetectorId::Errors))
}

/// A model per provider and size of the benchmark: a week of arrivals in the shape of real load.
fn models(dir: &Path, seed: u64) -> Result<Vec<Week>, String> {
    let mut load = vec![0.0; WEEK / 10];
    for r in records(dir, "servegen_rate.dev.csv.gz")? {
        if &r[0] == "m-large"
            && let Some(x) = load.get_mut(index(field(&r, 2) / 600.0))
        {
            *x += field(&r, 3);
        }
    }
    let mean = load.iter().sum::<f64>() / load.len() as f64;
    let sizes: Vec<(f64, f64)> = records(dir, "azure_llm_2023_conv.dev.csv.gz")?
        .iter()
        .map(|r| (field(r, 1), field(r, 2)))
        .collect();
    let mut noise: BTreeMap<(String, String), Vec<(f64, f64)>> = BTreeMap::new();
    for r in records(dir, "llmperf_latency.dev.csv.gz")? {
        if r[3].is_empty() && field(&r, 4) > 0.0 && field(&r, 5) > 0.0 {
            let key = (r[0].to_owned(), r[1].to_owned());
            noise
                .entry(key)
                .or_default()
                .push((field(&r, 4) * 1e3, field(&r, 5) * 1e3));
        }
    }
    noise.retain(|_, samples| samples.len() >= LEAST);
    if sizes.is_empty() || mean <= 0.0 {
        return Err("the traces of sizes and load are empty".to_owned());
    }
    let all = noise.into_values().enumerate();
    Ok(all
        .map(|(n, samples)| week(seed + 7 * n as u64, &load, mean, &sizes, &samples))
        .collect())
}

fn week(seed: u64, load: &[f64], mean: f64, sizes: &[(f64, f64)], samples: &[(f64, f64)]) -> Week {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut out = vec![Vec::new(); WEEK];
    let middle = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = samples.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (median_a, median_b) = (middle(&|s| s.0), middle(&|s| s.1));
    // A slow wave of each measure, one step in ten minutes.
    let (mut wave_a, mut wave_b) = (0.0f64, 0.0f64);
    for (bin, total) in load.iter().enumerate() {
        wave_a = 0.85 * wave_a + 0.05 * normal(&mut rng);
        wave_b = 0.85 * wave_b + 0.05 * normal(&mut rng);
        let level = total / mean;
        let rate = (RATE * level).max(1e-4);
        let mut second = 0.0;
        loop {
            second += -rng.f64().max(f64::MIN_POSITIVE).ln() / rate;
            if second >= 600.0 {
                break;
            }
            let (prompt, output) = sizes[rng.usize(..sizes.len())];
            let (a, b) = samples[rng.usize(..samples.len())];
            let jitter = |rng: &mut fastrand::Rng| (0.03 * normal(rng)).exp();
            let request = Request {
                second: rng.f64() < 0.2,
                prompt,
                output,
                ttft: median_a * (0.7 + 0.3 * level) * wave_a.exp(),
                tpot: median_b * (0.8 + 0.2 * level) * wave_b.exp(),
                noise: (
                    a / median_a * jitter(&mut rng),
                    b / median_b * jitter(&mut rng),
                ),
                factor: 1.0,
                fixed: None,
                failed: false,
                lot: between(&mut rng, 0.0, 1.0),
            };
            out[bin * 10 + index(second / 60.0).min(9)].push(request);
        }
    }
    out
}
