//! How high a number usually climbs within a day: the yardstick of two tests of [`super::baseline`].
//!
//! The highest value of each day is learnt, with a mean and a variance that start from a prior (few
//! days say little about their spread). What is abnormal is so many of these deviations above the
//! usual peak. A score must also exceed the highest one of the days before: who is often wild must be
//! wilder than that. The present day counts only from an alarm on, or an excess that grows slowly
//! would hide behind its own beginning.

use crate::detect::wire::{Damaged, Reader, Writer};

/// Days until the yardstick is believed.
const LEARN_DAYS: u8 = 2;
/// Weight of the newest day once as many have been seen: two weeks' memory.
const MEMORY_DAYS: f32 = 14.0;
/// Deviations at which a day's peak is cut before it is learnt.
const WINSOR: f32 = 4.0;
/// Per day, what is left of the highest score: half in 24 days.
const HIGHEST_DECAY: f32 = 0.971_6;
/// A score must exceed the highest of the days before by this factor.
const OWN: f32 = 1.1;

/// What is believed before the first day, as if so many days had shown this deviation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prior {
    pub(super) deviation: f32,
    pub(super) days: f32,
}

/// See the module's header.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Daily {
    /// Today's peak; negative infinity before the first value.
    today: f32,
    mean: f32,
    var: f32,
    /// Days learnt, saturating.
    days: u8,
    /// Highest score of the days before, decayed.
    highest: f32,
}

impl Default for Daily {
    fn default() -> Self {
        Self {
            today: f32::NEG_INFINITY,
            mean: 0.0,
            var: 0.0,
            days: 0,
            highest: 0.0,
        }
    }
}

impl Daily {
    fn deviation(&self, prior: Prior) -> f32 {
        let days = f32::from(self.days);
        let sum = prior.days * prior.deviation * prior.deviation + days * self.var;
        (sum / (prior.days + days)).sqrt()
    }

    /// Deviations above the usual peak of a day; 0 while it learns.
    pub(super) fn score(&self, value: f32, prior: Prior) -> f32 {
        if self.days < LEARN_DAYS {
            return 0.0;
        }
        (value - self.mean) / self.deviation(prior)
    }

    /// The score that counts: at least `threshold`, and more than the highest of the past.
    pub(super) fn needed(&self, threshold: f32) -> f32 {
        threshold.max(OWN * self.highest)
    }

    /// After an alarm: only what is worse is news.
    pub(super) fn told(&mut self, score: f32) {
        self.highest = self.highest.max(score);
    }

    /// The value from which the score is `needed`; infinity while it learns.
    pub(super) fn bar(&self, needed: f32, prior: Prior) -> f32 {
        if self.days < LEARN_DAYS {
            return f32::INFINITY;
        }
        self.mean + needed * self.deviation(prior)
    }

    /// Takes a closed bin's value.
    pub(super) fn see(&mut self, value: f32) {
        self.today = self.today.max(value);
    }

    /// Ends a day and learns its peak; a day that was not whole (`learn` is false) is forgotten.
    pub(super) fn end_day(&mut self, learn: bool, prior: Prior) {
        let peak = std::mem::replace(&mut self.today, f32::NEG_INFINITY);
        if !learn || !peak.is_finite() {
            return;
        }
        self.highest = (self.highest * HIGHEST_DECAY).max(self.score(peak, prior));
        if self.days == 0 {
            self.mean = peak;
            self.days = 1;
            return;
        }
        let limit = WINSOR * self.deviation(prior);
        let mut d = peak - self.mean;
        if self.days >= 3 {
            d = d.clamp(-limit, limit);
        }
        self.days = self.days.saturating_add(1);
        let rate = (1.0 / f32::from(self.days)).max(1.0 / MEMORY_DAYS);
        self.mean += rate * d;
        self.var = (1.0 - rate) * (self.var + rate * d * d);
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.days);
        for x in [self.today, self.mean, self.var, self.highest] {
            w.f32(x);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            days: r.u8()?,
            today: r.f32()?,
            mean: r.f32()?,
            var: r.f32()?,
            highest: r.f32()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Prior = Prior {
        deviation: 0.5,
        days: 3.0,
    };

    #[test]
    fn a_peak_is_judged_by_the_days_before_and_by_the_own_record() {
        let mut d = Daily::default();
        for day in 0..10u8 {
            let peak = 5.0 + 0.1 * f32::from(day % 3);
            d.see(peak);
            if day < 2 {
                assert!(d.score(50.0, PRIOR).abs() < 1e-6, "still learning");
                assert!(d.bar(1.0, PRIOR).is_infinite());
            }
            d.end_day(true, PRIOR);
        }
        assert!(d.score(5.2, PRIOR) < 1.0);
        assert!(d.score(7.0, PRIOR) > 4.0);
        let needed = d.needed(3.0);
        assert!((needed - 3.0).abs() < 1e-6);
        assert!((d.score(d.bar(needed, PRIOR), PRIOR) - needed).abs() < 1e-3);
        // A wild day raises what the next one must exceed.
        let wild = d.score(9.0, PRIOR);
        d.see(9.0);
        assert!((d.needed(3.0) - 3.0).abs() < 1e-6, "not within the day");
        let mut after = d.clone();
        after.end_day(true, PRIOR);
        d.told(wild);
        assert!(d.needed(3.0) > wild, "unless it was told");
        assert!(after.needed(3.0) > wild);
        let mut w = Writer::default();
        d.encode(&mut w);
        assert_eq!(Daily::decode(&mut Reader::new(&w.0)), Ok(d));
    }

    #[test]
    fn a_day_that_was_not_whole_is_not_learnt() {
        let mut d = Daily::default();
        d.see(1.0);
        d.end_day(false, PRIOR);
        assert_eq!(d.days, 0);
        d.end_day(true, PRIOR);
        assert_eq!(d.days, 0, "nothing was seen");
    }
}
