//! How a median wanders when nothing is wrong: the yardstick of a shift.
//!
//! Medians of minutes differ by more than chance lets expect: neighbours, caches, routes. How much is
//! learnt from the median of five minutes, as a variance beside that of chance. A local level follows
//! the median within hours, so that a slow wave is no shift; a wave that rises too far is a drift.

use crate::detect::wire::{Damaged, Reader, Writer};

/// Memory of the local level, minutes.
const LOCAL_MINUTES: f64 = 180.0;
/// The local level takes no more than this (logarithm) from what is judged.
const MOST_LOCAL: f64 = 0.3;
/// Memory of the variances, minutes: two days.
const MEMORY_MINUTES: f64 = 2_880.0;
/// Minutes that the first belief counts for.
const PRIOR_MINUTES: f64 = 120.0;
/// First belief of both variances: a tenth up or down.
const PRIOR: f64 = 0.01;
/// Least variance of a median around its level, and of the level.
const LEAST: f64 = 0.004;
const LEAST_LOCAL: f64 = 0.001_6;
/// A square beyond this many variances is cut before it is learnt.
const WINSOR: f64 = 6.0;
/// Judged minutes until a drift is told: a day.
const DRIFT_FROM: f64 = 1_440.0;
/// Deviations, and least rise (logarithm), of a drift.
const DRIFT: f64 = 3.5;
const LEAST_DRIFT: f64 = 0.2;

/// See the module's header. All values are logarithms of a ratio.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Level {
    variance: f64,
    minutes: f64,
    local: f64,
    local_variance: f64,
}

impl Default for Level {
    fn default() -> Self {
        Self {
            variance: PRIOR,
            minutes: 0.0,
            local: 0.0,
            local_variance: PRIOR,
        }
    }
}

impl Level {
    /// Variance of a median around its level, beside that of chance.
    pub(super) fn variance(&self) -> f64 {
        self.variance
    }

    /// What of a rise the slow wave explains.
    pub(super) fn explained(&self) -> f64 {
        self.local.clamp(-MOST_LOCAL, MOST_LOCAL)
    }

    /// The factor of a drift, if there is one.
    pub(super) fn drift(&self) -> Option<f64> {
        let needed = LEAST_DRIFT.max(DRIFT * self.local_variance.sqrt());
        (self.minutes > DRIFT_FROM && self.local >= needed).then(|| self.local.exp())
    }

    /// Follows the median of five minutes; `error` is its standard error by chance. What is abnormal
    /// moves the level, and teaches nothing of how far it usually moves.
    pub(super) fn follow(&mut self, rise: f64, error: f64, abnormal: bool) {
        let rest = rise - self.explained();
        self.local += (rise.clamp(-1.0, 1.0) - self.local) / LOCAL_MINUTES;
        if abnormal {
            return;
        }
        let square = (self.local * self.local).min(WINSOR * self.local_variance);
        self.local_variance += (square - self.local_variance) / MEMORY_MINUTES;
        self.local_variance = self.local_variance.max(LEAST_LOCAL);
        self.minutes += 1.0;
        let limit = WINSOR * self.variance;
        let square = (rest * rest - error * error).clamp(-limit, limit);
        let rate = (1.0 / (self.minutes + PRIOR_MINUTES)).max(1.0 / MEMORY_MINUTES);
        self.variance = (self.variance + rate * (square - self.variance)).max(LEAST);
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        for v in [self.variance, self.minutes, self.local, self.local_variance] {
            w.f64(v);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            variance: r.f64()?,
            minutes: r.f64()?,
            local: r.f64()?,
            local_variance: r.f64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wanders_more_is_allowed_more_and_a_slow_rise_is_a_drift() {
        let wave = |height: f64| {
            let mut level = Level::default();
            for m in 0..5_000u32 {
                level.follow(height * (f64::from(m) / 7.0).sin(), 0.02, false);
            }
            level
        };
        let (calm, wild) = (wave(0.01), wave(0.3));
        assert!((calm.variance() - LEAST).abs() < 1e-9);
        assert!(wild.variance() > 0.03, "{}", wild.variance());
        assert_eq!(calm.drift(), None);
        let mut rising = calm;
        let day = (0..1_440u32).find(|m| {
            rising.follow(0.7 * f64::from(*m) / 1_440.0, 0.02, false);
            rising.drift().is_some()
        });
        assert!(day.is_some_and(|m| (200..1_200).contains(&m)), "{day:?}");
        let mut w = Writer::default();
        rising.encode(&mut w);
        assert_eq!(Level::decode(&mut Reader::new(&w.0)), Ok(rising));
    }
}
