//! Scores a single time series online: `veilwatch series`. Home: none (one stream, one state).
//!
//! Three scores of different kinds are added: a seasonal residual on an arcsinh scale (how unlike
//! this hour), the variance of the last hundred values against its own history (how unlike in
//! shape), and the strongest mean shift over dyadic splits of the last thousand (how unlike in
//! level). The first and the last are turned into surprise (−log₁₀ of a streaming tail estimate), so
//! that a series that is always wild calibrates itself. A score counts only if it exceeds all of the
//! last hundred (refractory): one event, one alarm.
//!
//! One parameter set for every series, chosen with files left out (`docs/DETECTION.md`).

use std::collections::VecDeque;

/// Values of the shift test.
const LONG: usize = 1_000;
/// Values of the variance test.
const SHORT: usize = 100;
/// Values needed before the shift test speaks.
const SHIFT_FROM: usize = 60;
/// Smallest recent part of a split.
const SMALLEST_SPLIT: usize = 4;
/// Values before which a residual is not believed.
const QUIET: f64 = 50.0;
/// Values before which no row is scored.
const WARM: f64 = 150.0;
/// Scores a new one must exceed.
const REFRACTORY: usize = 100;
/// Raw score that raises an alarm.
const THRESHOLD: f64 = 5.5;
/// Most that one of the three may give.
const CLIP: f64 = 12.0;
/// Residuals are winsorised at this many deviations before they are learnt.
const WINSOR: f64 = 6.0;
/// Largest value of a series' first rows: its square still is a number.
const LARGEST: f64 = 1e100;
/// A value is taken as at most this many times the usual size: a counter that wraps is one wild value, and
/// must neither become the scale nor blind the windows for as long as it is in them.
const ABSURD: f64 = 300.0;

/// What a row gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// 0–1; an alarm is from 0.5.
    pub score: f64,
    /// Whether this row raises it.
    pub alarm: bool,
}

/// The state of one series; about 9 KB.
#[derive(Debug, Clone)]
pub struct Series {
    n: f64,
    scale: f64,
    hours: [(f64, f64); 24],
    level: f64,
    residual_var: f64,
    shape_mean: f64,
    shape_var: f64,
    values: VecDeque<f64>,
    season_tail: Tail,
    shift_tail: Tail,
    recent: VecDeque<f64>,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            n: 0.0,
            scale: 0.0,
            hours: [(0.0, 0.0); 24],
            level: 0.0,
            residual_var: 0.0,
            shape_mean: 0.0,
            shape_var: 0.0,
            values: VecDeque::with_capacity(LONG),
            season_tail: Tail::default(),
            shift_tail: Tail::default(),
            recent: VecDeque::with_capacity(REFRACTORY),
        }
    }
}

impl Series {
    /// Scores the next value; `hour` is the hour of the day, 0–23. A value that is not finite scores
    /// nothing and is not learnt.
    pub fn push(&mut self, hour: usize, value: f64) -> Scored {
        if !value.is_finite() {
            return Scored {
                score: 0.0,
                alarm: false,
            };
        }
        let value = if self.n > QUIET && self.scale > 0.0 {
            value.clamp(-ABSURD * self.scale, ABSURD * self.scale)
        } else {
            value.clamp(-LARGEST, LARGEST)
        };
        let season = self.season(hour % 24, value);
        self.values.push_back(value);
        if self.values.len() > LONG {
            self.values.pop_front();
        }
        let shape = self.shape();
        let shift = self.shift();
        self.n += 1.0;
        let raw = self.season_tail.surprise(season).min(CLIP)
            + shape.min(CLIP)
            + self.shift_tail.surprise(shift).min(CLIP);
        if self.n <= WARM {
            return Scored {
                score: 0.0,
                alarm: false,
            };
        }
        let highest = self.recent.iter().copied().fold(0.0, f64::max);
        self.recent.push_back(raw);
        if self.recent.len() > REFRACTORY {
            self.recent.pop_front();
        }
        if raw <= highest {
            return Scored {
                score: 0.0,
                alarm: false,
            };
        }
        Scored {
            score: raw / (raw + THRESHOLD),
            alarm: raw >= THRESHOLD,
        }
    }

    /// Deviations from the hour's usual.
    fn season(&mut self, hour: usize, value: f64) -> f64 {
        let n = self.n;
        self.scale += (1.0f64 / 2_000.0).max(1.0 / (n + 1.0)) * (value.abs() - self.scale);
        let y = if self.scale > 0.0 {
            (value / (0.1 * self.scale)).asinh()
        } else {
            0.0
        };
        let deviation = self.residual_var.sqrt().max(1e-3);
        let (mean, seen) = &mut self.hours[hour];
        let usual = if *seen >= 3.0 { *mean } else { self.level };
        let residual = y - usual;
        let limit = WINSOR * deviation;
        let learnt = if n > QUIET {
            residual.clamp(-limit, limit)
        } else {
            residual
        };
        *seen += 1.0;
        // Upwards a single value moves the hour no further than the limit; its first ten values may
        // pull it down freely, since a start-up peak is worse than a hole.
        let step = (y - *mean).min(WINSOR * deviation.max(0.01));
        let step = if *seen < 10.0 { step } else { step.max(-limit) };
        *mean += 0.02f64.max(1.0 / *seen) * step;
        self.level += 0.005f64.max(1.0 / (n + 1.0)) * (y - self.level);
        let rate = (1.0f64 / 1_000.0).max(1.0 / (n + 1.0));
        self.residual_var += rate * (learnt * learnt - self.residual_var);
        if n > QUIET {
            residual.abs() / deviation
        } else {
            0.0
        }
    }

    /// Deviations of the logarithm of the short variance from its own mean.
    fn shape(&mut self) -> f64 {
        if self.values.len() < SHORT {
            return 0.0;
        }
        let (_, var) = moments(self.values.iter().rev().take(SHORT));
        let log = (var + 1e-6 * self.scale * self.scale + 1e-12).ln();
        let k = self.n - 99.0;
        let difference = log - self.shape_mean;
        let score = if k > QUIET {
            difference.abs() / self.shape_var.sqrt().max(0.1)
        } else {
            0.0
        };
        let rate = 0.001f64.max(1.0 / k.max(1.0));
        self.shape_mean += rate * difference;
        self.shape_var = (1.0 - rate) * (self.shape_var + rate * difference * difference);
        score
    }

    /// Standard errors of the strongest shift between the newest 2^k values and those before.
    fn shift(&self) -> f64 {
        let total = self.values.len();
        if total < SHIFT_FROM {
            return 0.0;
        }
        let (mean, var) = moments(self.values.iter());
        let sum = mean * total as f64;
        let floor = 1e-9 + 1e-6 * self.scale;
        let mut strongest = 0.0f64;
        let mut newest = 0.0;
        let mut next = SMALLEST_SPLIT;
        for (i, v) in self.values.iter().rev().enumerate() {
            newest += v;
            let k = i + 1;
            if k != next {
                continue;
            }
            if k * 2 > total {
                break;
            }
            let (k, rest) = (k as f64, (total - k) as f64);
            let error = (var * (1.0 / k + 1.0 / rest)).sqrt().max(floor);
            strongest = strongest.max((newest / k - (sum - newest) / rest).abs() / error);
            next *= 2;
        }
        strongest
    }
}

/// Mean and variance. The variance is taken in a second pass: values may be large and alike.
fn moments<'a>(values: impl Iterator<Item = &'a f64> + Clone) -> (f64, f64) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    let var = values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (mean, var)
}

/// Buckets of the tail's histogram.
const BUCKETS: usize = 64;
/// Lowest score told apart; the buckets span five powers of ten.
const LOWEST: f64 = 1e-2;
/// Scores seen before the tail speaks.
const TAIL_FROM: f64 = 30.0;
/// Share of the scores whose tail is exponential.
const TAIL_SHARE: f64 = 0.02;

/// A streaming estimate of how rare a score is: a histogram of logarithms, and an exponential tail
/// above the 98th percentile.
#[derive(Debug, Clone)]
struct Tail {
    counts: [f64; BUCKETS],
    n: f64,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            counts: [0.0; BUCKETS],
            n: 0.0,
        }
    }
}

impl Tail {
    fn place(score: f64) -> usize {
        let share = (score.max(LOWEST) / LOWEST).ln() / 1e5f64.ln();
        let at = (share * (BUCKETS - 1) as f64).clamp(0.0, (BUCKETS - 1) as f64);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the buckets"
        )]
        let at = at as usize;
        at
    }

    fn edge(bucket: usize) -> f64 {
        LOWEST * (bucket as f64 / (BUCKETS - 1) as f64 * 1e5f64.ln()).exp()
    }

    /// −log₁₀ of the chance of a score like this; then learns it.
    fn surprise(&mut self, score: f64) -> f64 {
        let chance = self.chance(score);
        self.counts[Self::place(score)] += 1.0;
        self.n += 1.0;
        -chance.max(1e-30).log10()
    }

    fn chance(&self, score: f64) -> f64 {
        if self.n < TAIL_FROM {
            return 1.0;
        }
        let b = Self::place(score);
        let mut above = 0.0;
        let mut q = BUCKETS - 1;
        while q > 0 && above + self.counts[q] <= TAIL_SHARE * self.n {
            above += self.counts[q];
            q -= 1;
        }
        if b <= q {
            let (low, high) = (Self::edge(b), Self::edge(b + 1));
            let part = ((high - score) / (high - low)).clamp(0.0, 1.0);
            let count = self.counts[b + 1..].iter().sum::<f64>() + part * self.counts[b];
            return (count + 0.5) / (self.n + 1.0);
        }
        let start = Self::edge(q + 1);
        let excess: f64 = (q + 1..BUCKETS)
            .map(|i| self.counts[i] * (f64::midpoint(Self::edge(i), Self::edge(i + 1)) - start))
            .sum();
        // One made-up sample a quarter above the start keeps an empty tail from being a wall.
        let mean = ((excess + 0.25 * start) / (above + 1.0)).max(0.05 * start);
        (above + 0.5) / (self.n + 1.0) * (-(score - start) / mean).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: u32) -> f64 {
        let h = blake3::hash(&i.to_le_bytes());
        f64::from(h.as_bytes()[0]) / 255.0
    }

    #[test]
    fn a_spike_and_a_step_raise_one_alarm_each_and_noise_none() {
        let mut s = Series::default();
        let mut alarms = Vec::new();
        for i in 0..4_000u32 {
            let base = if i >= 3_000 { 60.0 } else { 20.0 };
            let spike = if i == 2_000 { 400.0 } else { 0.0 };
            let hour = usize::try_from(i / 12 % 24).expect("hour");
            if s.push(hour, base + noise(i) + spike).alarm {
                alarms.push(i);
            }
        }
        assert!(alarms.contains(&2_000), "{alarms:?}");
        assert!(
            alarms.iter().any(|i| (3_000..3_020).contains(i)),
            "{alarms:?}"
        );
        assert!(alarms.len() <= 5, "{alarms:?}");
        assert!(alarms.iter().all(|i| *i >= 2_000), "{alarms:?}");
    }

    #[test]
    fn one_absurd_value_neither_blinds_nor_alarms_for_ever() {
        for absurd in [4_294_967_295.0, 1e160, f64::MAX, -1e300] {
            let mut s = Series::default();
            let mut alarms = Vec::new();
            for i in 0..6_000u32 {
                let usual = 10.0 + f64::from(i.wrapping_mul(7_919) % 13) / 3.0;
                let value = match i {
                    500 => absurd,
                    3_000..=3_011 | 5_500..=5_511 => 500.0,
                    _ => usual,
                };
                let hour = usize::try_from(i / 12 % 24).expect("hour");
                if s.push(hour, value).alarm {
                    alarms.push(i);
                }
            }
            for from in [3_000, 5_500] {
                let found = alarms.iter().any(|i| (from..from + 12).contains(i));
                assert!(found, "{absurd}: {alarms:?}");
            }
            assert!(alarms.len() <= 8, "{absurd}: {alarms:?}");
        }
    }

    #[test]
    fn constants_gaps_and_nonsense_are_quiet() {
        let mut s = Series::default();
        for i in 0..500 {
            let v = if i % 50 == 7 { f64::NAN } else { 0.0 };
            assert!(!s.push(0, v).alarm, "{i}");
        }
        assert!((0.0..=1.0).contains(&s.push(0, f64::MAX / 4.0).score));
    }
}
