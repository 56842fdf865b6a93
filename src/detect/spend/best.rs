//! The highest a number has been on the days before: the yardstick of the hold in [`super::baseline`].
//!
//! What counts is how far above it a value lies; it must also exceed the largest such step of the past,
//! so that who often outgrows himself must do so by more. Unlike [`super::daily::Daily`] it needs no
//! spread: the least of many bins is nothing on most days of a spender who pauses, and has none. The
//! present day counts only from its end on, or an excess that grows slowly would hide behind its own
//! beginning.

use crate::detect::wire::{Damaged, Reader, Writer};

/// Days until it is believed.
const LEARN_DAYS: u8 = 2;
/// What the highest value loses a day, as a logarithm: half in 23 days.
const FADE: f32 = 0.030_5;
/// Per day, what is left of the largest step: half in 24 days.
const STEP_DECAY: f32 = 0.971_6;
/// A step must exceed the largest of the past by this factor.
const OWN: f32 = 1.1;

/// See the module's header. Values are logarithms.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Best {
    /// Today's highest, and that of the days before, faded; negative infinity before the first.
    today: f32,
    before: f32,
    /// Days learnt, saturating.
    days: u8,
    /// Largest step above the days before, decayed.
    step: f32,
}

impl Default for Best {
    fn default() -> Self {
        Self {
            today: f32::NEG_INFINITY,
            before: f32::NEG_INFINITY,
            days: 0,
            step: 0.0,
        }
    }
}

impl Best {
    /// How far a value lies above the days before; 0 while it learns.
    pub(super) fn score(&self, value: f32) -> f32 {
        if self.days < LEARN_DAYS {
            return 0.0;
        }
        value - self.before
    }

    /// The step that counts: at least `threshold`, and more than the largest of the past.
    pub(super) fn needed(&self, threshold: f32) -> f32 {
        threshold.max(OWN * self.step)
    }

    /// The value from which the step is `needed`; infinity while it learns.
    pub(super) fn bar(&self, needed: f32) -> f32 {
        if self.days < LEARN_DAYS {
            return f32::INFINITY;
        }
        self.before + needed
    }

    /// After an alarm: only what is worse is news.
    pub(super) fn told(&mut self, score: f32) {
        self.step = self.step.max(score);
    }

    /// Takes a closed bin's value.
    pub(super) fn see(&mut self, value: f32) {
        self.today = self.today.max(value);
    }

    /// Ends a day and learns its highest value; a day that was not whole (`learn` is false) is forgotten.
    pub(super) fn end_day(&mut self, learn: bool) {
        let today = std::mem::replace(&mut self.today, f32::NEG_INFINITY);
        if !learn || !today.is_finite() {
            return;
        }
        self.step = (self.step * STEP_DECAY).max(self.score(today));
        self.before = today.max(self.before - FADE);
        self.days = self.days.saturating_add(1);
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.days);
        for x in [self.today, self.before, self.step] {
            w.f32(x);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            days: r.u8()?,
            today: r.f32()?,
            before: r.f32()?,
            step: r.f32()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_judged_by_the_days_before_it_and_by_how_far_they_stepped() {
        let mut b = Best::default();
        b.see(1.0);
        b.end_day(true);
        assert!(b.score(9.0).abs() < 1e-6 && b.bar(0.5).is_infinite());
        for peak in [1.2, 1.0, 1.1] {
            b.see(peak);
            b.end_day(true);
        }
        // 1.2 has faded for two days.
        assert!((b.score(2.0) - (0.8 + 2.0 * FADE)).abs() < 1e-5);
        assert!((b.score(b.bar(0.7)) - 0.7).abs() < 1e-6);
        assert!((b.needed(0.7) - 0.7).abs() < 1e-6);
        // A day that rises slowly is compared with the days before, not with its own beginning.
        b.see(1.9);
        assert!(b.score(2.0) > 0.8);
        let large = b.score(3.0);
        let mut told = b.clone();
        told.told(large);
        assert!(told.needed(0.7) > large);
        b.see(3.0);
        b.end_day(true);
        assert!(b.needed(0.7) > large && b.score(3.0) < 1e-6);
        let mut w = Writer::default();
        b.encode(&mut w);
        assert_eq!(Best::decode(&mut Reader::new(&w.0)), Ok(b));
    }

    #[test]
    fn a_day_that_was_not_whole_is_not_learnt() {
        let mut b = Best::default();
        b.see(1.0);
        b.end_day(false);
        b.end_day(true);
        assert_eq!(b, Best::default());
    }
}
