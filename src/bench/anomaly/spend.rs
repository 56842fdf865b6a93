//! Spend: bursts, loops, theft, ramps and drains of single users, and a crowd that rises together.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Row, between, field, index, normal, records};
use crate::detect::config::Spend;
use crate::detect::part::Elevation;
use crate::detect::spend::{BIN_MS, Baseline, CoElevation, Pace};
use crate::event::Time;

/// Bins of ten minutes in fourteen days.
const BINS: usize = 2_016;
/// Bins of a day.
const DAY: usize = 144;
/// Clean bins are counted from here: day 8.
const CLEAN: usize = 8 * DAY;
/// Attacks begin before this bin.
const LAST: usize = 1_800;
/// Two alarms of a user within six hours are one.
const DEDUPE: usize = 36;
/// A weighted token costs a dollar per million: pico-dollars.
const TOKEN_PICO: f64 = 1e6;
/// Attacks of each kind on each user.
const TIMES: usize = 2;
/// Episodes in which a crowd rises.
const CROWDS: usize = 20;
/// How long they last, bins.
const CROWD_BINS: usize = 36;

/// A kind of attack: its name, how many bins it lasts, the recall that is expected, and what it adds.
type Attack = (
    &'static str,
    usize,
    Option<f64>,
    fn(&User, usize, f64) -> f64,
);

const ATTACKS: [Attack; 7] = [
    ("burst x20, 1 h", 6, Some(0.85), |u, _, r| {
        20.0 * u.mean.max(0.3 * u.active) * r
    }),
    ("burst x5, 1 h", 6, None, |u, _, r| {
        5.0 * u.mean.max(0.3 * u.active) * r
    }),
    ("loop x5, 6 h", 36, Some(0.5), |u, i, _| {
        5.0 * u.mean * (0.5 + i as f64 / 35.0)
    }),
    (
        "theft x3, quiet hours, 2 nights",
        DAY + 24,
        Some(0.5),
        |u, i, r| {
            if i % DAY < 24 { 3.0 * u.mean * r } else { 0.0 }
        },
    ),
    ("ramp to x10, 72 h", 432, Some(0.5), |u, i, r| {
        (i as f64 / 288.0).min(1.0) * 9.0 * u.mean * (1.0 + 1.5 * (r - 1.0))
    }),
    ("drain x1, 72 h", 432, None, |u, _, r| u.mean * r),
    ("drain x0.3, 72 h", 432, None, |u, _, r| 0.3 * u.mean * r),
];

struct User {
    series: Vec<f64>,
    /// Mean of the first week, over all bins and over active ones.
    mean: f64,
    active: f64,
    /// First bin of the quietest four hours of a day, in the first week.
    quiet: usize,
}

/// Feeds a series and returns the bins that raise an alarm, from the second week on.
fn alarms(series: impl Iterator<Item = f64>, config: &Spend) -> Vec<usize> {
    let mut baseline = Baseline::default();
    let mut out = Vec::new();
    for (bin, x) in series.enumerate() {
        let end = Time(i64::try_from(bin).unwrap_or(0) * BIN_MS + BIN_MS - 1);
        #[expect(clippy::cast_possible_truncation, reason = "far below the bound")]
        let weight = (x * TOKEN_PICO) as i64;
        if baseline.add(end, weight, config).alarm.is_some() {
            out.push(bin);
        }
    }
    out
}

pub(super) fn run(dir: &Path, seed: u64) -> Result<Vec<Row>, String> {
    let users = users(dir, seed)?;
    let mut rows = Vec::new();
    let config = Spend::default();
    let mut false_alarms = 0;
    for u in &users {
        let mut last = None;
        for bin in alarms(u.series.iter().copied(), &config) {
            if bin >= CLEAN && last.is_none_or(|l| bin - l >= DEDUPE) {
                false_alarms += 1;
                last = Some(bin);
            }
        }
    }
    let months = users.len() as f64 * (BINS - CLEAN) as f64 / DAY as f64 / 30.0;
    rows.push(Row::clean("spend", months, false_alarms, 1.0));
    for (kind, (name, bins, expected, add)) in ATTACKS.into_iter().enumerate() {
        let mut rng = fastrand::Rng::with_seed(seed + 1 + kind as u64);
        let mut delays = Vec::new();
        for u in &users {
            for _ in 0..TIMES {
                let mut start = CLEAN + rng.usize(0..LAST - CLEAN);
                if name.starts_with("theft") {
                    start = (start / DAY * DAY + u.quiet).max(CLEAN);
                }
                let end = (start + bins).min(BINS);
                let noise: Vec<f64> = (start..end).map(|_| between(&mut rng, 0.8, 1.2)).collect();
                let series = u.series[..end].iter().enumerate().map(|(bin, x)| {
                    bin.checked_sub(start)
                        .map_or(*x, |i| x + add(u, i, noise[i]))
                });
                let hit = alarms(series, &config).into_iter().find(|b| *b >= start);
                delays.extend(hit.map(|b| (b + 1 - start) as f64 * 10.0));
            }
        }
        rows.push(Row::found(
            "spend",
            name,
            users.len() * TIMES,
            delays,
            expected,
        ));
    }
    let mut delays = Vec::new();
    let mut rng = fastrand::Rng::with_seed(seed);
    let clean = crowd(&users, None);
    let days = (BINS - CLEAN) as f64 / DAY as f64;
    rows.push(Row::clean("crowd", days / 30.0, clean.len(), 30.0 / days));
    for _ in 0..CROWDS {
        let start = CLEAN + rng.usize(0..LAST - CLEAN);
        let chosen: Vec<bool> = users.iter().map(|_| rng.bool()).collect();
        let hit = crowd(&users, Some((start, &chosen)));
        let hit = hit
            .into_iter()
            .find(|b| (start..start + CROWD_BINS).contains(b));
        delays.extend(hit.map(|b| (b + 1 - start) as f64 * 10.0));
    }
    rows.push(Row::found(
        "crowd",
        "half of the users +40 %, 6 h",
        CROWDS,
        delays,
        Some(0.9),
    ));
    Ok(rows)
}

/// The bins in which co-elevation raises an alarm; `rise`: from when, and for whom.
fn crowd(users: &[User], rise: Option<(usize, &[bool])>) -> Vec<usize> {
    let pace = Pace {
        bin_ms: BIN_MS,
        floor: 0.0,
        threshold: 1.0,
        again: 6,
    };
    let mut baselines: Vec<Baseline> = users.iter().map(|_| Baseline::default()).collect();
    let mut fleet = CoElevation::default();
    let mut out = Vec::new();
    let last = rise.map_or(BINS, |(start, _)| start + CROWD_BINS);
    for bin in 0..last {
        let number = i64::try_from(bin).unwrap_or(0);
        let end = Time(number * BIN_MS);
        let mut sums = Elevation::default();
        for (i, (u, b)) in users.iter().zip(&mut baselines).enumerate() {
            let up = rise.is_some_and(|(start, chosen)| bin >= start && chosen[i]);
            let x = u.series[bin] * if up { 1.4 } else { 1.0 };
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a baseline needs seven digits"
            )]
            b.add_at(end, x as f32, &pace);
            if let Some(raise) = b.advance(number + 1, &pace) {
                raise.add_to(&mut sums);
            }
        }
        let alarm = fleet.bin(number, sums, pace.again).alarm;
        if alarm && bin >= CLEAN {
            out.push(bin);
        }
    }
    out
}

/// The users of the traces that are active enough, and their weighted tokens per bin.
fn users(dir: &Path, seed: u64) -> Result<Vec<User>, String> {
    let mut requests: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    let key = |r: &csv::StringRecord| (r[0].to_owned(), r[1].to_owned());
    for r in records(dir, "servegen_rate.dev.csv.gz")? {
        let bin = index(field(&r, 2) / 600.0);
        if let Some(x) = requests
            .entry(key(&r))
            .or_insert_with(|| vec![0.0; BINS])
            .get_mut(bin)
        {
            *x += field(&r, 3);
        }
    }
    let mut tokens: BTreeMap<(String, String), Vec<(f64, f64)>> = BTreeMap::new();
    for r in records(dir, "servegen_tokens.dev.csv.gz")? {
        let weight = field(&r, 3) + 3.0 * field(&r, 6);
        tokens
            .entry(key(&r))
            .or_default()
            .push((field(&r, 2) / 600.0, weight));
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut out = Vec::new();
    for (key, n) in requests {
        let week = |w: &[f64]| w.iter().filter(|x| **x > 0.0).count() * 10 >= w.len();
        let (one, two) = n.split_at(BINS / 2);
        if !week(one) || !week(two) || one.iter().sum::<f64>() < 100.0 {
            continue;
        }
        let windows = tokens.get(&key).map_or(&[][..], Vec::as_slice);
        let series: Vec<f64> = n
            .iter()
            .enumerate()
            .map(|(bin, n)| {
                if *n <= 0.0 {
                    return 0.0;
                }
                let sd = (1.0 + 1.44 / n).ln().sqrt();
                n * weight_at(windows, bin as f64) * (sd * normal(&mut rng) - sd * sd / 2.0).exp()
            })
            .collect();
        let first = &series[..BINS / 2];
        let mean = first.iter().sum::<f64>() / first.len() as f64;
        let active = first.iter().filter(|x| **x > 0.0).count().max(1);
        let four_hours = |from: usize| -> f64 {
            (0..7)
                .map(|d| {
                    (0..24)
                        .map(|i| first[(d * DAY + from + i) % first.len()])
                        .sum::<f64>()
                })
                .sum()
        };
        let quiet = (0..DAY)
            .step_by(6)
            .min_by(|a, b| four_hours(*a).total_cmp(&four_hours(*b)));
        out.push(User {
            mean,
            active: first.iter().sum::<f64>() / active as f64,
            quiet: quiet.unwrap_or(0),
            series,
        });
    }
    Ok(out)
}

/// The weight of a request at a bin, between the windows around it; 2,000 tokens where none is known.
fn weight_at(windows: &[(f64, f64)], bin: f64) -> f64 {
    let after = windows.partition_point(|(at, _)| *at <= bin);
    let before = after.checked_sub(1).and_then(|i| windows.get(i));
    match (before, windows.get(after)) {
        (Some((a, x)), Some((b, y))) => x + (y - x) * (bin - a) / (b - a).max(1.0),
        (Some((_, x)), None) | (None, Some((_, x))) => *x,
        (None, None) => 2_000.0,
    }
}
