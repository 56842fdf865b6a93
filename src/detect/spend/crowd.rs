//! Co-elevation: many spenders a little up at once, each too little to be seen alone.
//!
//! A spender who has been active in every bin for an hour and a half gives, as a bin closes, how many
//! of its own deviations the last half hour lies above what this hour of the day and the last hours
//! let expect ([`Steady`]). These raises are averaged over the crowd, calm spenders counting more, and
//! compared with the crowd's own history ([`CoElevation`]). Two bins must agree: a single one is often
//! a hiccup of the whole fleet. Who comes back from a pause, and who is up or down more than two and a
//! half times, is left out: that is no small raise, and the single spender's tests see it.

use super::baseline::Clock;
use super::hours::Hours;
use crate::detect::part::Elevation;
use crate::detect::wire::{Damaged, Reader, Writer};

/// Bins of the window: half an hour.
const WINDOW: u8 = 3;
/// Active bins in a row until the window is learnt: in the first of them spending began somewhere.
const SETTLED: u8 = WINDOW + 1;
/// Active bins in a row until a spender counts.
const STEADY: u8 = 9;
/// Memory of the recent residual, bins.
const RECENT: f32 = 18.0;
/// Memory of the deviation, bins.
const MEMORY: f32 = 504.0;
/// Days of the hourly profile's memory.
const PROFILE_DAYS: f32 = 7.0;
/// Part of the mean added before the logarithm, so that little spending is no large change.
const FLOOR: f32 = 0.13;
/// Closed bins until a spender's raise is believed: two days.
const LEARN_BINS: u32 = 288;
/// A raise (logarithm) beyond this is not a small one.
const SMALL: f32 = 0.9;
/// Deviations at which one spender's raise is cut: one is not a crowd.
const CLIP: f32 = 3.0;
/// Deviations from which a spender counts as raised, for people.
const RAISED: f32 = 1.5;

/// The raise of one steady spender.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raise {
    /// Deviations, cut.
    z: f32,
    /// Weight in the crowd: calm spenders say more.
    weight: f32,
}

impl Raise {
    /// Adds it to the crowd's sums, in thousandths: they must not depend on their order.
    pub fn add_to(&self, e: &mut Elevation) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 60,000")]
        let (raise, weight) = (
            (self.z * self.weight * 1_000.0).round() as i64,
            (self.weight * 1_000.0).round() as i64,
        );
        e.users += 1;
        e.raise_milli += raise;
        e.weight_milli += weight;
        e.raised += u64::from(self.z >= RAISED);
    }
}

/// What is remembered of a spender for co-elevation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Steady {
    /// Usual logarithm of the window by hour of the day.
    hours: Hours,
    /// Sum and count of the open hour.
    sum: f32,
    count: u8,
    /// Active bins in a row, saturating.
    run: u8,
    /// Residuals of the last two bins, newest first.
    last: [f32; 2],
    /// Their recent level, before the window.
    level: f32,
    /// Mean absolute deviation from it.
    deviation: f32,
}

impl Default for Steady {
    fn default() -> Self {
        Self {
            hours: Hours::default(),
            sum: 0.0,
            count: 0,
            run: 0,
            last: [0.0; 2],
            level: 0.0,
            deviation: 0.3,
        }
    }
}

impl Steady {
    /// Takes a closed bin: its spending, that of the window up to it, the mean of a bin, and how many
    /// were closed before.
    pub(super) fn close(
        &mut self,
        clock: Clock,
        (x, window): (f32, f32),
        mean: f32,
        closed: u32,
    ) -> Option<Raise> {
        if x <= 0.0 {
            self.run = 0;
            self.end_hour(clock);
            return None;
        }
        self.run = self.run.saturating_add(1);
        let mut raise = None;
        if self.run >= SETTLED {
            let log = (window / f32::from(WINDOW) + FLOOR * mean).ln();
            raise = self.take(clock, log, closed);
            self.sum += log;
            self.count = self.count.saturating_add(1);
        }
        self.end_hour(clock);
        raise
    }

    fn take(&mut self, clock: Clock, log: f32, closed: u32) -> Option<Raise> {
        let Some(usual) = self.usual(clock) else {
            // An hour never seen: nothing to compare with; begin anew at the next that is known.
            self.run = SETTLED - 1;
            return None;
        };
        let residual = log - usual;
        if self.run == SETTLED {
            self.level = residual;
        }
        let d = residual - self.level;
        let mut raise = None;
        if self.run >= STEADY {
            if closed >= LEARN_BINS && d.abs() < SMALL {
                let sd = 1.25 * self.deviation + 0.02;
                raise = Some(Raise {
                    z: (d / sd).clamp(-CLIP, CLIP),
                    weight: 1.0 / (sd + 0.03),
                });
            }
            let seen = if closed < 160 {
                d.abs()
            } else {
                d.abs().min(3.0 * self.deviation)
            };
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let rate = (1.0 / MEMORY).max(1.0 / (closed as f32 + 1.0));
            self.deviation += rate * (seen - self.deviation);
        }
        if self.run >= SETTLED + WINDOW {
            // The residual of two bins ago: the window itself is no part of what it is compared with.
            self.level += (self.last[1] - self.level) / RECENT;
        }
        self.last = [residual, self.last[0]];
        raise
    }

    /// The profile between the middles of two hours.
    fn usual(&self, clock: Clock) -> Option<f32> {
        let here = self.hours.log(clock.hour)?;
        let part = clock.part - 0.5;
        let other = if part >= 0.0 {
            clock.hour + 1
        } else {
            clock.hour + 23
        };
        let other = self.hours.log(other % 24).unwrap_or(here);
        Some(here + part.abs() * (other - here))
    }

    fn end_hour(&mut self, clock: Clock) {
        if !clock.ends_hour || self.count == 0 {
            return;
        }
        let mean = self.sum / f32::from(self.count);
        let usual = self.hours.log(clock.hour).unwrap_or(mean);
        let seen = f32::from(self.hours.seen(clock.hour).saturating_add(1));
        let rate = (1.0 / seen).max(1.0 / PROFILE_DAYS);
        self.hours.set(clock.hour, usual + rate * (mean - usual));
        self.sum = 0.0;
        self.count = 0;
    }

    /// After a pause too long to feed.
    pub(super) fn pause(&mut self) {
        self.run = 0;
        self.sum = 0.0;
        self.count = 0;
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.run);
        w.u8(self.count);
        for x in [
            self.sum,
            self.last[0],
            self.last[1],
            self.level,
            self.deviation,
        ] {
            w.f32(x);
        }
        self.hours.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            run: r.u8()?,
            count: r.u8()?,
            sum: r.f32()?,
            last: [r.f32()?, r.f32()?],
            level: r.f32()?,
            deviation: r.f32()?,
            hours: Hours::decode(r)?,
        })
    }
}

/// Steady spenders that make a crowd.
const LEAST_CROWD: u64 = 10;
/// Deviations of a crowd from which it alarms.
const THRESHOLD: f64 = 3.4;
/// Bins until a crowd's usual is known: a day.
const LEARN_CROWD: u32 = 144;
/// Bins after which what is unusual is cut before it is learnt.
const CUT_FROM: u32 = 72;
/// Memory of the crowd's level, bins: two days.
const LEVEL_BINS: f64 = 288.0;
/// Memory of its deviation, bins: a week.
const SPREAD_BINS: f64 = 1_008.0;

/// How raised a crowd is, against its own usual.
#[derive(Debug, Clone, PartialEq)]
pub struct CoElevation {
    /// The bin that is being added up, and what there is of it.
    open: Option<(i64, Elevation)>,
    bins: u32,
    last: Option<f64>,
    level: f64,
    var: f64,
    told: Option<i64>,
}

impl Default for CoElevation {
    fn default() -> Self {
        Self {
            open: None,
            bins: 0,
            last: None,
            level: 0.0,
            var: 0.01,
            told: None,
        }
    }
}

/// What a closed bin of a crowd says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Crowd {
    /// Deviations above the usual, over the threshold: it alarms from 1.0.
    pub score: f64,
    /// Whether this bin raises an alarm.
    pub alarm: bool,
    /// Spenders that counted, and how many of them were raised.
    pub users: u64,
    /// See `users`.
    pub raised: u64,
}

impl Crowd {
    /// Deviations above the usual.
    pub fn deviations(&self) -> f64 {
        self.score * THRESHOLD
    }
}

impl CoElevation {
    /// Adds a minute's sums to its bin. A bin that this closes is judged.
    pub(super) fn minute(&mut self, minute: i64, now: Elevation, again: i64) -> Option<Crowd> {
        let bin = minute.div_euclid(10);
        let mut closed = None;
        if let Some((open, sums)) = self.open
            && open != bin
        {
            closed = Some(self.bin(open, sums, again));
            self.open = None;
        }
        let (_, sums) = self.open.get_or_insert((bin, Elevation::default()));
        sums.add(&now);
        closed
    }

    /// Judges a whole bin; `again`: bins between two alarms.
    pub fn bin(&mut self, bin: i64, sums: Elevation, again: i64) -> Crowd {
        let mut crowd = Crowd {
            users: sums.users,
            raised: sums.raised,
            ..Crowd::default()
        };
        if sums.users < LEAST_CROWD || sums.weight_milli <= 0 {
            self.last = None;
            return crowd;
        }
        let mean = sums.raise_milli as f64 / sums.weight_milli as f64;
        let Some(before) = self.last.replace(mean) else {
            return crowd;
        };
        let raise = mean.min(before);
        self.bins = self.bins.saturating_add(1);
        let n = f64::from(self.bins);
        let sd = self.var.sqrt().max(0.02);
        let d = raise - self.level;
        if self.bins > LEARN_CROWD {
            crowd.score = d / sd / THRESHOLD;
            crowd.alarm = crowd.score >= 1.0 && self.told.is_none_or(|t| bin - t >= again);
        }
        if crowd.alarm {
            self.told = Some(bin);
        }
        let learnt = if self.bins > CUT_FROM {
            d.clamp(-4.0 * sd, 4.0 * sd)
        } else {
            d
        };
        self.level += (1.0 / LEVEL_BINS).max(1.0 / n) * learnt;
        self.var += (1.0 / SPREAD_BINS).max(1.0 / n) * (learnt * learnt - self.var);
        crowd
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.option(self.open, |w, (bin, sums)| {
            w.i64(bin);
            sums.encode(w);
        });
        w.u64(u64::from(self.bins));
        w.option(self.last, Writer::f64);
        w.f64(self.level);
        w.f64(self.var);
        w.option(self.told, Writer::i64);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            open: r.option(|r| Ok((r.i64()?, Elevation::decode(r)?)))?,
            bins: r.small()?,
            last: r.option(Reader::f64)?,
            level: r.f64()?,
            var: r.f64()?,
            told: r.option(Reader::i64)?,
        })
    }
}
