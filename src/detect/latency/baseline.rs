//! What one measure of one model version on one route usually is, and the tests against it.
//!
//! A sample is divided by what a prompt of its length takes (a line, samples winsorised at four times
//! their prediction) and by what a load as of now costs (another line). These ratios go into a decayed
//! histogram of a day ([`Usual`]) and into a ring of the last half hour. A shift is a median further
//! above the histogram's than chance and its usual wandering ([`Level`]) explain; a fat tail is more
//! samples far out than a usual day has ([`tail`]).

use std::collections::{BTreeMap, VecDeque};

use super::level::Level;
use super::line::Line;
use super::tail::{self, Tail};
use super::usual::{BUCKETS, Usual, bucket, interpolate};
use super::{bucket_ms, bucket_tokens};
use crate::detect::config;
use crate::detect::wire::{Damaged, Reader, Writer};

/// The line of prompts forgets by 1/e in this many requests, but no faster than in so many minutes.
const REQUESTS: f64 = 5_000.0;
const LINE_MINUTES: f64 = 4_320.0;
/// The line of loads forgets by 1/e in this many minutes: three days.
const LOAD_MINUTES: f64 = 4_320.0;
/// Samples until the line of loads is believed.
const LOAD_SAMPLES: f64 = 5_000.0;
/// Ratios beyond this are cut before the line of loads learns them.
const LOAD_WINSOR: f64 = 2.5;
/// What a load may explain: from half to three times as long.
const LOAD_EXPLAINS: (f64, f64) = (0.5, 3.0);
/// The histogram forgets by 1/e in this many minutes.
const MEMORY_MINUTES: f64 = 1_440.0;
/// Minutes of the longest window.
const RING: usize = 30;
/// Windows of the median, minutes; older minutes keep only what may be a tail.
const MEDIAN_WINDOWS: [usize; 4] = [2, 3, 5, 10];
const MEDIAN_RING: usize = 10;
/// The window by which the level is followed.
const LEVEL_WINDOW: usize = 5;
/// Samples a median needs.
const MEDIAN_SAMPLES: u64 = 30;
/// Standard errors of the median, chance and wandering together, that a shift must exceed.
const SHIFT_ERRORS: f64 = 5.0;
/// The same where both measures rise together, and the part of a shift's least rise that is enough.
const BOTH_ERRORS: f64 = 4.8;
const BOTH_PART: f64 = 0.7;
/// Each of the two must rise by this (logarithm) and counts as at most so much.
const BOTH_LEAST: f64 = 0.1;
const BOTH_MOST: f64 = 0.5;
/// Abnormal minutes in a row that are not learnt; after them it is the new normal.
const MAX_HELD: u32 = 120;

/// What is wrong.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// The median of a window is this many times the usual.
    Shift {
        ratio: f64,
        samples: u64,
        minutes: usize,
    },
    /// The median has risen over hours.
    Drift { ratio: f64 },
    /// Too many samples are far out.
    Tail(Tail),
}

/// The median of a window, against the usual one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Median {
    minutes: usize,
    samples: u64,
    /// Logarithm of its ratio to the usual.
    rise: f64,
    /// The same less the slow wave.
    rest: f64,
    /// Standard error by chance.
    error: f64,
}

/// One minute's look at the windows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Look {
    pub(super) verdict: Option<Verdict>,
    medians: Vec<Median>,
}

/// One minute: (ratio bucket, count), ascending.
#[derive(Debug, Clone, Default, PartialEq)]
struct Minute {
    ratios: Vec<(u8, u32)>,
    total: u64,
}

/// What the newest minute adds, until it is learnt.
#[derive(Debug, Clone, Default, PartialEq)]
struct Fresh {
    /// (prompt bucket, value bucket, count).
    samples: Vec<(u32, u32, u64)>,
    /// Requests a minute of late, and the mean ratio to the line of prompts.
    load: f64,
    mean: f64,
}

/// See the module's header.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Baseline {
    line: Line,
    loads: Line,
    usual: Usual,
    level: Level,
    born: Option<i64>,
    minute: i64,
    /// Requests ever, saturating.
    seen: u64,
    /// Newest first, at most [`RING`].
    ring: VecDeque<Minute>,
    /// Abnormal minutes in a row.
    held: u32,
    fresh: Fresh,
}

impl Baseline {
    /// Takes a minute's samples into the windows. Call once per minute, also without samples.
    pub(super) fn push(&mut self, minute: i64, samples: &[(u32, u32, u64)]) {
        self.minute = minute;
        let total: u64 = samples.iter().map(|s| s.2).sum();
        let before: u64 = self.ring.iter().take(2).map(|m| m.total).sum();
        let load = (total + before) as f64 / 3.0;
        // A load that jumps shows in the newest minute first, less what chance adds to it.
        let now = total as f64;
        let explained = self.explained(load.max(now - now.sqrt()));
        let mut ratios: BTreeMap<u8, u32> = BTreeMap::new();
        let mut sum = 0.0;
        if total > 0 {
            self.born.get_or_insert(minute);
            if self.line.weight() < 1.0 {
                // The first minute is its own line.
                for (p, v, n) in samples {
                    self.line.add(bucket_tokens(*p), bucket_ms(*v), *n as f64);
                }
            }
            for (p, v, n) in samples {
                let r = bucket_ms(*v) / self.line.predict(bucket_tokens(*p));
                sum += r.min(LOAD_WINSOR) * *n as f64;
                let b = u8::try_from(bucket(r / explained)).unwrap_or(u8::MAX);
                let count = ratios.entry(b).or_default();
                *count = count.saturating_add(u32::try_from(*n).unwrap_or(u32::MAX));
            }
        }
        self.ring.push_front(Minute {
            ratios: ratios.into_iter().collect(),
            total,
        });
        self.ring.truncate(RING);
        let near = bucket(self.usual.quantile(0.9));
        if let Some(old) = self.ring.get_mut(MEDIAN_RING) {
            old.ratios.retain(|(b, _)| usize::from(*b) >= near);
        }
        self.fresh = Fresh {
            samples: samples.to_vec(),
            load,
            mean: sum / now.max(1.0),
        };
    }

    /// How much longer a load lets requests take, as a factor.
    fn explained(&self, load: f64) -> f64 {
        if self.loads.weight() < LOAD_SAMPLES {
            return 1.0;
        }
        let (least, most) = LOAD_EXPLAINS;
        self.loads.relative(load).clamp(least, most)
    }

    pub(super) fn has_learnt(&self, config: &config::Latency) -> bool {
        self.seen >= config.learn_requests
            && self
                .born
                .is_some_and(|b| self.minute - b >= config.learn_minutes)
    }

    /// Judges the windows.
    pub(super) fn judge(&self, config: &config::Latency) -> Look {
        let mut look = Look::default();
        if self.fresh.samples.is_empty() || !self.has_learnt(config) {
            return look;
        }
        let q50 = self.usual.quantile(0.5);
        let variance = self.level.variance();
        let mut tails = tail::Test::new(
            self.usual.beyond_each(),
            self.usual.quantile(0.99),
            variance.sqrt(),
        );
        let mut counts = vec![0u64; BUCKETS];
        let mut samples = 0;
        for (i, m) in self.ring.iter().enumerate() {
            for (b, n) in &m.ratios {
                counts[usize::from(*b)] += u64::from(*n);
            }
            samples += m.total;
            tails.minute(&m.ratios);
            let minutes = i + 1;
            if MEDIAN_WINDOWS.contains(&minutes) && samples >= MEDIAN_SAMPLES {
                let median = interpolate(counts.iter().map(|n| *n as f64), 0.5);
                let rise = (median / q50).ln();
                look.medians.push(Median {
                    minutes,
                    samples,
                    rise,
                    rest: rise - self.level.explained(),
                    error: self.error(q50, samples),
                });
            }
            if tail::WINDOWS.contains(&minutes) && samples > 0 {
                tails.window(&counts, samples);
            }
        }
        let shift = look.medians.iter().find(|m| {
            m.rest >= least_rise(config).max(SHIFT_ERRORS * (variance + m.error * m.error).sqrt())
        });
        look.verdict = if let Some(m) = shift {
            Some(m.verdict())
        } else if let Some(ratio) = self.level.drift() {
            Some(Verdict::Drift { ratio })
        } else {
            tails.best().map(|t| self.named(t, &look.medians))
        };
        look
    }

    /// The standard error of a median by chance: how far its rank may slip at the errors a shift needs,
    /// and what the usual distribution is there. (Its width would not do: latencies have two humps.)
    fn error(&self, q50: f64, samples: u64) -> f64 {
        let slip = SHIFT_ERRORS * 0.5 / (samples as f64).sqrt();
        let high = self.usual.quantile((0.5 + slip).min(0.97));
        (high / q50).ln() / SHIFT_ERRORS
    }

    /// Where most are beyond the edge it is no tail: all have shifted.
    fn named(&self, tail: Tail, medians: &[Median]) -> Verdict {
        if tail.beyond * 2 <= tail.samples {
            return Verdict::Tail(tail);
        }
        let all: Vec<f64> = (0..BUCKETS)
            .map(|b| {
                let of = |m: &Minute| m.ratios.iter().find(|r| usize::from(r.0) == b).map(|r| r.1);
                let n: u32 = self.ring.iter().take(tail.minutes).filter_map(of).sum();
                f64::from(n)
            })
            .collect();
        let ratio = medians
            .iter()
            .find(|m| m.minutes == tail.minutes)
            .map_or_else(
                || interpolate(all.iter().copied(), 0.5) / self.usual.quantile(0.5),
                |m| m.rise.exp(),
            );
        Verdict::Shift {
            ratio,
            samples: tail.samples,
            minutes: tail.minutes,
        }
    }

    /// Learns the newest minute, unless it is `abnormal` and has not been so for long.
    pub(super) fn learn(&mut self, look: &Look, abnormal: bool) {
        let fresh = std::mem::take(&mut self.fresh);
        let hold = abnormal && self.held < MAX_HELD;
        if let Some(m) = look.medians.iter().find(|m| m.minutes == LEVEL_WINDOW) {
            self.level.follow(m.rise, m.error, hold);
        }
        if hold {
            self.held += 1;
            return;
        }
        if !abnormal {
            self.held = 0;
        }
        if fresh.samples.is_empty() {
            return;
        }
        if let Some(m) = self.ring.front() {
            self.usual.learn((-1.0 / MEMORY_MINUTES).exp(), &m.ratios);
            self.seen = self.seen.saturating_add(m.total);
        }
        let n: u64 = fresh.samples.iter().map(|s| s.2).sum();
        self.loads.fade((-1.0 / LOAD_MINUTES).exp());
        self.loads.add(fresh.load, fresh.mean, n as f64);
        let line = self.line;
        self.line
            .fade((-(n as f64) / REQUESTS).max(-1.0 / LINE_MINUTES).exp());
        for (p, v, n) in fresh.samples {
            let x = bucket_tokens(p);
            let y = bucket_ms(v).min(4.0 * line.predict(x));
            self.line.add(x, y, n as f64);
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        self.line.encode(w);
        self.usual.encode(w);
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
        self.loads.encode(w);
        self.level.encode(w);
    }

    /// `old`: a format before this one, without loads and level.
    pub(super) fn decode(r: &mut Reader<'_>, old: bool) -> Result<Self, Damaged> {
        let mut b = Self {
            line: Line::decode(r)?,
            usual: Usual::decode(r)?,
            born: r.option(Reader::i64)?,
            minute: r.i64()?,
            seen: r.u64()?,
            held: r.small()?,
            ..Self::default()
        };
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
        if !old {
            b.loads = Line::decode(r)?;
            b.level = Level::decode(r)?;
        }
        Ok(b)
    }
}

impl Median {
    fn verdict(&self) -> Verdict {
        Verdict::Shift {
            ratio: self.rise.exp(),
            samples: self.samples,
            minutes: self.minutes,
        }
    }
}

/// The least rise of a shift, as a logarithm: a little below the ratio, which is of whole buckets.
fn least_rise(config: &config::Latency) -> f64 {
    (config.p50_ratio.ln() - 0.05).max(0.1)
}

/// Two measures that rise together, each too little to be told alone.
pub(super) fn both(
    config: &config::Latency,
    (a, first): (&Baseline, &Look),
    (b, second): (&Baseline, &Look),
) -> Option<Verdict> {
    let variance = a.level.variance() + b.level.variance();
    first.medians.iter().find_map(|x| {
        let y = second.medians.iter().find(|y| y.minutes == x.minutes)?;
        if x.rest <= BOTH_LEAST || y.rest <= BOTH_LEAST {
            return None;
        }
        let sum = x.rest.min(BOTH_MOST) + y.rest.min(BOTH_MOST);
        let error = (variance + x.error * x.error + y.error * y.error).sqrt();
        let least = 2.0 * BOTH_PART * least_rise(config);
        (sum >= least.max(BOTH_ERRORS * error)).then(|| x.verdict())
    })
}
