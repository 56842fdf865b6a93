//! What one measure of one model version on one route usually is, and the two tests against it.
//!
//! Prompt length: a line through decayed sums (forgets in [`REQUESTS`] requests), samples winsorised
//! at four times their prediction. Ratios to that line go into a decayed histogram of a day with
//! buckets of 5 %, and into a ring of the last ten minutes.

use super::{bucket_ms, bucket_tokens};
use crate::detect::config;
use crate::detect::errors::surprise;
use crate::detect::wire::{Damaged, Reader, Writer};

/// The line forgets by 1/e in this many requests.
const REQUESTS: f64 = 5_000.0;
/// The histogram forgets by 1/e in this many minutes.
const MEMORY_MINUTES: f64 = 1_440.0;
/// Minutes of the longest window.
const RING: usize = 10;
/// Windows judged, minutes.
const WINDOWS: [usize; 5] = [1, 2, 3, 5, 10];
/// Buckets of the ratio, 5 % each, from [`LOWEST`].
const BUCKETS: usize = 200;
/// Lowest ratio told apart.
const LOWEST: f64 = 0.02;
/// Logarithm of the bucket width.
const STEP: f64 = 0.048_790_164_169_432;
/// Samples a median needs.
const MEDIAN_SAMPLES: u64 = 30;
/// Standard errors of the median that a shift must exceed, on top of the ratio.
const ERRORS: f64 = 3.0;
/// A sample is in the tail beyond this many times the usual 99th percentile.
const TAIL: f64 = 1.5;
/// The tail is never believed to be thinner than this.
const LEAST_TAIL: f64 = 0.004;
/// Tail samples needed.
const TAIL_SAMPLES: u64 = 5;
/// −log₁₀ of the chance from which a fat tail fires.
const TAIL_SURPRISE: f64 = 5.5;
/// Abnormal minutes in a row that are not learnt; after them it is the new normal.
const MAX_HELD: u32 = 120;

/// What is wrong.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// The median has shifted; else the tail is fat.
    pub(super) shift: bool,
    /// Median over the usual median; or the factor beyond which the tail begins.
    pub(super) ratio: f64,
    /// Samples of the window.
    pub(super) samples: u64,
    /// Its length.
    pub(super) minutes: usize,
    /// Samples in the tail, and how many are usual.
    pub(super) beyond: u64,
    pub(super) expected: f64,
}

/// Decayed sums of prompt tokens x and milliseconds y.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn predict(&self, x: f64) -> f64 {
        if self.n < 1.0 {
            return 0.0;
        }
        let (mx, my) = (self.x / self.n, self.y / self.n);
        let var = self.xx / self.n - mx * mx;
        let cov = self.xy / self.n - mx * my;
        // A slope needs prompts that differ; it is never negative.
        let slope = if var > 1.0 && self.n >= 50.0 {
            (cov / var).max(0.0)
        } else {
            0.0
        };
        (my + slope * (x - mx)).max(0.1 * my).max(1e-3)
    }

    fn add(&mut self, x: f64, y: f64, n: f64) {
        self.n += n;
        self.x += n * x;
        self.y += n * y;
        self.xx += n * x * x;
        self.xy += n * x * y;
    }

    fn fade(&mut self, keep: f64) {
        for v in [
            &mut self.n,
            &mut self.x,
            &mut self.y,
            &mut self.xx,
            &mut self.xy,
        ] {
            *v *= keep;
        }
    }
}

/// One minute: (ratio bucket, count), ascending; and the samples for the line.
#[derive(Debug, Clone, Default, PartialEq)]
struct Minute {
    ratios: Vec<(u8, u32)>,
    total: u64,
}

/// See the module's header.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Baseline {
    line: Line,
    /// Decayed counts by ratio bucket; empty before the first sample.
    usual: Vec<f32>,
    born: Option<i64>,
    minute: i64,
    /// Requests ever, saturating.
    seen: u64,
    /// Newest first, at most [`RING`].
    ring: std::collections::VecDeque<Minute>,
    /// Abnormal minutes in a row.
    held: u32,
    /// Samples of the newest minute as (prompt bucket, value bucket, count), until they are learnt.
    fresh: Vec<(u32, u32, u64)>,
}

fn bucket(ratio: f64) -> usize {
    let b = ((ratio / LOWEST).max(1.0).ln() / STEP).min(BUCKETS as f64 - 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and BUCKETS"
    )]
    let b = b as usize;
    b
}

impl Baseline {
    /// Takes a minute's samples into the windows. Call once per minute, also without samples.
    pub(super) fn push(&mut self, minute: i64, samples: &[(u32, u32, u64)]) {
        self.minute = minute;
        let mut ratios: std::collections::BTreeMap<u8, u32> = std::collections::BTreeMap::new();
        let mut total = 0;
        if !samples.is_empty() {
            self.born.get_or_insert(minute);
            if self.line.n < 1.0 {
                // The first minute is its own line.
                for (p, v, n) in samples {
                    self.line.add(bucket_tokens(*p), bucket_ms(*v), *n as f64);
                }
            }
            for (p, v, n) in samples {
                let r = bucket_ms(*v) / self.line.predict(bucket_tokens(*p));
                let b = u8::try_from(bucket(r)).unwrap_or(u8::MAX);
                let count = ratios.entry(b).or_default();
                *count = count.saturating_add(u32::try_from(*n).unwrap_or(u32::MAX));
                total += n;
            }
        }
        self.ring.push_front(Minute {
            ratios: ratios.into_iter().collect(),
            total,
        });
        self.ring.truncate(RING);
        self.fresh = samples.to_vec();
    }

    pub(super) fn has_learnt(&self, config: &config::Latency) -> bool {
        self.seen >= config.learn_requests
            && self
                .born
                .is_some_and(|b| self.minute - b >= config.learn_minutes)
    }

    /// Judges the windows.
    pub(super) fn judge(&self, config: &config::Latency) -> Option<Verdict> {
        if self.fresh.is_empty() || !self.has_learnt(config) {
            return None;
        }
        let (q16, q50, q84, q99) = (
            self.quantile(0.16),
            self.quantile(0.5),
            self.quantile(0.84),
            self.quantile(0.99),
        );
        // Width of the noise, in logarithms.
        let sigma = ((q84 / q16).ln() / 2.0).max(STEP);
        let edge = bucket(q99 * TAIL);
        let all: f64 = self.usual.iter().map(|c| f64::from(*c)).sum();
        let usual_tail: f64 = self.usual[edge..].iter().map(|c| f64::from(*c)).sum();
        let share = (usual_tail / all.max(1.0)).max(LEAST_TAIL);
        let mut counts = vec![0u64; BUCKETS];
        let mut samples = 0;
        let mut tail = None;
        for (i, m) in self.ring.iter().enumerate() {
            for (b, n) in &m.ratios {
                counts[usize::from(*b)] += u64::from(*n);
            }
            samples += m.total;
            let minutes = i + 1;
            if !WINDOWS.contains(&minutes) || samples == 0 {
                continue;
            }
            if samples >= MEDIAN_SAMPLES {
                let ratio = interpolate(counts.iter().map(|n| *n as f64), 0.5) / q50;
                let error = 1.253 * sigma / (samples as f64).sqrt();
                // The usual drifts by load within a day; the ratio covers that, the errors chance.
                let needed = (config.p50_ratio.ln() - 0.05).max(0.1) + ERRORS * error;
                if ratio.ln() >= needed {
                    return Some(Verdict {
                        shift: true,
                        ratio,
                        samples,
                        minutes,
                        beyond: 0,
                        expected: 0.0,
                    });
                }
            }
            let beyond: u64 = counts[edge..].iter().sum();
            let expected = share * samples as f64;
            if tail.is_none()
                && beyond >= TAIL_SAMPLES
                && surprise(beyond, expected) >= TAIL_SURPRISE
            {
                // Where most are beyond the tail it is no tail.
                let shift = beyond * 2 > samples;
                let median = interpolate(counts.iter().map(|n| *n as f64), 0.5) / q50;
                tail = Some(Verdict {
                    shift,
                    ratio: if shift { median } else { TAIL },
                    samples,
                    minutes,
                    beyond,
                    expected,
                });
            }
        }
        tail
    }

    /// Learns the newest minute, unless it is `abnormal` and has not been so for long.
    pub(super) fn learn(&mut self, abnormal: bool) {
        let fresh = std::mem::take(&mut self.fresh);
        let fade = (-1.0 / MEMORY_MINUTES).exp();
        if abnormal && self.held < MAX_HELD {
            self.held += 1;
            return;
        }
        if !abnormal {
            self.held = 0;
        }
        if fresh.is_empty() {
            return;
        }
        if self.usual.is_empty() {
            self.usual = vec![0.0; BUCKETS];
        }
        #[expect(clippy::cast_possible_truncation, reason = "a factor near one")]
        let fade = fade as f32;
        for c in &mut self.usual {
            *c *= fade;
        }
        if let Some(m) = self.ring.front() {
            for (b, n) in &m.ratios {
                self.usual[usize::from(*b)] += *n as f32;
            }
            self.seen = self.seen.saturating_add(m.total);
        }
        let n: u64 = fresh.iter().map(|s| s.2).sum();
        let line = self.line;
        self.line.fade((-(n as f64) / REQUESTS).exp());
        for (p, v, n) in fresh {
            let x = bucket_tokens(p);
            let y = bucket_ms(v).min(4.0 * line.predict(x));
            self.line.add(x, y, n as f64);
        }
    }

    fn quantile(&self, q: f64) -> f64 {
        interpolate(self.usual.iter().map(|c| f64::from(*c)), q)
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        for v in [
            self.line.n,
            self.line.x,
            self.line.y,
            self.line.xx,
            self.line.xy,
        ] {
            w.f64(v);
        }
        w.bool(!self.usual.is_empty());
        if !self.usual.is_empty() {
            let mut i = 0;
            // Runs of zeros are most of it.
            while i < self.usual.len() {
                let zeros = self.usual[i..].iter().take_while(|c| **c == 0.0).count();
                w.len(zeros);
                i += zeros;
                let full = self.usual[i..].iter().take_while(|c| **c != 0.0).count();
                w.len(full);
                for c in &self.usual[i..i + full] {
                    w.f32(*c);
                }
                i += full;
            }
        }
        w.option(self.born, Writer::i64);
        w.i64(self.minute);
        w.u64(self.seen);
        w.u64(u64::from(self.held));
        w.len(self.ring.len());
        for m in &self.ring {
            w.u64(m.total);
            w.len(m.ratios.len());
            for (b, n) in &m.ratios {
                w.u8(*b);
                w.u64(u64::from(*n));
            }
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut b = Self {
            line: Line {
                n: r.f64()?,
                x: r.f64()?,
                y: r.f64()?,
                xx: r.f64()?,
                xy: r.f64()?,
            },
            ..Self::default()
        };
        if r.bool()? {
            while b.usual.len() < BUCKETS {
                let zeros: usize = r.small()?;
                if zeros > BUCKETS - b.usual.len() {
                    return Err(r.damaged());
                }
                b.usual.resize(b.usual.len() + zeros, 0.0);
                let full: usize = r.small()?;
                if full > BUCKETS - b.usual.len() || zeros + full == 0 {
                    return Err(r.damaged());
                }
                for _ in 0..full {
                    b.usual.push(r.f32()?);
                }
            }
        }
        b.born = r.option(Reader::i64)?;
        b.minute = r.i64()?;
        b.seen = r.u64()?;
        b.held = r.small()?;
        for _ in 0..r.len()? {
            let mut m = Minute {
                total: r.u64()?,
                ..Minute::default()
            };
            for _ in 0..r.len()? {
                let bucket = r.u8()?;
                if usize::from(bucket) >= BUCKETS {
                    return Err(r.damaged());
                }
                m.ratios.push((bucket, r.small()?));
            }
            b.ring.push_back(m);
        }
        Ok(b)
    }
}

/// A quantile of counted ratios, interpolated within its bucket (5 % would be too coarse).
fn interpolate(counts: impl Iterator<Item = f64> + Clone, q: f64) -> f64 {
    let at = q * counts.clone().sum::<f64>();
    let mut below = 0.0;
    for (b, n) in counts.enumerate() {
        if n > 0.0 && below + n >= at {
            let part = (at - below) / n;
            return LOWEST * ((b as f64 + part) * STEP).exp();
        }
        below += n;
    }
    1.0
}
