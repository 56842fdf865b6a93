//! What one spender usually spends, and the tests against it. The series is spending per bin of ten
//! minutes; five tests are fused, each scaled so that 1.0 is its threshold:
//!
//! - the least of the last two, and of the last four bins, over the highest such value before (a
//!   burst that lasts; a single wild bin is none), from several times the mean on;
//! - the least of the last two bins over how high it climbs on a usual day ([`Daily`]);
//! - the least of the last twenty bins over the highest it was on the days before ([`Best`]): whoever
//!   spends in bursts hardly ever spends for hours without a pause, so that loops, theft and ramps
//!   stand out although the sum of a day does not;
//! - the last four hours over what is the peak of this hour of the day, and that ratio over how high
//!   it climbs on a usual day (spending at quiet hours, and a sum far beyond any before).
//!
//! Each must also exceed the spender's own highest score of the past weeks.

mod row;
mod thresholds;

use super::best::Best;
use super::crowd::{Raise, Steady};
use super::daily::Daily;
use super::hours::Hours;
use crate::detect::config;
use crate::event::Time;
use thresholds::{
    HIGHEST_DECAY, HOLD, HOLD_BINS, HOLD_FLOOR, HOLD_MATERIAL, MATERIAL, PEAK, PEAK_FLOOR,
    PEAK_MATERIAL, PEAK_PRIOR, RECORDS, TOLD_BINS, UNLIKE, UNLIKE_FLOOR, UNLIKE_PRIOR, WORSE,
};

/// Length of a bin, milliseconds.
pub const BIN_MS: i64 = 10 * 60_000;
/// Bins of the long window: four hours.
const RING: usize = 24;
/// Bins of an hour.
const HOUR: usize = 6;
/// Bins after a pause that are fed as zeros one by one; a longer pause forgets the windows.
const MAX_GAP: i64 = 1_008;
/// Closed bins until the tests speak: a day (those by the day wait two more).
const LEARN_BINS: u32 = 144;
/// Memory of the mean: a week of bins.
const WEEK: f32 = 1.0 / 1_008.0;
/// A bin moves the mean as if it were at most this many times the mean.
const WILD: f32 = 30.0;
/// Per bin, a record loses half in 28 days.
const RECORD_DECAY: f32 = 0.999_828_1;
/// Bins between two findings of one ongoing excess: an hour.
const AGAIN_AFTER: i64 = 6;

/// Days of the memory of an hour's peak.
const PROFILE_DAYS: f32 = 8.0;
/// Smallest value whose logarithm is taken.
const TINY: f32 = 1e-9;

/// How long bins are, when it fires, and how often again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Length of a bin, milliseconds.
    pub bin_ms: i64,
    /// Spending in the last hour below this never fires.
    pub floor: f32,
    /// Fused score from which it fires.
    pub threshold: f32,
    /// Bins between two alarms of one spender.
    pub again: i64,
}

impl Pace {
    fn product(config: &config::Spend) -> Self {
        Self {
            bin_ms: BIN_MS,
            #[expect(clippy::cast_precision_loss, reason = "a floor")]
            floor: config.floor as f32,
            threshold: config.threshold,
            again: AGAIN_AFTER,
        }
    }

    fn clock(&self, bin: i64) -> Clock {
        const HOUR_MS: i64 = 3_600_000;
        let hour = |b: i64| b.saturating_mul(self.bin_ms).div_euclid(HOUR_MS);
        let now = hour(bin);
        let inside = (bin.saturating_mul(self.bin_ms) + self.bin_ms / 2).rem_euclid(HOUR_MS);
        Clock {
            hour: usize::try_from(now.rem_euclid(24)).unwrap_or(0),
            part: inside as f32 / HOUR_MS as f32,
            ends_hour: hour(bin + 1) != now,
            ends_day: hour(bin + 1).div_euclid(24) != now.div_euclid(24),
        }
    }
}

/// Where a bin lies in its day.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Hour of the day, 0–23.
    pub(super) hour: usize,
    /// Where in the hour its middle is, 0–1.
    pub(super) part: f32,
    /// Whether the next bin is of another hour.
    pub(super) ends_hour: bool,
    ends_day: bool,
}

/// What one step says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// The raise of the bin that this event closed, where it closed one and the spender is steady.
    pub raise: Option<Raise>,
    /// The threshold was crossed, and not within the refractory time before.
    pub alarm: Option<Alarm>,
}

/// A crossed threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// Start of the window it speaks of.
    pub since: Time,
    /// The fused score; 1.0 is the threshold.
    pub score: f32,
    /// Spending of the last hour, weight.
    pub hour: f32,
    /// What an hour usually is, weight.
    pub usual: f32,
}

/// The baseline of one spender.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// Index of the open bin; `None` before the first event.
    bin: Option<i64>,
    /// Spending in the open bin.
    open: f32,
    /// Closed bins, the latest at `at`.
    ring: [f32; RING],
    at: usize,
    /// Closed bins so far, saturating.
    closed: u32,
    /// Mean of a bin.
    mean: f32,
    /// Highest least-of-two and least-of-four, decayed; and the highest score of each.
    records: [f32; 2],
    highest: [f32; 2],
    peak: Daily,
    hold: Best,
    unlike: Daily,
    /// Usual peak of the four hours' mean, by the hour in which they end; and that of the open hour.
    hours: Hours,
    hour_peak: f32,
    steady: Steady,
    /// Bin of the last alarm.
    told: Option<i64>,
    bars: Bars,
}

/// The open bin from which each test may fire, kept until the next bin: most events need no more than
/// one comparison. Never stored; two baselines are equal whatever of it is known.
#[derive(Debug, Clone, Copy, Default)]
struct Bars(Option<(f32, f32)>);

impl PartialEq for Bars {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            bin: None,
            open: 0.0,
            ring: [0.0; RING],
            at: 0,
            closed: 0,
            mean: 0.0,
            records: [0.0; 2],
            highest: [0.0; 2],
            peak: Daily::default(),
            hold: Best::default(),
            unlike: Daily::default(),
            hours: Hours::default(),
            hour_peak: 0.0,
            steady: Steady::default(),
            told: None,
            bars: Bars::default(),
        }
    }
}

/// The windows up to and with an open bin.
#[derive(Debug, Clone, Copy)]
struct Windows {
    two: f32,
    four: f32,
    twenty: f32,
    /// Mean of a bin in four hours.
    long: f32,
    hour_sum: f32,
}

/// Every test's raw score.
#[derive(Debug, Clone, Copy)]
struct Scores {
    records: [f32; 2],
    peak: f32,
    peak_log: f32,
    hold: f32,
    hold_log: f32,
    unlike: f32,
    unlike_log: f32,
    fused: f32,
}

impl Baseline {
    /// Adds spending at a time and judges the windows as they stand.
    pub fn add(&mut self, end: Time, weight: i64, config: &config::Spend) -> Step {
        #[expect(clippy::cast_precision_loss, reason = "a baseline needs seven digits")]
        let w = weight as f32;
        self.add_at(end, w, &Pace::product(config))
    }

    /// [`Baseline::add`] at any pace.
    pub fn add_at(&mut self, end: Time, weight: f32, pace: &Pace) -> Step {
        let mut step = Step::default();
        let bin = end.0.div_euclid(pace.bin_ms);
        if self.bin.is_none() && weight <= 0.0 {
            // A baseline begins with the first spending.
            return step;
        }
        let open = *self.bin.get_or_insert(bin);
        if bin > open {
            step.raise = self.advance(bin, pace);
        }
        if bin < open {
            self.late_at(bin, weight);
            return step;
        }
        self.open += weight;
        if weight > 0.0 && self.may_fire(bin, pace) {
            step.alarm = self.judge(bin, pace);
        }
        step
    }

    /// Adds spending to a bin that has closed: the windows know it, what was learnt stays.
    pub(super) fn late(&mut self, end: Time, weight: i64) {
        #[expect(clippy::cast_precision_loss, reason = "a baseline needs seven digits")]
        self.late_at(end.0.div_euclid(BIN_MS), weight as f32);
    }

    fn late_at(&mut self, bin: i64, weight: f32) {
        let Some(open) = self.bin else { return };
        self.bars = Bars(None);
        if bin >= open {
            self.open += weight;
            return;
        }
        let back = usize::try_from(open - bin).unwrap_or(usize::MAX);
        if back <= RING && back <= self.closed as usize {
            self.ring[(self.at + RING + 1 - back) % RING] += weight;
        }
    }

    /// Closes bins up to `bin`, feeding pauses as zeros; the raise of the last one, where the spender
    /// is steady.
    pub fn advance(&mut self, bin: i64, pace: &Pace) -> Option<Raise> {
        let open = self.bin?;
        if bin <= open {
            return None;
        }
        self.bars = Bars(None);
        self.bin = Some(bin);
        if bin - open > MAX_GAP {
            self.ring = [0.0; RING];
            self.open = 0.0;
            self.steady.pause();
            return None;
        }
        let mut raise = None;
        for b in open..bin {
            let x = std::mem::take(&mut self.open);
            raise = self.close(b, x, pace);
        }
        raise
    }

    /// Whether a day has been learnt.
    pub fn has_learnt(&self) -> bool {
        self.closed >= LEARN_BINS
    }

    /// The fused score as the windows stand; 1.0 is the threshold.
    pub fn score(&self, pace: &Pace) -> f32 {
        match self.bin {
            Some(bin) if self.has_learnt() => {
                let windows = self.windows(self.open);
                self.scores(&windows, pace.clock(bin)).fused
            }
            _ => 0.0,
        }
    }

    /// The closed bin so many before the open one, from 1.
    fn back(&self, n: usize) -> f32 {
        self.ring[(self.at + RING + 1 - n) % RING]
    }

    fn sum_back(&self, n: usize) -> f32 {
        (1..=n).map(|i| self.back(i)).sum()
    }

    /// The least of so many closed bins before the open one.
    fn least_back(&self, n: usize) -> f32 {
        (1..=n).map(|i| self.back(i)).fold(f32::INFINITY, f32::min)
    }

    fn windows(&self, open: f32) -> Windows {
        Windows {
            two: open.min(self.back(1)),
            four: open.min(self.least_back(3)),
            twenty: open.min(self.least_back(HOLD_BINS - 1)),
            long: (self.sum_back(RING - 1) + open) / RING as f32,
            hour_sum: self.sum_back(HOUR - 1) + open,
        }
    }

    /// What the four hours' mean usually peaks at around an hour of the day; before it is known, the
    /// mean.
    fn usual_peak(&self, hour: usize) -> f32 {
        let at = |h: usize| self.hours.log(h % 24).map_or(0.0, f32::exp);
        (at(hour + 23) + at(hour) + at(hour + 1)) / 3.0
    }

    fn scores(&self, w: &Windows, clock: Clock) -> Scores {
        let mean = self.mean.max(TINY);
        let ratio = |x: f32, record: f32| ((x + TINY) / record.max(mean)).ln();
        let records = [
            ratio(w.two, self.records[0]),
            ratio(w.four, self.records[1]),
        ];
        let peak_log = (w.two + PEAK_FLOOR * self.mean + TINY).ln();
        let floor = UNLIKE_FLOOR * self.mean + TINY;
        let unlike_log = ((w.long + floor) / (self.usual_peak(clock.hour) + floor)).ln();
        let hold_log = (w.twenty + HOLD_FLOOR * self.mean + TINY).ln();
        let hold = self.hold.score(hold_log);
        let peak = self.peak.score(peak_log, PEAK_PRIOR);
        let unlike = self.unlike.score(unlike_log, UNLIKE_PRIOR);
        let over = |i: usize| records[i] / RECORDS[i].max(self.highest[i]);
        // What is not material is held below the threshold in the same measure.
        let fused = over(0)
            .min(w.two / (MATERIAL[0] * mean))
            .max(over(1).min(w.four / (MATERIAL[1] * mean)))
            .max((peak / self.peak.needed(PEAK)).min(w.two / (PEAK_MATERIAL * mean)))
            .max((hold / self.hold.needed(HOLD)).min(w.twenty / (HOLD_MATERIAL * mean)))
            .max(unlike / self.unlike.needed(UNLIKE));
        Scores {
            records,
            peak,
            peak_log,
            hold,
            hold_log,
            unlike,
            unlike_log,
            fused,
        }
    }

    /// Whether the open bin is so high that a test may fire: a bound, never too high.
    fn may_fire(&mut self, bin: i64, pace: &Pace) -> bool {
        if !self.has_learnt() || self.told.is_some_and(|t| bin - t < pace.again) {
            return false;
        }
        let (burst, long) = match self.bars.0 {
            Some(bars) => bars,
            None => {
                let bars = self.bars(bin, pace);
                self.bars = Bars(Some(bars));
                bars
            }
        };
        self.open >= burst || self.open >= long
    }

    /// The fused score from which it fires: more within a day of an alarm.
    fn needed(&self, bin: i64, pace: &Pace) -> f32 {
        let lately = self.told.is_some_and(|t| bin - t < TOLD_BINS);
        pace.threshold * if lately { WORSE } else { 1.0 }
    }

    /// The open bin from which a burst, and from which the four hours, may fire.
    fn bars(&self, bin: i64, pace: &Pace) -> (f32, f32) {
        // A hair below, since the scores round otherwise.
        const HAIR: f32 = 0.999;
        let (by, clock) = (self.needed(bin, pace), pace.clock(bin));
        let mean = self.mean.max(TINY);
        // Where a bin before was lower, the open one cannot hold it.
        let held = |bins: usize, bar: f32| {
            if self.least_back(bins - 1) >= bar * HAIR {
                bar
            } else {
                f32::INFINITY
            }
        };
        let record = |i: usize, bins: usize| {
            let needed = RECORDS[i].max(self.highest[i]) * by;
            let bar = self.records[i].max(mean) * needed.exp();
            held(bins, bar.max(MATERIAL[i] * mean * by))
        };
        let peak =
            self.peak.bar(self.peak.needed(PEAK) * by, PEAK_PRIOR).exp() - PEAK_FLOOR * self.mean;
        let hold = self.hold.bar(self.hold.needed(HOLD) * by).exp() - HOLD_FLOOR * self.mean;
        let burst = record(0, 2)
            .min(record(1, 4))
            .min(held(2, peak.max(PEAK_MATERIAL * mean * by)))
            .min(held(HOLD_BINS, hold.max(HOLD_MATERIAL * mean * by)));
        let floor = UNLIKE_FLOOR * self.mean + TINY;
        let needed = self.unlike.needed(UNLIKE) * by;
        let long = self.unlike.bar(needed, UNLIKE_PRIOR).exp()
            * (self.usual_peak(clock.hour) + floor)
            - floor;
        let long = long * RING as f32 - self.sum_back(RING - 1);
        (burst * HAIR, long - (1.0 - HAIR) * long.abs().max(mean))
    }

    fn judge(&mut self, bin: i64, pace: &Pace) -> Option<Alarm> {
        let windows = self.windows(self.open);
        if windows.hour_sum < pace.floor {
            return None;
        }
        let s = self.scores(&windows, pace.clock(bin));
        if s.fused < self.needed(bin, pace) {
            return None;
        }
        self.told = Some(bin);
        self.only_worse(&s);
        self.bars = Bars(None);
        Some(Alarm {
            since: Time((bin - 5) * pace.bin_ms),
            score: s.fused,
            hour: windows.hour_sum,
            usual: HOUR as f32 * self.mean,
        })
    }

    /// After an alarm, for a day: only what is worse is news.
    fn only_worse(&mut self, s: &Scores) {
        self.peak.told(s.peak);
        self.hold.told(s.hold);
        self.unlike.told(s.unlike);
    }

    /// Learns a closed bin.
    fn close(&mut self, bin: i64, x: f32, pace: &Pace) -> Option<Raise> {
        let clock = pace.clock(bin);
        let w = self.windows(x);
        let learnt = self.has_learnt();
        if learnt {
            let s = self.scores(&w, clock);
            for (highest, score) in self.highest.iter_mut().zip(s.records) {
                *highest = (*highest * HIGHEST_DECAY).max(score);
            }
            self.peak.see(s.peak_log);
            self.hold.see(s.hold_log);
            self.unlike.see(s.unlike_log);
            if self.told.is_some_and(|t| bin - t < TOLD_BINS) {
                self.only_worse(&s);
            }
        }
        for (record, value) in self.records.iter_mut().zip([w.two, w.four]) {
            *record = (*record * RECORD_DECAY).max(value);
        }
        self.hour_peak = self.hour_peak.max(w.long);
        let before = self.closed;
        self.closed = self.closed.saturating_add(1);
        let window = x + self.sum_back(2);
        let raise = self.steady.close(clock, (x, window), self.mean, before);
        self.at = (self.at + 1) % RING;
        self.ring[self.at] = x;
        // Early on the mean of what was seen, later a week's memory.
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = WEEK.max(1.0 / self.closed as f32);
        let x = if learnt { x.min(WILD * self.mean) } else { x };
        self.mean += rate * (x - self.mean);
        if clock.ends_hour {
            let peak = std::mem::take(&mut self.hour_peak);
            let usual = self.hours.log(clock.hour).map_or(0.0, f32::exp);
            let seen = f32::from(self.hours.seen(clock.hour).saturating_add(1));
            let rate = (1.0 / seen).max(1.0 / PROFILE_DAYS);
            let usual = usual + rate * (peak - usual);
            self.hours.set(clock.hour, usual.max(TINY).ln());
        }
        if clock.ends_day {
            // A day and a half: the first whole day is for the profile.
            let whole = self.closed >= LEARN_BINS + LEARN_BINS / 2;
            self.peak.end_day(whole, PEAK_PRIOR);
            self.hold.end_day(whole);
            self.unlike.end_day(whole, UNLIKE_PRIOR);
        }
        raise
    }
}
